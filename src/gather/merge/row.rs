//! What the rows of an answer look like, and a row without the columns that were added to it.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use bytes::BytesMut;
use foldhash::fast::FixedState;

use crate::shard::type_oids::FIRST_OF_USERS;
use crate::wire::backend::tag;
use crate::wire::frontend::put;

/// Why shards' answers cannot be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmergeable {
    /// Their columns differ, in name or type.
    #[error("the columns of the shards' answers differ")]
    Differ,
    /// The type of a column is a user's own, and has another OID on each shard.
    #[error("the type of a column is not one of PostgreSQL's own")]
    OwnType,
    /// The order of a type, or of its collation, is not known here.
    #[error("the order of a column that it is sorted by is not known")]
    Order,
    /// A statement over what the shards say was not accepted, or cannot be made with these types.
    #[error("no statement over the shards' answers gives this one")]
    NotUnderstood,
    /// It is more than is kept.
    #[error("the shards' answers are too large to be put together")]
    TooMuch,
    /// It is none that a server sends.
    #[error("a server's answer is not in the form that it must have")]
    Malformed,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: Box<[u8]>,
    type_oid: u32,
    typmod: [u8; 4],
    /// Of its field in the message, from the first byte of the name.
    field: Range<usize>,
}

/// A `RowDescription`.
#[derive(Debug, Clone)]
pub struct RowShape {
    columns: Vec<Column>,
    body: Box<[u8]>,
}

impl RowShape {
    /// Of the body of a `RowDescription`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(body: &[u8]) -> Result<Self, Unmergeable> {
        let read = || {
            let count = u16::from_be_bytes(*body.first_chunk()?);
            let mut at = 2;
            let mut columns = Vec::new();
            for _ in 0..count {
                let rest = body.get(at..)?;
                let name = rest.split(|byte| *byte == 0).next()?;
                // Behind the name: table, attribute, type, size, modifier, format.
                let fixed: &[u8; 18] = rest.get(name.len() + 1..)?.first_chunk()?;
                let [_, _, _, _, _, _, t1, t2, t3, t4, _, _, m1, m2, m3, m4, _, _] = *fixed;
                let end = at + name.len() + 1 + fixed.len();
                columns.push(Column {
                    name: name.into(),
                    type_oid: u32::from_be_bytes([t1, t2, t3, t4]),
                    typmod: [m1, m2, m3, m4],
                    field: at..end,
                });
                at = end;
            }
            (at == body.len()).then_some(columns)
        };
        read().map(|columns| Self { columns, body: body.into() }).ok_or(Unmergeable::Malformed)
    }

    /// How many columns there are.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// What the columns are called.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.columns.iter().map(|column| &*column.name)
    }

    /// Whether the columns have the same types.
    pub fn has_types_of(&self, other: &Self) -> bool {
        self.columns.iter().map(|column| column.type_oid).eq(other.columns.iter().map(|column| column.type_oid))
    }

    /// The type of the column at a place, from 0.
    pub fn type_of(&self, column: usize) -> Option<u32> {
        self.columns.get(column).map(|column| column.type_oid)
    }

    /// Whether rows of both can stand in one answer, for one client.
    ///
    /// # Errors
    /// They cannot.
    pub fn goes_with(&self, other: &Self) -> Result<(), Unmergeable> {
        let looks = |column: &Column| (column.name.clone(), column.type_oid, column.typmod);
        let are_alike = self.columns.iter().map(looks).eq(other.columns.iter().map(looks));
        if !are_alike {
            return Err(Unmergeable::Differ);
        }
        let is_own = |column: &Column| column.type_oid >= FIRST_OF_USERS;
        if self.columns.iter().any(is_own) { Err(Unmergeable::OwnType) } else { Ok(()) }
    }

    /// Of names and types of the first columns, and not of the tables that they come from; never 0.
    pub fn digest(&self, columns: usize) -> u64 {
        let mut digest = FixedState::default().build_hasher();
        for column in self.columns.iter().take(columns) {
            digest.write_usize(column.name.len());
            digest.write(&column.name);
            digest.write_u32(column.type_oid);
            digest.write(&column.typmod);
        }
        digest.finish() | 1
    }

    /// Appends the `RowDescription` of the first columns, in these formats as `Bind` has them: none, one for all, or one
    /// for each.
    pub fn put(&self, columns: usize, formats: &[[u8; 2]], out: &mut BytesMut) {
        let mut body = u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        for (at, column) in self.columns.iter().take(columns).enumerate() {
            let field = self.body.get(column.field.clone()).unwrap_or_default();
            body.extend_from_slice(field.get(..field.len().saturating_sub(2)).unwrap_or_default());
            let format = if formats.len() > 1 { formats.get(at) } else { formats.first() };
            body.extend_from_slice(format.unwrap_or(&[0, 0]));
        }
        put(out, tag::ROW_DESCRIPTION, &[&body]);
    }
}

/// The columns of the body of a `DataRow` from `first` on, `None` for NULL, and how long the body is without them.
pub fn cut(body: &[u8], first: usize) -> Option<(usize, Vec<Option<&[u8]>>)> {
    let count = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let mut rest = body.get(2..)?;
    let mut length = 2;
    let mut columns = Vec::with_capacity(count.checked_sub(first)?);
    for at in 0..count {
        let (size, tail) = rest.split_first_chunk()?;
        let value = match usize::try_from(i32::from_be_bytes(*size)) {
            Ok(size) => Some(tail.get(..size)?),
            Err(_) => None,
        };
        rest = tail.get(value.map_or(0, <[u8]>::len)..)?;
        if at < first {
            length = body.len() - rest.len();
        } else {
            columns.push(value);
        }
    }
    rest.is_empty().then_some((length, columns))
}

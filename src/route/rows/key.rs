//! The key of a row: in which of its fields it is, and which shard it says.

use std::borrow::Cow;

use super::csv::unquoted;
use super::text::unescaped;
use super::{Extent, Mark, RowError};
use crate::route::places::{Column, KeyPart, Table};
use crate::shard::{Bucket, Charset, KeyColumn, KeyHasher, KeyValue, Moving, Versions};
use crate::sql::{CopyFormat, CopyFrom};

/// Why the rows of a COPY cannot be placed at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MisfitKey {
    /// The config's key is none.
    #[error("{0}")]
    Unfit(Box<str>),
    /// It is not among the columns.
    #[error("its columns do not have \"{0}\", by which rows are placed")]
    Absent(Box<str>),
}

/// The key's fields in each row of a COPY.
#[derive(Debug)]
pub struct KeyFields {
    /// In the order of the key; none where each shard makes the keys of the rows that it gets.
    columns: Vec<KeyField>,
    /// Where the next such row goes.
    lot: Bucket,
    /// The last field that is one of them.
    last: usize,
    /// With a map in force.
    versions: Versions,
    charset: Charset,
    form: Form,
}

#[derive(Debug)]
struct KeyField {
    name: Box<str>,
    column: KeyColumn,
    /// Which field of a row it is.
    index: usize,
    null: Null,
    /// In the row that is being read.
    extent: Extent,
}

/// What counts as NULL in a column of comma-separated values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Null {
    AsSpelt,
    Quoted,
    Never,
    QuotedOnly,
}

/// How a field is written.
#[derive(Debug)]
enum Form {
    Text { null: Box<[u8]> },
    Csv { null: Box<[u8]>, quote: u8, escape: u8 },
    Binary,
}

impl KeyFields {
    /// Of a table's rows that come as this COPY says.
    ///
    /// # Errors
    /// The key is not among its columns, or is none.
    pub fn new(
        copy: &CopyFrom,
        table: &Table,
        parts: &[KeyPart],
        versions: Versions,
        charset: Charset,
    ) -> Result<Self, MisfitKey> {
        let index = |name: &str| match &copy.columns {
            Some(columns) => columns.iter().position(|column| **column == *name),
            None => table.columns.iter().position(|column| *column.name == *name),
        };
        let mut columns = Vec::with_capacity(parts.len());
        let is_drawn = |part: &&KeyPart| {
            let is_it = |column: &Column| column.name == part.name && column.draws_keys;
            parts.len() == 1 && index(&part.name).is_none() && table.columns.iter().any(is_it)
        };
        for part in parts.iter().filter(|part| !is_drawn(part)) {
            let column = part.column.clone().map_err(MisfitKey::Unfit)?;
            let index = index(&part.name).ok_or_else(|| MisfitKey::Absent(part.name.clone()))?;
            let null = null_of(&copy.format, &part.name);
            columns.push(KeyField { name: part.name.clone(), column, index, null, extent: Extent::default() });
        }
        let last = columns.iter().map(|column| column.index).max().unwrap_or_default();
        let form = match &copy.format {
            CopyFormat::Text(form) => Form::Text { null: form.null.clone() },
            CopyFormat::Csv(form) => {
                Form::Csv { null: form.lines.null.clone(), quote: form.quote, escape: form.escape }
            }
            CopyFormat::Binary => Form::Binary,
        };
        Ok(Self { columns, lot: Bucket::random(), last, versions, charset, form })
    }

    /// A field has ended; whether the key is known with it.
    pub(super) fn note(&mut self, field: usize, extent: Extent) -> bool {
        for column in self.columns.iter_mut().filter(|column| column.index == field) {
            column.extent = extent;
        }
        field == self.last
    }

    /// Of a row, from its beginning to behind its key.
    pub(super) fn place(&mut self, row: &[u8]) -> Result<usize, RowError> {
        if self.columns.is_empty() {
            self.lot = self.lot.next_lot();
            let map = self.versions.in_force.as_ref();
            let bucket = self.versions.settled_from(self.lot).ok_or(RowError::Moving(Moving))?;
            return Ok(map.map(|map| map.owner(bucket)).unwrap_or_default());
        }
        let mut hasher = KeyHasher::new();
        for column in &self.columns {
            hasher.add(&self.value(column, row)?);
        }
        self.versions.place(&hasher.finish()).map(Option::unwrap_or_default).map_err(RowError::Moving)
    }

    fn value<'r>(&self, field: &KeyField, row: &'r [u8]) -> Result<KeyValue<'r>, RowError> {
        let Extent { start, end, mark } = field.extent;
        let raw = row.get(start..end).unwrap_or_default();
        let null = || RowError::Null(field.name.clone());
        let unread = |why| RowError::Value { column: field.name.clone(), why };
        let text = match &self.form {
            Form::Binary if mark == Mark::Null => return Err(null()),
            Form::Binary => return field.column.from_binary(0, raw, self.charset).map_err(unread),
            Form::Text { null: spelt } if raw == &**spelt => return Err(null()),
            Form::Text { .. } => unescaped(raw),
            Form::Csv { null: spelt, quote, escape } => {
                let text = match mark {
                    Mark::Quoted => unquoted(raw, *quote, *escape),
                    _ => Cow::Borrowed(raw),
                };
                let is_null = *text == **spelt
                    && match field.null {
                        Null::AsSpelt => mark != Mark::Quoted,
                        Null::Quoted => true,
                        Null::Never => false,
                        Null::QuotedOnly => mark == Mark::Quoted,
                    };
                if is_null {
                    return Err(null());
                }
                text
            }
        };
        match text {
            Cow::Borrowed(text) => field.column.from_text(0, text, self.charset),
            Cow::Owned(text) => field.column.from_text(0, &text, self.charset).map(KeyValue::into_owned),
        }
        .map_err(unread)
    }

    /// The row has no field for the key.
    pub(super) fn missing(&self) -> RowError {
        let last = self.columns.iter().find(|column| column.index == self.last);
        RowError::Missing(last.map(|column| column.name.clone()).unwrap_or_default())
    }
}

/// `NextCopyFrom`: a NULL is first taken back by FORCE_NOT_NULL; otherwise what FORCE_NULL names is NULL however it
/// is quoted.
fn null_of(format: &CopyFormat, column: &str) -> Null {
    let CopyFormat::Csv(form) = format else { return Null::AsSpelt };
    match (form.force_null.has(column), form.force_not_null.has(column)) {
        (false, false) => Null::AsSpelt,
        (true, false) => Null::Quoted,
        (false, true) => Null::Never,
        (true, true) => Null::QuotedOnly,
    }
}

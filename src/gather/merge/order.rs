//! Which of two shards' rows comes first.

use std::cmp::Ordering;

use super::row::{RowShape, Unmergeable};
use super::values::Type;
use crate::sql::SortKey;

/// The order of an answer, by columns that are in binary format.
#[derive(Debug, Clone)]
pub struct Order {
    keys: Vec<(Type, SortKey)>,
}

/// The values of one row that it is sorted by.
pub type SortValues = [Option<Box<[u8]>>];

/// A shard's rows come in another order than the one that is known here; or a value is none of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rows of a shard are not in the order that they must have")]
pub struct Misordered;

impl Order {
    /// By the last columns of such rows. `is_utf8`: texts come as the server has them.
    ///
    /// # Errors
    /// The order of one of them is not known.
    pub fn new(keys: &[SortKey], shape: &RowShape, is_utf8: bool) -> Result<Self, Unmergeable> {
        let first = shape.len().checked_sub(keys.len()).ok_or(Unmergeable::Malformed)?;
        let key = |(at, key): (usize, &SortKey)| {
            let oid = shape.type_of(first + at).filter(|oid| is_utf8 || !Type::is_text(*oid));
            let known = oid.and_then(|oid| Type::of_oid(oid, key.is_bytewise));
            known.map(|known| (known, *key)).ok_or(Unmergeable::Order)
        };
        Ok(Self { keys: keys.iter().enumerate().map(key).collect::<Result<_, _>>()? })
    }

    /// Of two rows' values.
    ///
    /// # Errors
    /// One of them is no value of its type.
    pub fn compare(&self, one: &SortValues, other: &SortValues) -> Result<Ordering, Misordered> {
        for ((known, key), (one, other)) in self.keys.iter().zip(one.iter().zip(other)) {
            let ordering = match (one, other) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) if key.nulls_first => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) if key.nulls_first => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(one), Some(other)) => {
                    let ordering = known.compare(one, other).ok_or(Misordered)?;
                    if key.is_descending { ordering.reverse() } else { ordering }
                }
            };
            if ordering != Ordering::Equal {
                return Ok(ordering);
            }
        }
        Ok(Ordering::Equal)
    }
}

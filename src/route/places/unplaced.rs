//! Why it cannot be said where a statement belongs: errors, each with its own words.

use crate::sql::Name;

/// Why it cannot be said where a statement belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// Not in the config.
    #[error("where the rows of \"{0}\" are is not known")]
    Undeclared(Name),
    /// What the config says of a table cannot be: the key's column is not there, or of a type that places nothing.
    #[error("the rows of \"{table}\" cannot be placed: {why}")]
    Unfit {
        /// The table.
        table: Name,
        /// Why.
        why: String,
    },
    /// No bucket map was stored in this database.
    #[error("this database has no bucket map yet")]
    NoMap,
    /// A row is put in, and its key is not in the statement.
    #[error("the value of \"{column}\", by which the rows of \"{table}\" are placed, is not in the statement")]
    NoKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A row of a reference table gets a value that would be another one on each shard.
    #[error("\"{column}\" of \"{table}\" would have another value on each shard: its default is not a constant")]
    Varies {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A row is put in with NULL in its key.
    #[error("null value in column \"{column}\", by which the rows of \"{table}\" are placed")]
    NullKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A value of a key cannot be read with certainty.
    #[error("a value of \"{column}\", by which the rows of \"{table}\" are placed, cannot be read: {why}")]
    Value {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
        /// Why.
        why: String,
    },
    /// The bucket map is being changed, and this key's shard with it.
    #[error("rows of \"{table}\" with this key are about to move to another shard")]
    Moving {
        /// The table.
        table: Name,
    },
    /// A column of the key is set to something that may lie elsewhere.
    #[error("setting \"{column}\", by which the rows of \"{table}\" are placed, would move them to another shard")]
    MovesRow {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
}

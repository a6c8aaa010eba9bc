//! Many shards, one answer.
//!
//! [`merge`] puts rows into one order. What one stream of rows cannot answer is not computed here: [`coordinator`] makes the
//! schema on which a PostgreSQL does it.

pub mod coordinator;
pub mod merge;

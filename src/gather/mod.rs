//! Many shards, one answer.
//!
//! What one stream of merged rows cannot answer is not computed here: [`coordinator`] makes the schema on which a
//! PostgreSQL does it.

pub mod coordinator;

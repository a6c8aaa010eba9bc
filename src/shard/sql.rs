//! The same in PostgreSQL: functions that say where a row belongs, and the tables that hold the bucket map.
//!
//! Texts only; whoever holds a connection sends them. `tests/placement.rs` holds the functions to [`super::hash`].

/// Makes all of it, in the schema `pgsluice`. Idempotent; several statements, for one simple query: a transaction.
pub const INSTALL: &str = include_str!("install.sql");

/// Behind DDL, in its transaction: sequences that it has made give values that no other shard gives.
pub const SPREAD_SEQUENCES: &str = "SELECT pgsluice.spread_sequences()";

/// Constraints that no shard can enforce over all of them, with `{tables}` where the declared ones are to stand.
pub const CONSTRAINTS: &str = include_str!("constraints.sql");

/// The shard's name and number; no row where it has none yet.
pub const THIS_SHARD: &str = "SELECT name, number FROM pgsluice.this_shard";

/// Gives it these.
pub const STORE_THIS_SHARD: &str = "INSERT INTO pgsluice.this_shard (name, number) VALUES ($1, $2)";

/// The newest map: [`super::MapParts`] without its pins, column by column. No row where none was stored.
pub const NEWEST_MAP: &str = "SELECT version, hash_version, shards, weights, owners FROM pgsluice.bucket_map \
                              ORDER BY version DESC LIMIT 1";

/// The pins of the version `$1`: [`super::PinParts`], column by column.
pub const PINS: &str = "SELECT digest, shard, label FROM pgsluice.pinned_key WHERE version = $1";

/// The same without the labels, which are the owner's alone: for whoever places rows.
pub const UNLABELLED_PINS: &str =
    "SELECT digest, shard, NULL::text AS label FROM pgsluice.pinned_key WHERE version = $1";

/// Stores a map, its columns as in [`NEWEST_MAP`]. Fails with 23505 where somebody else has made that version.
pub const STORE_MAP: &str = "INSERT INTO pgsluice.bucket_map (version, hash_version, shards, weights, owners) \
                             VALUES ($1, $2, $3, $4, $5)";

/// Stores the pins of version `$1`: arrays of digests, shards and labels. In the transaction of [`STORE_MAP`].
pub const STORE_PINS: &str = "INSERT INTO pgsluice.pinned_key (version, digest, shard, label) \
                              SELECT $1, pin.* FROM unnest($2::bytea[], $3::text[], $4::text[]) AS pin";

/// The bucket of a row, NULL where one of the columns is, as an expression over its key columns. These are given as
/// they stand in SQL: quoted where they need it. Several times faster over many rows than `pgsluice.key_bucket`, since
/// PostgreSQL inlines all of it.
#[must_use]
pub fn bucket_expression<S: AsRef<str>>(columns: &[S]) -> String {
    let framed: Vec<_> =
        columns.iter().map(|column| format!("pgsluice.framed(pgsluice.shard_key({}))", column.as_ref())).collect();
    format!("pgsluice.digest_bucket(pg_catalog.sha256({}))", framed.join(" OPERATOR(pg_catalog.||) "))
}

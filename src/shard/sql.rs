//! The same in PostgreSQL: functions that say where a row belongs, and the tables that hold the bucket map.
//!
//! Texts only; whoever holds a connection sends them. `tests/placement.rs` holds the functions to [`super::hash`].

/// Makes all of it, in the schema `pgsluice`. Idempotent; several statements, for one simple query: a transaction.
pub const INSTALL: &str = include_str!("install.sql");

/// Behind DDL, in its transaction: shard keys that it has made take values that belong on their shard, and sequences that it
/// has made give values that no other shard gives. With `{tables}` where the declared ones are to stand.
pub const SPREAD_SEQUENCES: &str = "SELECT pgsluice.draw_keys({tables}); SELECT pgsluice.spread_sequences()";

/// Constraints that no shard can enforce over all of them, with `{tables}` where the declared ones are to stand.
pub const CONSTRAINTS: &str = include_str!("constraints.sql");

/// The shard's name and number; no row where it has none yet.
pub const THIS_SHARD: &str = "SELECT name, number FROM pgsluice.this_shard";

/// Gives it these.
pub const STORE_THIS_SHARD: &str = "INSERT INTO pgsluice.this_shard (name, number) VALUES ($1, $2)";

/// Whether there is a table of maps, and whether it is one in which versions have a state: not after an older release.
pub const HAS_MAPS: &str = "SELECT pg_catalog.to_regclass('pgsluice.bucket_map') IS NOT NULL, EXISTS (\
                            SELECT FROM pg_catalog.pg_attribute WHERE attname = 'state' AND NOT attisdropped \
                            AND attrelid = pg_catalog.to_regclass('pgsluice.bucket_map'))";

/// Where versions have no state, the newest map: [`super::MapParts`] without its pins, column by column. No row where none
/// was stored.
pub const NEWEST_MAP: &str = "SELECT version, hash_version, shards, weights, owners, 'in force'::text AS state \
                              FROM pgsluice.bucket_map ORDER BY version DESC LIMIT 1";

/// The newest map that is in force, and what was announced after it, the oldest first: as [`NEWEST_MAP`].
pub const NEWEST_MAPS: &str = "\
    SELECT version, hash_version, shards, weights, owners, state FROM pgsluice.bucket_map \
    WHERE version >= (SELECT coalesce(max(version), 0) FROM pgsluice.bucket_map WHERE state = 'in force') ORDER BY version";

/// The version and the state of every map.
pub const STATES: &str = "SELECT version, state FROM pgsluice.bucket_map ORDER BY version";

/// Announces a map: the columns of [`STORE_MAP`], then arrays of its pins as in [`STORE_PINS`].
pub const ANNOUNCE_MAP: &str = "SELECT pgsluice.announce($1, $2, $3, $4, $5, $6, $7, $8)";

/// Puts version `$1` in force where it is announced.
pub const FORCE_MAP: &str =
    "UPDATE pgsluice.bucket_map SET state = 'in force' WHERE version = $1 AND state = 'announced'";

/// Takes back the announcement of version `$1`.
pub const WITHDRAW_MAP: &str =
    "UPDATE pgsluice.bucket_map SET state = 'withdrawn' WHERE version = $1 AND state = 'announced'";

/// Puts version `$1` in force where it is on its way, because it is in force on another shard already.
pub const FOLLOW_MAP: &str =
    "UPDATE pgsluice.bucket_map SET state = 'in force' WHERE version = $1 AND state <> 'in force'";

/// Whether server processes can be registered here.
pub const HAS_FENCE: &str = "SELECT pg_catalog.to_regprocedure('pgsluice.register(bigint)') IS NOT NULL";

/// After [`INSTALL`], where a map was there before: whoever may have missed the fence counts as having heard of nothing, but
/// for the account `$1`, which moves no rows. Once for each upgrade.
pub const ENLIST: &str = "\
    WITH upgraded AS (DELETE FROM pgsluice.connection WHERE pid = 0 RETURNING pid) \
    INSERT INTO pgsluice.connection (pid, backend_start, version) \
    SELECT there.pid, there.backend_start, 0 FROM pg_catalog.pg_stat_activity AS there, upgraded \
    WHERE there.datname = pg_catalog.current_database() AND there.usename <> $1 \
        AND there.pid <> pg_catalog.pg_backend_pid() \
        AND coalesce(there.backend_type, 'client backend') = 'client backend' \
    ON CONFLICT (pid) DO NOTHING";

/// Where there was none, nobody has.
pub const FORGET_UPGRADE: &str = "DELETE FROM pgsluice.connection WHERE pid = 0";

/// Server processes of this database that are used by somebody who may not have heard of version `$1`.
pub const BEHIND: &str = "\
    SELECT used.pid FROM pgsluice.connection AS used JOIN pg_catalog.pg_stat_activity AS there ON there.pid = used.pid \
    WHERE used.version < $1 AND there.datname = pg_catalog.current_database() \
        AND (used.backend_start = there.backend_start) IS NOT FALSE";

/// Ends them.
pub const END_BEHIND: &str = "\
    SELECT pg_catalog.pg_terminate_backend(used.pid) \
    FROM pgsluice.connection AS used JOIN pg_catalog.pg_stat_activity AS there ON there.pid = used.pid \
    WHERE used.version < $1 AND there.datname = pg_catalog.current_database() \
        AND (used.backend_start = there.backend_start) IS NOT FALSE";

/// When nobody is behind version `$1` any more: what is left of those who were. Who has registered since, and is still
/// behind it, was told so, and does nothing before it has registered anew.
pub const FORGET_BEHIND: &str = "DELETE FROM pgsluice.connection WHERE version < $1";

/// What is prepared in this database under names that begin with `$1`: its gids.
pub const PREPARED: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts \
                            WHERE starts_with(gid, $1) AND database = pg_catalog.current_database()";

/// For a connection that changes the map.
pub const CHANGER_SESSION: &str = "SET default_transaction_read_only = off; SET statement_timeout = 0; SET row_security = off; \
                                   SET default_transaction_isolation = 'read committed'; SET lock_timeout = '10s'; \
                                   SET search_path = ''";

/// One changer at a time. Kept until the session ends; fails with 55P03 where another one is at work for longer.
pub const LOCK_CHANGES: &str = "SELECT pg_catalog.pg_advisory_lock(7310592837465002)";

/// Registers the connection under the version `known`, and tells the newest that was announced; whatever its session has
/// set.
#[must_use]
pub fn register(known: i64) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0; \
         SELECT pgsluice.register({known}); COMMIT"
    )
}

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

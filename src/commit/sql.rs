//! The statements of the protocol and of recovery, as texts.
//!
//! Names of shards and ids consist of characters that need no quoting ([`super::name`]), and everything of PostgreSQL
//! is named with its schema: what the session has set (`search_path`, `standard_conforming_strings`, `client_encoding`)
//! changes nothing of their meaning.

use super::name::{Gid, Secret, ShardName};
use crate::pool::quote_identifier as identifier;

/// Makes the table of decisions and the function that decides, in the schema `pgsluice`. Idempotent; several
/// statements, for one simple query: a transaction. Needed in every database of every shard that takes part.
pub const INSTALL: &str = include_str!("install.sql");

/// What the account that recovers needs beyond [`INSTALL`] and `CONNECT`, unless it is a superuser: for each role whose
/// transactions it shall settle, it must be a member of that role too.
#[must_use]
pub fn grant_recovery(role: &str) -> String {
    let role = identifier(role);
    format!(
        "GRANT SELECT, INSERT, DELETE ON pgsluice.decision TO {role}; GRANT UPDATE (open_then) ON pgsluice.decision TO {role}"
    )
}

/// Whoever asked for `synchronous_commit = off` risks its own last commits by it; not that the other shards
/// keep a part of one.
const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
                       WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) \
                       ANY (ARRAY['off', 'local']::pg_catalog.text[])";

pub(super) fn prepare(gid: &Gid) -> String {
    format!("{DURABLE}; PREPARE TRANSACTION '{gid}'")
}

/// In one message, so that there is no waiting between the decision and its commit.
pub(super) fn decide(secret: &Secret, participants: &[ShardName]) -> String {
    let names: Vec<_> = participants.iter().map(|name| format!("'{name}'")).collect();
    format!(
        "SELECT pgsluice.decide('{}'::pg_catalog.uuid, ARRAY[{}]::pg_catalog.text[]); COMMIT",
        secret.expose(),
        names.join(", ")
    )
}

pub(super) fn commit_prepared(gid: &Gid) -> String {
    format!("COMMIT PREPARED '{gid}'")
}

pub(super) fn rollback_prepared(gid: &Gid) -> String {
    format!("ROLLBACK PREPARED '{gid}'")
}

/// For a connection of recovery, which another round may have used before. It must not wait for long behind a transaction
/// that is deciding. Says whether the server is a standby.
pub(super) const RECOVERY_SESSION: &str = "\
    RESET ROLE; SET default_transaction_read_only = off; SET lock_timeout = '2s'; SET statement_timeout = '10s'; \
    SELECT pg_catalog.pg_is_in_recovery()";

/// What is prepared on this server, in all databases. A standby would say: nothing; so it has to say what it is.
/// `$1` is the prefix of all gids.
pub(super) const PREPARED: &str = "\
    SELECT pg_catalog.pg_is_in_recovery() AS standby, gid, owner::pg_catalog.text, database::pg_catalog.text, \
        extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::pg_catalog.float8 AS age \
    FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_prepared_xacts ON pg_catalog.starts_with(gid, $1)";

/// Claims that `$1` is rolled back, where nothing was decided yet. Waits for a transaction that is deciding it just
/// now.
pub(super) const CLAIM_ROLLBACK: &str = "\
    INSERT INTO pgsluice.decision (id, committed, participants) VALUES ($1::text::uuid, false, '{}') \
    ON CONFLICT (id) DO NOTHING";

/// After [`CLAIM_ROLLBACK`], in a statement of its own: it must see what that one has waited for.
pub(super) const VERDICT: &str = "SELECT committed FROM pgsluice.decision WHERE id = $1::text::uuid";

/// Commits that are older than `$1` seconds, and that concern no other shards than `$2`: what names others is never
/// deleted, and must not stand in the way of what can be.
pub(super) const OLD_COMMITS: &str = "\
    SELECT replace(id::text, '-', ''), participants FROM pgsluice.decision \
    WHERE committed AND decided_at < clock_timestamp() - $1::float8 * interval '1 second' \
        AND participants <@ $2::text[] LIMIT 50000";

/// Deletes the commits `$1`.
pub(super) const FORGET_COMMITS: &str =
    "DELETE FROM pgsluice.decision WHERE committed AND id = ANY ($1::text[]::uuid[])";

/// Notes for rollbacks which transactions are open now that they are in force. Every transaction has a virtual
/// transaction id from its first moment on, and holds a lock on it to its end.
pub(super) const NOTE_OPEN: &str = "\
    UPDATE pgsluice.decision \
    SET open_then = ARRAY(SELECT DISTINCT virtualxid FROM pg_catalog.pg_locks WHERE locktype = 'virtualxid') \
    WHERE NOT committed AND open_then IS NULL";

/// Deletes rollbacks that are older than `$1` seconds and that no open transaction can run into any more.
pub(super) const FORGET_ROLLBACKS: &str = "\
    DELETE FROM pgsluice.decision \
    WHERE NOT committed AND open_then IS NOT NULL \
        AND decided_at < clock_timestamp() - $1::float8 * interval '1 second' \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'virtualxid' AND virtualxid = ANY (open_then))";

pub(super) fn set_role(role: &str) -> String {
    format!("SET ROLE {}", identifier(role))
}

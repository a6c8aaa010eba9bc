//! The queries that read a database's catalog.
//!
//! They work on PostgreSQL 14 to 18, on a standby too, and need no more than a login: the catalogs that they read
//! are open to all. `pg_catalog` comes first in the search path so that nobody's function is called by mistake.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::poll::chain;
use crate::shard::MapError;
use crate::sql::{Catalog, CatalogBuilder, RelationKind, Volatility};

/// A database's catalog in a few numbers: when they are the same, so is it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<i64>);

/// Why a catalog cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No server answers.
    #[error("no server answers")]
    NoServer,
    /// 3D000: a client asked for a database that is not there.
    #[error("no such database")]
    NoSuchDatabase,
    /// What is stored as the bucket map is none.
    #[error("{0}")]
    Map(MapError),
    /// Too slow.
    #[error("no answer in time")]
    Timeout,
    /// The server or the way to it.
    #[error("{}", chain(.0))]
    Server(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) { Self::NoSuchDatabase } else { Self::Server(error) }
    }
}

/// Counts and sums of row versions. `xmin` and `ctid` change with every change of a row. Functions of the system itself
/// are in it too: an extension, or an operator's `ALTER FUNCTION`, may change one.
const FINGERPRINT: &str = "\
SELECT 'pg_catalog.pg_proc'::pg_catalog.text AS part, pg_catalog.count(*) AS rows,
       COALESCE(pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8 << 32 | oid::pg_catalog.int8)), 0)::pg_catalog.int8 AS versions
  FROM pg_catalog.pg_proc
UNION ALL
SELECT 'pg_catalog.pg_class', pg_catalog.count(*),
       COALESCE(pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8 << 32 | oid::pg_catalog.int8)), 0)::pg_catalog.int8
  FROM pg_catalog.pg_class WHERE relkind IN ('v', 'S') OR relpersistence = 'u' OR relrowsecurity
UNION ALL
SELECT 'pg_catalog.pg_rewrite', pg_catalog.count(*),
       COALESCE(pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8 << 32 | oid::pg_catalog.int8)), 0)::pg_catalog.int8
  FROM pg_catalog.pg_rewrite
UNION ALL
SELECT 'pg_catalog.pg_policy', pg_catalog.count(*),
       COALESCE(pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8 << 32 | oid::pg_catalog.int8)), 0)::pg_catalog.int8
  FROM pg_catalog.pg_policy
UNION ALL
SELECT 'pg_catalog.pg_namespace', pg_catalog.count(*),
       COALESCE(pg_catalog.sum(pg_catalog.hashint8(xmin::pg_catalog.text::pg_catalog.int8 << 32 | oid::pg_catalog.int8)), 0)::pg_catalog.int8
  FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'";

/// Functions, aggregates and window functions; procedures cannot be called in a query.
const FUNCTIONS: &str = "\
SELECT n.nspname, p.proname, p.provolatile
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.prokind <> 'p'";

/// Relations that a standby refuses to read.
const UNLOGGED: &str = "\
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p', 'm', 'S')";

/// Relations that a standby shows with other values. Temporary ones are read where they were made.
const SEQUENCES: &str = "\
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence = 'p' AND c.relkind = 'S'";

/// Views of users and extensions. Materialised ones are read as tables.
const VIEWS: &str = "\
SELECT n.nspname, c.relname, pg_catalog.pg_get_viewdef(c.oid)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'v' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

/// What row security adds to queries of a table.
const POLICIES: &str = "\
SELECT n.nspname, c.relname, pg_catalog.pg_get_expr(p.polqual, p.polrelid)
  FROM pg_catalog.pg_policy p
  JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relrowsecurity AND c.relpersistence <> 't' AND p.polqual IS NOT NULL";

/// The catalog's fingerprint now.
pub(super) async fn fingerprint(client: &Client) -> Result<Fingerprint, LoadError> {
    let rows = client.query(FINGERPRINT, &[]).await?;
    let mut numbers = Vec::with_capacity(rows.len() * 2);
    for row in &rows {
        numbers.push(row.try_get("rows")?);
        numbers.push(row.try_get("versions")?);
    }
    Ok(Fingerprint(numbers))
}

/// The whole catalog.
pub(super) async fn load(client: &Client) -> Result<Catalog, LoadError> {
    // Names in views' definitions come qualified where they are not on the search path: with an empty one, all do.
    // Definitions are read under a lock on each view, kept to the end: whoever drops several at the same time must never
    // be the victim of a deadlock with that, so this gives up long before a server looks for one (`deadlock_timeout`).
    client.batch_execute("SET search_path = ''; SET lock_timeout = '100ms'").await?;
    let mut builder = CatalogBuilder::default();
    for row in client.query(FUNCTIONS, &[]).await? {
        builder.function(row.try_get(0)?, row.try_get(1)?, volatility(row.try_get(2)?));
    }
    for row in client.query(UNLOGGED, &[]).await? {
        builder.relation(row.try_get(0)?, row.try_get(1)?, RelationKind::Unlogged);
    }
    for row in client.query(SEQUENCES, &[]).await? {
        builder.relation(row.try_get(0)?, row.try_get(1)?, RelationKind::Sequence);
    }
    for row in client.query(VIEWS, &[]).await? {
        // A view that was dropped meanwhile has no definition any more; the fingerprint has changed with it.
        if let Some(definition) = row.try_get::<_, Option<&str>>(2)? {
            builder.view(row.try_get(0)?, row.try_get(1)?, definition);
        }
    }
    for row in client.query(POLICIES, &[]).await? {
        if let Some(expression) = row.try_get::<_, Option<&str>>(2)? {
            builder.policy(row.try_get(0)?, row.try_get(1)?, expression);
        }
    }
    Ok(builder.build())
}

/// `pg_proc.provolatile`, a `"char"`. What is not known is the worst.
fn volatility(code: i8) -> Volatility {
    match u8::try_from(code) {
        Ok(b'i') => Volatility::Immutable,
        Ok(b's') => Volatility::Stable,
        _ => Volatility::Volatile,
    }
}

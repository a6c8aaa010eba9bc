//! The types that users have made, on each shard: what their OIDs are.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::timeout;
use tracing::debug;

use super::catalog_rows::LoadError;
use super::catalogs::{LOAD_TIMEOUT, TypesByShard, connect, server_of};
use crate::config::Config;
use crate::shard::type_oids::{FIRST_OF_USERS, TypeNames, TypeOids};
use crate::topology::SharedTopology;

/// Types of tables are among them, those of temporary tables are not.
const TYPES: &str = "\
SELECT t.oid, n.nspname, t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.oid >= $1 AND n.nspname !~ '^pg_(temp|toast)'";

/// What the shards have told.
pub(super) struct Read {
    /// Of all but the first, by name.
    pub(super) types: TypesByShard,
    /// All of them have answered.
    pub(super) is_whole: bool,
}

/// Of all shards but the first. Of one that does not answer nothing is known: its types are `unknown` to clients.
///
/// # Errors
/// The first shard does not answer.
pub(super) async fn load(config: &Config, topology: &SharedTopology, database: &str) -> Result<Read, LoadError> {
    let shards: Vec<Arc<str>> = topology.load().shards.iter().map(|shard| Arc::clone(&shard.name)).collect();
    let read = shards.iter().map(|shard| async {
        timeout(LOAD_TIMEOUT, names(config, topology, shard, database)).await.unwrap_or(Err(LoadError::Timeout))
    });
    let mut read = join_all(read).await.into_iter();
    let first = read.next().ok_or(LoadError::NoServer)??;
    let mut all = Read { types: TypesByShard::default(), is_whole: true };
    for (shard, own) in shards.into_iter().skip(1).zip(read) {
        let types = match own {
            Ok(own) => TypeOids::between(&own, &first),
            Err(error) => {
                debug!(%shard, %error, "the types of users are not known there");
                all.is_whole = false;
                TypeOids::default()
            }
        };
        all.types.insert(shard, Arc::new(types));
    }
    Ok(all)
}

async fn names(
    config: &Config,
    topology: &SharedTopology,
    shard: &str,
    database: &str,
) -> Result<TypeNames, LoadError> {
    let (node, login) = server_of(shard, config, topology).ok_or(LoadError::NoServer)?;
    let connection = connect(node, login.to_database(database)).await?;
    let mut names = TypeNames::new();
    for row in connection.client.query(TYPES, &[&FIRST_OF_USERS]).await? {
        names.insert((row.try_get("nspname")?, row.try_get("typname")?), row.try_get("oid")?);
    }
    Ok(names)
}

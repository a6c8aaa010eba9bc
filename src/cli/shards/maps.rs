//! The bucket map as the shards have it.

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use tokio_postgres::Client;

use super::reach::{Site, told};
use crate::monitor::distribution_rows::versions;
use crate::shard::sql::{PINS, UNLABELLED_PINS};
use crate::shard::{BucketMap, Versions};

/// A shard with the newest maps that are stored there.
pub(super) struct Holder {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) versions: Versions,
}

impl Holder {
    /// The one in force.
    pub(super) fn map(&self) -> Option<&BucketMap> {
        self.versions.in_force.as_deref()
    }
}

/// All shards of the config, in its order.
///
/// # Errors
/// A shard has no primary that can be reached, or what is stored there is no map.
pub(super) async fn holders(site: &Site, database: &str) -> anyhow::Result<Vec<Holder>> {
    let primaries = site.primaries(database).await?.into_iter();
    try_join_all(primaries.map(|(name, client)| async {
        let versions = versions_of(&client).await.with_context(|| format!("shard \"{name}\""))?;
        Ok(Holder { name, client, versions })
    }))
    .await
}

/// The one in force: the newest that any shard has, and of several that of the first.
///
/// # Errors
/// None has any.
pub(super) fn in_force<'h>(holders: &'h [Holder], database: &str) -> anyhow::Result<&'h BucketMap> {
    let maps = holders.iter().filter_map(Holder::map);
    match maps.rev().max_by_key(|map| map.version()) {
        Some(map) => Ok(map),
        None => bail!("database \"{database}\" has no bucket map: run pgsluice shards init"),
    }
}

/// With the labels of pinned keys where they may be read.
pub(super) async fn versions_of(client: &Client) -> anyhow::Result<Versions> {
    const MAY_READ: &str = "SELECT coalesce(pg_catalog.has_column_privilege(\
        pg_catalog.to_regclass('pgsluice.pinned_key'), 'label', 'SELECT'), false)";
    let row = client.query_one(MAY_READ, &[]).await.map_err(|error| anyhow::anyhow!(told(&error)))?;
    Ok(versions(client, if row.get(0) { PINS } else { UNLABELLED_PINS }).await?)
}

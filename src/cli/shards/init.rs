//! `pgsluice shards init`: what every shard needs before rows can be placed on it.

use anyhow::{Context, bail};
use tokio_postgres::Client;

use super::Common;
use super::change::{Changer, failed, store};
use super::maps::Holder;
use super::reach::{Site, told};
use crate::monitor::distribution_rows::versions;
use crate::shard::sql::{ENLIST, FORGET_UPGRADE, INSTALL, PINS, STORE_THIS_SHARD, THIS_SHARD};
use crate::shard::{BucketMap, Versions};
use crate::{commit, config};

pub(super) async fn run(common: &Common) -> anyhow::Result<()> {
    let site = Site::of(common)?;
    for database in site.databases(common)? {
        for line in init(&site, &database).await.with_context(|| format!("database \"{database}\""))? {
            println!("{database}: {line}");
        }
    }
    Ok(())
}

/// Makes the schema on every shard, and the first bucket map where there is none. What was done, line by line. A change of
/// the map that was not finished is finished, or taken back.
///
/// # Errors
/// A shard cannot be reached, or refuses, or the shards have different maps, or somebody is changing the map.
pub async fn init(site: &Site, database: &str) -> anyhow::Result<Vec<String>> {
    let shards = site.primaries(database).await?;
    let mut holders = Vec::new();
    for (name, client) in shards {
        install(site, &name, &client).await.with_context(|| format!("shard \"{name}\""))?;
        let versions = versions(&client, PINS).await.with_context(|| format!("shard \"{name}\""))?;
        enlist(site, &name, &client, &versions).await.with_context(|| format!("shard \"{name}\""))?;
        holders.push(Holder { name, client, versions });
    }
    let known = holders.iter().filter_map(Holder::map).max_by_key(|map| map.version()).cloned();
    let is_new = known.is_none();
    let map = match known {
        Some(map) => map,
        None => BucketMap::new(site.config.shards.iter().map(|shard| (&*shard.name, shard.weight)))?,
    };
    let missing = site.config.shards.iter().find(|shard| map.index_of(&shard.name).is_err());
    if let Some(missing) = missing {
        bail!("version {} of the bucket map has no shard \"{}\"", map.version(), missing.name);
    }
    number(&holders).await?;
    let given: Vec<String> = if is_new {
        for holder in &holders {
            store(&holder.client, map.to_parts()).await.with_context(|| format!("shard \"{}\"", holder.name))?;
        }
        holders.into_iter().map(|holder| holder.name).collect()
    } else {
        Changer::of(holders, database).await?.given
    };
    let version = map.version();
    let line = |shard: &config::Shard| match given.contains(&shard.name) {
        true => format!("shard \"{}\" was given version {version} of the bucket map", shard.name),
        false => format!("shard \"{}\" has version {version} of the bucket map", shard.name),
    };
    Ok(site.config.shards.iter().map(line).collect())
}

/// Gives each shard that has none a number that no other one has had.
async fn number(shards: &[Holder]) -> anyhow::Result<()> {
    let (mut next, mut without) = (0, Vec::new());
    for Holder { name, client, .. } in shards {
        match client.query_opt(THIS_SHARD, &[]).await.map_err(failed)? {
            Some(row) if row.get::<_, &str>(0) != name => {
                bail!("the servers of shard \"{name}\" are those of shard \"{}\"", row.get::<_, &str>(0))
            }
            Some(row) => next = next.max(row.get::<_, i32>(1) + 1),
            None => without.push((name, client)),
        }
    }
    for (number, (name, client)) in (next..).zip(without) {
        client.execute(STORE_THIS_SHARD, &[name, &number]).await.map_err(failed)?;
    }
    Ok(())
}

/// Where rows were placed before the fence was there. Without a map nobody has placed any.
async fn enlist(site: &Site, shard: &str, client: &Client, versions: &Versions) -> anyhow::Result<()> {
    if versions.known == 0 {
        return client.execute(FORGET_UPGRADE, &[]).await.map(drop).map_err(failed);
    }
    let monitor = site.config.shards.iter().find(|configured| configured.name == shard).map(|shard| &shard.user);
    client.execute(ENLIST, &[&monitor]).await.map(drop).map_err(failed)
}

async fn install(site: &Site, shard: &str, client: &Client) -> anyhow::Result<()> {
    let run =
        |sql: String| async move { client.batch_execute(&sql).await.map_err(|error| anyhow::anyhow!(told(&error))) };
    run(format!("BEGIN;{INSTALL};{};COMMIT", commit::sql::INSTALL)).await?;
    let monitor = site.config.shards.iter().find(|configured| configured.name == shard).map(|shard| &shard.user);
    let Some(monitor) = monitor else { return Ok(()) };
    run(commit::sql::grant_recovery(monitor)).await
}

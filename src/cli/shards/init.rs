//! `pgsluice shards init`: what every shard needs before rows can be placed on it.

use anyhow::{Context, bail};
use tokio_postgres::Client;

use super::Common;
use super::reach::{Site, told};
use crate::commit;
use crate::monitor::distribution_rows::newest_map;
use crate::shard::sql::{INSTALL, PINS, STORE_MAP, STORE_PINS, STORE_THIS_SHARD, THIS_SHARD};
use crate::shard::{BucketMap, MapParts};

pub(super) async fn run(common: &Common) -> anyhow::Result<()> {
    let site = Site::of(common)?;
    for database in site.databases(common)? {
        for line in init(&site, &database).await.with_context(|| format!("database \"{database}\""))? {
            println!("{database}: {line}");
        }
    }
    Ok(())
}

/// Makes the schema on every shard, and the first bucket map where there is none. What was done, line by line.
///
/// # Errors
/// A shard cannot be reached, or refuses, or the shards have different maps.
pub async fn init(site: &Site, database: &str) -> anyhow::Result<Vec<String>> {
    let shards = site.primaries(database).await?;
    let mut maps = Vec::new();
    for (name, client) in &shards {
        install(site, name, client).await.with_context(|| format!("shard \"{name}\""))?;
        maps.push(newest_map(client, PINS).await.with_context(|| format!("shard \"{name}\""))?);
    }
    let known = maps.iter().flatten().max_by_key(|map| map.version()).cloned();
    let map = match known {
        Some(map) => map,
        None => BucketMap::new(site.config.shards.iter().map(|shard| (&*shard.name, shard.weight)))?,
    };
    let missing = site.config.shards.iter().find(|shard| map.index_of(&shard.name).is_err());
    if let Some(missing) = missing {
        bail!("version {} of the bucket map has no shard \"{}\"", map.version(), missing.name);
    }
    number(&shards).await?;
    let mut lines = Vec::new();
    for ((name, client), there) in shards.iter().zip(&maps) {
        let version = map.version();
        match there {
            Some(there) if there.version() == version && there.to_parts().owners != map.to_parts().owners => {
                bail!("shard \"{name}\" has another bucket map of version {version} than others")
            }
            Some(there) if there.version() == version => {
                lines.push(format!("shard \"{name}\" has version {version} of the bucket map"));
            }
            _ => {
                store(client, map.to_parts()).await.with_context(|| format!("shard \"{name}\""))?;
                lines.push(format!("shard \"{name}\" was given version {version} of the bucket map"));
            }
        }
    }
    Ok(lines)
}

/// Gives each shard that has none a number that no other one has had.
async fn number(shards: &[(String, Client)]) -> anyhow::Result<()> {
    let failed = |error: tokio_postgres::Error| anyhow::anyhow!(told(&error));
    let (mut next, mut without) = (0, Vec::new());
    for (name, client) in shards {
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

async fn install(site: &Site, shard: &str, client: &Client) -> anyhow::Result<()> {
    let run =
        |sql: String| async move { client.batch_execute(&sql).await.map_err(|error| anyhow::anyhow!(told(&error))) };
    run(format!("BEGIN;{INSTALL};{};COMMIT", commit::sql::INSTALL)).await?;
    let monitor = site.config.shards.iter().find(|configured| configured.name == shard).map(|shard| &shard.user);
    let Some(monitor) = monitor else { return Ok(()) };
    run(commit::sql::grant_recovery(monitor)).await
}

/// As one transaction.
async fn store(client: &Client, parts: MapParts) -> anyhow::Result<()> {
    let failed = |error: tokio_postgres::Error| anyhow::anyhow!(told(&error));
    let MapParts { version, hash_version, shards, weights, owners, pins } = parts;
    let digests: Vec<_> = pins.iter().map(|pin| pin.digest.clone()).collect();
    let names: Vec<_> = pins.iter().map(|pin| pin.shard.clone()).collect();
    let labels: Vec<_> = pins.iter().map(|pin| pin.label.clone()).collect();
    client.batch_execute("BEGIN").await.map_err(failed)?;
    client.execute(STORE_MAP, &[&version, &hash_version, &shards, &weights, &owners]).await.map_err(failed)?;
    client.execute(STORE_PINS, &[&version, &digests, &names, &labels]).await.map_err(failed)?;
    client.batch_execute("COMMIT").await.map_err(failed)
}

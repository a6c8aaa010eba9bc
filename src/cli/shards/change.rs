//! A change of the bucket map, while any number of proxies are at work: nobody writes by the old version what belongs
//! elsewhere by the new one (docs/sharding.md, "When the bucket map changes").
//!
//! 1. The new version is *announced* on all shards. From then on, keys that change shards are written by nobody who has
//!    heard of it, and whoever has not is found in `pgsluice.connection`.
//! 2. It is waited until no server process is used by somebody who has not heard of it. Those that are left when the time is
//!    over are ended.
//! 3. It is put in force on all shards; or withdrawn, and the old one goes on.
//!
//! What becomes of a version is decided by one row: that on the first shard of the map in force. All steps begin there, and
//! each is conditional on the one before. So a changer that dies, or stands still for an hour, leaves something that the
//! next one can tell: announced there, it is withdrawn; in force there, it is put in force everywhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::maps::{Holder, holders, in_force};
use super::reach::{Site, told};
use super::verify::is_same;
use crate::commit;
use crate::shard::sql::{
    ANNOUNCE_MAP, BEHIND, CHANGER_SESSION, END_BEHIND, FOLLOW_MAP, FORCE_MAP, FORGET_BEHIND, HAS_FENCE, LOCK_CHANGES,
    PREPARED, STATES, STORE_MAP, STORE_PINS, WITHDRAW_MAP,
};
use crate::shard::{BucketMap, MapParts};

/// How often it is looked who is left.
const LOOK: Duration = Duration::from_millis(50);

/// How long a server process may take to end, and what is prepared to be settled by recovery.
const GRACE: Duration = Duration::from_secs(30);

/// Whoever may change the map of a database now.
pub(super) struct Changer {
    /// The first shard of the map first.
    holders: Vec<Holder>,
    map: Arc<BucketMap>,
    /// The highest version that was ever written on a shard.
    highest: i64,
    /// Shards that were behind, and are not any more.
    pub(super) given: Vec<String>,
}

/// A version that everybody has heard of, and that is not in force.
pub(super) struct Announced {
    changer: Changer,
    map: BucketMap,
    /// How many server processes had to be ended.
    pub(super) ended: usize,
}

impl Changer {
    /// Keeps others from changing the map, and finishes or takes back what an earlier one has begun.
    ///
    /// # Errors
    /// A shard cannot be reached, or was prepared by an older release; somebody else is at it; the shards disagree.
    pub(super) async fn begin(site: &Site, database: &str) -> anyhow::Result<Self> {
        let holders = holders(site, database).await?;
        Self::of(holders, database).await
    }

    /// The same of shards that have been looked at.
    pub(super) async fn of(mut holders: Vec<Holder>, database: &str) -> anyhow::Result<Self> {
        let map = in_force(&holders, database)?;
        let first = map.shards().first().map(|shard| Arc::clone(&shard.name)).unwrap_or_default();
        let Some(at) = holders.iter().position(|holder| *holder.name == *first) else {
            bail!("the bucket map has a shard \"{first}\", which is not in the config");
        };
        holders[..=at].rotate_right(1);
        for holder in &holders {
            of_shard(holder, prepare(&holder.client)).await?;
        }
        if !of_shard(&holders[0], lock(&holders[0].client)).await? {
            bail!("somebody else is changing the bucket map, or running shards init, just now");
        }
        // What was read before may have been changed by whoever held the lock.
        for holder in &mut holders {
            holder.versions = super::maps::versions_of(&holder.client).await?;
        }
        let map = Arc::new(in_force(&holders, database)?.clone());
        let mut changer = Self { holders, map, highest: 0, given: Vec::new() };
        changer.settle().await?;
        Ok(changer)
    }

    /// The map in force.
    pub(super) fn map(&self) -> &BucketMap {
        &self.map
    }

    /// All shards.
    pub(super) fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// What is in force on one shard is so on all; what is only announced is withdrawn.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let version = self.map.version();
        for (number, holder) in self.holders.iter().enumerate() {
            let states = of_shard(holder, states(&holder.client)).await?;
            self.highest = states.iter().map(|(version, _)| *version).fold(self.highest, i64::max);
            match states.iter().find(|(known, _)| *known == version) {
                Some((_, state)) if state == "in force" => {
                    if holder.map().is_some_and(|map| map.version() == version && !is_same(map, &self.map)) {
                        bail!("shard \"{}\" has another bucket map of version {version} than others", holder.name);
                    }
                    continue;
                }
                Some(_) => drop(of_shard(holder, execute(&holder.client, FOLLOW_MAP, &[&version])).await?),
                None => of_shard(holder, store(&holder.client, self.map.to_parts())).await?,
            }
            self.given.push(self.holders[number].name.clone());
        }
        for holder in &self.holders {
            for (announced, _) in
                of_shard(holder, states(&holder.client)).await?.iter().filter(|(_, state)| state == "announced")
            {
                of_shard(holder, execute(&holder.client, WITHDRAW_MAP, &[announced])).await?;
            }
        }
        Ok(())
    }

    /// Announces the next version, whatever its number, and waits until everybody has heard of it. Server processes that are
    /// used by those who have not are ended after `wait`.
    ///
    /// # Errors
    /// It could not be announced, or not everybody hears of it: then it is withdrawn.
    pub(super) async fn announce(self, next: BucketMap, wait: Duration) -> anyhow::Result<Announced> {
        let map = next.renumbered(self.highest + 1);
        let mut announced = Announced { changer: self, map, ended: 0 };
        match announced.spread(wait).await {
            Ok(ended) => announced.ended = ended,
            Err(error) => {
                return Err(match announced.withdraw().await {
                    Ok(()) => error,
                    Err(second) => error.context(format!("{second:#}")),
                });
            }
        }
        Ok(announced)
    }
}

impl Announced {
    /// All shards.
    pub(super) fn holders(&self) -> &[Holder] {
        &self.changer.holders
    }

    async fn spread(&self, wait: Duration) -> anyhow::Result<usize> {
        for holder in self.holders() {
            of_shard(holder, announce(&holder.client, self.map.to_parts())).await?;
        }
        let (version, deadline) = (self.map.version(), Instant::now() + wait);
        let waits = self.holders().iter().map(|holder| of_shard(holder, await_all(&holder.client, version, deadline)));
        Ok(try_join_all(waits).await?.into_iter().sum())
    }

    /// Puts it in force on all shards.
    ///
    /// # Errors
    /// It was withdrawn by somebody else; or a shard could not be told, and the next changer will tell it.
    pub(super) async fn put_in_force(self) -> anyhow::Result<BucketMap> {
        let version = self.map.version();
        let mut is_decided = false;
        for holder in self.holders() {
            let forced = of_shard(holder, execute(&holder.client, FORCE_MAP, &[&version])).await;
            let told = match forced {
                Ok(1) => Ok(()),
                Ok(_) if is_decided => Ok(()),
                Ok(_) => bail!("version {version} of the bucket map was withdrawn by somebody else"),
                Err(error) => Err(error),
            };
            told.with_context(|| match is_decided {
                true => format!(
                    "version {version} of the bucket map is in force, and not all shards have been told: run pgsluice shards init"
                ),
                false => format!("whether version {version} of the bucket map is in force is not known: run pgsluice shards init"),
            })?;
            is_decided = true;
        }
        Ok(self.map)
    }

    /// Takes it back: the map that was in force goes on.
    ///
    /// # Errors
    /// A shard could not be told; the next changer tells it.
    pub(super) async fn withdraw(self) -> anyhow::Result<()> {
        let version = self.map.version();
        let mut outcome = Ok(());
        for holder in self.holders() {
            let told = of_shard(holder, execute(&holder.client, WITHDRAW_MAP, &[&version])).await;
            outcome = outcome.and(told.map(drop));
        }
        outcome.context("not all shards have been told that it is withdrawn: run pgsluice shards init")
    }
}

async fn of_shard<T>(holder: &Holder, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    work.await.with_context(|| format!("shard \"{}\"", holder.name))
}

/// What a server has said, in its own words.
pub(super) fn failed(error: tokio_postgres::Error) -> anyhow::Error {
    anyhow::anyhow!(told(&error))
}

async fn prepare(client: &Client) -> anyhow::Result<()> {
    client.batch_execute(CHANGER_SESSION).await.map_err(failed)?;
    if !client.query_one(HAS_FENCE, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        bail!(
            "it was prepared by an older release: run pgsluice shards init, and then restart proxies of older releases"
        );
    }
    Ok(())
}

/// False where somebody else is at it, and stays so.
async fn lock(client: &Client) -> anyhow::Result<bool> {
    match client.execute(LOCK_CHANGES, &[]).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

async fn states(client: &Client) -> anyhow::Result<Vec<(i64, String)>> {
    let rows = client.query(STATES, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn execute(client: &Client, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> anyhow::Result<u64> {
    client.execute(sql, arguments).await.map_err(failed)
}

async fn announce(client: &Client, parts: MapParts) -> anyhow::Result<()> {
    let (digests, names, labels) = pins_of(&parts);
    let MapParts { version, hash_version, shards, weights, owners, .. } = parts;
    let arguments: [&(dyn ToSql + Sync); 8] =
        [&version, &hash_version, &shards, &weights, &owners, &digests, &names, &labels];
    execute(client, ANNOUNCE_MAP, &arguments).await.map(drop)
}

type Pins = (Vec<Vec<u8>>, Vec<String>, Vec<Option<String>>);

fn pins_of(parts: &MapParts) -> Pins {
    let mut pins = Pins::default();
    for pin in &parts.pins {
        pins.0.push(pin.digest.clone());
        pins.1.push(pin.shard.clone());
        pins.2.push(pin.label.clone());
    }
    pins
}

/// As one transaction: a map that is in force.
pub(super) async fn store(client: &Client, parts: MapParts) -> anyhow::Result<()> {
    let (digests, names, labels) = pins_of(&parts);
    let MapParts { version, hash_version, shards, weights, owners, .. } = parts;
    client.batch_execute("BEGIN").await.map_err(failed)?;
    execute(client, STORE_MAP, &[&version, &hash_version, &shards, &weights, &owners]).await?;
    execute(client, STORE_PINS, &[&version, &digests, &names, &labels]).await?;
    client.batch_execute("COMMIT").await.map_err(failed)
}

/// Waits until nobody uses a server process there who has not heard of this version, and nothing is left that was prepared
/// before. How many server processes were ended for that.
async fn await_all(client: &Client, version: i64, deadline: Instant) -> anyhow::Result<usize> {
    let mut ended = std::collections::BTreeSet::new();
    loop {
        let behind: Vec<i32> =
            client.query(BEHIND, &[&version]).await.map_err(failed)?.iter().map(|row| row.get(0)).collect();
        if behind.is_empty() {
            break;
        }
        if Instant::now() >= deadline + GRACE {
            bail!("server processes {behind:?} do not end, which are used under an older version of the bucket map");
        }
        if Instant::now() >= deadline {
            client.query(END_BEHIND, &[&version]).await.map_err(failed)?;
            ended.extend(behind);
        }
        tokio::time::sleep(LOOK).await;
    }
    execute(client, FORGET_BEHIND, &[&version]).await?;
    await_prepared(client).await?;
    Ok(ended.len())
}

/// What was prepared by those who had not heard of it is committed, or rolled back, by recovery if need be.
async fn await_prepared(client: &Client) -> anyhow::Result<()> {
    let prepared = async || -> anyhow::Result<Vec<String>> {
        let rows = client.query(PREPARED, &[&commit::PREFIX]).await.map_err(failed)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let (mut left, limit) = (prepared().await?, Instant::now() + GRACE);
    while !left.is_empty() {
        if Instant::now() >= limit {
            bail!("transactions are prepared there that nobody settles: {}", left.join(", "));
        }
        tokio::time::sleep(LOOK).await;
        let there = prepared().await?;
        left.retain(|gid| there.contains(gid));
    }
    Ok(())
}

//! How recovery gets to the shards' primaries.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::kept::{Home, Kept, Lent};
use super::name::ShardName;
use crate::config::Config;
use crate::monitor::driver;
use crate::monitor::poll::Login;
use crate::topology::SharedTopology;

/// How often it is looked whether the monitor has found the primaries.
const LOOK: Duration = Duration::from_millis(50);

/// The shards, and connections to their primaries.
pub trait Reach: Send + Sync {
    /// All shards of the set.
    fn shards(&self) -> Vec<ShardName>;

    /// The databases in which decisions may lie, besides those that recovery hears of itself.
    fn databases(&self) -> Vec<String>;

    /// A connection to a shard's primary, as the account that recovers: to this database, or, to see what is prepared on
    /// the server, to any. It may be one that was used before, in the same account's session.
    fn connect(
        &self,
        shard: &ShardName,
        database: Option<&str>,
    ) -> impl Future<Output = Result<Lent, ConnectError>> + Send;
}

/// Why there is no connection to a shard.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The config has no such shard.
    #[error("there is no such shard")]
    NoSuchShard,
    /// No node of it is known to be its primary.
    #[error("no primary is known")]
    NoPrimary,
    /// The server does not answer, or does not let the account in.
    #[error("{}", super::settle::words(.0))]
    Connect(#[from] tokio_postgres::Error),
}

/// The primaries that the monitor knows, as the monitor's account.
#[derive(Debug, Clone)]
pub struct Primaries {
    config: Arc<ArcSwap<Config>>,
    topology: SharedTopology,
    kept: Arc<Kept>,
}

impl Primaries {
    /// Of the config that is in force at each look.
    pub fn new(config: Arc<ArcSwap<Config>>, topology: SharedTopology) -> Self {
        Self { config, topology, kept: Arc::default() }
    }

    /// Returns when the monitor has found one for each shard.
    pub async fn all_found(&self) {
        let are_found = || {
            let shards = &self.topology.load().shards;
            shards.len() == self.config.load().shards.len() && shards.iter().all(|shard| shard.primary().is_some())
        };
        while !are_found() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Leaves a database that somebody wants for himself.
    pub fn vacate(&self, database: &str) {
        self.kept.vacate(database);
    }
}

impl Reach for Primaries {
    fn shards(&self) -> Vec<ShardName> {
        // The config lets no other names in.
        self.config.load().shards.iter().filter_map(|shard| shard.name.parse().ok()).collect()
    }

    fn databases(&self) -> Vec<String> {
        self.config.load().databases.iter().map(|database| database.name.clone()).collect()
    }

    async fn connect(&self, shard: &ShardName, database: Option<&str>) -> Result<Lent, ConnectError> {
        let config = self.config.load_full();
        let configured = config.shards.iter().find(|configured| configured.name == shard.as_str());
        let login = Login::of(configured.ok_or(ConnectError::NoSuchShard)?);
        let topology = self.topology.load_full();
        let known = topology.shards.iter().find(|known| *known.name == *shard.as_str());
        let primary = known.and_then(|known| known.primary()).ok_or(ConnectError::NoPrimary)?;
        let login = database.map_or_else(|| login.clone(), |database| login.to_database(database));
        let home = Home { shard: shard.clone(), node: Arc::clone(primary), incarnation: primary.incarnation(), login };
        if let Some(lent) = self.kept.take(&home) {
            return Ok(lent);
        }
        let driver_config = home.login.driver_config(primary, config.pool.connect_timeout);
        let (client, _) = driver::connect(&driver_config, &home.login.tls).await?;
        Ok(self.kept.lend(client, home))
    }
}

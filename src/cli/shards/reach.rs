//! The shards' primaries, as a command reaches them.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio_postgres::Client;

pub(super) use super::super::connect::told;
use super::Common;
use crate::config::{Config, Secret, Shard};
use crate::monitor::driver;
use crate::monitor::poll::Login;
use crate::topology::Node;

/// How long one server may take to let somebody in.
const LIMIT: Duration = Duration::from_secs(10);

/// Who logs in, where that is not the shard's own account.
#[derive(Debug, Clone)]
pub struct Account {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
}

/// The shards of a config, and who logs in there.
#[derive(Debug)]
pub struct Site {
    /// The config.
    pub config: Config,
    /// `None`: each shard's own account.
    pub account: Option<Account>,
}

impl Site {
    pub(super) fn of(common: &Common) -> anyhow::Result<Self> {
        let config = Config::load(&common.config)?;
        if config.shards.len() < 2 {
            bail!("{}: there is only one shard, and nothing to be placed", common.config.display());
        }
        let password = std::env::var("PGPASSWORD").ok().map(Secret::new);
        let account = common.user.clone().map(|user| Account { user, password });
        Ok(Self { config, account })
    }

    /// The databases that a command is about.
    pub(super) fn databases(&self, common: &Common) -> anyhow::Result<Vec<String>> {
        if !common.databases.is_empty() {
            return Ok(common.databases.clone());
        }
        let named: Vec<_> = self.config.databases.iter().map(|database| database.name.clone()).collect();
        if named.is_empty() {
            bail!("which database? Say --database, or name them in [[databases]]");
        }
        Ok(named)
    }

    /// Each shard's name and a connection to its primary, in the config's order.
    ///
    /// # Errors
    /// A shard has no primary that can be reached.
    pub async fn primaries(&self, database: &str) -> anyhow::Result<Vec<(String, Client)>> {
        let mut all = Vec::new();
        for shard in &self.config.shards {
            all.push((shard.name.clone(), self.primary_of(shard, database).await?));
        }
        Ok(all)
    }

    /// A connection to the primary of the first shard that has one, for what is the same on all.
    ///
    /// # Errors
    /// No shard has one that can be reached: what is wrong with the first.
    pub(super) async fn any_primary(&self, database: &str) -> anyhow::Result<Client> {
        let mut failure = None;
        for shard in &self.config.shards {
            match self.primary_of(shard, database).await {
                Ok(client) => return Ok(client),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("there is no shard")))
    }

    async fn primary_of(&self, shard: &Shard, database: &str) -> anyhow::Result<Client> {
        let mut login = Login::of(shard).to_database(database);
        if let Some(account) = &self.account {
            login = Login { user: account.user.clone(), password: account.password.clone(), ..login };
        }
        primary(shard, &login).await.with_context(|| format!("shard \"{}\"", shard.name))
    }
}

async fn primary(shard: &Shard, login: &Login) -> anyhow::Result<Client> {
    let mut failures = Vec::new();
    for node in &shard.nodes {
        let node = Node::new(node.host.clone(), node.port, node.weight);
        match is_primary(&node, login).await {
            Ok(Some(client)) => return Ok(client),
            Ok(None) => failures.push(format!("{} is a replica", node.name)),
            Err(error) => failures.push(format!("{}: {error:#}", node.name)),
        }
    }
    bail!("no primary can be reached: {}", failures.join("; "))
}

async fn is_primary(node: &Node, login: &Login) -> anyhow::Result<Option<Client>> {
    let config = login.driver_config(node, LIMIT);
    let connected = tokio::time::timeout(LIMIT, driver::connect(&config, &login.tls)).await;
    let (client, _) = connected.context("no answer in time")?.map_err(|error| anyhow::anyhow!(told(&error)))?;
    let row = client
        .query_one("SELECT pg_catalog.pg_is_in_recovery()", &[])
        .await
        .map_err(|error| anyhow::anyhow!(told(&error)))?;
    Ok((!row.get::<_, bool>(0)).then_some(client))
}

//! What a shard's watch needs of the config.

use std::time::Duration;

use super::poll::{Login, PollSettings};
use crate::config::{self, Config};
use crate::topology::Role;

/// One shard's part of the config.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ShardSettings {
    pub(super) shard: config::Shard,
    pub(super) lag: config::Lag,
    pub(super) connect_timeout: Duration,
}

impl ShardSettings {
    /// Of all shards, in the config's order.
    pub(super) fn all(config: &Config) -> Vec<Self> {
        (config.shards.iter())
            .map(|shard| Self {
                shard: shard.clone(),
                lag: config.lag.clone(),
                connect_timeout: config.pool.connect_timeout,
            })
            .collect()
    }

    /// How a node in this role is polled.
    pub(super) fn polls(&self, role: Role) -> PollSettings {
        PollSettings {
            login: Login::of(&self.shard),
            interval: self.lag.poll_interval,
            timeout: self.lag.poll_timeout,
            connect_timeout: self.connect_timeout,
            late: role != Role::Primary,
        }
    }

    /// From what age on the primary's newest position says nothing of lag any more.
    pub(super) fn primary_stale_after(&self) -> Duration {
        (self.lag.poll_interval * 3).max(self.lag.poll_timeout)
    }
}

//! Transactions over several shards, on three real primaries: all or nothing, whatever is killed at whatever moment.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

mod crash;
mod kept;
mod killed;
mod monitored;
mod privileges;
mod race;
mod refusal;
mod stand;
mod storm;
#[path = "../support/mod.rs"]
mod support;

//! pgsluice: a PostgreSQL proxy that sends writes to the primary and reads to replicas that are
//! fresh enough for the session that asks.
//!
//! `docs/ARCHITECTURE.md` shows a statement's way through these rooms.
#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod admin;
pub mod audit;
pub mod cli;
pub mod commit;
pub mod config;
pub mod demo;
pub mod gather;
pub mod monitor;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod session;
pub mod shard;
pub mod sql;
pub mod statistics;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod topology;
pub mod wire;
pub mod workers;

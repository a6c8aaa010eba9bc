//! pgsluice: a PostgreSQL proxy that sends writes to the primary and reads to replicas that are
//! fresh enough for the session that asks.
//!
//! `docs/ARCHITECTURE.md` shows a statement's way through these rooms.

pub mod admin;
pub mod config;
pub mod demo;
pub mod monitor;
pub mod sql;
pub mod telemetry;
pub mod topology;

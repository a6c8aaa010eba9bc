//! A real PostgreSQL cluster on this machine: one primary with streaming replicas, made from the
//! installed server binaries, for `pgsluice demo` and for tests.
//!
//! - [`binaries`] finds `initdb` and `postgres`, of any supported major version.
//! - [`account`] is the unprivileged account that they run as, because PostgreSQL refuses root.
//! - [`cluster`] builds the servers and the replication between them.
//! - [`basebackup`] copies the primary for a replica.
//! - [`server`] starts, stops, kills and freezes one server.
//!
//! Invariants: everything listens on the loopback only; everything that is written lies in one
//! temporary folder; when a [`cluster::Cluster`] is dropped, or its process dies in whatever way, its servers
//! end and the folder goes. Durability is switched off (`fsync = off`), so this must never hold
//! data that anyone wants to keep.

pub mod account;
mod basebackup;
pub mod binaries;
pub mod cluster;
mod config;
mod error;
mod guard;
mod options;
mod port;
mod process;
pub mod server;
mod settings;
mod wait;

pub use account::Account;
pub use binaries::Binaries;
pub use cluster::Cluster;
pub use config::{proxy_config, sharded_config};
pub use error::DemoError;
pub use options::{ClusterOptions, Credentials, Description, ServerCertificate, ServerDescription, ServerRole};
pub use server::{Rows, Server, StopMode};

//! The control plane: watches the servers and keeps the [`Topology`](crate::topology::Topology) true.
//!
//! Per node one task asks the server where it is ([`poll`]), per shard one task judges the answers
//! (`watch`: roles, lag, breakers) and is the only writer of the nodes' state. One more task loads
//! the catalogs of the databases that clients use ([`catalogs`]). Users that the file does not name are looked up
//! here too ([`UserLookup`]), which is the one thing that a login waits for. The data plane reads what they publish and sends
//! hints ([`MonitorHandle::kick`], [`MonitorHandle::catalog_changed`]); it never waits for them, and nothing here touches a
//! client.

pub mod breaker;
mod catalog_rows;
pub mod catalogs;
pub mod distribution_rows;
pub(crate) mod driver;
pub mod lag;
mod member;
pub mod poll;
pub mod question;
pub mod roles;
mod settings;
mod supervisor;
mod type_rows;
mod users;
mod watch;

pub use catalog_rows::LoadError;
pub use catalogs::{Catalogs, Rows};
pub(crate) use driver::connect as connect_driver;
pub use supervisor::{Monitor, MonitorHandle};
pub use users::{LookupFailed, UserLookup};

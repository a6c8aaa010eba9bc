//! What the data plane knows of the servers.
//!
//! A [`Topology`] is an immutable snapshot: shards, nodes, roles. The monitor publishes a new one
//! when a role or the node list changes; readers take it with one atomic load. What changes all the
//! time (position, lag, breaker, load) is in each [`Node`]'s atomics, and a `Node` outlives the
//! snapshots that it appears in. Nothing here does I/O or reads a clock.

mod node;
mod position;
mod wal;

pub use node::{Admission, EjectReason, Node, Outstanding, Role, Sample};
pub use position::{Lsn, LsnError, Position};
pub use wal::WalLayout;

use std::sync::Arc;

use arc_swap::ArcSwap;

/// The current snapshot, shared by all parts.
pub type SharedTopology = Arc<ArcSwap<Topology>>;

/// All shards, as last learnt.
#[derive(Debug, Default)]
pub struct Topology {
    /// In the config's order.
    pub shards: Vec<Shard>,
}

/// One primary and its replicas, as last learnt.
#[derive(Debug)]
pub struct Shard {
    /// `shards.name`.
    pub name: Arc<str>,
    /// In the config's order.
    pub nodes: Vec<Member>,
}

/// A node and the part that it plays in this snapshot.
#[derive(Debug, Clone)]
pub struct Member {
    /// The node itself.
    pub node: Arc<Node>,
    /// What it is now.
    pub role: Role,
}

impl Shard {
    /// The primary, where one is known.
    pub fn primary(&self) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|member| member.role == Role::Primary).map(|member| &member.node)
    }

    /// Every node that is a replica, eligible or not.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().filter(|member| member.role == Role::Replica).map(|member| &member.node)
    }
}

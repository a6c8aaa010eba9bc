//! Replication connections: a client that wants a server's WAL speaks to one server, which it has to name.
//!
//! Once both sides are logged in nothing is looked at any more: bytes go both ways until one side ends. The
//! connection is of no pool, and counts as one of the user's clients.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::attach::login_failed;
use super::auth::Rejection;
use super::clients::{Registration, Who};
use super::cut::{note_cut, terminated};
use super::{ClientSlot, Membership, who};
use crate::config::{Config, ReplicationMode};
use crate::pool::{Identity, ServerConnection};
use crate::proxy::Proxy;
use crate::telemetry::metrics::CutCause;
use crate::topology::{Node, Role, Topology};
use crate::wire::startup::Request;
use crate::wire::{BUFFER_SIZE, ErrorReply, Link};

/// The startup setting by which a client names a server.
const NODE: &str = "pgsluice.node";

/// Two logged-in peers.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) server: ServerConnection,
    pub(super) registration: Registration,
    identity: Identity,
    _places: (ClientSlot, Membership),
}

/// Why replication connections are refused, where they are.
pub(super) fn check(config: &Config) -> Result<(), Rejection> {
    match config.listen.replication {
        ReplicationMode::Pass => Ok(()),
        ReplicationMode::Off => {
            Err(Rejection::Told(ErrorReply::fatal("0A000", "replication connections are not passed on").hint(
                "Connect to the PostgreSQL server itself, or set listen.replication = \"pass\" and name a server.",
            )))
        }
    }
}

impl Passage {
    /// Logs in to the server that the client has named.
    pub(super) async fn open(
        proxy: &Arc<Proxy>,
        request: &Request,
        who: Who,
        places: (ClientSlot, Membership),
    ) -> Result<Self, Rejection> {
        let identity = who.identity.clone();
        let named = request.settings.iter().rev().find(|(name, _)| name == NODE).map(|(_, value)| value.as_str());
        let node = find(&proxy.topology.load(), named).map_err(Rejection::Told)?;
        let others = request.settings.iter().filter(|(name, _)| !name.starts_with("pgsluice."));
        let replication = request.replication.as_deref().unwrap_or_default();
        let mut parameters = vec![("replication", replication)];
        parameters.extend(others.map(|(name, value)| (name.as_str(), value.as_str())));
        let server = proxy.pools.connect_apart(&node, &identity, &parameters).await;
        let server = server.map_err(|error| Rejection::Told(login_failed(&error).into_fatal()))?;
        tracing::info!(user = ?identity.user, node = %node.name, ?replication, "a replication connection is passed on");
        let registration = proxy.clients.register(request.minor_version >= 2, Some(who));
        registration.set(&server);
        Ok(Self { server, registration, identity, _places: places })
    }

    /// Passes bytes on until one side ends, or the proxy does, or an operator ends it.
    pub(super) async fn run(mut self, proxy: &Proxy, mut client: Link) {
        let mut shutdown = proxy.shutdown_signal();
        let killed = self.registration.killed();
        let cause = tokio::select! {
            () = poll_fn(|cx| poll_both(&mut client, &mut self.server.link, cx)) => None,
            () = shutdown.wait() => Some(CutCause::Shutdown),
            () = killed.cancelled() => Some(CutCause::Killed),
        };
        if let Some(cause) = cause {
            note_cut(proxy, who(&self.identity, client.peer_address()), cause, &terminated());
        }
        self.registration.clear().await;
        tracing::debug!(user = ?self.identity.user, node = %self.server.node.name, "a replication connection has ended");
        let ends = async { tokio::join!(client.close(), self.server.link.close()) };
        let _ = tokio::time::timeout(super::serve::GOODBYE_LIMIT, ends).await;
    }
}

fn find(topology: &Topology, named: Option<&str>) -> Result<Arc<Node>, ErrorReply> {
    let members = || topology.shards.iter().flat_map(|shard| &shard.nodes);
    let hint = || {
        let names: Vec<&str> = members().map(|member| &*member.node.name).collect();
        format!("Name one with options='-c {NODE}=…': primary, or {}.", names.join(" or "))
    };
    let Some(named) = named else {
        return Err(ErrorReply::fatal("22023", "a replication connection has to name a server").hint(hint()));
    };
    let is_meant = |role: Role, node: &Node| match named {
        "primary" => role == Role::Primary,
        name => *node.name == *name,
    };
    match members().find(|member| is_meant(member.role, &member.node)) {
        Some(member) => Ok(Arc::clone(&member.node)),
        None if named == "primary" => Err(ErrorReply::fatal("57P03", "no primary is known for this shard")),
        None => Err(ErrorReply::fatal("22023", format!("there is no server \"{named}\"")).hint(hint())),
    }
}

/// Ready when one side has ended and the other has all that it said.
fn poll_both(client: &mut Link, server: &mut Link, cx: &mut Context<'_>) -> Poll<()> {
    if poll_pass(client, server, cx).is_ready() || poll_pass(server, client, cx).is_ready() {
        return Poll::Ready(());
    }
    Poll::Pending
}

/// Moves what there is; ready at the end.
fn poll_pass(from: &mut Link, to: &mut Link, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        from.ready = from.input.len();
        let is_stuck = match to.poll_write_from(from, cx) {
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => true,
        };
        if is_stuck && from.input.len() >= BUFFER_SIZE {
            return Poll::Pending;
        }
        match from.poll_fill(cx, BUFFER_SIZE) {
            Poll::Ready(Ok(1..)) => {}
            // What is left over goes with the goodbye.
            Poll::Ready(_) => {
                to.output.extend_from_slice(&from.input);
                return Poll::Ready(());
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

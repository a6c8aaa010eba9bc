//! Cancel requests.
//!
//! A client is given a key of the proxy's own. A request with that key is passed to the server that
//! runs this client's statement at that moment, ends the wait of a statement that has no server yet,
//! and does nothing where there is no statement. A server connection is not released while a request
//! is on its way to it, so that it cannot hit whoever comes next.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::clients::{Client, Clients, Registration, lock};
use crate::pool::{Canceller, ServerConnection};
use crate::takeover::Predecessor;
use crate::wire::startup::CancelKey;

/// How long passing on a request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Whom a request is for.
#[derive(Debug)]
pub(super) enum Target {
    Nobody,
    /// A statement that waits for a server.
    Waiting(oneshot::Sender<()>),
    /// The connection that runs it.
    Server(Arc<Canceller>),
    /// The connections that run it, one for each shard.
    Servers(Arc<[Arc<Canceller>]>),
}

/// A request came for a statement that had no server yet.
#[derive(Debug)]
pub struct Cancelled;

impl Clients {
    /// Passes a client's request on. A wrong key, an idle session, and a server that cannot be
    /// reached are all answered alike: not at all.
    pub async fn cancel(&self, key: &CancelKey) {
        match self.get(key.pid).filter(|client| client.key == *key) {
            Some(client) => client.pass_on().await,
            None => {
                if let Some(predecessor) = self.predecessor() {
                    predecessor.cancel(key).await;
                }
            }
        }
    }

    /// This process has taken over from another one, which still has clients.
    pub fn follow(&self, predecessor: Predecessor) {
        *lock(&self.predecessor) = Some(predecessor);
    }

    /// Returns when that one has ended, if there is one.
    pub async fn predecessor_gone(&self) {
        if let Some(predecessor) = self.predecessor() {
            predecessor.gone().await;
        }
    }

    pub(super) fn predecessor(&self) -> Option<Predecessor> {
        lock(&self.predecessor).clone()
    }
}

impl Client {
    async fn pass_on(&self) {
        let cancellers = {
            let mut target = lock(&self.target);
            let cancellers: Arc<[_]> = match &*target {
                Target::Nobody => return,
                Target::Waiting(_) => {
                    if let Target::Waiting(waiting) = std::mem::replace(&mut *target, Target::Nobody) {
                        // Where the wait is over already there is nobody to hear it.
                        let _ = waiting.send(());
                    }
                    return;
                }
                Target::Server(canceller) => [Arc::clone(canceller)].into(),
                Target::Servers(cancellers) => Arc::clone(cancellers),
            };
            // Under the lock: whoever clears the target afterwards sees it.
            self.under_way.fetch_add(1, Ordering::Relaxed);
            cancellers
        };
        join_all(cancellers.iter().map(|canceller| pass_on(canceller))).await;
        if self.under_way.fetch_sub(1, Ordering::Release) == 1 {
            self.settled.notify_waiters();
        }
    }
}

async fn pass_on(canceller: &Canceller) {
    match tokio::time::timeout(LIMIT, canceller.cancel()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(node = %canceller.node.name, %error, "a cancel request could not be passed on")
        }
        Err(_) => tracing::warn!(node = %canceller.node.name, "a cancel request was not dealt with in time"),
    }
}

impl Registration {
    /// Waits for what a statement needs before it has a server, unless a request ends that.
    pub async fn unless_cancelled<T>(&self, awaited: impl Future<Output = T>) -> Result<T, Cancelled> {
        self.unless_cancelled_pinned(pin!(awaited)).await
    }

    /// The same, of something that is too large to be moved for it.
    pub async fn unless_cancelled_pinned<T>(
        &self,
        mut awaited: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Cancelled> {
        // Mostly there is nothing to wait for.
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(awaited.as_mut().poll(cx))).await {
            return Ok(output);
        }
        let (sender, request) = oneshot::channel();
        *lock(&self.client.target) = Target::Waiting(sender);
        let result = tokio::select! {
            biased;
            Ok(()) = request => Err(Cancelled),
            output = awaited => Ok(output),
        };
        *lock(&self.client.target) = Target::Nobody;
        result
    }

    /// Stops what the client's server runs for it now, as a request of its own would.
    pub async fn cancel_running(&self) {
        self.client.pass_on().await;
    }

    /// From now on requests go to this connection.
    pub fn set(&self, connection: &ServerConnection) {
        *lock(&self.client.target) = Target::Server(Arc::clone(&connection.canceller));
    }

    /// From now on requests go to these connections.
    pub fn set_all(&self, cancellers: Arc<[Arc<Canceller>]>) {
        *lock(&self.client.target) = Target::Servers(cancellers);
    }

    /// Asks for the statement under way to be cancelled, as its client could.
    pub fn cancel_statement(&self) {
        let client = Arc::clone(&self.client);
        tokio::spawn(async move { client.pass_on().await });
    }

    /// From now on requests go nowhere. Returns when none is under way.
    pub async fn clear(&self) {
        *lock(&self.client.target) = Target::Nobody;
        self.settle().await;
    }

    /// Returns when no request is under way.
    pub async fn settle(&self) {
        if self.client.under_way.load(Ordering::Acquire) > 0 {
            // In a box: seldom, and large.
            Box::pin(self.wait_until_settled()).await;
        }
    }

    async fn wait_until_settled(&self) {
        while self.client.under_way.load(Ordering::Acquire) > 0 {
            // It hears of whatever ends from here on, so nothing is missed between the two.
            let settled = self.client.settled.notified();
            if self.client.under_way.load(Ordering::Acquire) > 0 {
                settled.await;
            }
        }
    }
}

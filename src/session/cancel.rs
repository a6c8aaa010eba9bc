//! Cancel requests.
//!
//! A client is given a key of the proxy's own. A request with that key is passed to the server that
//! runs this client's statement at that moment, ends the wait of a statement that has no server yet,
//! and does nothing where there is no statement. A server connection is not released while a request
//! is on its way to it, so that it cannot hit whoever comes next.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use rand::Rng;
use rand::RngCore;
use tokio::sync::{oneshot, watch};

use crate::pool::ServerConnection;
use crate::topology::Node;
use crate::wire::startup::CancelKey;

/// How long passing on a request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// All sessions' keys.
#[derive(Debug, Default)]
pub struct CancelRegistry {
    slots: Mutex<HashMap<i32, Arc<CancelSlot>>>,
}

/// One session's key, and what it runs.
#[derive(Debug)]
pub struct CancelSlot {
    key: CancelKey,
    target: Mutex<Target>,
    under_way: watch::Sender<usize>,
}

/// Whom a request is for.
#[derive(Debug)]
enum Target {
    Nobody,
    /// A statement that waits for a server.
    Waiting(oneshot::Sender<()>),
    Server(Arc<Node>, CancelKey),
}

/// A request came for a statement that had no server yet.
#[derive(Debug)]
pub struct Cancelled;

/// A session's entry; gone with it.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<CancelRegistry>,
    slot: Arc<CancelSlot>,
}

impl CancelRegistry {
    /// A new key: of 4 bytes for protocol 3.0, and of 32 from 3.2 on.
    pub fn register(self: &Arc<Self>, long_key: bool) -> Registration {
        let mut rng = rand::rng();
        let mut secret = vec![0; if long_key { 32 } else { 4 }];
        rng.fill_bytes(&mut secret);
        let mut slots = lock(&self.slots);
        let pid = loop {
            let pid = rng.random_range(1..=i32::MAX);
            if !slots.contains_key(&pid) {
                break pid;
            }
        };
        let key = CancelKey { pid, secret: secret.into() };
        let slot = Arc::new(CancelSlot { key, target: Mutex::new(Target::Nobody), under_way: watch::Sender::new(0) });
        slots.insert(pid, Arc::clone(&slot));
        Registration { registry: Arc::clone(self), slot }
    }

    /// Passes a client's request on. A wrong key, an idle session, and a server that cannot be
    /// reached are all answered alike: not at all.
    pub async fn cancel(&self, key: &CancelKey) {
        let slot = lock(&self.slots).get(&key.pid).filter(|slot| slot.key == *key).map(Arc::clone);
        if let Some(slot) = slot {
            slot.pass_on().await;
        }
    }
}

impl CancelSlot {
    async fn pass_on(&self) {
        let (node, key) = {
            let mut target = lock(&self.target);
            match &*target {
                Target::Nobody => return,
                Target::Waiting(_) => {
                    if let Target::Waiting(waiting) = std::mem::replace(&mut *target, Target::Nobody) {
                        // Where the wait is over already there is nobody to hear it.
                        let _ = waiting.send(());
                    }
                    return;
                }
                Target::Server(node, key) => {
                    // Under the lock: whoever clears the target afterwards sees it.
                    self.under_way.send_modify(|count| *count += 1);
                    (Arc::clone(node), key.clone())
                }
            }
        };
        let result = tokio::time::timeout(LIMIT, ServerConnection::cancel(&node.host, node.port, &key)).await;
        self.under_way.send_modify(|count| *count -= 1);
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(node = %node.name, %error, "a cancel request could not be passed on"),
            Err(_) => tracing::warn!(node = %node.name, "a cancel request was not dealt with in time"),
        }
    }
}

impl Registration {
    /// What the client is told in `BackendKeyData`.
    pub fn key(&self) -> &CancelKey {
        &self.slot.key
    }

    /// Gives the session this process ID, unless another one has it: that of the server connection that it keeps for
    /// as long as it lives. To be called before the client knows its key.
    pub fn take_pid(&mut self, pid: i32) {
        let mut slots = lock(&self.registry.slots);
        if slots.contains_key(&pid) {
            return;
        }
        let slot = CancelSlot {
            key: CancelKey { pid, secret: self.slot.key.secret.clone() },
            target: Mutex::new(std::mem::replace(&mut *lock(&self.slot.target), Target::Nobody)),
            under_way: watch::Sender::new(0),
        };
        slots.remove(&self.slot.key.pid);
        self.slot = Arc::new(slot);
        slots.insert(pid, Arc::clone(&self.slot));
    }

    /// Waits for what a statement needs before it has a server, unless a request ends that.
    pub async fn unless_cancelled<T>(&self, awaited: impl Future<Output = T>) -> Result<T, Cancelled> {
        let mut awaited = pin!(awaited);
        // Mostly there is nothing to wait for.
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(awaited.as_mut().poll(cx))).await {
            return Ok(output);
        }
        let (sender, request) = oneshot::channel();
        *lock(&self.slot.target) = Target::Waiting(sender);
        let result = tokio::select! {
            biased;
            Ok(()) = request => Err(Cancelled),
            output = awaited => Ok(output),
        };
        *lock(&self.slot.target) = Target::Nobody;
        result
    }

    /// From now on requests go to this connection.
    pub fn set(&self, connection: &ServerConnection) {
        *lock(&self.slot.target) = Target::Server(Arc::clone(&connection.node), connection.cancel_key.clone());
    }

    /// From now on requests go nowhere. Returns when none is under way.
    pub async fn clear(&self) {
        *lock(&self.slot.target) = Target::Nobody;
        if *self.slot.under_way.borrow() > 0 {
            // The sender lives as long as the slot.
            let _ = self.slot.under_way.subscribe().wait_for(|count| *count == 0).await;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.registry.slots).remove(&self.slot.key.pid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

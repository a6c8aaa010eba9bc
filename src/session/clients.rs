//! All clients: who they are, what they are doing, and how to reach them from outside of their sessions.
//!
//! A session writes a few atomics as it goes; whoever asks (a cancel request, `SHOW CLIENTS`, `KILL`) reads
//! them. Nothing here waits for a session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rand::{Rng, RngCore};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::cancel::Target;
use crate::pool::Identity;
use crate::sql::Pin;
use crate::takeover::{NoAnswer, Predecessor, ShownClient};
use crate::wire::startup::CancelKey;

/// All clients that are logged in, by the process ID that they were told.
#[derive(Debug, Default)]
pub struct Clients {
    by_pid: Mutex<HashMap<i32, Arc<Client>>>,
    /// Who is asked about keys that are not known here.
    pub(super) predecessor: Mutex<Option<Predecessor>>,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// What it was told in `BackendKeyData`.
    pub(super) key: CancelKey,
    /// `None`: the proxy itself, on behalf of somebody who is logging in.
    who: Option<Who>,
    since: SystemTime,
    activity: AtomicU8,
    pins: Mutex<Vec<Pin>>,
    killed: CancellationToken,
    pub(super) target: Mutex<Target>,
    /// Cancel requests on their way to its server.
    pub(super) under_way: AtomicUsize,
    /// Told when the last of them has arrived.
    pub(super) settled: Notify,
}

/// Who a client is.
#[derive(Debug, Clone)]
pub struct Who {
    /// Role and database.
    pub identity: Identity,
    /// Where it connected from.
    pub address: Option<SocketAddr>,
    /// With TLS.
    pub is_encrypted: bool,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// It has asked for something.
    Active,
    /// Nothing, in an open transaction.
    IdleInTransaction,
    /// It has asked for something and waits: for a server, or for `RESUME`.
    Waiting,
}

/// A client as `SHOW CLIENTS` has it.
#[derive(Debug)]
pub struct ClientView {
    /// The process ID that it was told.
    pub pid: i32,
    /// Who it is.
    pub who: Who,
    /// Since when.
    pub since: SystemTime,
    /// What it is doing.
    pub activity: Activity,
    /// The node that it has a connection to, and the process ID of the backend there.
    pub server: Option<(Arc<str>, i32)>,
    /// What keeps it on that connection.
    pub pins: Vec<Pin>,
}

/// A session's entry; gone with it.
#[derive(Debug)]
pub struct Registration {
    clients: Arc<Clients>,
    pub(super) client: Arc<Client>,
    /// Whether any are noted.
    has_pins: bool,
}

impl Activity {
    const ALL: [Self; 4] = [Self::Idle, Self::Active, Self::IdleInTransaction, Self::Waiting];

    /// As PostgreSQL's `pg_stat_activity.state` has it, and `waiting`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::IdleInTransaction => "idle in transaction",
            Self::Waiting => "waiting",
        }
    }
}

impl Clients {
    /// A new key: of 4 bytes for protocol 3.0, and of 32 from 3.2 on.
    pub fn register(self: &Arc<Self>, long_key: bool, who: Option<Who>) -> Registration {
        let mut rng = rand::rng();
        let mut secret = vec![0; if long_key { 32 } else { 4 }];
        rng.fill_bytes(&mut secret);
        let mut by_pid = lock(&self.by_pid);
        let pid = loop {
            let pid = rng.random_range(1..=i32::MAX);
            if !by_pid.contains_key(&pid) {
                break pid;
            }
        };
        let client = Arc::new(Client {
            key: CancelKey { pid, secret: secret.into() },
            who,
            since: SystemTime::now(),
            activity: AtomicU8::new(Activity::Idle as u8),
            pins: Mutex::default(),
            killed: CancellationToken::new(),
            target: Mutex::new(Target::Nobody),
            under_way: AtomicUsize::new(0),
            settled: Notify::new(),
        });
        by_pid.insert(pid, Arc::clone(&client));
        Registration { clients: Arc::clone(self), client, has_pins: false }
    }

    pub(super) fn get(&self, pid: i32) -> Option<Arc<Client>> {
        lock(&self.by_pid).get(&pid).map(Arc::clone)
    }

    /// Ends that client's session, here or in the process that was taken over from; false when there is none.
    ///
    /// # Errors
    /// It is not here, and that process does not answer.
    pub async fn kill(&self, pid: i32) -> Result<bool, NoAnswer> {
        if let Some(client) = self.get(pid).filter(|client| client.who.is_some()) {
            client.killed.cancel();
            return Ok(true);
        }
        match self.predecessor() {
            // In a box: that one may have to ask its own.
            Some(predecessor) => Box::pin(predecessor.kill(pid)).await,
            None => Ok(false),
        }
    }

    /// All of them, here and in the process that was taken over from, as operators see them.
    pub async fn shown(&self) -> Vec<ShownClient> {
        let mut shown: Vec<ShownClient> = self.view().into_iter().map(ShownClient::from).collect();
        if let Some(predecessor) = self.predecessor() {
            match Box::pin(predecessor.list()).await {
                Ok(elsewhere) => shown.extend(elsewhere),
                Err(NoAnswer { process }) => {
                    tracing::warn!(
                        process,
                        "the process that was taken over from does not answer; its clients are not shown"
                    );
                }
            }
        }
        shown
    }

    /// All that are here, by process ID.
    pub fn view(&self) -> Vec<ClientView> {
        let clients: Vec<Arc<Client>> = lock(&self.by_pid).values().map(Arc::clone).collect();
        let mut views: Vec<ClientView> = clients.iter().filter_map(|client| client.view()).collect();
        views.sort_by_key(|view| view.pid);
        views
    }
}

impl Client {
    fn view(&self) -> Option<ClientView> {
        let who = self.who.clone()?;
        let known = self.activity.load(Ordering::Relaxed);
        let activity = Activity::ALL.into_iter().find(|activity| *activity as u8 == known).unwrap_or(Activity::Active);
        let (server, is_waiting) = match &*lock(&self.target) {
            Target::Nobody => (None, false),
            Target::Waiting(_) => (None, true),
            Target::Server(canceller) => (Some(canceller.place()), false),
            Target::Servers(cancellers) => (cancellers.first().map(|first| first.place()), false),
        };
        Some(ClientView {
            pid: self.key.pid,
            who,
            since: self.since,
            activity: if is_waiting { Activity::Waiting } else { activity },
            server,
            pins: lock(&self.pins).clone(),
        })
    }
}

impl Registration {
    /// Gives the session this process ID, unless another one has it: that of the server connection that it keeps for
    /// as long as it lives. To be called before the client knows its key.
    pub fn take_pid(&mut self, pid: i32) {
        let mut by_pid = lock(&self.clients.by_pid);
        if by_pid.contains_key(&pid) {
            return;
        }
        let old = &self.client;
        let client = Arc::new(Client {
            key: CancelKey { pid, secret: old.key.secret.clone() },
            who: old.who.clone(),
            since: old.since,
            activity: AtomicU8::new(old.activity.load(Ordering::Relaxed)),
            pins: Mutex::default(),
            killed: CancellationToken::new(),
            target: Mutex::new(std::mem::replace(&mut *lock(&old.target), Target::Nobody)),
            under_way: AtomicUsize::new(0),
            settled: Notify::new(),
        });
        by_pid.remove(&old.key.pid);
        by_pid.insert(pid, Arc::clone(&client));
        drop(by_pid);
        self.client = client;
    }

    /// What the client is told in `BackendKeyData`.
    pub fn key(&self) -> &CancelKey {
        &self.client.key
    }

    /// What it is doing now.
    pub fn note_activity(&self, activity: Activity) {
        self.client.activity.store(activity as u8, Ordering::Relaxed);
    }

    /// What keeps it on its connection.
    pub fn note_pins(&mut self, pins: &[Pin]) {
        if pins.is_empty() && !self.has_pins {
            return;
        }
        self.has_pins = !pins.is_empty();
        let mut known = lock(&self.client.pins);
        if *known != pins {
            *known = pins.to_vec();
        }
    }

    /// Comes with [`Clients::kill`].
    pub fn killed(&self) -> CancellationToken {
        self.client.killed.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.clients.by_pid).remove(&self.client.key.pid);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

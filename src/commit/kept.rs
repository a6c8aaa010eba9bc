//! Recovery's connections between its rounds: to log in anew for each would cost both sides far more than to ask.
//!
//! A connection is kept for whom it was made for, and used again only where that is the same in everything: the shard's
//! primary, in the life of it that is known, and the login. Whoever takes one asks first whether its server is no standby
//! ([`super::settle::session`]). What is not asked for any more is closed; so is at once, and for a while, whatever would
//! stand in the way of somebody who drops a database.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::name::ShardName;
use crate::monitor::poll::Login;
use crate::topology::Node;

/// How long one is kept that nobody uses. Longer than between two looks for old decisions.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Connections that are kept to one shard; databases beyond that are logged in to anew.
const MOST_TO_A_SHARD: usize = 8;

/// For how long none is kept to a database that was to be left.
const VACANT: Duration = Duration::from_secs(30);

/// Whom a connection is to, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) shard: ShardName,
    pub(super) node: Arc<Node>,
    /// Of the node, before it was connected to.
    pub(super) incarnation: u64,
    pub(super) login: Login,
}

impl Home {
    fn is(&self, other: &Self) -> bool {
        self.shard == other.shard
            && Arc::ptr_eq(&self.node, &other.node)
            && self.incarnation == other.incarnation
            && self.login == other.login
    }

    /// Whether there is no use any more for connections to the one, where there are to be some to the other.
    fn is_replaced_by(&self, other: &Self) -> bool {
        let is_as = |login: &Login| login.to_database(&other.login.database) == other.login;
        self.shard == other.shard
            && !(Arc::ptr_eq(&self.node, &other.node) && self.incarnation == other.incarnation && is_as(&self.login))
    }
}

/// The connections that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    idle: Vec<Idle>,
    /// Databases that were to be left, and when.
    vacated: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Idle {
    client: Client,
    home: Home,
    since: Instant,
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is to there, if there is one. Closes what is of no use any more.
    pub(super) fn take(self: &Arc<Self>, home: &Home) -> Option<Lent> {
        let mut state = self.state();
        let is_useful = |idle: &Idle| {
            idle.since.elapsed() < IDLE_LIMIT && !idle.client.is_closed() && !idle.home.is_replaced_by(home)
        };
        state.idle.retain(is_useful);
        let at = state.idle.iter().position(|idle| idle.home.is(home))?;
        let Idle { client, home, .. } = state.idle.swap_remove(at);
        Some(Lent { client, was_kept: true, back: Some((Arc::clone(self), home)) })
    }

    /// One that was made now, to be kept later.
    pub(super) fn lend(self: &Arc<Self>, client: Client, home: Home) -> Lent {
        Lent { client, was_kept: false, back: Some((Arc::clone(self), home)) }
    }

    fn put(&self, client: Client, home: Home) {
        let mut state = self.state();
        state.vacated.retain(|_, at| at.elapsed() < VACANT);
        let to_shard = state.idle.iter().filter(|idle| idle.home.shard == home.shard).count();
        let is_to_be_left = state.vacated.contains_key(&home.login.database);
        if !client.is_closed() && !is_to_be_left && to_shard < MOST_TO_A_SHARD {
            state.idle.push(Idle { client, home, since: Instant::now() });
        }
    }

    /// Leaves a database that somebody wants for himself.
    pub(super) fn vacate(&self, database: &str) {
        let mut state = self.state();
        state.idle.retain(|idle| idle.home.login.database != database);
        state.vacated.insert(database.to_owned(), Instant::now());
    }
}

/// A connection in use. It is closed when it is dropped, unless it is given back.
#[derive(Debug)]
pub struct Lent {
    client: Client,
    was_kept: bool,
    back: Option<(Arc<Kept>, Home)>,
}

impl Lent {
    /// Whether somebody has used it before: it may have been lost since.
    pub(super) fn was_kept(&self) -> bool {
        self.was_kept
    }

    /// All that was asked on it is answered: it may be used again.
    pub(super) fn give_back(self) {
        if let Some((kept, home)) = self.back {
            kept.put(self.client, home);
        }
    }
}

/// One that is not kept.
impl From<Client> for Lent {
    fn from(client: Client) -> Self {
        Self { client, was_kept: false, back: None }
    }
}

impl Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

//! The pools: one for each node, database and user.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::checkout::{Checkout, CheckoutError};
use super::connection::{Existence, ServerConnection, Unusable};
use super::keys::ClientKeys;
use super::lending::{Answer, Counts, Grant, Lending, Waiter};
use super::login::{Credentials, LoginError, login};
use crate::config::{Config, Password, Secret};
use crate::tls::Outbound;
use crate::topology::{Node, Topology};
use crate::workers::WorkerId;

/// How often idle connections are looked through.
const JANITOR_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection may take to say goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// How many settings a pool remembers to have been accepted.
const MAX_PROVEN: usize = 4096;

/// Who a session is, to the servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The role.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
}

/// A node's name, and who is connected as what.
type PoolKey = (Arc<str>, Identity);

/// All pools.
#[derive(Debug)]
pub struct Pools {
    config: Arc<ArcSwap<Config>>,
    pools: Mutex<HashMap<PoolKey, Arc<NodePool>>>,
    keys: Arc<ClientKeys>,
}

/// The connections to one node for one database and user.
#[derive(Debug)]
pub struct NodePool {
    // Each in a box: it goes from hand to hand with every transaction.
    connections: Lending<Box<ServerConnection>>,
    manager: ServerManager,
    proven: Mutex<HashSet<u64>>,
    pressure: Notify,
    /// Tells those who keep a connection for themselves of a newer bucket map.
    news: Notify,
    /// Connections that clients keep for themselves.
    pinned: AtomicUsize,
}

/// A place among those who keep a connection of a pool for themselves.
#[derive(Debug)]
pub struct PinPlace(Arc<NodePool>);

impl Drop for PinPlace {
    fn drop(&mut self) {
        self.0.pinned.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among those that are taken out, while it is looked at or made; given up with this, unless kept.
struct Place<'a>(Option<&'a NodePool>);

impl Place<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.let_go();
        }
    }
}

/// Makes connections for one pool, and looks at them before they are used again.
#[derive(Debug)]
pub struct ServerManager {
    node: Arc<Node>,
    identity: Identity,
    config: Arc<ArcSwap<Config>>,
    keys: Arc<ClientKeys>,
    /// How often everybody was to leave the database.
    vacated: AtomicU64,
    /// The newest version of the database's bucket map that has been told of here.
    heard: AtomicI64,
    /// All connections that were made here and are not closed.
    existing: Mutex<Vec<Weak<Existence>>>,
}

/// A pool, as `SHOW POOLS` has it.
#[derive(Debug)]
pub struct PoolView {
    /// `host:port`
    pub node: Arc<str>,
    /// Whose connections they are.
    pub identity: Identity,
    /// `pool.size`
    pub max_size: usize,
    /// Connections that there are.
    pub size: usize,
    /// Of them, those that nobody uses.
    pub idle: usize,
    /// Clients that wait for one.
    pub waiting: usize,
}

/// A connection, as `SHOW SERVERS` has it.
#[derive(Debug)]
pub struct ServerView {
    /// `host:port`
    pub node: Arc<str>,
    /// Whose it is.
    pub identity: Identity,
    /// Process ID of the backend.
    pub pid: i32,
    /// When it was logged in.
    pub created: Instant,
    /// Nobody uses it.
    pub is_idle: bool,
}

impl Pools {
    /// None yet. Sizes, limits and passwords are read from `config` whenever they are needed.
    pub fn new(config: Arc<ArcSwap<Config>>) -> Self {
        Self { config, pools: Mutex::new(HashMap::new()), keys: Arc::default() }
    }

    /// What the servers are shown for users without a password in the config.
    pub fn keys(&self) -> &ClientKeys {
        &self.keys
    }

    /// The pool of a node for somebody.
    pub fn of(&self, node: &Arc<Node>, identity: &Identity) -> Arc<NodePool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.entry((node.name.clone(), identity.clone())).or_insert_with(|| {
            let manager = ServerManager {
                node: Arc::clone(node),
                identity: identity.clone(),
                config: Arc::clone(&self.config),
                existing: Mutex::default(),
                keys: Arc::clone(&self.keys),
                vacated: AtomicU64::new(0),
                heard: AtomicI64::new(0),
            };
            Arc::new(NodePool::new(manager, self.config.load().pool.size))
        });
        Arc::clone(pool)
    }

    /// A connection of no pool, with these parameters in its startup packet.
    ///
    /// # Errors
    /// As for those of the pools.
    pub async fn connect_apart(
        &self,
        node: &Arc<Node>,
        identity: &Identity,
        parameters: &[(&str, &str)],
    ) -> Result<ServerConnection, LoginError> {
        let config = self.config.load_full();
        let password = password_of(&config, &identity.user);
        let key = self.keys.of(&identity.user);
        let credentials = Credentials {
            user: &identity.user,
            database: &identity.database,
            password: password.as_ref(),
            key: key.as_deref(),
            parameters,
            tls: tls_of(node, &config).ok_or_else(|| no_longer_known(node))?,
        };
        login(node, credentials, config.pool.connect_timeout).await
    }

    /// After a reload: new sizes; pools of nodes that are gone are closed.
    pub fn reload(&self, topology: &Topology) {
        let size = self.config.load().pool.size;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| {
            let node = pool.node();
            let is_known =
                topology.shards.iter().flat_map(|shard| &shard.nodes).any(|member| Arc::ptr_eq(&member.node, node));
            drop(if is_known { pool.connections.resize(size) } else { pool.connections.close() });
            is_known
        });
    }

    /// Closes all connections to a database that no client holds, and those that are given back from now on: somebody
    /// is about to drop or rename it, or to copy it, which a server does only when nobody else is connected. It waits
    /// for connections that are being closed (5 s, `CountOtherDBBackends`), so nothing is waited for here.
    pub fn vacate(&self, database: &str) {
        let mut closed = Vec::new();
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, pool) in pools.iter().filter(|((_, identity), _)| *identity.database == *database) {
            pool.manager.vacated.fetch_add(1, Ordering::Relaxed);
            closed.extend(pool.connections.retain(Instant::now(), |_, _| false));
            // Those that sessions keep without using them.
            pool.pressure.notify_waiters();
        }
        drop(pools);
        say_goodbye(closed);
    }

    /// Closes those to a database that are registered under an older version of its bucket map than this one, as soon as
    /// nobody uses them: whoever changes the map waits for them.
    pub fn leave_behind(&self, database: &str, version: i64) {
        let mut closed = Vec::new();
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, pool) in pools.iter().filter(|((_, identity), _)| *identity.database == *database) {
            if pool.manager.heard.fetch_max(version, Ordering::Relaxed) < version {
                closed.extend(pool.connections.retain(Instant::now(), |connection, _| !pool.is_behind(connection)));
                // Those that sessions keep without using them.
                pool.pressure.notify_waiters();
                pool.news.notify_waiters();
            }
        }
        drop(pools);
        say_goodbye(closed);
    }

    /// Closes idle connections that are too old, idle for too long, or of a node that is not what it
    /// was; drops pools that nobody uses. Runs until it is aborted.
    pub async fn run_janitor(self: Arc<Self>) {
        let mut interval = tokio::time::interval(JANITOR_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.clean(Instant::now());
        }
    }

    fn clean(&self, now: Instant) {
        let config = self.config.load();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| {
            let removed = pool.connections.retain(now, |connection, idle_since| {
                now.duration_since(idle_since) < config.pool.idle_timeout
                    && now.duration_since(connection.created) < config.pool.max_lifetime
                    && connection.incarnation == connection.node.incarnation()
                    && pool.manager.encrypts_as(&config, connection)
            });
            drop(removed);
            let Counts { idle, out, .. } = pool.connections.counts();
            idle + out > 0 || Arc::strong_count(pool) > 1
        });
    }

    /// All pools, by node, database and user.
    pub fn view(&self) -> Vec<PoolView> {
        let mut views: Vec<PoolView> = self.all().iter().map(|pool| pool.view()).collect();
        views.sort_by(|one, other| one.order().cmp(&other.order()));
        views
    }

    /// All connections, by node, database and user.
    pub fn servers(&self) -> Vec<ServerView> {
        let mut pools = self.all();
        pools.sort_by(|one, other| one.view().order().cmp(&other.view().order()));
        pools.iter().flat_map(|pool| pool.servers()).collect()
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        for pool in self.all() {
            pool.close_idle();
        }
    }

    /// Closes those to one node.
    pub fn close_idle_of(&self, node: &Arc<Node>) {
        for pool in self.all().iter().filter(|pool| Arc::ptr_eq(pool.node(), node)) {
            pool.close_idle();
        }
    }

    fn all(&self) -> Vec<Arc<NodePool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

impl PoolView {
    fn order(&self) -> (&str, &str, &str) {
        (&self.node, &self.identity.database, &self.identity.user)
    }
}

impl NodePool {
    fn new(manager: ServerManager, size: usize) -> Self {
        Self {
            connections: Lending::new(size),
            manager,
            proven: Mutex::default(),
            pressure: Notify::new(),
            news: Notify::new(),
            pinned: AtomicUsize::new(0),
        }
    }

    /// The node that its connections go to.
    pub fn node(&self) -> &Arc<Node> {
        &self.manager.node
    }

    fn view(&self) -> PoolView {
        let Counts { limit, idle, out, waiting } = self.connections.counts();
        PoolView {
            node: Arc::clone(&self.manager.node.name),
            identity: self.manager.identity.clone(),
            max_size: limit,
            size: idle + out,
            idle,
            waiting,
        }
    }

    fn servers(&self) -> Vec<ServerView> {
        let mut idle = HashSet::new();
        self.connections.retain(Instant::now(), |connection, _| {
            idle.insert(connection.cancel_key.pid);
            true
        });
        let manager = &self.manager;
        let existing = manager.existing.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |existence: Arc<Existence>| ServerView {
            node: Arc::clone(&manager.node.name),
            identity: manager.identity.clone(),
            pid: existence.pid,
            created: existence.created,
            is_idle: idle.contains(&existence.pid),
        };
        existing.iter().filter_map(Weak::upgrade).map(view).collect()
    }

    fn close_idle(&self) {
        drop(self.connections.retain(Instant::now(), |_, _| false));
        // Those that sessions keep without using them.
        self.pressure.notify_waiters();
    }

    /// Whether a connection was made before its database was last to be left by everybody.
    pub fn is_vacated(&self, connection: &ServerConnection) -> bool {
        connection.vacated != self.manager.vacated.load(Ordering::Relaxed)
    }

    /// Whether a connection is registered under an older version of the bucket map than has been told of.
    pub fn is_behind(&self, connection: &ServerConnection) -> bool {
        self.is_old(connection.registered)
    }

    /// 0 is no version.
    fn is_old(&self, registered: i64) -> bool {
        (1..self.manager.heard.load(Ordering::Relaxed)).contains(&registered)
    }

    /// Returns when there is a newer version of the bucket map than a connection is registered under: whoever keeps it is to
    /// register it anew.
    pub async fn news(&self, registered: i64) {
        let notified = self.news.notified();
        if !self.is_old(registered) {
            notified.await;
        }
    }

    /// How many connections there may be.
    pub fn max_size(&self) -> usize {
        self.connections.counts().limit
    }

    /// Takes a connection out at this moment: an idle one, or a new one, or the next that is given back. It is this
    /// thread's from then on.
    pub async fn checkout(self: Arc<Self>, now: Instant) -> Result<Checkout, CheckoutError> {
        let here = WorkerId::here();
        let granted = match self.connections.ask(|connection| connection.home == here) {
            Answer::Granted(granted) => Some(granted),
            // In a box: seldom, and large.
            Answer::Wait(waiter) => Box::pin(self.wait(waiter)).await?,
            Answer::Closed => None,
        };
        let mut granted = granted.ok_or_else(|| CheckoutError::Closed { node: Arc::clone(&self.node().name) })?;
        let place = Place(Some(&self));
        while let Grant::Thing(mut connection) = granted {
            if connection.come_to(here).is_ok() && self.manager.recycle(&mut connection, now).await.is_ok() {
                place.keep();
                return Ok(Checkout::new(connection, self));
            }
            granted = self.connections.exchange(|connection| connection.home == here);
        }
        let connection = self.manager.create().await?;
        place.keep();
        Ok(Checkout::new(connection, self))
    }

    async fn wait(
        &self,
        mut waiter: Waiter<'_, Box<ServerConnection>>,
    ) -> Result<Option<Grant<Box<ServerConnection>>>, CheckoutError> {
        self.pressure.notify_one();
        let limit = self.manager.config.load().pool.checkout_timeout;
        let busy = |_| CheckoutError::Busy { node: Arc::clone(&self.node().name), limit, size: self.max_size() };
        timeout(limit, waiter.turn()).await.map_err(busy)
    }

    /// A connection comes back, to be used again.
    pub(super) fn take_back(&self, connection: Box<ServerConnection>) {
        drop(self.connections.give_back(connection));
    }

    /// A connection that was taken out will not come back.
    pub(super) fn let_go(&self) {
        self.connections.let_go();
    }

    /// Whether one of its connections is encrypted as one would be that is made now.
    pub fn encrypts_as(&self, connection: &ServerConnection) -> bool {
        self.manager.encrypts_as(&self.manager.config.load(), connection)
    }

    /// Whether somebody waits for a connection.
    pub fn is_wanted(&self) -> bool {
        self.connections.counts().waiting > 0
    }

    /// Returns when somebody has to wait for a connection, or when all are to leave the database that one was made in
    /// at this count of [`Pools::vacate`]: whoever keeps it unused is to give it back.
    pub async fn wanted(&self, vacated: u64) {
        // It hears of whatever is told from here on, so nothing is missed between the two.
        let notified = self.pressure.notified();
        if self.manager.vacated.load(Ordering::Relaxed) == vacated {
            notified.await;
        }
    }

    /// A place among those who keep a connection for themselves.
    ///
    /// # Errors
    /// There are as many as there may be: so many.
    pub fn claim_pin(self: &Arc<Self>) -> Result<PinPlace, usize> {
        let limit = match self.manager.config.load().pool.max_pinned {
            // All but one, which the others share.
            0 => self.max_size().saturating_sub(1).max(1),
            limit => limit,
        };
        let take = |taken: usize| (taken < limit).then_some(taken + 1);
        self.pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| limit)?;
        Ok(PinPlace(Arc::clone(self)))
    }

    /// Whether this node has accepted a setting before.
    pub fn is_proven(&self, digest: u64) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }

    /// It has accepted these.
    pub fn note_proven(&self, digests: impl Iterator<Item = u64>) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if proven.len() > MAX_PROVEN {
            proven.clear();
        }
        proven.extend(digests);
    }
}

/// In a task of its own: nobody waits for it.
fn say_goodbye(closed: impl IntoIterator<Item = Box<ServerConnection>>) {
    for connection in closed {
        tokio::spawn(tokio::time::timeout(GOODBYE_LIMIT, connection.terminate()));
    }
}

/// How the connections of the node's shard are encrypted; addresses are unique over the whole config.
fn tls_of<'c>(node: &Node, config: &'c Config) -> Option<&'c Arc<Outbound>> {
    let is_here = |known: &crate::config::Node| known.host == node.host && known.port == node.port;
    config.shards.iter().find(|shard| shard.nodes.iter().any(is_here)).map(|shard| &shard.outbound)
}

fn no_longer_known(node: &Node) -> LoginError {
    LoginError::Tls {
        node: node.name.clone(),
        what: "is no longer part of the config, which would say how to encrypt".to_owned(),
    }
}

/// What the servers are sent for a user, where the config knows it.
fn password_of(config: &Config, user: &str) -> Option<Secret> {
    let user = config.auth.users.iter().find(|known| known.name == user)?;
    user.server_password.clone().or_else(|| match &user.password {
        Password::Plain(password) => Some(password.clone()),
        Password::Verifier(_) => None,
    })
}

impl ServerManager {
    fn tls<'c>(&self, config: &'c Config) -> Option<&'c Arc<Outbound>> {
        tls_of(&self.node, config)
    }

    /// Whether the connection is encrypted as one would be that is made now.
    fn encrypts_as(&self, config: &Config, connection: &ServerConnection) -> bool {
        self.tls(config).is_some_and(|tls| Arc::ptr_eq(tls, &connection.tls) || *tls == connection.tls)
    }

    /// A new one.
    async fn create(&self) -> Result<Box<ServerConnection>, LoginError> {
        let config = self.config.load_full();
        // Read before it is made: what is made while everybody is to leave is not used twice.
        let vacated = self.vacated.load(Ordering::Relaxed);
        let options = format!("-c pgsluice.consistency={} -c pgsluice.route=auto", config.consistency.level.name());
        let password = password_of(&config, &self.identity.user);
        let key = self.keys.of(&self.identity.user);
        let tls = self.tls(&config).ok_or_else(|| no_longer_known(&self.node))?;
        let credentials = Credentials {
            user: &self.identity.user,
            database: &self.identity.database,
            password: password.as_ref(),
            key: key.as_deref(),
            parameters: &[("options", &options)],
            tls,
        };
        // In a box: whoever waits for a connection has room for this one too, and mostly there is one already.
        let result = Box::pin(login(&self.node, credentials, config.pool.connect_timeout)).await;
        match &result {
            Ok(connection) => {
                let mut existing = self.existing.lock().unwrap_or_else(PoisonError::into_inner);
                existing.retain(|existence| existence.strong_count() > 0);
                existing.push(Arc::downgrade(&connection.existence));
            }
            Err(error) if !error.was_answered() => self.node.note_connection_error(),
            Err(_) => {}
        }
        result.map(|connection| Box::new(ServerConnection { vacated, ..connection }))
    }

    /// Looks at a connection that has lain idle until `now`.
    async fn recycle(&self, connection: &mut ServerConnection, now: Instant) -> Result<(), Unusable> {
        let config = self.config.load();
        if now.saturating_duration_since(connection.created) >= config.pool.max_lifetime {
            Err(Unusable::Old)
        } else if !self.encrypts_as(&config, connection) {
            Err(Unusable::Encryption)
        } else if connection.incarnation != self.node.incarnation() {
            Err(Unusable::Stale)
        } else if connection.vacated != self.vacated.load(Ordering::Relaxed) {
            Err(Unusable::Vacated)
        } else {
            connection.examine().await
        }
    }
}

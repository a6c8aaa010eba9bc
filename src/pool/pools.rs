//! The pools: one for each node, database and user.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use deadpool::managed::{Manager, Metrics, Pool, QueueMode, RecycleError, RecycleResult, Timeouts};
use tokio::sync::Notify;

use super::checkout::{Checkout, CheckoutError, checkout_error};
use super::connection::{ServerConnection, Unusable};
use super::login::{Credentials, LoginError, login};
use crate::config::{Config, Password, Secret};
use crate::topology::{Node, Topology};

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
}

/// The connections to one node for one database and user.
#[derive(Debug)]
pub struct NodePool {
    pool: Pool<ServerManager>,
    proven: Mutex<HashSet<u64>>,
    pressure: Notify,
}

/// Makes connections for one pool, and looks at them before they are used again.
#[derive(Debug)]
pub struct ServerManager {
    node: Arc<Node>,
    identity: Identity,
    config: Arc<ArcSwap<Config>>,
    /// How often everybody was to leave the database.
    vacated: AtomicU64,
}

impl Pools {
    /// None yet. Sizes, limits and passwords are read from `config` whenever they are needed.
    pub fn new(config: Arc<ArcSwap<Config>>) -> Self {
        Self { config, pools: Mutex::new(HashMap::new()) }
    }

    /// The pool of a node for somebody.
    pub fn of(&self, node: &Arc<Node>, identity: &Identity) -> Arc<NodePool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.entry((node.name.clone(), identity.clone())).or_insert_with(|| {
            let manager = ServerManager {
                node: Arc::clone(node),
                identity: identity.clone(),
                config: Arc::clone(&self.config),
                vacated: AtomicU64::new(0),
            };
            Arc::new(NodePool::new(manager, self.config.load().pool.size))
        });
        Arc::clone(pool)
    }

    /// After a reload: new sizes; pools of nodes that are gone are closed.
    pub fn reload(&self, topology: &Topology) {
        let size = self.config.load().pool.size;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| {
            let node = pool.node();
            let is_known =
                topology.shards.iter().flat_map(|shard| &shard.nodes).any(|member| Arc::ptr_eq(&member.node, node));
            if is_known {
                pool.pool.resize(size);
            } else {
                pool.pool.close();
            }
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
            pool.pool.manager().vacated.fetch_add(1, Ordering::Relaxed);
            closed.extend(pool.pool.retain(|_, _| false).removed);
        }
        drop(pools);
        if !closed.is_empty() {
            tokio::spawn(async move {
                for connection in closed {
                    let _ = tokio::time::timeout(GOODBYE_LIMIT, connection.terminate()).await;
                }
            });
        }
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
            let removed = pool.pool.retain(|connection, metrics| {
                metrics.last_used() < config.pool.idle_timeout
                    && now.duration_since(connection.created) < config.pool.max_lifetime
                    && connection.incarnation == connection.node.incarnation()
            });
            drop(removed);
            pool.pool.status().size > 0 || Arc::strong_count(pool) > 1
        });
    }

    /// Calls `see` with each pool's node and its numbers of idle and busy connections.
    pub fn for_each(&self, mut see: impl FnMut(&Arc<Node>, usize, usize)) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in pools.values() {
            let status = pool.pool.status();
            let idle = status.available.min(status.size);
            see(pool.node(), idle, status.size - idle);
        }
    }
}

impl NodePool {
    fn new(manager: ServerManager, size: usize) -> Self {
        // The builder can only fail for time limits without a runtime, and the limits are given with each request.
        let builder = Pool::builder(manager).max_size(size).queue_mode(QueueMode::Lifo);
        let pool = builder.runtime(deadpool::Runtime::Tokio1).build();
        #[expect(clippy::expect_used, reason = "a runtime is given, which is all that can be missing")]
        let pool = pool.expect("a pool with a runtime");
        Self { pool, proven: Mutex::default(), pressure: Notify::new() }
    }

    /// The node that its connections go to.
    pub fn node(&self) -> &Arc<Node> {
        &self.pool.manager().node
    }

    /// Whether a connection was made before its database was last to be left by everybody.
    pub fn is_vacated(&self, connection: &ServerConnection) -> bool {
        connection.vacated != self.pool.manager().vacated.load(Ordering::Relaxed)
    }

    /// How many connections there may be.
    pub fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Takes a connection out: an idle one, or a new one, or the next that is given back.
    pub async fn checkout(self: &Arc<Self>) -> Result<Checkout, CheckoutError> {
        let limits = &self.pool.manager().config.load().pool;
        let wait = limits.checkout_timeout;
        let status = self.pool.status();
        if status.available == 0 && status.size >= status.max_size {
            self.pressure.notify_one();
        }
        let timeouts = Timeouts { wait: Some(wait), create: None, recycle: None };
        let object = self.pool.timeout_get(&timeouts).await.map_err(|error| checkout_error(error, self, wait))?;
        Ok(Checkout::new(object, Arc::clone(self)))
    }

    /// Whether somebody waits for a connection.
    pub fn is_wanted(&self) -> bool {
        self.pool.status().waiting > 0
    }

    /// Returns when somebody has to wait for a connection: whoever keeps one unused is to give it back.
    pub async fn wanted(&self) {
        self.pressure.notified().await;
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

impl ServerManager {
    fn password(&self, config: &Config) -> Option<Secret> {
        let user = config.auth.users.iter().find(|user| *user.name == *self.identity.user)?;
        user.server_password.clone().or_else(|| match &user.password {
            Password::Plain(password) => Some(password.clone()),
            Password::Verifier(_) => None,
        })
    }
}

impl Manager for ServerManager {
    type Type = ServerConnection;
    type Error = LoginError;

    async fn create(&self) -> Result<ServerConnection, LoginError> {
        let config = self.config.load_full();
        // Read before it is made: what is made while everybody is to leave is not used twice.
        let vacated = self.vacated.load(Ordering::Relaxed);
        let options = format!("-c pgsluice.consistency={} -c pgsluice.route=auto", config.consistency.level.name());
        let password = self.password(&config);
        let credentials = Credentials {
            user: &self.identity.user,
            database: &self.identity.database,
            password: password.as_ref(),
            options: &options,
        };
        let result = login(&self.node, credentials, config.pool.connect_timeout).await;
        match &result {
            Err(error) if !error.was_answered() => self.node.note_connection_error(),
            _ => {}
        }
        result.map(|connection| ServerConnection { vacated, ..connection })
    }

    async fn recycle(&self, connection: &mut ServerConnection, _: &Metrics) -> RecycleResult<LoginError> {
        let verdict = if connection.created.elapsed() >= self.config.load().pool.max_lifetime {
            Err(Unusable::Old)
        } else if connection.incarnation != self.node.incarnation() {
            Err(Unusable::Stale)
        } else if connection.vacated != self.vacated.load(Ordering::Relaxed) {
            Err(Unusable::Vacated)
        } else {
            connection.examine().await
        };
        verdict.map_err(|reason| RecycleError::message(reason.to_string()))
    }
}

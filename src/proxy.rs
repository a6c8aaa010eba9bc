//! The running proxy: what all sessions share, the listener, reload, and the end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::monitor::{Catalogs, Monitor, MonitorHandle};
use crate::pool::{Pools, Reported, Settings};
use crate::route::{Horizon, Reason};
use crate::session::{CancelRegistry, Statements, Verifiers, accept};
use crate::sql::AnalysisCache;
use crate::telemetry::metrics::{ClientState, PoolMetrics, ProxyMetrics, ReloadOutcome, ServerState, ShardMetrics};
use crate::tls::{TlsError, acceptor};
use crate::topology::{Role, Shard, SharedTopology};

/// Greetings that are remembered for one database.
const MAX_GREETINGS: usize = 1024;

/// How often the gauges of clients and pools are set, and unused things are swept away.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// After an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all sessions share. Handed to each; there is no other global state.
pub struct Proxy {
    /// What is in force now.
    pub config: Arc<ArcSwap<Config>>,
    /// What is known of the servers.
    pub topology: SharedTopology,
    /// Server connections.
    pub pools: Arc<Pools>,
    /// What is known of texts.
    pub analyses: AnalysisCache,
    /// Texts that clients have prepared.
    pub statements: Statements,
    /// Who can be cancelled.
    pub cancels: Arc<CancelRegistry>,
    /// Users' salted passwords.
    pub verifiers: Verifiers,
    /// The control plane.
    pub monitor: MonitorHandle,
    /// Where TLS is offered.
    pub tls: ArcSwapOption<TlsAcceptor>,
    /// Counters and histograms.
    pub metrics: ProxyMetrics,
    /// How many clients there are.
    pub clients: ClientCounts,
    shard_metrics: ShardMetrics,
    reasons: HashMap<Reason, usize>,
    databases: Mutex<HashMap<Arc<str>, Arc<Database>>>,
    shutdown: watch::Sender<bool>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// Clients by what they are doing.
#[derive(Debug, Default)]
pub struct ClientCounts {
    /// Not logged in yet.
    pub login: AtomicUsize,
    /// Logged in.
    pub all: AtomicUsize,
    /// With a server connection.
    pub active: AtomicUsize,
    /// Waiting for one.
    pub waiting: AtomicUsize,
}

impl Proxy {
    /// Starts the monitor, and is ready to serve. Within a tokio runtime, after the metrics' recorder was installed.
    ///
    /// # Errors
    /// `listen.cert` or `listen.key` cannot be used.
    pub fn start(config: Config) -> Result<Arc<Self>, TlsError> {
        let tls = acceptor(&config.listen)?;
        let shard = config.shards.first().map(|shard| shard.name.clone()).unwrap_or_default();
        let names: Vec<_> = Reason::all().map(Reason::name).collect();
        let cache_bytes = config.limits.statement_cache_bytes;
        let config = Arc::new(ArcSwap::from_pointee(config));
        let topology = SharedTopology::default();
        let proxy = Arc::new(Self {
            pools: Arc::new(Pools::new(Arc::clone(&config))),
            analyses: AnalysisCache::new(cache_bytes),
            statements: Statements::default(),
            cancels: Arc::default(),
            verifiers: Verifiers::default(),
            monitor: Monitor::spawn(Arc::clone(&config), Arc::clone(&topology)),
            tls: ArcSwapOption::from_pointee(tls),
            metrics: ProxyMetrics::new(),
            clients: ClientCounts::default(),
            shard_metrics: ShardMetrics::new(&shard, &names),
            reasons: Reason::all().enumerate().map(|(index, reason)| (reason, index)).collect(),
            databases: Mutex::default(),
            shutdown: watch::Sender::new(false),
            config,
            topology,
        });
        tokio::spawn(Arc::clone(&proxy.pools).run_janitor());
        tokio::spawn(Arc::clone(&proxy).keep_house());
        Ok(proxy)
    }

    /// Serves clients until [`Proxy::shut_down`], and then until the last one is gone, or `limits.drain_timeout` is over.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut shutdown = self.shutdown_signal();
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.greet(stream, peer, &mut sessions),
                    Err(error) => {
                        tracing::error!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = sessions.join_next() => note_end(ended),
            }
        }
        drop(listener);
        self.drain(sessions).await;
    }

    fn greet(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, sessions: &mut JoinSet<()>) {
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
        let prepared =
            stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
        if let Err(error) = prepared {
            tracing::debug!(%peer, %error, "a connection was gone at once");
            return;
        }
        tracing::debug!(%peer, "connected");
        sessions.spawn(accept(Arc::clone(self), stream));
    }

    async fn drain(&self, mut sessions: JoinSet<()>) {
        let limit = self.config.load().limits.drain_timeout;
        tracing::info!(clients = sessions.len(), ?limit, "draining: waiting for running transactions");
        let all = async {
            while let Some(ended) = sessions.join_next().await {
                note_end(ended);
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(clients = sessions.len(), "cut off what did not end within limits.drain_timeout");
        }
        self.monitor.shutdown().await;
    }

    /// No new clients from now on; idle ones are sent away, transactions may end.
    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// To wait for [`Proxy::shut_down`].
    pub fn shutdown_signal(&self) -> ShutdownSignal {
        ShutdownSignal(self.shutdown.subscribe())
    }

    /// Puts a new config in force. What needs a restart stays as it was, and is named in the log.
    ///
    /// # Errors
    /// `listen.cert` or `listen.key` cannot be used; the old config stays.
    pub async fn adopt(&self, config: Config) -> Result<(), TlsError> {
        let tls = acceptor(&config.listen)
            .inspect_err(|_| self.metrics.config_reloads(ReloadOutcome::Refused).increment(1))?;
        let old = self.config.load_full();
        for change in Config::diff(&old, &config) {
            tracing::info!(%change, "config changed");
        }
        for key in old.restart_needed(&config) {
            tracing::warn!(key, "this change takes effect after a restart");
        }
        self.tls.store(tls.map(Arc::new));
        self.config.store(Arc::new(config));
        self.monitor.reload().await;
        self.pools.reload(&self.topology.load());
        for database in self.all_databases() {
            database.forget_greetings();
        }
        self.metrics.config_reloads(ReloadOutcome::Applied).increment(1);
        Ok(())
    }

    /// A new config was not even valid.
    pub fn refuse_config(&self) {
        self.metrics.config_reloads(ReloadOutcome::Refused).increment(1);
    }

    /// What is shared by the sessions of one database.
    pub fn database(&self, name: &Arc<str>) -> Arc<Database> {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(databases.entry(Arc::clone(name)).or_default())
    }

    fn all_databases(&self) -> Vec<Arc<Database>> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Leaves a database that a client wants for itself, as far as no client holds a connection to it.
    pub fn vacate(&self, database: &str) {
        self.pools.vacate(database);
        self.catalogs().vacate(database);
        // What comes of it is another database as far as anybody here knows, on whichever node.
        let known = self.databases.lock().unwrap_or_else(PoisonError::into_inner).get(database).cloned();
        if let Some(known) = known {
            known.forget_greetings();
        }
    }

    /// The databases' catalogs.
    pub fn catalogs(&self) -> &Arc<Catalogs> {
        self.monitor.catalogs()
    }

    /// Counts statements that were answered together, after `duration`.
    pub fn count_statements(&self, role: Role, reason: Reason, count: u64, duration: Duration) {
        if let Some(counter) = self.reasons.get(&reason).and_then(|index| self.shard_metrics.statements(role, *index)) {
            counter.increment(count);
        }
        self.shard_metrics.duration(role).record(duration);
    }

    /// Sets gauges and sweeps, once a second, until the proxy is gone.
    async fn keep_house(self: Arc<Self>) {
        let mut interval = tokio::time::interval(HOUSEKEEPING);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pools: HashMap<Arc<str>, PoolMetrics> = HashMap::new();
        loop {
            interval.tick().await;
            self.statements.sweep();
            self.show_clients();
            self.show_pools(&mut pools);
            let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
            databases.retain(|_, database| Arc::strong_count(database) > 1 || database.is_worth_keeping());
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats, and counts of clients small")]
    fn show_clients(&self) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let (active, waiting) = (count(&self.clients.active), count(&self.clients.waiting));
        let idle = count(&self.clients.all).saturating_sub(active + waiting);
        for (state, value) in [
            (ClientState::Login, count(&self.clients.login)),
            (ClientState::Active, active),
            (ClientState::Waiting, waiting),
            (ClientState::Idle, idle),
        ] {
            self.metrics.clients(state).set(value as f64);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats, and counts of connections small")]
    fn show_pools(&self, known: &mut HashMap<Arc<str>, PoolMetrics>) {
        let mut counts: HashMap<Arc<str>, (usize, usize)> =
            known.keys().map(|node| (Arc::clone(node), (0, 0))).collect();
        self.pools.for_each(|node, idle, active| {
            let count = counts.entry(Arc::clone(&node.name)).or_default();
            *count = (count.0 + idle, count.1 + active);
        });
        let topology = self.topology.load();
        let shard = topology.shards.first().map_or("", |shard| &shard.name);
        for (node, (idle, active)) in counts {
            let metrics = known.entry(Arc::clone(&node)).or_insert_with(|| PoolMetrics::new(shard, &node));
            metrics.connections(ServerState::Idle).set(idle as f64);
            metrics.connections(ServerState::Active).set(active as f64);
        }
    }
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session ended by a defect of pgsluice; its connections are closed");
    }
}

/// Tells of [`Proxy::shut_down`].
#[derive(Debug, Clone)]
pub struct ShutdownSignal(watch::Receiver<bool>);

impl ShutdownSignal {
    /// Returns when it has been called.
    pub async fn wait(&mut self) {
        // Without a sender the proxy is gone, which is an end as well.
        let _ = self.0.wait_for(|is_on| *is_on).await;
    }

    /// Turns true then.
    pub fn into_receiver(self) -> watch::Receiver<bool> {
        self.0
    }
}

/// One of the clients that `listen.max_clients` allows.
#[derive(Debug)]
pub struct ClientSlot(Arc<Proxy>);

impl ClientSlot {
    /// `None` when there are `limit` already.
    pub fn take(proxy: &Arc<Proxy>, limit: usize) -> Option<Self> {
        let take = |taken: usize| (taken < limit).then_some(taken + 1);
        proxy.clients.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Self(Arc::clone(proxy)))
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.clients.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A user and the digests of the settings that its client starts with.
type GreetingKey = (Arc<str>, Vec<u64>);

/// What is shared by the sessions of one database.
#[derive(Debug, Default)]
pub struct Database {
    has_changed: AtomicBool,
    /// Where its catalog last changed.
    catalog: Mutex<Horizon>,
    greetings: Mutex<HashMap<GreetingKey, Reported>>,
}

impl Database {
    /// A statement that changed the catalog was acknowledged before `at`: no session may read where
    /// that has not been replayed.
    pub fn note_catalog_change(&self, at: Instant) {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).saw_primary(at, None);
        self.has_changed.store(true, Ordering::Release);
    }

    /// Calls `ask` with what a node must have replayed of catalog changes.
    pub fn with_catalog_horizon<T>(&self, shard: &Shard, ask: impl FnOnce(&Horizon) -> T) -> T {
        if !self.has_changed.load(Ordering::Acquire) {
            return ask(&Horizon::default());
        }
        let mut horizon = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        horizon.settle(shard);
        ask(&horizon)
    }

    fn is_worth_keeping(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// What a client with these settings is told after login, where one was told before.
    pub fn greeting(&self, user: &Arc<str>, startup: &Settings) -> Option<Reported> {
        let greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        greetings.get(&(Arc::clone(user), startup.digests().collect())).cloned()
    }

    /// Remembers it.
    pub fn note_greeting(&self, user: &Arc<str>, startup: &Settings, reported: Reported) {
        let mut greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        if greetings.len() >= MAX_GREETINGS {
            greetings.clear();
        }
        greetings.insert((Arc::clone(user), startup.digests().collect()), reported);
    }

    fn forget_greetings(&self) {
        self.greetings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

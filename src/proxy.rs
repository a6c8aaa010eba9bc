//! The running proxy: what all sessions share, the listener, reload, and the end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::audit::{Audit, AuditError, Event};
use crate::commit::{self, Coordinators, Primaries, Recovery};
use crate::config::Config;
use crate::monitor::{Catalogs, Monitor, MonitorHandle, UserLookup};
use crate::pool::{Pools, Reported, Settings};
use crate::route::{Horizon, Horizons, Reason, SessionKeys};
use crate::session::{Clients, Crowd, Gate, Quotas, Shortage, Statements, Throttle, Verifiers, accept};
use crate::sql::AnalysisCache;
use crate::statistics::StatementTable;
use crate::telemetry::metrics::{ClientState, PoolMetrics, ProxyMetrics, ReloadOutcome, ServerState, ShardMetrics};
use crate::topology::{Role, Shard, SharedTopology};
use crate::workers::Workers;

/// Greetings that are remembered for one database.
const MAX_GREETINGS: usize = 1024;

/// Asks for the config file to be read again; the answer is what was wrong with it.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// How often the gauges of clients and pools are set, and unused things are swept away.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long recovery lets the monitor look for the shards' primaries before it tells that it misses one.
const FIND_PRIMARIES: Duration = Duration::from_secs(5);

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
    /// What each statement has cost.
    pub statistics: StatementTable,
    /// What sessions with one key have seen.
    pub session_keys: SessionKeys,
    /// Who is logged in.
    pub clients: Arc<Clients>,
    /// What PAUSE closes.
    pub gate: Arc<Gate>,
    /// Users' salted passwords.
    pub verifiers: Verifiers,
    /// Raised with each new config: for those who keep something that they have made of it.
    pub generation: AtomicUsize,
    /// What users and databases take.
    pub quotas: Quotas,
    /// Those who have not logged in yet.
    pub logins: Arc<Crowd>,
    /// Where failed logins came from.
    pub throttle: Throttle,
    /// Users that the servers know.
    pub users: UserLookup,
    /// Who is committing over several shards.
    pub coordinators: Arc<Coordinators>,
    /// Recovery's way to the shards.
    primaries: Primaries,
    /// The control plane.
    pub monitor: MonitorHandle,
    /// The audit log.
    pub audit: Audit,
    /// Who serves clients.
    workers: Workers,
    /// Counters and histograms.
    pub metrics: ProxyMetrics,
    /// How many clients there are.
    pub client_counts: ClientCounts,
    /// By the shard's name.
    shard_metrics: ArcSwap<Vec<(Arc<str>, ShardMetrics)>>,
    /// By the reason's index: on primaries, on replicas.
    routes: Vec<[AtomicU64; 2]>,
    reload_requests: OnceLock<mpsc::Sender<ReloadRequest>>,
    databases: Mutex<HashMap<Arc<str>, Arc<Database>>>,
    shutdown: watch::Sender<bool>,
    /// Another process has taken over.
    retired: watch::Sender<bool>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// There are no threads to serve clients.
    #[error("the threads that serve clients (listen.workers) cannot be started: {0}")]
    Workers(std::io::Error),
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("clients", &self.client_counts).finish_non_exhaustive()
    }
}

/// Clients by what they are doing.
#[derive(Debug, Default)]
pub struct ClientCounts {
    /// Not logged in yet.
    pub login: AtomicUsize,
    /// Logged in.
    pub all: AtomicUsize,
    /// Waiting for a server connection.
    pub waiting: AtomicUsize,
}

impl Proxy {
    /// Starts the monitor, and is ready to serve. Within a tokio runtime, after the metrics' recorder was installed.
    ///
    /// # Errors
    /// `audit.file` cannot be written, or the system gives no threads.
    pub fn start(config: Config) -> Result<Arc<Self>, StartError> {
        let metrics = ProxyMetrics::new();
        let audit = Audit::start(&config.audit, metrics.audit_lost.clone())?;
        let workers = Workers::start(config.listen.workers).map_err(StartError::Workers)?;
        let max_statements = config.statements.max;
        let shard_metrics = ArcSwap::from_pointee(shard_metrics(&config, &[]));
        let cache_bytes = config.limits.statement_cache_bytes;
        let config = Arc::new(ArcSwap::from_pointee(config));
        let topology = SharedTopology::default();
        let proxy = Arc::new(Self {
            pools: Arc::new(Pools::new(Arc::clone(&config))),
            analyses: AnalysisCache::new(cache_bytes),
            statements: Statements::default(),
            statistics: StatementTable::new(max_statements),
            session_keys: SessionKeys::default(),
            clients: Arc::default(),
            gate: Arc::default(),
            verifiers: Verifiers::default(),
            generation: AtomicUsize::new(0),
            quotas: Quotas::default(),
            logins: Arc::default(),
            throttle: Throttle::default(),
            users: UserLookup::new(Arc::clone(&config), Arc::clone(&topology)),
            monitor: Monitor::spawn(Arc::clone(&config), Arc::clone(&topology), audit.clone()),
            coordinators: Arc::default(),
            primaries: Primaries::new(Arc::clone(&config), Arc::clone(&topology)),
            audit,
            workers,
            metrics,
            client_counts: ClientCounts::default(),
            shard_metrics,
            routes: Reason::all().map(|_| Default::default()).collect(),
            reload_requests: OnceLock::new(),
            databases: Mutex::default(),
            shutdown: watch::Sender::new(false),
            retired: watch::Sender::new(false),
            config,
            topology,
        });
        tokio::spawn(Arc::clone(&proxy.pools).run_janitor());
        tokio::spawn(Arc::clone(&proxy).keep_house());
        tokio::spawn(recover(
            Arc::clone(&proxy.config),
            proxy.primaries.clone(),
            Arc::clone(&proxy.coordinators),
            proxy.shutdown_signal(),
        ));
        Ok(proxy)
    }

    /// Serves clients until [`Proxy::shut_down`], and then until the last one is gone, or `limits.drain_timeout` is over.
    /// After [`Proxy::retire`] those who are there may stay, for `limits.takeover_timeout`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut shutdown = self.shutdown_signal();
        let mut retired = ShutdownSignal(self.retired.subscribe());
        let mut sessions = JoinSet::new();
        let mut shortage = Shortage::default();
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                () = retired.wait() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        shortage.accepted();
                        self.greet(stream, peer, &mut sessions);
                    }
                    Err(error) => shortage.failed(&self, &error).await,
                },
                Some(ended) = sessions.join_next() => note_end(ended),
            }
        }
        drop(listener);
        drop(retired);
        self.linger(&mut sessions, &mut shutdown).await;
        self.drain(sessions).await;
    }

    fn greet(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, sessions: &mut JoinSet<()>) {
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive))
            .and_then(|()| stream.into_std());
        let stream = match prepared {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%peer, %error, "a connection was gone at once");
                return;
            }
        };
        tracing::debug!(%peer, "connected");
        let Some(seat) = self.workers.seat() else { return };
        let handle = seat.handle.clone();
        sessions.spawn_on(accept(Arc::clone(self), seat, stream, peer), &handle);
    }

    /// Serves those who are there until they leave of themselves, or long enough; and stays for as long as the process
    /// before this one has clients, which are reached through this one.
    async fn linger(&self, sessions: &mut JoinSet<()>, shutdown: &mut ShutdownSignal) {
        let limit = self.config.load().limits.takeover_timeout;
        let mut over = std::pin::pin!(tokio::time::sleep(limit));
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = &mut over => {
                    tracing::warn!(clients = sessions.len(), "limits.takeover_timeout is over: those who stayed are sent away");
                    return self.shut_down();
                }
                ended = sessions.join_next() => match ended {
                    Some(ended) => note_end(ended),
                    None => break,
                },
            }
        }
        tokio::select! {
            () = shutdown.wait() => {}
            () = &mut over => {}
            () = self.clients.predecessor_gone() => {}
        }
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
            self.note_all_cut();
            tracing::warn!(clients = sessions.len(), "cut off what did not end within limits.drain_timeout");
        }
        self.monitor.shutdown().await;
    }

    /// No new clients from now on; idle ones are sent away, transactions may end.
    pub fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// Another process accepts clients from now on; those who are here stay. Returns when nobody is accepted here
    /// any more.
    pub async fn retire(&self) {
        self.retired.send_replace(true);
        // Each `serve` holds a receiver until it has let go of its listener.
        self.retired.closed().await;
    }

    /// To wait for [`Proxy::shut_down`].
    pub fn shutdown_signal(&self) -> ShutdownSignal {
        ShutdownSignal(self.shutdown.subscribe())
    }

    /// Puts a new config in force. What needs a restart stays as it was, and is named in the log.
    ///
    /// # Errors
    /// `audit.file` cannot be written; the old config stays.
    pub async fn adopt(&self, config: Config) -> Result<(), AuditError> {
        Audit::check(&config.audit).inspect_err(|error| self.refuse_config(vec![error.to_string()]))?;
        let old = self.config.load_full();
        let changes = Config::diff(&old, &config);
        for change in &changes {
            tracing::info!(%change, "config changed");
        }
        let restart_needed = old.restart_needed(&config);
        for key in &restart_needed {
            tracing::warn!(key, "this change takes effect after a restart");
        }
        if !changes.is_empty() {
            self.audit.tell(Event::ConfigChanged { changes, restart_needed });
        }
        // Even where nothing of it has changed: the file may have been put aside.
        self.audit.adopt(&config.audit);
        self.shard_metrics.rcu(|known| shard_metrics(&config, known));
        self.config.store(Arc::new(config));
        self.generation.fetch_add(1, Ordering::Release);
        self.users.clear();
        self.monitor.reload().await;
        self.pools.reload(&self.topology.load());
        for database in self.all_databases() {
            database.forget_greetings();
        }
        self.metrics.config_reloads(ReloadOutcome::Applied).increment(1);
        Ok(())
    }

    /// A new config was refused, for these reasons.
    pub fn refuse_config(&self, mistakes: Vec<String>) {
        self.audit.tell(Event::ConfigRefused { mistakes });
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
        self.primaries.vacate(database);
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
    pub fn count_statements(&self, shard: &Arc<str>, role: Role, reason: Reason, count: u64, duration: Duration) {
        let all = self.shard_metrics.load();
        if let Some(routes) = self.routes.get(reason.index()) {
            routes[usize::from(role == Role::Replica)].fetch_add(count, Ordering::Relaxed);
        }
        if let Some((_, metrics)) = all.iter().find(|(name, _)| name == shard) {
            if let Some(counter) = metrics.statements(role, reason.index()) {
                counter.increment(count);
            }
            metrics.duration(role).record(duration);
        }
    }

    /// How many statements went where, and why; only what there were any of.
    pub fn routes(&self) -> impl Iterator<Item = (Role, Reason, u64)> {
        let of = |(reason, counts): (Reason, &[AtomicU64; 2])| {
            let count = |index: usize| counts[index].load(Ordering::Relaxed);
            [(Role::Primary, reason, count(0)), (Role::Replica, reason, count(1))]
        };
        Reason::all().zip(&self.routes).flat_map(of).filter(|(_, _, count)| *count > 0)
    }

    /// Where requests to read the config file again come from now on. Once.
    pub fn take_reload_requests(&self) -> mpsc::Receiver<ReloadRequest> {
        let (sender, receiver) = mpsc::channel(1);
        // Of a second call nothing would come: whoever runs the proxy calls it once.
        let _ = self.reload_requests.set(sender);
        receiver
    }

    /// Has the config file read again.
    ///
    /// # Errors
    /// It was refused: its mistakes. Or nobody here has a file.
    pub async fn request_reload(&self) -> Result<(), String> {
        let nobody = || "this proxy was not started from a file".to_owned();
        let requests = self.reload_requests.get().ok_or_else(nobody)?;
        let (sender, answer) = oneshot::channel();
        requests.send(sender).await.map_err(|_| nobody())?;
        answer.await.map_err(|_| nobody())?
    }

    /// Sets gauges and sweeps, once a second, until the proxy is gone.
    async fn keep_house(self: Arc<Self>) {
        let mut interval = tokio::time::interval(HOUSEKEEPING);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pools: HashMap<Arc<str>, PoolMetrics> = HashMap::new();
        loop {
            interval.tick().await;
            self.statements.sweep();
            self.quotas.sweep();
            self.leave_behind();
            self.show_clients();
            self.show_pools(&mut pools);
            let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
            databases.retain(|_, database| Arc::strong_count(database) > 1 || database.is_worth_keeping());
        }
    }

    /// Closes connections that nobody uses and somebody waits for who changes a bucket map.
    fn leave_behind(&self) {
        for (database, version) in self.catalogs().versions() {
            self.pools.leave_behind(&database, version);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats, and counts of clients small")]
    fn show_clients(&self) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let held = self.gate.waiting();
        let waiting = count(&self.client_counts.waiting);
        let active = self.gate.inside().saturating_sub(waiting);
        let idle = count(&self.client_counts.all).saturating_sub(active + waiting + held);
        for (state, value) in [
            (ClientState::Login, count(&self.client_counts.login)),
            (ClientState::Active, active),
            (ClientState::Waiting, waiting + held),
            (ClientState::Idle, idle),
        ] {
            self.metrics.clients(state).set(value as f64);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats, and counts of connections small")]
    fn show_pools(&self, known: &mut HashMap<Arc<str>, PoolMetrics>) {
        let mut counts: HashMap<Arc<str>, (usize, usize)> =
            known.keys().map(|node| (Arc::clone(node), (0, 0))).collect();
        for pool in self.pools.view() {
            let count = counts.entry(pool.node).or_default();
            *count = (count.0 + pool.idle, count.1 + (pool.size - pool.idle));
        }
        let topology = self.topology.load();
        let shard_of = |node: &str| {
            let has_it = |shard: &&Shard| shard.nodes.iter().any(|member| *member.node.name == *node);
            topology.shards.iter().find(has_it).map_or_else(|| "".into(), |shard| Arc::clone(&shard.name))
        };
        for (node, (idle, active)) in counts {
            let metrics = known.entry(Arc::clone(&node)).or_insert_with(|| PoolMetrics::new(&shard_of(&node), &node));
            metrics.connections(ServerState::Idle).set(idle as f64);
            metrics.connections(ServerState::Active).set(active as f64);
        }
    }
}

/// Of the config's shards; what there is already goes on counting.
fn shard_metrics(config: &Config, known: &[(Arc<str>, ShardMetrics)]) -> Vec<(Arc<str>, ShardMetrics)> {
    let names: Vec<_> = Reason::all().map(Reason::name).collect();
    let of = |shard: &crate::config::Shard| match known.iter().find(|(name, _)| **name == *shard.name) {
        Some(known) => known.clone(),
        None => (Arc::from(&*shard.name), ShardMetrics::new(&shard.name, &names)),
    };
    config.shards.iter().map(of).collect()
}

/// Settles what transactions over several shards have left, until the proxy is gone.
async fn recover(
    config: Arc<ArcSwap<Config>>,
    primaries: Primaries,
    coordinators: Arc<Coordinators>,
    mut shutdown: ShutdownSignal,
) {
    let work = async {
        // A reload may add the second one.
        while config.load().shards.len() < 2 {
            tokio::time::sleep(HOUSEKEEPING).await;
        }
        let _ = tokio::time::timeout(FIND_PRIMARIES, primaries.all_found()).await;
        Recovery::new(primaries, coordinators, commit::Settings::default()).run(|_| {}).await;
    };
    tokio::select! {
        () = work => {}
        () = shutdown.wait() => {}
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
        proxy.client_counts.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Self(Arc::clone(proxy)))
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.client_counts.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A user and the digests of the settings that its client starts with.
type GreetingKey = (Arc<str>, Vec<u64>);

/// What is shared by the sessions of one database.
#[derive(Debug, Default)]
pub struct Database {
    has_changed: AtomicBool,
    /// It was told that connections cannot be registered on some shard.
    is_unfenced: AtomicBool,
    /// Where its catalog last changed.
    catalog: Mutex<Horizons>,
    greetings: Mutex<HashMap<GreetingKey, Greeting>>,
}

/// What clients of one kind have in common.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The settings that they start with.
    pub startup: Arc<Settings>,
    /// What they are told after login.
    pub reported: Arc<Reported>,
}

impl Database {
    /// A statement that changed the catalog was acknowledged before `at`: no session may read where
    /// that has not been replayed.
    pub fn note_catalog_change(&self, shard: &Arc<str>, at: Instant) {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner).of(shard).saw_primary(at, None);
        self.has_changed.store(true, Ordering::Release);
    }

    /// Calls `ask` with what a node must have replayed of catalog changes.
    pub fn with_catalog_horizon<T>(&self, shard: &Shard, ask: impl FnOnce(&Horizon) -> T) -> T {
        if !self.has_changed.load(Ordering::Acquire) {
            return ask(&Horizon::default());
        }
        let mut horizons = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let horizon = horizons.of(&shard.name);
        horizon.settle(shard);
        ask(horizon)
    }

    /// A shard was prepared by a release whose proxies did not register connections. Told once.
    pub fn warn_of_fence(&self, database: &str, shard: &str) {
        if !self.is_unfenced.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                database,
                shard,
                "this shard was prepared by an older release: a change of the bucket map would not wait for this proxy; \
                 run pgsluice shards init"
            );
        }
    }

    fn is_worth_keeping(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// What a client with these settings is told after login, where one was told before.
    pub fn greeting(&self, user: &Arc<str>, startup: &Settings) -> Option<Greeting> {
        let greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = greetings.get(&(Arc::clone(user), startup.digests().collect()))?;
        known.startup.same(startup).then(|| known.clone())
    }

    /// Remembers it.
    pub fn note_greeting(&self, user: &Arc<str>, greeting: Greeting) {
        let key = (Arc::clone(user), greeting.startup.digests().collect());
        let mut greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        if greetings.len() >= MAX_GREETINGS {
            greetings.clear();
        }
        greetings.insert(key, greeting);
    }

    fn forget_greetings(&self) {
        self.greetings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

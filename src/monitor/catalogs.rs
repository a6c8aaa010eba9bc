//! Which catalogs the data plane may know: per database, what the planner of routes needs of `pg_proc`,
//! views, unlogged relations, sequences and row-security policies.
//!
//! [`Catalogs::get`] is a lookup without a lock; asking for a database is what makes it wanted. The loader
//! ([`load_forever`]) fetches a wanted database's catalog from the primary (from a replica that answers, while there is none),
//! and again when a statement may have changed it, or when a cheap fingerprint of it has changed. A catalog that
//! is not known yet is `None`, which is for the caller to take as "call nothing known".

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::catalog_rows::{self, Fingerprint, LoadError};
use super::poll::Login;
use super::{distribution_rows, driver, type_rows};
use crate::config::Config;
use crate::route::places::Distribution;
use crate::shard::Versions;
use crate::shard::sql::UNLABELLED_PINS;
use crate::shard::type_oids::TypeOids;
use crate::sql::Catalog;
use crate::topology::{Node, Role, Shard, SharedTopology};

/// Databases that are kept; a further one gets no catalog, so that its functions count as unknown.
const MOST_DATABASES: usize = 1024;

/// How often a database's fingerprint is taken.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Connections kept open between checks; where more databases are wanted they are opened for each check.
const MOST_CONNECTIONS: usize = 8;

/// How soon to look again for a server when none answers.
const SERVER_WAIT: Duration = Duration::from_millis(200);

/// How long connecting, or one query of the load, may take.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A database that nobody asked for during so many checks is forgotten (an hour).
const IDLE_CHECKS: u32 = 720;

/// The databases' catalogs.
#[derive(Debug, Default)]
pub struct Catalogs {
    databases: ArcSwap<HashMap<String, Arc<Entry>, foldhash::fast::RandomState>>,
    work: Notify,
}

/// What is known of a database with several shards, at one moment.
#[derive(Debug, Clone)]
pub struct Rows {
    /// See [`Catalogs::get`].
    pub catalog: Arc<Catalog>,
    /// Where its rows are, as last read.
    pub distribution: Arc<Distribution>,
    /// What users' types are called on each shard but the first.
    pub types: Arc<TypesByShard>,
}

/// Users' types of each shard but the first, by its name.
pub type TypesByShard = HashMap<Arc<str>, Arc<TypeOids>, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
struct Entry {
    catalog: ArcSwapOption<Catalog>,
    /// Only with several shards.
    distribution: ArcSwapOption<Distribution>,
    types: ArcSwapOption<TypesByShard>,
    /// All three, as soon as they are there.
    rows: ArcSwapOption<Rows>,
    /// Load it anew, whatever the fingerprint says.
    stale: AtomicBool,
    /// How often somebody of this process has said that something has changed.
    changes: AtomicU64,
    /// The same, as it was before that was read which is known now.
    read: AtomicU64,
    /// Somebody has asked for it since the last check.
    wanted: AtomicBool,
    /// Shards that may have a newer bucket map than is known.
    sought: Mutex<Vec<Arc<str>>>,
}

impl Rows {
    /// What is known of the bucket map.
    pub fn versions(&self) -> &Versions {
        &self.distribution.versions
    }
}

impl Entry {
    fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.stale.store(true, Ordering::Release);
    }

    fn put_together(&self) {
        let (catalog, distribution, types) =
            (self.catalog.load_full(), self.distribution.load_full(), self.types.load_full());
        let all = catalog.zip(distribution).zip(types);
        self.rows.store(all.map(|((catalog, distribution), types)| Arc::new(Rows { catalog, distribution, types })));
    }

    fn is_sought(&self) -> bool {
        !self.sought.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Catalogs {
    /// The database's catalog as last loaded; `None` until it is. The first call makes it wanted. To be held for a moment:
    /// who looks at it counts nothing, so that threads do not write to the same memory.
    pub fn get(&self, database: &str) -> Guard<Option<Arc<Catalog>>> {
        self.read(database, |entry| Some(entry.catalog.load())).unwrap_or_else(|| Guard::from_inner(None))
    }

    /// It, and where the database's rows are, by one lookup; `None` until both are read, and always where there is only one
    /// shard.
    pub fn rows(&self, database: &str) -> Option<Arc<Rows>> {
        self.read(database, |entry| entry.rows.load_full())
    }

    fn read<T>(&self, database: &str, what: impl FnOnce(&Entry) -> Option<T>) -> Option<T> {
        if let Some(entry) = self.databases.load().get(database) {
            if !entry.wanted.load(Ordering::Relaxed) {
                entry.wanted.store(true, Ordering::Relaxed);
            }
            return what(entry);
        }
        self.want(database);
        None
    }

    /// What was made of the config is to be made anew.
    pub(super) fn config_changed(&self) {
        self.databases.load().values().for_each(|entry| entry.note_change());
        self.work.notify_one();
    }

    /// A statement has changed the database's catalog, or may have.
    pub fn changed(&self, database: &str) {
        if let Some(entry) = self.databases.load().get(database) {
            entry.note_change();
            self.work.notify_one();
        }
    }

    /// Whether something was changed by this process, and has not been read since.
    pub fn is_behind(&self, database: &str) -> bool {
        let is_behind =
            |entry: &Arc<Entry>| entry.read.load(Ordering::Acquire) != entry.changes.load(Ordering::Acquire);
        self.databases.load().get(database).is_some_and(is_behind)
    }

    /// A shard's primary may have a newer bucket map than is known: it is looked for there at once.
    pub fn seek(&self, database: &str, shard: &Arc<str>) {
        if let Some(entry) = self.databases.load().get(database) {
            let mut sought = entry.sought.lock().unwrap_or_else(PoisonError::into_inner);
            if !sought.contains(shard) {
                sought.push(Arc::clone(shard));
            }
            drop(sought);
            self.work.notify_one();
        }
    }

    /// The newest version of the bucket map that is known of each database that has one.
    pub fn versions(&self) -> Vec<(String, i64)> {
        let known = |(database, entry): (&String, &Arc<Entry>)| {
            let version = entry.distribution.load().as_ref().map_or(0, |rows| rows.versions.known);
            (version > 0).then(|| (database.clone(), version))
        };
        self.databases.load().iter().filter_map(known).collect()
    }

    /// Somebody is about to drop the database, to rename or to copy it: its connection is closed, and what is known of it
    /// is read anew when it is next asked for.
    pub fn vacate(&self, database: &str) {
        self.forget(database);
        self.work.notify_one();
    }

    fn want(&self, database: &str) {
        let entry = Arc::new(Entry { stale: AtomicBool::new(true), wanted: AtomicBool::new(true), ..Entry::default() });
        self.databases.rcu(|current| {
            if current.contains_key(database) || current.len() >= MOST_DATABASES {
                return Arc::clone(current);
            }
            let mut next = HashMap::clone(current);
            next.insert(database.to_owned(), Arc::clone(&entry));
            Arc::new(next)
        });
        self.work.notify_one();
    }

    fn forget(&self, database: &str) {
        self.databases.rcu(|current| {
            let mut next = HashMap::clone(current);
            next.remove(database);
            next
        });
    }
}

/// The loader's task.
pub(super) async fn load_forever(catalogs: Arc<Catalogs>, config: Arc<ArcSwap<Config>>, topology: SharedTopology) {
    let mut loader = Loader { config, topology, known: HashMap::new() };
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut no_server = false;
    loop {
        let is_check = tokio::select! {
            _ = checks.tick() => true,
            () = catalogs.work.notified() => false,
            () = tokio::time::sleep(SERVER_WAIT), if no_server => false,
        };
        no_server = false;
        let databases = catalogs.databases.load_full();
        loader.known.retain(|database, _| databases.contains_key(database));
        for (database, entry) in databases.iter() {
            if is_check || entry.stale.load(Ordering::Acquire) || entry.is_sought() {
                no_server |= loader.visit(&catalogs, database, entry, is_check).await;
            }
        }
    }
}

struct Loader {
    config: Arc<ArcSwap<Config>>,
    topology: SharedTopology,
    known: HashMap<String, Known>,
}

/// What the loader keeps of a database.
#[derive(Default)]
struct Known {
    fingerprint: Option<Fingerprint>,
    /// Every shard has told its users' types.
    has_all_types: bool,
    connection: Option<Connection>,
    idle_checks: u32,
    failing_since: Option<Instant>,
}

/// A connection of the monitor's account.
pub(super) struct Connection {
    pub(super) client: tokio_postgres::Client,
    node: Arc<Node>,
    incarnation: u64,
    login: Login,
}

impl Connection {
    /// Whether it can be used, and is what it is needed for.
    pub(super) fn is_to(&self, node: &Arc<Node>, login: &Login) -> bool {
        Arc::ptr_eq(&self.node, node)
            && self.incarnation == node.incarnation()
            && self.login == *login
            && !self.client.is_closed()
    }
}

impl Loader {
    /// Brings one database up to date; failures are told once and tried again at the next check. True when there
    /// was no server to ask, as in the first moments.
    async fn visit(&mut self, catalogs: &Catalogs, database: &str, entry: &Entry, is_check: bool) -> bool {
        let mut no_server = false;
        let mut known = self.known.remove(database).unwrap_or_default();
        if is_check {
            let wanted = entry.wanted.swap(false, Ordering::Relaxed);
            known.idle_checks = if wanted { 0 } else { known.idle_checks + 1 };
            if known.idle_checks > IDLE_CHECKS {
                catalogs.forget(database);
                return false;
            }
        }
        match self.refresh(database, entry, &mut known).await {
            Ok(()) => known.failing_since = None,
            Err(LoadError::NoSuchDatabase) => {
                debug!(database, "no such database: its catalog is not kept");
                catalogs.forget(database);
                return false;
            }
            Err(error) => {
                no_server = matches!(error, LoadError::NoServer);
                known.connection = None;
                if known.failing_since.is_none() && !no_server {
                    warn!(database, %error, "cannot read the catalog; functions in it count as unknown or as last read");
                    known.failing_since = Some(Instant::now());
                }
                // The next check tries again: a failure must not make a busy loop.
            }
        }
        if self.known.values().filter(|known| known.connection.is_some()).count() >= MOST_CONNECTIONS {
            known.connection = None;
        }
        self.known.insert(database.to_owned(), known);
        no_server
    }

    async fn refresh(&self, database: &str, entry: &Entry, known: &mut Known) -> Result<(), LoadError> {
        let (node, login) = server_for(&self.config.load(), &self.topology).ok_or(LoadError::NoServer)?;
        let login = login.to_database(database);
        let connection = match known.connection.take().filter(|connection| connection.is_to(&node, &login)) {
            Some(connection) => connection,
            None => connect(node, login).await?,
        };
        // Taken before the load: what changes during it is loaded again.
        let changes = entry.changes.load(Ordering::Acquire);
        let stale = entry.stale.swap(false, Ordering::AcqRel);
        let loaded = load_if_changed(&connection.client, known.fingerprint.as_ref().filter(|_| !stale)).await;
        let loaded = match loaded {
            Ok(loaded) => self.refresh_distribution(&connection.client, database, entry).await.map(|()| loaded),
            failed => failed,
        };
        match loaded {
            Ok(Some((fingerprint, catalog))) => {
                let (functions, relations) = catalog.len();
                info!(database, functions, relations, "catalog read");
                entry.catalog.store(Some(Arc::new(catalog)));
                (known.fingerprint, known.has_all_types) = (Some(fingerprint), false);
            }
            Ok(None) => {}
            Err(error) => {
                entry.stale.fetch_or(stale, Ordering::AcqRel);
                return Err(error);
            }
        }
        known.connection = Some(connection);
        // A shard that takes long to tell its types keeps nothing else back.
        entry.put_together();
        entry.read.store(changes, Ordering::Release);
        if known.has_all_types { Ok(()) } else { self.refresh_types(database, entry, known).await }
    }

    /// Its columns and its map may change without the catalog's fingerprint. Of the map what is known stays known, whoever is
    /// asked: a replica may be late, and a change on its way from shard to shard. Where there is none at all, it is gone.
    async fn refresh_distribution(
        &self,
        client: &tokio_postgres::Client,
        database: &str,
        entry: &Entry,
    ) -> Result<(), LoadError> {
        let sought = std::mem::take(&mut *entry.sought.lock().unwrap_or_else(PoisonError::into_inner));
        let config = self.config.load_full();
        if config.shards.len() < 2 {
            entry.distribution.store(None);
            return Ok(());
        }
        let loading = distribution_rows::load(client, &config);
        let mut distribution = timeout(LOAD_TIMEOUT, loading).await.unwrap_or(Err(LoadError::Timeout))?;
        if let (Some(before), 1..) = (&*entry.distribution.load(), distribution.versions.known) {
            distribution.versions.learn(&before.versions);
        }
        for shard in &sought {
            match timeout(LOAD_TIMEOUT, versions_on(&config, &self.topology, shard, database)).await {
                Ok(Ok(versions)) => distribution.versions.learn(&versions),
                Ok(Err(error)) => debug!(database, %shard, %error, "the bucket map cannot be read there"),
                Err(_) => debug!(database, %shard, "the bucket map cannot be read there in time"),
            }
        }
        entry.distribution.store(Some(Arc::new(distribution)));
        Ok(())
    }

    /// They change with the catalog. A shard that does not answer is asked again at the next check.
    async fn refresh_types(&self, database: &str, entry: &Entry, known: &mut Known) -> Result<(), LoadError> {
        let config = self.config.load_full();
        if config.shards.len() < 2 {
            known.has_all_types = true;
            return Ok(());
        }
        let read = type_rows::load(&config, &self.topology, database).await?;
        known.has_all_types = read.is_whole;
        entry.types.store(Some(Arc::new(read.types)));
        entry.put_together();
        Ok(())
    }
}

/// The first shard's primary where it answers, else a replica of it that does, else the next shard's, and how to log in
/// there: all shards have one schema.
pub(super) fn server_for(config: &Config, topology: &SharedTopology) -> Option<(Arc<Node>, Login)> {
    let topology = topology.load();
    topology.shards.iter().find_map(|shard| server_among(shard, config))
}

/// The same of one shard.
pub(super) fn server_of(shard: &str, config: &Config, topology: &SharedTopology) -> Option<(Arc<Node>, Login)> {
    let topology = topology.load();
    topology.shards.iter().find(|known| *known.name == *shard).and_then(|shard| server_among(shard, config))
}

fn server_among(shard: &Shard, config: &Config) -> Option<(Arc<Node>, Login)> {
    let configured = config.shards.iter().find(|configured| *configured.name == *shard.name)?;
    let node = (shard.nodes.iter())
        .filter(|member| member.role != Role::Unknown && member.node.is_reachable())
        .min_by_key(|member| member.role != Role::Primary)?;
    Some((Arc::clone(&node.node), Login::of(configured)))
}

/// The bucket maps on a shard's primary.
async fn versions_on(
    config: &Config,
    topology: &SharedTopology,
    shard: &str,
    database: &str,
) -> Result<Versions, LoadError> {
    let primary = topology.load().shards.iter().find(|known| *known.name == *shard).and_then(Shard::primary).cloned();
    let configured = config.shards.iter().find(|configured| *configured.name == *shard);
    let (primary, configured) = primary.zip(configured).ok_or(LoadError::NoServer)?;
    let connection = connect(primary, Login::of(configured).to_database(database)).await?;
    distribution_rows::versions(&connection.client, UNLABELLED_PINS).await
}

/// Logs in.
pub(super) async fn connect(node: Arc<Node>, login: Login) -> Result<Connection, LoadError> {
    let incarnation = node.incarnation();
    let config = login.driver_config(&node, LOAD_TIMEOUT);
    let connected = timeout(LOAD_TIMEOUT, driver::connect(&config, &login.tls)).await;
    let (client, _) = connected.map_err(|_| LoadError::Timeout)??;
    Ok(Connection { client, node, incarnation, login })
}

async fn load_if_changed(
    client: &tokio_postgres::Client,
    last: Option<&Fingerprint>,
) -> Result<Option<(Fingerprint, Catalog)>, LoadError> {
    timeout(LOAD_TIMEOUT, async {
        let fingerprint = catalog_rows::fingerprint(client).await?;
        if last == Some(&fingerprint) {
            return Ok(None);
        }
        Ok(Some((fingerprint, catalog_rows::load(client).await?)))
    })
    .await
    .unwrap_or(Err(LoadError::Timeout))
}

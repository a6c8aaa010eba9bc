//! Three shards with a journal each, connections to them that can be told to fail, and recovery.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use pgsluice::commit::{
    ConnectError, Coordinators, Lent, Outcome, Participant, Reach, Recovery, Refusal, Round, RunError, Settings,
    ShardName, commit, sql,
};
use pgsluice::demo::{Cluster, ClusterOptions, Server};
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::NoTls;

use crate::support::DEADLINE;
use crate::support::raw::{Login, Message, Raw, query};

/// What every account has at the start; there is one on each shard.
pub const BALANCE: i64 = 1000;

/// Settles whatever it finds.
const EAGER: Settings = Settings {
    interval: Duration::from_millis(50),
    grace: Duration::ZERO,
    forget_interval: Duration::from_secs(3600),
    retention: Duration::from_secs(3600),
};

/// And deletes what is settled.
const FORGETFUL: Settings = Settings { forget_interval: Duration::ZERO, retention: Duration::ZERO, ..EAGER };

pub struct Shards {
    pub clusters: Vec<Cluster>,
    pub names: Vec<ShardName>,
}

impl Shards {
    pub async fn start() -> Self {
        let options = ClusterOptions::with_replicas(0);
        let clusters = try_join_all((0..3).map(|_| Cluster::start(options.clone()))).await.expect("the shards start");
        let names = ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec();
        let this = Self { clusters, names };
        let (app, monitor) = (&options.app.user, &options.monitor.user);
        let schema = format!(
            "CREATE TABLE account (balance bigint NOT NULL CHECK (balance >= 0));
             INSERT INTO account VALUES ({BALANCE});
             CREATE TABLE journal (transfer bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
             GRANT ALL ON account, journal TO {app};
             GRANT {app} TO {monitor};"
        );
        for shard in 0..3 {
            // Twice: it is idempotent.
            for text in [sql::INSTALL, sql::INSTALL, &sql::grant_recovery(monitor), &schema] {
                this.sql(shard, text).await;
            }
        }
        this
    }

    pub fn server(&self, shard: usize) -> &Server {
        self.clusters[shard].primary()
    }

    pub fn database(&self) -> &str {
        &self.clusters[0].options().database
    }

    /// As superuser.
    pub async fn sql(&self, shard: usize, text: &str) -> Vec<Vec<Option<String>>> {
        self.server(shard).sql_in(self.database(), text).await.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// One value, as superuser.
    pub async fn value(&self, shard: usize, text: &str) -> String {
        self.sql(shard, text).await.swap_remove(0).swap_remove(0).expect("not NULL")
    }

    /// A connection of the application's.
    pub async fn raw(&self, shard: usize) -> Raw {
        let options = self.clusters[shard].options();
        self.raw_as(shard, &options.app.user, &options.app.password).await
    }

    pub async fn raw_as(&self, shard: usize, user: &str, password: &str) -> Raw {
        let address = self.server(shard).address();
        let login = Login { address: &address, user, password, database: self.database(), minor: 0, settings: &[] };
        Raw::connect(&login).await
    }

    /// Connections to shards `a`, `b`, `c` that follow a script.
    pub async fn participants(&self, script: &Arc<Script>) -> Vec<Connection> {
        let connections = (0..3).map(|shard| async move {
            let (raw, name) = (Some(self.raw(shard).await), self.names[shard].clone());
            Connection { shard: name, raw, script: Arc::clone(script) }
        });
        join_all(connections).await
    }

    /// Recovery by another process than those that have `coordinators`.
    pub fn stranger(&self) -> Recovery<Direct> {
        self.recovery(&Arc::default())
    }

    pub fn recovery(&self, coordinators: &Arc<Coordinators>) -> Recovery<Direct> {
        Recovery::new(self.reach(), Arc::clone(coordinators), EAGER)
    }

    /// One that deletes decisions as soon as nobody needs them.
    pub fn forgetful(&self) -> Recovery<Direct> {
        Recovery::new(self.reach(), Arc::default(), FORGETFUL)
    }

    pub fn reach(&self) -> Direct {
        let places = self.names.iter().cloned().zip(self.clusters.iter().map(|cluster| {
            let monitor = &cluster.options().monitor.user;
            (cluster.primary().conninfo(monitor, "postgres"), cluster.primary().conninfo(monitor, self.database()))
        }));
        Direct { places: places.collect(), database: self.database().to_owned() }
    }

    /// All gids, on all shards.
    pub async fn prepared(&self) -> Vec<String> {
        let mut gids = Vec::new();
        for shard in 0..3 {
            let rows = self.sql(shard, "SELECT gid FROM pg_prepared_xacts ORDER BY prepared").await;
            gids.extend(rows.into_iter().flatten().flatten());
        }
        gids
    }

    /// Decisions on all shards.
    pub async fn decisions(&self) -> usize {
        let mut count = 0;
        for shard in 0..3 {
            count += self.value(shard, "SELECT count(*) FROM pgsluice.decision").await.parse::<usize>().unwrap();
        }
        count
    }

    async fn app_is_gone(&self) -> bool {
        let app = &self.clusters[0].options().app.user;
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{app}'");
        for shard in 0..3 {
            if self.value(shard, &count).await != "0" {
                return false;
            }
        }
        true
    }

    /// Lets recovery work until no client is there and nothing is prepared any more.
    pub async fn settle(&self, recovery: &mut Recovery<Direct>) -> Vec<Round> {
        let start = Instant::now();
        let mut rounds = Vec::new();
        loop {
            let is_quiet = self.app_is_gone().await;
            rounds.push(recovery.round().await);
            if is_quiet && self.prepared().await.is_empty() {
                return rounds;
            }
            assert!(start.elapsed() < DEADLINE, "{:?}; {rounds:?}", self.prepared().await);
        }
    }

    /// Which transfers are in each shard's journal.
    pub async fn journals(&self) -> Vec<BTreeSet<i64>> {
        let mut journals = Vec::new();
        for shard in 0..3 {
            let rows = self.sql(shard, "SELECT transfer FROM journal").await;
            journals.push(rows.into_iter().flatten().flatten().map(|id| id.parse().unwrap()).collect());
        }
        journals
    }

    /// Every transfer is on all shards or on none, and so is its money. Returns which there are.
    pub async fn check(&self) -> BTreeSet<i64> {
        self.journal_is_whole(BALANCE).await
    }

    /// The same, with another balance at the start.
    pub async fn journal_is_whole(&self, start: i64) -> BTreeSet<i64> {
        let journals = self.journals().await;
        assert_eq!(journals[0], journals[1]);
        assert_eq!(journals[0], journals[2]);
        let moved = i64::try_from(journals[0].len()).unwrap();
        for (shard, by) in [(0, -2), (1, 1), (2, 1)] {
            let balance: i64 = self.value(shard, "SELECT balance FROM account").await.parse().unwrap();
            assert_eq!(balance, start + by * moved, "{shard}: {:?}", journals[0]);
        }
        journals.into_iter().next().unwrap()
    }

    pub async fn stop(self) {
        for cluster in self.clusters {
            cluster.shutdown().await.expect("the shard stops");
        }
    }
}

/// When a statement is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is not sent.
    Before,
    /// It is sent, and that is all.
    Sent,
    /// The server has answered, and nobody has read it.
    Answered,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The coordinator's process is killed: all of its connections are cut, and it does nothing more.
    Coordinator,
    /// The connection is cut.
    Connection,
    /// The statement waits for [`Script::go_on`].
    Pause,
}

/// What becomes of the statements of one commit, counted from 0 in the order in which they are run.
#[derive(Default)]
pub struct Script {
    steps: AtomicUsize,
    strike: Option<(usize, Moment, Strike)>,
    struck: Notify,
    go_on: Option<Semaphore>,
}

impl Script {
    pub fn peaceful() -> Arc<Self> {
        Arc::default()
    }

    pub fn new(step: usize, moment: Moment, strike: Strike) -> Arc<Self> {
        Arc::new(Self { strike: Some((step, moment, strike)), go_on: Some(Semaphore::new(0)), ..Self::default() })
    }

    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Waits until it has struck.
    pub async fn struck(&self) {
        self.struck.notified().await;
    }

    pub fn go_on(&self) {
        self.go_on.as_ref().unwrap().add_permits(1);
    }
}

pub struct Connection {
    pub shard: ShardName,
    pub raw: Option<Raw>,
    script: Arc<Script>,
}

impl Connection {
    /// Begins a transaction and does this shard's part of a transfer.
    pub async fn transfer(&mut self, id: i64) {
        let by = if self.shard.as_str() == "a" { -2 } else { 1 };
        let text = format!("BEGIN; UPDATE account SET balance = balance + {by}; INSERT INTO journal VALUES ({id})");
        assert_eq!(self.raw.as_mut().unwrap().rows(&text).await, Vec::<Vec<String>>::new());
    }

    async fn strike_at(&mut self, step: usize, at: Moment) -> bool {
        let Some((_, _, strike)) = self.script.strike.filter(|(of, moment, _)| (*of, *moment) == (step, at)) else {
            return false;
        };
        self.script.struck.notify_one();
        match strike {
            Strike::Coordinator => std::future::pending().await,
            Strike::Connection => self.raw = None,
            Strike::Pause => self.script.go_on.as_ref().unwrap().acquire().await.unwrap().forget(),
        }
        strike == Strike::Connection
    }
}

impl Participant for Connection {
    fn shard(&self) -> &ShardName {
        &self.shard
    }

    async fn run(&mut self, sql: &str) -> Result<(), RunError> {
        let step = self.script.steps.fetch_add(1, Ordering::Relaxed);
        if self.strike_at(step, Moment::Before).await {
            return Err(RunError::Lost(None));
        }
        let raw = self.raw.as_mut().ok_or(RunError::Lost(None))?;
        raw.try_send(&query(sql)).await.map_err(|_| RunError::Lost(None))?;
        if self.strike_at(step, Moment::Sent).await {
            return Err(RunError::Lost(None));
        }
        let raw = self.raw.as_mut().ok_or(RunError::Lost(None))?;
        let answer = read_answer(raw).await;
        if self.strike_at(step, Moment::Answered).await {
            return Err(RunError::Lost(None));
        }
        answer
    }
}

async fn read_answer(raw: &mut Raw) -> Result<(), RunError> {
    let mut refusal = None;
    while let Some(message) = raw.next().await {
        match message.tag {
            b'E' if message.field(b'V').as_deref() == Some("ERROR") => refusal = Some(error(&message)),
            b'E' => return Err(RunError::Lost(Some(error(&message)))),
            b'Z' => return refusal.map_or(Ok(()), |refusal| Err(RunError::Refused(refusal))),
            _ => {}
        }
    }
    Err(RunError::Lost(refusal))
}

fn error(message: &Message) -> Refusal {
    Refusal(message.body.clone().into())
}

/// Commits with the first as the decider.
pub async fn commit_all(coordinators: &Coordinators, connections: &mut [Connection]) -> Outcome {
    let (decider, others) = connections.split_first_mut().unwrap();
    commit(coordinators, "app", decider, others).await
}

/// One transfer from beginning to end; `None` where its coordinator is killed.
pub async fn transfer(shards: &Shards, coordinators: &Coordinators, script: &Arc<Script>, id: i64) -> Option<Outcome> {
    let mut connections = shards.participants(script).await;
    for connection in &mut connections {
        connection.transfer(id).await;
    }
    let is_deadly = script.strike.is_some_and(|(_, _, strike)| strike == Strike::Coordinator);
    tokio::select! {
        biased;
        () = script.struck(), if is_deadly => None,
        outcome = commit_all(coordinators, &mut connections) => Some(outcome),
    }
}

/// Connects as the monitor's account, which is no superuser.
pub struct Direct {
    places: Vec<(ShardName, (String, String))>,
    database: String,
}

impl Reach for Direct {
    fn shards(&self) -> Vec<ShardName> {
        self.places.iter().map(|(name, _)| name.clone()).collect()
    }

    fn databases(&self) -> Vec<String> {
        vec![self.database.clone(), "postgres".to_owned()]
    }

    async fn connect(&self, shard: &ShardName, database: Option<&str>) -> Result<Lent, ConnectError> {
        let place = self.places.iter().find(|(name, _)| name == shard).ok_or(ConnectError::NoSuchShard)?;
        let conninfo = if database == Some(self.database.as_str()) { &place.1.1 } else { &place.1.0 };
        let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
        tokio::spawn(connection);
        Ok(client.into())
    }
}

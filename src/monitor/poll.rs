//! Asks one server where it is, again and again.
//!
//! One task per node, with its own small pool (`deadpool-postgres`). A poll that is not answered within
//! `poll_timeout` has failed, and its connection is thrown away, never used again. The task
//! reports what it heard to its shard's [`watch`](super::watch) and judges nothing itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{BuildError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::driver::DriverConnect;
use super::question::{self, Answer, AnswerError, Facts};
use crate::config;
use crate::tls::Outbound;
use crate::topology::Node;

/// What the servers show in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "pgsluice_monitor";

/// Polls that are asked for at once keep this distance.
const KICK_SPACING: Duration = Duration::from_millis(2);

/// The longest pause between two tries while a node does not answer.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How to reach a shard's servers, and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct PollSettings {
    /// Account and database.
    pub login: Login,
    /// `lag.poll_interval`
    pub interval: Duration,
    /// `lag.poll_timeout`
    pub timeout: Duration,
    /// `pool.connect_timeout`; only a node that is known to be lost is given this long.
    pub connect_timeout: Duration,
    /// Whether this node is polled half an interval after the others. Replicas are: what the primary then last said is half an
    /// interval old, and a replica that is less behind than that has replayed all of it, whatever the WAL's bursts.
    pub late: bool,
}

/// The monitor's account on a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    /// `shards.user`
    pub user: String,
    /// `shards.password`
    pub password: Option<config::Secret>,
    /// `shards.database`
    pub database: String,
    /// How the connections are encrypted.
    pub tls: Arc<Outbound>,
}

impl Login {
    /// The config's.
    pub fn of(shard: &config::Shard) -> Self {
        Self {
            user: shard.user.clone(),
            password: shard.password.clone(),
            database: shard.database.clone(),
            tls: Arc::clone(&shard.outbound),
        }
    }

    /// The same account on another database of the shard.
    pub fn to_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// For the driver.
    pub fn driver_config(&self, node: &Node, connect_timeout: Duration) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&node.host).port(node.port).user(&self.user).dbname(&self.database);
        config.application_name(APPLICATION_NAME).connect_timeout(connect_timeout);
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        config
    }
}

/// What one poll brought.
#[derive(Debug)]
pub struct Report {
    /// Who was asked.
    pub node: Arc<Node>,
    /// When the question was sent.
    pub asked_at: Instant,
    /// Whether it was due by `poll_interval`, rather than asked for in between.
    pub scheduled: bool,
    /// What it said.
    pub outcome: Result<(Facts, Answer), PollError>,
}

/// Why a poll brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Not within `poll_timeout`.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection pool cannot be made.
    #[error(transparent)]
    Pool(#[from] BuildError),
    /// No connection, or no login.
    #[error("cannot connect: {}", chain(.0))]
    Connect(PoolError),
    /// The connection broke, or the server refused the question.
    #[error("cannot ask: {}", chain(.0))]
    Query(#[from] tokio_postgres::Error),
    /// The server said something that this version does not understand.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// The driver's messages name only the kind; what happened is in the sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The task of one node.
pub struct Poller {
    node: Arc<Node>,
    settings: watch::Receiver<PollSettings>,
    kicks: watch::Receiver<u64>,
    reports: mpsc::Sender<Report>,
    epoch: Instant,
    pool: Option<(Login, Pool)>,
    // Of the connection that was made at this moment.
    facts: Option<(Instant, Facts)>,
    failures: u32,
}

impl Poller {
    /// A poller that keeps time from `epoch` on, the same one for all nodes of a shard.
    pub fn new(
        node: Arc<Node>,
        settings: watch::Receiver<PollSettings>,
        kicks: watch::Receiver<u64>,
        reports: mpsc::Sender<Report>,
        epoch: Instant,
    ) -> Self {
        Self { node, settings, kicks, reports, epoch, pool: None, facts: None, failures: 0 }
    }

    /// Polls until nobody listens to the reports.
    pub async fn run(mut self) {
        let mut scheduled = true;
        loop {
            let settings = self.settings.borrow_and_update().clone();
            self.kicks.borrow_and_update();
            let started = Instant::now();
            let (asked_at, outcome) = self.poll(&settings).await;
            self.failures = if outcome.is_ok() { 0 } else { self.failures.saturating_add(1) };
            let report = Report { node: Arc::clone(&self.node), asked_at, scheduled, outcome };
            if self.reports.send(report).await.is_err() {
                return;
            }
            let Some(due) = self.pause(started, &settings).await else { return };
            scheduled = due;
        }
    }

    /// Waits for the next poll: true when it is due, false when it was asked for, `None` at the end.
    async fn pause(&mut self, last: Instant, settings: &PollSettings) -> Option<bool> {
        if self.failures > 0 {
            // A server that starts up is not helped by being asked all the time, and logs each try.
            let pause = settings.interval.saturating_mul(1 << self.failures.min(10));
            tokio::time::sleep(pause.min(LONGEST_PAUSE.max(settings.interval))).await;
            return Some(true);
        }
        let due = self.next_due(Instant::now(), settings);
        tokio::select! {
            () = sleep_until(due.into()) => Some(true),
            changed = self.settings.changed() => changed.ok().map(|()| true),
            kicked = self.kicks.changed() => {
                kicked.ok()?;
                sleep_until((last + KICK_SPACING).into()).await;
                Some(Instant::now() >= due)
            }
        }
    }

    fn next_due(&self, now: Instant, settings: &PollSettings) -> Instant {
        let interval = settings.interval.max(Duration::from_millis(1)).as_nanos();
        let phase = if settings.late { interval / 2 } else { 0 };
        let passed = now.saturating_duration_since(self.epoch).as_nanos() + interval - phase;
        let wait = interval - passed % interval;
        now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    async fn poll(&mut self, settings: &PollSettings) -> (Instant, Result<(Facts, Answer), PollError>) {
        // A node that is known to be lost has time to let the connection come about.
        let patience =
            if self.failures > 0 { settings.timeout.max(settings.connect_timeout) } else { settings.timeout };
        let mut asked_at = Instant::now();
        let connection = match self.pool(settings) {
            Ok(pool) => timeout(patience, pool.get()).await,
            Err(error) => return (asked_at, Err(error)),
        };
        let outcome = match connection {
            Ok(Ok(connection)) => self.ask(connection, settings.timeout, &mut asked_at).await,
            Ok(Err(error)) => Err(PollError::Connect(error)),
            Err(_) => Err(PollError::Timeout(patience)),
        };
        (asked_at, outcome)
    }

    /// The pool for these settings; a changed account gets a new one.
    fn pool(&mut self, settings: &PollSettings) -> Result<Pool, PollError> {
        if let Some((login, pool)) = &self.pool
            && *login == settings.login
        {
            return Ok(pool.clone());
        }
        let config = settings.login.driver_config(&self.node, settings.connect_timeout);
        let connect = DriverConnect(Arc::clone(&settings.login.tls));
        let manager = Manager::from_connect(config, connect, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager).max_size(2).build()?;
        self.pool = Some((settings.login.clone(), pool.clone()));
        Ok(pool)
    }

    /// Asks over a connection that goes back to the pool only when it has answered in time.
    async fn ask(
        &mut self,
        connection: Object,
        limit: Duration,
        asked_at: &mut Instant,
    ) -> Result<(Facts, Answer), PollError> {
        let answer = timeout(limit, async {
            let facts = self.facts(&connection).await?;
            let statement = connection.prepare_cached(question::POSITION).await?;
            *asked_at = Instant::now();
            let row = connection.query_one(&statement, &[]).await?;
            Ok((facts, question::read_position(&row, &facts)?))
        })
        .await
        .unwrap_or(Err(PollError::Timeout(limit)));
        if answer.is_err() {
            drop(Object::take(connection));
        }
        answer
    }

    /// What does not change on this connection: asked once.
    async fn facts(&mut self, connection: &Object) -> Result<Facts, PollError> {
        let created = Object::metrics(connection).created;
        if let Some((of, facts)) = self.facts
            && of == created
        {
            return Ok(facts);
        }
        let facts = question::read_facts(&connection.query_one(question::FACTS, &[]).await?)?;
        self.facts = Some((created, facts));
        self.node.set_wal_layout(facts.layout);
        Ok(facts)
    }
}

//! One shard's judge: takes the pollers' reports in, and is the only writer of roles, positions, lag and
//! admission of the shard's nodes.
//!
//! The order of work on a report: is it another life of the server; who is the primary (`roles`); then
//! what this answer says of the node's position; then, for a replica, its lag (`lag`) and its breaker
//! (`breaker`). Roles are published only when all nodes have been asked once, so that a stale
//! primary that answers first is not taken for the primary. It does no I/O of its own.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::breaker::{Observation, Transition};
use super::lag::WalClock;
use super::member::{Answered, Watched};
use super::poll::{PollError, Report};
use super::question::{Answer, Facts, Receiver};
use super::roles::{self, Identity, Memory};
use super::settings::ShardSettings;
use crate::audit::Audit;
use crate::telemetry::metrics::PollOutcome;
use crate::topology::{Admission, EjectReason, Lsn, Member, Role, Sample, Shard, SharedTopology, Topology};

/// What a watch is told by the monitor.
pub(super) enum Order {
    /// The config has changed; to be answered when that is taken in.
    Reload(Box<ShardSettings>, oneshot::Sender<()>),
}

/// The ends that the monitor keeps of a watch.
pub(super) struct Lines {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) kicks: watch::Receiver<u64>,
    /// Raised after each report, when positions may have changed.
    pub(super) rounds: watch::Sender<u64>,
}

/// The judge of one shard.
pub(super) struct ShardWatch {
    settings: ShardSettings,
    topology: SharedTopology,
    audit: Audit,
    lines: Lines,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    pollers: JoinSet<()>,
    epoch: Instant,
    nodes: Vec<Watched>,
    memory: Memory,
    contended: bool,
    settled: bool,
    clock: WalClock,
    clock_of: Option<(Arc<str>, u32)>,
}

impl ShardWatch {
    /// A watch that knows the nodes' names and nothing else yet. Their `Node`s are in the topology when this returns.
    pub(super) fn new(settings: ShardSettings, topology: SharedTopology, audit: Audit, lines: Lines) -> Self {
        let clock = WalClock::new(settings.primary_stale_after());
        let mut this = Self {
            settings,
            topology,
            audit,
            lines,
            reports: mpsc::channel(64),
            pollers: JoinSet::new(),
            epoch: Instant::now(),
            nodes: Vec::new(),
            memory: Memory::default(),
            contended: false,
            settled: false,
            clock,
            clock_of: None,
        };
        this.adopt_nodes();
        this.publish();
        this
    }

    /// Judges until the monitor hangs up.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                order = self.lines.orders.recv() => match order {
                    Some(Order::Reload(settings, done)) => {
                        self.reload(*settings);
                        // Nobody waits any more: fine.
                        let _ = done.send(());
                    }
                    None => return,
                },
                Some(report) = self.reports.1.recv() => self.take(report, Instant::now()),
            }
            self.lines.rounds.send_modify(|round| *round = round.wrapping_add(1));
        }
    }

    fn reload(&mut self, settings: ShardSettings) {
        self.settings = settings;
        self.clock.set_stale_after(self.settings.primary_stale_after());
        self.adopt_nodes();
        self.decide();
        self.publish();
        for watched in &self.nodes {
            watched.tell_poller(&self.settings);
        }
    }

    /// Makes the list of nodes the config's, keeping those that are in both.
    fn adopt_nodes(&mut self) {
        let primary = self.memory.primary.and_then(|index| self.nodes.get(index)).map(|w| Arc::clone(&w.node.name));
        let mut old = std::mem::take(&mut self.nodes);
        for configured in &self.settings.shard.nodes {
            let same = |w: &Watched| w.node.host == configured.host && w.node.port == configured.port;
            let watched = match old.iter().position(same) {
                Some(index) => old.swap_remove(index),
                None => Watched::new(
                    configured,
                    &self.settings,
                    &mut self.pollers,
                    (self.lines.kicks.clone(), self.reports.0.clone()),
                    self.epoch,
                ),
            };
            watched.node.set_weight(configured.weight);
            self.nodes.push(watched);
        }
        for gone in old {
            gone.leave();
        }
        self.memory.primary = primary.and_then(|name| self.nodes.iter().position(|w| w.node.name == name));
    }

    /// One report.
    fn take(&mut self, report: Report, now: Instant) {
        let Some(index) = self.nodes.iter().position(|w| Arc::ptr_eq(&w.node, &report.node)) else { return };
        let Report { asked_at, scheduled, outcome, .. } = report;
        let Some(watched) = self.nodes.get_mut(index) else { return };
        watched.asked = true;
        match outcome {
            Ok((facts, answer)) => note_answer(watched, facts, answer, asked_at),
            Err(error) => note_failure(watched, &error),
        }
        let lost_primary = watched.last.is_none() && watched.role == Role::Primary;
        let was_settled = self.settled;
        self.settled = self.settled || self.nodes.iter().all(|w| w.asked);
        if !self.settled {
            return;
        }
        let changed = self.decide();
        if changed || lost_primary || !was_settled {
            // The primary first: the others are judged by its clock.
            let mut order: Vec<usize> = (0..self.nodes.len()).collect();
            order.sort_by_key(|i| self.nodes.get(*i).is_none_or(|w| w.role != Role::Primary));
            order.into_iter().for_each(|index| self.apply(index, true, now));
        } else {
            self.apply(index, scheduled, now);
        }
        if changed {
            self.publish();
        }
        for watched in &mut self.nodes {
            watched.metrics.show(&watched.node, watched.role);
        }
    }

    /// Decides on the roles; true when one has changed.
    fn decide(&mut self) -> bool {
        if !self.settled {
            return false;
        }
        let now: Vec<Option<Identity>> = self.nodes.iter().map(Watched::identity).collect();
        let before: Vec<Role> = self.nodes.iter().map(|w| w.role).collect();
        let decision = roles::decide(&now, &before, self.memory);
        self.memory = decision.memory;
        let contended = !decision.contenders.is_empty();
        if contended && !self.contended {
            let nodes: Vec<&str> =
                decision.contenders.iter().filter_map(|i| self.nodes.get(*i)).map(|w| &*w.node.name).collect();
            error!(
                shard = %self.settings.shard.name, ?nodes, timeline = decision.memory.timeline,
                "more than one server takes writes on one timeline; only the primary known before is used"
            );
        }
        self.contended = contended;
        let mut changed = false;
        for (watched, verdict) in self.nodes.iter_mut().zip(&decision.verdicts) {
            let from = watched.role;
            if watched.set_role(verdict.role, verdict.reason, &self.settings.shard.name) {
                changed = true;
                self.audit.tell(watched.role_changed(from));
            }
        }
        self.follow_clock();
        changed
    }

    /// The clock belongs to one primary on one timeline.
    fn follow_clock(&mut self) {
        let primary = self.memory.primary.and_then(|index| self.nodes.get(index));
        let of = primary.map(|watched| (Arc::clone(&watched.node.name), self.memory.timeline));
        if of != self.clock_of {
            self.clock = WalClock::new(self.settings.primary_stale_after());
            self.clock_of = of;
        }
    }

    /// Publishes the nodes with their roles, under the shard's name.
    fn publish(&self) {
        let members = || self.nodes.iter().map(|w| Member { node: Arc::clone(&w.node), role: w.role }).collect();
        let name: Arc<str> = self.settings.shard.name.as_str().into();
        self.topology.rcu(|current| {
            let mut shards: Vec<Shard> = (current.shards.iter())
                .map(|shard| Shard { name: Arc::clone(&shard.name), nodes: shard.nodes.clone() })
                .collect();
            match shards.iter_mut().find(|shard| shard.name == name) {
                Some(shard) => shard.nodes = members(),
                None => shards.push(Shard { name: Arc::clone(&name), nodes: members() }),
            }
            Topology { shards }
        });
    }

    /// Makes of a node's last answer what the data plane reads.
    fn apply(&mut self, index: usize, judge: bool, now: Instant) {
        let primary_answers = self.primary_answers();
        let Some(watched) = self.nodes.get_mut(index) else { return };
        let Some(last) = watched.last else {
            watched.node.set_sample(None);
            watched.node.set_lag(None);
            if watched.role == Role::Replica {
                self.judge(index, None, false, now);
            }
            return;
        };
        match (watched.role, last.answer) {
            (Role::Primary, Answer::Primary { insert, flush }) => {
                self.clock.observe(last.asked_at, flush);
                watched.node.set_sample(Some(Sample { asked_at: last.asked_at, position: insert }));
            }
            (Role::Replica, answer @ Answer::Standby { .. }) => {
                watched.node.set_sample(Some(Sample { asked_at: last.asked_at, position: answer.position() }));
                if judge {
                    let stalled = watched.is_stalled(&self.clock, self.settings.lag.eject_above, now);
                    let lag = if primary_answers { measure(&self.clock, &answer, now) } else { None };
                    let timeline_ok = self.memory.timeline == 0 || answer.position().timeline == self.memory.timeline;
                    self.judge(index, lag.filter(|_| timeline_ok), stalled, now);
                }
            }
            _ => {
                watched.node.set_sample(None);
                watched.node.set_lag(None);
            }
        }
    }

    fn primary_answers(&self) -> bool {
        self.memory.primary.and_then(|index| self.nodes.get(index)).is_some_and(|primary| primary.last.is_some())
    }

    /// Sets a replica's lag and asks its breaker.
    fn judge(&mut self, index: usize, lag: Option<Lag>, stalled: bool, now: Instant) {
        let limits = &self.settings.lag;
        let Some(watched) = self.nodes.get_mut(index) else { return };
        let node = &watched.node;
        node.set_lag(lag.map(|lag| (lag.time, lag.bytes)));
        // A lag that is only known to be at least so much is known to be too much, or is not known.
        let known = lag.filter(|lag| lag.exact || lag.time > limits.eject_above).map(|lag| lag.time);
        let on_timeline = |last: &Answered| last.answer.position().timeline == self.memory.timeline;
        let seen = Observation {
            lag: known,
            connection_errors: node.connection_errors(),
            receiver_stalled: stalled,
            timeline_ok: self.memory.timeline == 0 || watched.last.as_ref().is_none_or(on_timeline),
            is_member: true,
            probation_reads_left: node.probation_reads_left(),
        };
        let Some(breaker) = watched.breaker.as_mut() else { return };
        let change = breaker.step(now, &seen, limits);
        if matches!(breaker.admission(), Admission::Ejected(_)) {
            // These have been counted, and with no reads there no answer will ever end their row.
            node.note_answer();
        }
        if let Some(change) = change {
            self.admit(index, change);
        }
    }

    /// Carries a breaker's change to the node, the log and the metrics.
    fn admit(&mut self, index: usize, change: Transition) {
        let limits = &self.settings.lag;
        let Some(watched) = self.nodes.get_mut(index) else { return };
        let node = &watched.node;
        let (shard, name) = (&self.settings.shard.name, &node.name);
        let lag_ms = node.lag().map(|lag| lag.as_millis());
        match change.to {
            Admission::Ejected(reason) => {
                if !matches!(change.from, Admission::Ejected(before) if before != EjectReason::Starting) {
                    watched.metrics.count_ejection(reason);
                }
                warn!(%shard, node = %name, reason = reason.name(), lag_ms, "replica ejected: no reads go there");
                self.audit.tell(watched.ejected(reason));
            }
            Admission::Probation => {
                self.audit.tell(watched.returned("probation"));
                info!(%shard, node = %name, reads = limits.probation_reads, lag_ms, "replica on probation");
            }
            Admission::Admitted => {
                self.audit.tell(watched.returned("admitted"));
                info!(%shard, node = %name, lag_ms, "replica admitted: reads go there");
            }
        }
        node.set_admission(change.to, if change.to == Admission::Probation { limits.probation_reads } else { 0 });
    }
}

/// A replica's lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lag {
    time: std::time::Duration,
    bytes: u64,
    /// Otherwise it is at least this.
    exact: bool,
}

/// Lag of a standby that is on the primary's timeline.
///
/// A standby that has received all that the primary has flushed, and waits for the rest of a record,
/// has replayed all that it can: an open transaction's last record may stay cut at a page
/// boundary for as long as nobody flushes more.
fn measure(clock: &WalClock, answer: &Answer, now: Instant) -> Option<Lag> {
    let Answer::Standby { replay, received, waits_for_wal, .. } = *answer else { return None };
    let newest = clock.newest()?;
    let bytes = newest.0.saturating_sub(replay.lsn.0);
    let time = clock.lag_of(replay.lsn, now)?;
    if waits_for_wal && received >= newest {
        return Some(Lag { time: std::time::Duration::ZERO, bytes, exact: true });
    }
    Some(Lag { time, bytes, exact: clock.covers(replay.lsn) })
}

impl Watched {
    /// Whether WAL has not arrived, although the primary had more, for longer than `bound`.
    fn is_stalled(&mut self, clock: &WalClock, bound: std::time::Duration, now: Instant) -> bool {
        let Some(Answered { answer: Answer::Standby { received, receiver, .. }, .. }) = self.last else { return false };
        let lacks = clock.newest().is_some_and(|newest: Lsn| received < newest);
        let hears = match receiver {
            Receiver::Gone | Receiver::Idle => false,
            Receiver::Streaming(silent) => silent <= bound,
            Receiver::Hidden => true,
        };
        if !lacks || hears {
            self.lacks_wal_since = None;
            return false;
        }
        now.saturating_duration_since(*self.lacks_wal_since.get_or_insert(now)) > bound
    }
}

fn note_answer(watched: &mut Watched, facts: Facts, answer: Answer, asked_at: Instant) {
    let (shard, node) = (Arc::clone(&watched.shard), Arc::clone(&watched.node));
    watched.metrics.count_poll(PollOutcome::Answered);
    if watched.life.is_some_and(|life| life != facts.life) && node.is_reachable() {
        warn!(%shard, node = %node.name, "server restarted");
        node.end_incarnation();
    } else if watched.last.is_some_and(|last| last.answer.in_recovery() != answer.in_recovery()) {
        info!(%shard, node = %node.name, in_recovery = answer.in_recovery(), "server changed its part");
        node.end_incarnation();
    }
    if !node.is_reachable() {
        info!(%shard, node = %node.name, in_recovery = answer.in_recovery(), "server answers");
        node.set_reachable(true);
    }
    let answer = watched.keep_timeline(answer, &facts);
    watched.life = Some(facts.life);
    watched.last = Some(Answered { system_identifier: facts.system_identifier, answer, asked_at });
    if matches!(answer, Answer::Standby { receiver: Receiver::Hidden, .. }) && !watched.warned_of_privileges {
        watched.warned_of_privileges = true;
        warn!(%shard, node = %node.name, "the monitor's account may not see the WAL receiver: grant it pg_monitor");
    }
}

fn note_failure(watched: &mut Watched, error: &PollError) {
    let (shard, node) = (&watched.shard, &watched.node);
    watched.metrics.count_poll(PollOutcome::Failed);
    if node.is_reachable() {
        warn!(%shard, node = %node.name, %error, "server does not answer the monitor");
        node.set_reachable(false);
        node.end_incarnation();
    } else if !watched.failed_before {
        warn!(%shard, node = %node.name, %error, "server does not answer the monitor");
    }
    watched.failed_before = true;
    watched.lacks_wal_since = None;
    watched.last = None;
}

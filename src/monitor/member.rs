//! What a shard's watch keeps of one node between reports.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::info;

use super::breaker::Breaker;
use super::poll::{PollSettings, Poller, Report};
use super::question::{Answer, Facts};
use super::roles::Identity;
use super::settings::ShardSettings;
use crate::audit::{Event, Name};
use crate::config;
use crate::telemetry::metrics::NodeMetrics;
use crate::topology::{Admission, EjectReason, Node, Position, Role};

/// An answer and when it was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    pub(super) system_identifier: i64,
    pub(super) answer: Answer,
    pub(super) asked_at: Instant,
}

/// One node under watch.
pub(super) struct Watched {
    pub(super) shard: Arc<str>,
    pub(super) node: Arc<Node>,
    pub(super) role: Role,
    /// Of the last poll; `None` when that failed.
    pub(super) last: Option<Answered>,
    /// Whether a poll is over, answered or not.
    pub(super) asked: bool,
    /// Which life of the server answered last; outlasts the times when it does not answer.
    pub(super) life: Option<(i64, Option<i64>)>,
    /// Only a replica has one.
    pub(super) breaker: Option<Breaker>,
    pub(super) lacks_wal_since: Option<Instant>,
    pub(super) failed_before: bool,
    pub(super) warned_of_privileges: bool,
    pub(super) metrics: NodeMetrics,
    newest_timeline: u32,
    settings: watch::Sender<PollSettings>,
    poller: AbortHandle,
}

impl Watched {
    /// Makes the node and starts its poller.
    pub(super) fn new(
        configured: &config::Node,
        settings: &ShardSettings,
        pollers: &mut JoinSet<()>,
        (kicks, reports): (watch::Receiver<u64>, mpsc::Sender<Report>),
        epoch: Instant,
    ) -> Self {
        let node = Arc::new(Node::new(configured.host.clone(), configured.port, configured.weight));
        let shard: Arc<str> = settings.shard.name.as_str().into();
        let (sender, receiver) = watch::channel(settings.polls(Role::Unknown));
        let poller = Poller::new(Arc::clone(&node), receiver, kicks, reports, epoch);
        Self {
            metrics: NodeMetrics::new(&shard, &node.name),
            shard,
            node,
            role: Role::Unknown,
            last: None,
            asked: false,
            life: None,
            breaker: None,
            lacks_wal_since: None,
            failed_before: false,
            warned_of_privileges: false,
            newest_timeline: 0,
            settings: sender,
            poller: pollers.spawn(poller.run()),
        }
    }

    /// For the decision on roles.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.last.map(|last| Identity {
            in_recovery: last.answer.in_recovery(),
            timeline: last.answer.position().timeline,
            system_identifier: last.system_identifier,
        })
    }

    /// It has played another part until now.
    pub(super) fn role_changed(&self, from: Role) -> Event {
        let (shard, node) = self.place();
        Event::RoleChanged { shard, node, from: from.name(), to: self.role.name() }
    }

    /// It gets no reads.
    pub(super) fn ejected(&self, reason: EjectReason) -> Event {
        let (shard, node) = self.place();
        let lag_seconds = self.node.lag().map(|lag| lag.as_secs_f64());
        Event::ReplicaEjected { shard, node, reason: reason.name(), lag_seconds }
    }

    /// It gets reads.
    pub(super) fn returned(&self, state: &'static str) -> Event {
        let (shard, node) = self.place();
        Event::ReplicaReturned { shard, node, state }
    }

    fn place(&self) -> (Name, Name) {
        ((&self.shard).into(), (&self.node.name).into())
    }

    /// Takes a role on; true when it is a new one.
    pub(super) fn set_role(&mut self, role: Role, reason: Option<EjectReason>, shard: &str) -> bool {
        if role == Role::Unknown {
            let reason = reason.unwrap_or(EjectReason::Starting);
            self.node.set_admission(Admission::Ejected(reason), 0);
        }
        if role == self.role {
            return false;
        }
        info!(%shard, node = %self.node.name, from = self.role.name(), to = role.name(), "role");
        match role {
            Role::Replica => {
                // A primary that became a standby has to earn its way in; a node that is new has not.
                let breaker = if self.role == Role::Primary { Breaker::returning() } else { Breaker::starting() };
                self.node.set_admission(breaker.admission(), 0);
                self.breaker = Some(breaker);
            }
            Role::Primary => {
                self.node.set_admission(Admission::Ejected(EjectReason::NotAMember), 0);
                self.breaker = None;
            }
            Role::Unknown => self.breaker = None,
        }
        self.lacks_wal_since = None;
        self.node.set_lag(None);
        self.role = role;
        self.settings.send_if_modified(|settings| {
            let late = role != Role::Primary;
            std::mem::replace(&mut settings.late, late) != late
        });
        true
    }

    /// After a reload.
    pub(super) fn tell_poller(&self, settings: &ShardSettings) {
        let polls = settings.polls(self.role);
        self.settings.send_if_modified(|current| {
            let changed = *current != polls;
            *current = polls;
            changed
        });
    }

    /// A standby without a WAL receiver tells its timeline by its control file, which may lag; but a server never
    /// goes back to an older timeline while it lives.
    pub(super) fn keep_timeline(&mut self, answer: Answer, facts: &Facts) -> Answer {
        if self.life != Some(facts.life) {
            self.newest_timeline = 0;
        }
        self.newest_timeline = self.newest_timeline.max(answer.position().timeline);
        match answer {
            Answer::Standby { replay, received, receiver, waits_for_wal } => {
                let replay = Position { timeline: self.newest_timeline, ..replay };
                Answer::Standby { replay, received, receiver, waits_for_wal }
            }
            primary @ Answer::Primary { .. } => primary,
        }
    }

    /// It is in the config no more.
    pub(super) fn leave(self) {
        info!(shard = %self.shard, node = %self.node.name, "node left the config");
        self.poller.abort();
        self.node.set_sample(None);
        self.node.set_lag(None);
        self.node.set_admission(Admission::Ejected(EjectReason::NotAMember), 0);
        self.node.set_reachable(false);
        // No `end_incarnation`: a statement that runs there now may finish.
    }
}

//! One question, one answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Horizon, Reason};
use crate::config::{ConsistencyLevel, WhenNone};
use crate::topology::{Admission, EjectReason, Node, Position, Role, Shard};

/// What `SET pgsluice.route` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteSetting {
    /// By what the statement does.
    #[default]
    Auto,
    /// Everything to the primary.
    Primary,
    /// Everything to a replica that is fresh enough; what replicas refuse fails.
    Replica,
}

impl RouteSetting {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Primary, Self::Replica];

    /// As in `SET pgsluice.route`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// What a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A replica will do; with the reason that it is given when it gets one.
    Replica(Reason),
    /// The primary.
    Primary(Reason),
}

/// All that a decision depends on.
#[derive(Debug)]
pub struct Question<'a> {
    /// As last learnt.
    pub shard: &'a Shard,
    /// What the statement needs.
    pub demand: Demand,
    /// What reads may see.
    pub level: ConsistencyLevel,
    /// At level `bounded`: how old what they see may be.
    pub max_staleness: Duration,
    /// What the session asked for.
    pub route: RouteSetting,
    /// What the session, and those with the same session key, have seen; asked at level `session`.
    pub session: &'a [&'a Horizon],
    /// Changes of the catalog in this database; asked at every level.
    pub catalog: &'a Horizon,
    /// `lag.when_none`
    pub when_none: WhenNone,
    /// Nodes that have just failed this statement.
    pub excluded: &'a [Arc<Node>],
    /// Its answer can be thrown away: a replica may be asked that is not known to be fresh but was no further behind
    /// than this when it was last heard of. `None`: it may not.
    pub may_prove: Option<Duration>,
    /// Nothing is going to be sent: a node on probation keeps the few reads that it is given.
    pub is_rehearsal: bool,
    /// The time.
    pub now: Instant,
}

/// Where to, and why.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node.
    pub node: Arc<Node>,
    /// What it is.
    pub role: Role,
    /// Why.
    pub reason: Reason,
    /// What the node must say that it has replayed, before the statement runs there and on the same connection.
    pub proof: Option<Position>,
}

/// Why there is nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No primary is known, or it has just failed.
    NoPrimary,
    /// The session wants a replica, or the operator wants reads on replicas only, and there is none.
    NoReplica,
    /// There are replicas, but none is known to show what the session has seen.
    NoFreshReplica,
}

impl Refusal {
    /// For rows and logs: a closed set.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPrimary => "no_primary",
            Self::NoReplica => "no_eligible_replica",
            Self::NoFreshReplica => "no_fresh_replica",
        }
    }

    /// What a client is told.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoPrimary => "no primary is known for this shard",
            Self::NoReplica => "no replica is eligible for reads",
            Self::NoFreshReplica => "no replica is known to have what this session has seen",
        }
    }
}

/// Decides. `dice(n)` gives a number below `n`.
pub fn decide(question: &Question<'_>, mut dice: impl FnMut(u32) -> u32) -> Result<Plan, Refusal> {
    match (question.route, question.demand, question.level) {
        (RouteSetting::Replica, ..) => replica(question, &mut dice)
            .map(|(node, proof)| Plan { proof, ..plan(node, Role::Replica, Reason::RouteReplica) })
            .map_err(|obstacle| match obstacle {
                Obstacle::NotAdmitted => Refusal::NoReplica,
                Obstacle::NotFresh => Refusal::NoFreshReplica,
            }),
        (RouteSetting::Primary, ..) => primary(question, Reason::RoutePrimary),
        (_, Demand::Primary(reason), _) => primary(question, reason),
        (_, _, ConsistencyLevel::Primary | ConsistencyLevel::Strong) => primary(question, Reason::ConsistencyPrimary),
        (_, Demand::Replica(reason), _) => match replica(question, &mut dice) {
            Ok((node, proof)) => Ok(Plan { proof, ..plan(node, Role::Replica, reason) }),
            Err(Obstacle::NotFresh) => primary(question, Reason::NotFresh),
            Err(Obstacle::NotAdmitted) => without_replica(question),
        },
    }
}

fn plan(node: Arc<Node>, role: Role, reason: Reason) -> Plan {
    Plan { node, role, reason, proof: None }
}

fn primary(question: &Question<'_>, reason: Reason) -> Result<Plan, Refusal> {
    let node = question.shard.primary().filter(|node| !is_excluded(question, node)).ok_or(Refusal::NoPrimary)?;
    Ok(plan(Arc::clone(node), Role::Primary, reason))
}

fn is_excluded(question: &Question<'_>, node: &Arc<Node>) -> bool {
    question.excluded.iter().any(|excluded| Arc::ptr_eq(excluded, node))
}

enum Obstacle {
    /// The breaker lets none through.
    NotAdmitted,
    /// Those that it lets through are not fresh enough for this session.
    NotFresh,
}

/// What a replica is to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may answer.
    Eligible,
    /// It may answer while it has some of its few reads left.
    Probation,
    /// It may answer if it proves first that it has replayed this.
    Provable(Position),
    /// It is not known to show what has to be shown.
    NotFresh,
    /// The breaker keeps it out.
    Ejected(EjectReason),
    /// It has just failed this statement.
    Excluded,
}

/// What `node`, a replica, is to this question; with `needed` of [`needed`].
pub(super) fn standing(question: &Question<'_>, node: &Arc<Node>, needed: Option<Position>) -> Standing {
    if is_excluded(question, node) {
        return Standing::Excluded;
    }
    let admission = node.admission();
    let is_close = || node.lag().is_some_and(|lag| Some(lag) <= question.may_prove);
    match (admission, needed) {
        (Admission::Ejected(reason), _) => Standing::Ejected(reason),
        (Admission::Admitted, Some(needed)) if !is_fresh(question, node) && is_close() => Standing::Provable(needed),
        _ if !is_fresh(question, node) => Standing::NotFresh,
        (Admission::Probation, _) => Standing::Probation,
        (Admission::Admitted, _) => Standing::Eligible,
    }
}

fn is_fresh(question: &Question<'_>, node: &Arc<Node>) -> bool {
    let is_fresh_for_the_session = match question.level {
        ConsistencyLevel::Session => question.session.iter().all(|seen| seen.allows(node)),
        ConsistencyLevel::Bounded => node.staleness(question.now).is_some_and(|age| age <= question.max_staleness),
        ConsistencyLevel::Strong | ConsistencyLevel::Primary | ConsistencyLevel::Eventual => true,
    };
    is_fresh_for_the_session && question.catalog.allows(node)
}

/// Where all that must be shown is known by position: which.
pub(super) fn needed(question: &Question<'_>) -> Option<Position> {
    let seen: &[&Horizon] = match question.level {
        ConsistencyLevel::Session => question.session,
        // An age is no position.
        ConsistencyLevel::Bounded => return None,
        ConsistencyLevel::Strong | ConsistencyLevel::Primary | ConsistencyLevel::Eventual => &[],
    };
    let mut needed = question.catalog.needed()?;
    for horizon in seen {
        needed = match (needed, horizon.needed()?) {
            (Some(one), Some(other)) => Some(one.covering(other)?),
            (one, other) => one.or(other),
        };
    }
    needed
}

/// A replica, and what it has to prove.
fn replica(
    question: &Question<'_>,
    dice: &mut impl FnMut(u32) -> u32,
) -> Result<(Arc<Node>, Option<Position>), Obstacle> {
    let mut obstacle = Obstacle::NotAdmitted;
    let mut candidates: Vec<&Arc<Node>> = Vec::new();
    let mut provable: Vec<&Arc<Node>> = Vec::new();
    let needed = question.may_prove.and_then(|_| needed(question));
    for node in question.shard.replicas() {
        match standing(question, node, needed) {
            Standing::Ejected(_) | Standing::Excluded => {}
            Standing::NotFresh => obstacle = Obstacle::NotFresh,
            Standing::Provable(_) => {
                obstacle = Obstacle::NotFresh;
                provable.push(node);
            }
            // A node on probation is tried with its few reads before the others.
            Standing::Probation if takes_probation_read(question, node) => return Ok((Arc::clone(node), None)),
            Standing::Probation => {}
            Standing::Eligible => candidates.push(node),
        }
    }
    if let Some(node) = less_loaded(&candidates, dice) {
        return Ok((Arc::clone(node), None));
    }
    match (needed, less_loaded(&provable, dice)) {
        (Some(position), Some(node)) => Ok((Arc::clone(node), Some(position))),
        _ => Err(obstacle),
    }
}

fn takes_probation_read(question: &Question<'_>, node: &Node) -> bool {
    if question.is_rehearsal { node.probation_reads_left() > 0 } else { node.take_probation_read() }
}

/// The less loaded of two that are picked by weight: Mitzenmacher, *The Power of Two Choices in
/// Randomized Load Balancing* (2001).
fn less_loaded<'a>(candidates: &[&'a Arc<Node>], dice: &mut impl FnMut(u32) -> u32) -> Option<&'a Arc<Node>> {
    let first = pick(candidates, None, dice)?;
    let Some(second) = pick(candidates, Some(first), dice) else { return Some(candidates[first]) };
    let [first, second] = [candidates[first], candidates[second]];
    let load = |node: &Node| u64::from(node.outstanding()) + 1;
    let is_first_lighter = load(first) * u64::from(second.weight()) <= load(second) * u64::from(first.weight());
    Some(if is_first_lighter { first } else { second })
}

fn pick(candidates: &[&Arc<Node>], except: Option<usize>, dice: &mut impl FnMut(u32) -> u32) -> Option<usize> {
    let weights = || {
        candidates
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != except)
            .map(|(index, node)| (index, node.weight()))
    };
    let total: u32 = weights().map(|(_, weight)| weight).sum();
    let mut left = if total == 0 { return None } else { dice(total) };
    for (index, weight) in weights() {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    None
}

fn without_replica(question: &Question<'_>) -> Result<Plan, Refusal> {
    match question.when_none {
        WhenNone::Primary => primary(question, Reason::NoReplica),
        WhenNone::Stalest => {
            let furthest = question
                .shard
                .replicas()
                .filter(|node| !is_excluded(question, node) && node.is_reachable() && is_fresh(question, node))
                .max_by_key(|node| node.sample().map(|sample| (sample.position.timeline, sample.position.lsn)));
            match furthest {
                Some(node) => Ok(plan(Arc::clone(node), Role::Replica, Reason::Stalest)),
                None => primary(question, Reason::NoReplica),
            }
        }
        WhenNone::Error => Err(Refusal::NoReplica),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

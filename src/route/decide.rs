//! One question, one answer.

use std::sync::Arc;
use std::time::Duration;

use super::{Horizon, Reason};
use crate::config::{ConsistencyLevel, WhenNone};
use crate::topology::{Admission, Node, Position, Role, Shard};

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
    /// What the session asked for.
    pub route: RouteSetting,
    /// What the session has seen; asked at level `session`.
    pub session: &'a Horizon,
    /// Changes of the catalog in this database; asked at every level.
    pub catalog: &'a Horizon,
    /// `lag.when_none`
    pub when_none: WhenNone,
    /// Nodes that have just failed this statement.
    pub excluded: &'a [Arc<Node>],
    /// Its answer can be thrown away: a replica may be asked that is not known to be fresh but was no further behind
    /// than this when it was last heard of. `None`: it may not.
    pub may_prove: Option<Duration>,
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
        (_, _, ConsistencyLevel::Primary) => primary(question, Reason::ConsistencyPrimary),
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

fn is_fresh(question: &Question<'_>, node: &Arc<Node>) -> bool {
    question.catalog.allows(node) && (question.level != ConsistencyLevel::Session || question.session.allows(node))
}

/// Where all that must be shown is known by position: which.
fn needed(question: &Question<'_>) -> Option<Position> {
    let catalog = question.catalog.needed()?;
    let session = if question.level == ConsistencyLevel::Session { question.session.needed()? } else { None };
    match (session, catalog) {
        (Some(session), Some(catalog)) => session.covering(catalog),
        (session, catalog) => session.or(catalog),
    }
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
    for node in question.shard.replicas().filter(|node| !is_excluded(question, node)) {
        match node.admission() {
            Admission::Ejected(_) => continue,
            admission if !is_fresh(question, node) => {
                obstacle = Obstacle::NotFresh;
                if admission == Admission::Admitted && node.lag().is_some_and(|lag| Some(lag) <= question.may_prove) {
                    provable.push(node);
                }
            }
            // A node on probation is tried with its few reads before the others.
            Admission::Probation if node.take_probation_read() => return Ok((Arc::clone(node), None)),
            Admission::Probation => {}
            Admission::Admitted => candidates.push(node),
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

//! A decision with what was thought of each node: the rows of `EXPLAIN ROUTE`.

use std::sync::Arc;
use std::time::Duration;

use super::decide::{Standing, needed, standing};
use super::{Demand, Plan, Question, Refusal, decide};
use crate::topology::{EjectReason, Member, Node, Position, Role};

/// What `EXPLAIN ROUTE` says of one node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Considered {
    /// The shard's name.
    pub shard: String,
    /// `host:port`; `None` in a line that tells why there is nowhere to go.
    pub node: Option<String>,
    /// `primary`, `replica` or `unknown`.
    pub role: Option<&'static str>,
    /// [`Reason::name`], of the node that was chosen; or [`Refusal::name`].
    pub reason: Option<&'static str>,
    /// Why it was chosen, or was not.
    pub considered: String,
}

/// Decides, without taking anything from anybody, and says of each node what was thought of it: first
/// of the one that was chosen, then of the others in the config's order.
pub fn explain(question: &Question<'_>) -> Vec<Considered> {
    let rehearsal = Question { is_rehearsal: true, ..*question };
    let decision = decide(&rehearsal, |_| 0);
    let needed_of_all = question.may_prove.and_then(|_| needed(question));
    let is_chosen = |node: &Arc<Node>| decision.as_ref().is_ok_and(|plan| Arc::ptr_eq(&plan.node, node));
    let mut rows = Vec::with_capacity(question.shard.nodes.len() + 1);
    if let Err(refusal) = &decision {
        rows.push(Considered {
            shard: question.shard.name.to_string(),
            node: None,
            role: None,
            reason: Some(refusal.name()),
            considered: refusal.message().to_owned(),
        });
    }
    for Member { node, role } in &question.shard.nodes {
        let row = |reason, considered| Considered {
            shard: question.shard.name.to_string(),
            node: Some(node.name.to_string()),
            role: Some(role.name()),
            reason,
            considered,
        };
        match &decision {
            Ok(plan) if is_chosen(node) => rows.insert(0, row(Some(plan.reason.name()), why(plan))),
            _ => rows.push(row(None, why_not(question, &decision, needed_of_all, node, *role))),
        }
    }
    rows
}

fn why(plan: &Plan) -> String {
    match plan.proof {
        Some(position) => format!("chosen; it has to prove first that it has replayed {}", position.lsn),
        None => format!("chosen: {}", plan.reason.meaning()),
    }
}

fn why_not(
    question: &Question<'_>,
    decision: &Result<Plan, Refusal>,
    needed: Option<Position>,
    node: &Arc<Node>,
    role: Role,
) -> String {
    match role {
        Role::Unknown => "its role is not known: it does not answer, or is not to be believed".to_owned(),
        Role::Primary => "not needed: a replica will do".to_owned(),
        Role::Replica if question.demand_is_for_primary() => "takes no such statement".to_owned(),
        Role::Replica => {
            let is_read_there = matches!(decision, Ok(plan) if plan.role == Role::Replica);
            match standing(question, node, needed) {
                Standing::Eligible if is_read_there => "eligible; another one was picked by load".to_owned(),
                Standing::Eligible => "eligible".to_owned(),
                Standing::Probation => "on probation: it is given a few reads only".to_owned(),
                Standing::Provable(position) => {
                    format!("not known to have replayed {}; it could prove it", position.lsn)
                }
                Standing::NotFresh => not_fresh(question, node),
                Standing::Ejected(reason) => ejected(reason, node),
                Standing::Excluded => "has just failed this statement".to_owned(),
            }
        }
    }
}

fn not_fresh(question: &Question<'_>, node: &Node) -> String {
    let at = node.lsn().map_or("an unknown position".to_owned(), |lsn| lsn.to_string());
    match needed(question) {
        Some(position) => format!("not fresh: it has replayed {at}, and {} is needed", position.lsn),
        None => format!("not fresh: it has replayed {at}; what this session has seen is not known by position yet"),
    }
}

fn ejected(reason: EjectReason, node: &Node) -> String {
    let lag = node.lag().map(|lag| format!(" (replay lag {:?})", Duration::from_micros(micros(lag))));
    format!("ejected: {}{}", reason.name(), lag.unwrap_or_default())
}

fn micros(lag: Duration) -> u64 {
    u64::try_from(lag.as_micros()).unwrap_or(u64::MAX)
}

impl Question<'_> {
    fn demand_is_for_primary(&self) -> bool {
        use super::RouteSetting::{Auto, Primary, Replica};
        use crate::config::ConsistencyLevel::{Primary as OnPrimary, Strong};
        match self.route {
            Replica => false,
            Primary => true,
            Auto => matches!(self.demand, Demand::Primary(_)) || matches!(self.level, OnPrimary | Strong),
        }
    }
}

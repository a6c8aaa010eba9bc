//! Statements that pgsluice answers out of its own knowledge: `EXPLAIN ROUTE` and `SHOW pgsluice.…`.
//!
//! The answer is put into SQL that a server then says: so it comes in its place in the pipeline, in the
//! client's format and encoding, and fails in a failed transaction, as any other statement's would.
//! It is made anew for each execution, also of a statement that was prepared long ago.

use std::sync::Arc;

use super::Session;
use super::place::{Parsed, Place};
use super::understand::Understood;
use crate::config::PoolMode;
use crate::pool::{Identity, quote_literal};
use crate::proxy::Proxy;
use crate::route::{Considered, Demand, Reason, explain};
use crate::sql::{Analysis, Kind, PrimaryCause, explained_by_route, judge_with_name};
use crate::topology::Position;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// What `EXPLAIN ROUTE` answers for a text that says nothing.
const NO_ROWS: &str = "SELECT NULL::text, NULL::text, NULL::text, NULL::text, NULL::text WHERE false";

/// Where the statement would go from a session of that user's that has set nothing, and has seen nothing but what is
/// at `seen`.
pub fn explain_new_session(
    proxy: &Arc<Proxy>,
    identity: Identity,
    sql: &str,
    seen: Option<Position>,
) -> Vec<Considered> {
    let mut session = Session::of_nobody(proxy, identity, Arc::default());
    if let Some(position) = seen {
        session.horizons.of(&Arc::from(&*session.first_shard())).must_see(position);
    }
    let text = sql.as_bytes();
    // Whoever asks from outside may have copied the whole of it.
    let is_asked_twice = matches!(&*proxy.analyses.analyse(text).statements, [one] if one.kind == Kind::ExplainRoute);
    session.explain_route(explained_by_route(text).filter(|_| is_asked_twice).unwrap_or(text))
}

impl Session {
    /// The SQL to send instead of a text that only pgsluice can answer.
    pub(super) fn own_answer(&mut self, analysis: &Analysis, text: &[u8]) -> Option<String> {
        if !analysis.is_own() {
            return None;
        }
        match &analysis.statements.first()?.kind {
            Kind::ExplainRoute => Some(rows_as_sql(&self.explain_route(explained_by_route(text)?))),
            Kind::ShowOwn { name } => Some(self.show_own(name)),
            _ => None,
        }
    }

    /// Where the statement would go if it came now, on this session.
    fn explain_route(&mut self, text: &[u8]) -> Vec<Considered> {
        let analysis = self.proxy.analyses.analyse(text);
        if let Some(reply) = self.objection(&analysis) {
            return vec![self.refused(&reply)];
        }
        if let Some(held) = self.held_by() {
            return vec![held];
        }
        let mut understood = Understood::nothing(Demand::Replica(Reason::FreshReplica));
        understood.runs = analysis.statements.len();
        understood.is_repeatable = true;
        understood.analyses.push(Arc::clone(&analysis));
        self.decide_demand(&mut understood, [text]);
        let detail = self.culprit(&analysis, understood.demand);
        let may_prove = self.may_prove(&understood);
        let shards = match self.shards_of(&mut understood, text) {
            Ok(shards) => shards,
            Err(reply) => return vec![self.refused(&reply)],
        };
        let mut rows = Vec::new();
        for shard in &shards {
            let mut of_shard = self.with_question(&understood, shard, &[], may_prove, explain).unwrap_or_default();
            let chosen = of_shard.iter_mut().find(|row| row.node.is_some() && row.reason.is_some());
            if let (Place::Merged(_), Some(chosen)) = (&understood.place, chosen) {
                chosen.reason = Some(Reason::Merged.name());
                chosen.considered = format!("{}; {}", chosen.considered, Reason::Merged.meaning());
            }
            rows.extend(of_shard);
        }
        if let (Some(detail), Some(first)) = (detail, rows.first_mut()) {
            first.considered = format!("{}: {detail}", first.considered);
        }
        rows
    }

    /// The shards that it would go to.
    fn shards_of(&self, understood: &mut Understood, text: &[u8]) -> Result<Vec<Arc<str>>, ErrorReply> {
        if self.is_sharded {
            let analysis = self.proxy.analyses.analyse(text);
            let place = self.place_of(&Parsed { analysis, text, types: b"" }, None);
            understood.place = place.unwrap_or(Place::Any);
            if let Place::Together(_) = understood.place {
                understood.demand = Demand::Primary(Reason::Coordinator);
            }
        }
        match &understood.place {
            Place::Refused(reply) | Place::Moving(reply) => Err(ErrorReply::clone(reply)),
            Place::Everywhere(scatter) => {
                let topology = self.proxy.topology.load();
                let all = topology.shards.iter().map(|shard| Arc::clone(&shard.name));
                Ok(all.filter(|shard| scatter.involves(shard)).collect())
            }
            Place::Merged(merging) => Ok(merging.shards.to_vec()),
            Place::RowByRow => {
                Ok(self.proxy.topology.load().shards.iter().map(|shard| Arc::clone(&shard.name)).collect())
            }
            Place::Any | Place::One(_) | Place::Together(_) | Place::InTurn => Ok(vec![self.shard_for(understood)?]),
        }
    }

    /// The statement would be answered with this error, here.
    fn refused(&self, reply: &ErrorReply) -> Considered {
        Considered {
            shard: self.first_shard(),
            node: None,
            role: None,
            reason: None,
            considered: format!("refused: {} ({})", reply.message, reply.sqlstate),
        }
    }

    fn first_shard(&self) -> String {
        self.proxy.topology.load().shards.first().map_or_else(String::new, |shard| shard.name.to_string())
    }

    /// The server that whatever comes goes to, since a transaction is open there or state is kept there.
    fn held_by(&self) -> Option<Considered> {
        let server = self.server.as_ref()?;
        let why = if self.status != TransactionStatus::Idle {
            "chosen: the open transaction is there".to_owned()
        } else if let Some(pin) = self.pins.first() {
            format!("chosen: this session is pinned there by {}", pin.name())
        } else if self.proxy.config.load().pool.mode == PoolMode::Session {
            "chosen: with session pooling a client keeps one server connection".to_owned()
        } else {
            return None;
        };
        Some(Considered {
            shard: server.shard.to_string(),
            node: Some(server.checkout.node.name.to_string()),
            role: Some(server.role.name()),
            reason: Some(server.reason.name()),
            considered: why,
        })
    }

    /// The function or relation because of which a statement belongs on the primary.
    fn culprit(&self, analysis: &Analysis, demand: Demand) -> Option<String> {
        let Demand::Primary(Reason::Statement(cause)) = demand else { return None };
        let catalog = self.proxy.catalogs().get(&self.identity.database);
        let causes = |statement| judge_with_name(statement, catalog.as_deref());
        let named = |(found, name): (PrimaryCause, Option<&crate::sql::Name>)| {
            Some(name.filter(|_| found == cause)?.to_string())
        };
        analysis.statements.iter().find_map(|statement| causes(statement).and_then(named))
    }
}

/// The rows as a query. Everything in it is ASCII or a name that the servers themselves know.
fn rows_as_sql(rows: &[Considered]) -> String {
    let cell = |text: Option<&str>| match text {
        Some(text) => format!("{}::pg_catalog.text", quote_literal(text)),
        None => "NULL::pg_catalog.text".to_owned(),
    };
    let line = |row: &Considered| {
        let cells = [Some(&*row.shard), row.node.as_deref(), row.role, row.reason, Some(&*row.considered)];
        format!("({})", cells.map(cell).join(", "))
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    let values = if lines.is_empty() { NO_ROWS.to_owned() } else { format!("VALUES {}", lines.join(", ")) };
    format!("SELECT * FROM ({values}) AS route (shard, node, role, reason, considered)")
}

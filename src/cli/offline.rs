//! Where a statement would go, asked of the config alone.
//!
//! The answer is made by the function that decides when pgsluice runs, about servers that are made up: all that the
//! config does not say is supposed, and told. Connects to nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::config::Config;
use crate::pool::Identity;
use crate::proxy::Proxy;
use crate::route::{Considered, Reason};
use crate::session::explain_new_session;
use crate::sql::PrimaryCause;
use crate::topology::{Admission, EjectReason, Lsn, Member, Position, Role, Sample, Shard, Topology};

/// What is supposed of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supposed {
    /// Every replica takes reads, and has replayed everything.
    Fresh,
    /// Every replica takes reads, and none is known to have what the session has seen.
    Behind,
    /// No replica takes reads.
    Ejected,
}

impl Supposed {
    fn condition(self) -> &'static str {
        match self {
            Self::Fresh => "a replica is eligible and fresh",
            Self::Behind => "no replica is fresh enough for the session",
            Self::Ejected => "no replica is eligible",
        }
    }
}

/// A decision under a condition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Supposition {
    /// What has to be so.
    pub(super) when: &'static str,
    /// `primary` or `replica`; `None` where the statement is refused.
    pub(super) role: Option<&'static str>,
    /// As in metrics and `EXPLAIN ROUTE`.
    pub(super) reason: Option<&'static str>,
    /// The reason in words.
    pub(super) considered: String,
}

/// What the config alone can tell.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Answer {
    /// The shard.
    pub(super) shard: String,
    /// The decision when all is well; others that differ from it follow.
    pub(super) decisions: Vec<Supposition>,
    /// Nodes that it may go to, as far as their roles allow.
    pub(super) candidates: Vec<String>,
    /// What would have to be asked of the servers.
    pub(super) not_known: Vec<String>,
}

/// Decides about the statement under each supposition.
///
/// # Errors
/// The system gives no runtime.
pub(super) fn explain(mut config: Config, database: &str, user: &str, sql: &str) -> anyhow::Result<Answer> {
    // Nothing is to be written.
    config.audit.file = None;
    // Nobody is served.
    config.listen.workers = 1;
    // On this runtime nothing runs but the block below, which does not wait: what a proxy spawns to watch its servers
    // never begins.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(async {
        let proxy = Proxy::start(config)?;
        let identity = Identity { user: user.into(), database: database.into() };
        let told = |supposed| suppose(&proxy, identity.clone(), sql, supposed);
        let first = told(Supposed::Fresh);
        let shard = first.shard.clone();
        let mut decisions = vec![supposition(Supposed::Fresh, first)];
        for supposed in [Supposed::Behind, Supposed::Ejected] {
            let other = supposition(supposed, told(supposed));
            if (other.role, other.reason) != (decisions[0].role, decisions[0].reason) {
                decisions.push(other);
            }
        }
        let candidates = nodes(&proxy, &shard);
        if decisions.len() == 1 {
            decisions[0].when = "always";
        }
        let not_known = not_known(&decisions[0], candidates.len());
        Ok(Answer { shard, decisions, candidates, not_known })
    })
}

/// Gives the servers what is supposed of them, and asks. The first one plays the primary.
fn suppose(proxy: &Arc<Proxy>, identity: Identity, sql: &str, supposed: Supposed) -> Considered {
    let now = Instant::now();
    let current = proxy.topology.load_full();
    let shards = current.shards.iter().map(|shard| {
        let nodes = shard.nodes.iter().enumerate().map(|(index, member)| {
            let node = Arc::clone(&member.node);
            node.set_reachable(true);
            node.set_sample(Some(Sample { asked_at: now, position: Position { timeline: 1, lsn: Lsn(1) } }));
            let (lag, admission) = match supposed {
                Supposed::Fresh => (Duration::ZERO, Admission::Admitted),
                Supposed::Behind => (Duration::MAX, Admission::Admitted),
                Supposed::Ejected => (Duration::MAX, Admission::Ejected(EjectReason::Lag)),
            };
            node.set_lag(Some((lag, 0)));
            node.set_admission(admission, 0);
            Member { node, role: if index == 0 { Role::Primary } else { Role::Replica } }
        });
        Shard { name: Arc::clone(&shard.name), nodes: nodes.collect() }
    });
    proxy.topology.store(Arc::new(Topology { shards: shards.collect() }));
    let seen = (supposed == Supposed::Behind).then_some(Position { timeline: 1, lsn: Lsn(u64::MAX) });
    let rows = explain_new_session(proxy, identity, sql, seen);
    rows.into_iter().next().unwrap_or_else(|| Considered {
        shard: String::new(),
        node: None,
        role: None,
        reason: None,
        considered: "the config names no servers".to_owned(),
    })
}

fn supposition(supposed: Supposed, row: Considered) -> Supposition {
    let considered = row.considered.strip_prefix("chosen: ").map_or(row.considered.clone(), str::to_owned);
    // Of a statement that is refused no node is chosen, and the row says why.
    let role = row.node.as_ref().and(row.role);
    Supposition { when: supposed.condition(), role, reason: row.reason, considered }
}

fn nodes(proxy: &Proxy, shard: &str) -> Vec<String> {
    let topology = proxy.topology.load();
    let found = topology.shards.iter().find(|known| *known.name == *shard);
    found.map(|shard| shard.nodes.iter().map(|member| member.node.name.to_string()).collect()).unwrap_or_default()
}

fn not_known(decision: &Supposition, nodes: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if nodes > 1 {
        notes.push(
            "which node is the primary; which replicas take reads now, and how far they have replayed".to_owned(),
        );
    }
    let is = |reason: Reason| decision.reason == Some(reason.name());
    if is(Reason::Statement(PrimaryCause::UnknownFunction)) {
        notes.push(
            "whether the function writes: that stands in the database's catalog. If it is STABLE or IMMUTABLE, a \
             replica will do"
                .to_owned(),
        );
    } else if decision.role == Some(Role::Replica.name()) {
        notes.push(
            "the database's catalog: VOLATILE functions behind views and row security policies, and unlogged tables, \
             send it to the primary"
                .to_owned(),
        );
    }
    notes.push("what the session has set, written and read, and whether a transaction is open".to_owned());
    notes.push("whether a standby has refused this statement as a write before".to_owned());
    if is(Reason::Transaction) {
        notes.push("default_transaction_read_only on the servers".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.toml");
        let users = "auth.users = [{ name = 'app', password = 'x' }]\n";
        std::fs::write(&path, format!("{users}{text}")).expect("written");
        Config::load(&path).expect("a valid config")
    }

    /// Role and reason of each decision.
    fn decisions(text: &str, sql: &str) -> Vec<String> {
        let answer = explain(config(text), "app", "app", sql).expect("an answer");
        let shown = |decision: &Supposition| {
            format!("{} {}", decision.role.unwrap_or("nowhere"), decision.reason.unwrap_or("-"))
        };
        answer.decisions.iter().map(shown).collect()
    }

    const THREE: &str = "shards = [{ nodes = ['a:1', 'b:1', 'c:1'] }]\n";

    #[test]
    fn the_function_that_decides_answers() {
        let level = |level: &str| format!("consistency.level = '{level}'\n{THREE}");
        let when_none = |choice: &str| format!("lag.when_none = '{choice}'\n{THREE}");
        let replica = "replica fresh_replica";
        let (behind, none) = ("primary not_fresh", "primary no_replica");
        let cases: Vec<(String, &str, Vec<&str>)> = vec![
            (THREE.into(), "SELECT * FROM t", vec![replica, behind, none]),
            (THREE.into(), "EXPLAIN ROUTE SELECT * FROM t", vec![replica, behind, none]),
            (THREE.into(), "INSERT INTO t VALUES (1)", vec!["primary write"]),
            (THREE.into(), "SELECT 1 FOR UPDATE", vec!["primary locking_clause"]),
            (THREE.into(), "SELECT next_invoice()", vec!["primary unknown_function"]),
            (THREE.into(), "BEGIN", vec!["primary transaction"]),
            (THREE.into(), "BEGIN READ ONLY", vec!["replica read_only_transaction", behind, none]),
            (THREE.into(), "SELEC 1", vec!["primary unparsed"]),
            (THREE.into(), "/* pgsluice: route=primary */ SELECT 1", vec!["primary route_primary"]),
            (
                THREE.into(),
                "/* pgsluice: route=replica */ SELECT 1",
                vec!["replica route_replica", "nowhere no_fresh_replica", "nowhere no_eligible_replica"],
            ),
            (THREE.into(), "/* pgsluice: consistency=soon */ SELECT 1", vec!["nowhere -"]),
            (level("strong"), "SELECT 1", vec!["primary consistency_primary"]),
            (level("eventual"), "SELECT 1", vec![replica, none]),
            (level("bounded"), "SELECT 1", vec![replica, behind, none]),
            (when_none("error"), "SELECT 1", vec![replica, behind, "nowhere no_eligible_replica"]),
            (when_none("stalest"), "SELECT 1", vec![replica, behind, "replica stalest"]),
            (format!("pool.mode = 'session'\n{THREE}"), "SELECT 1", vec!["primary session_pooling"]),
            ("shards = [{ nodes = ['a:1'] }]".into(), "SELECT 1", vec![none]),
        ];
        for (text, sql, expected) in cases {
            assert_eq!(decisions(&text, sql), expected, "{sql} with {text}");
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let notes = |sql| explain(config(THREE), "app", "app", sql).expect("an answer").not_known.join("\n");
        assert!(notes("SELECT f()").contains("STABLE or IMMUTABLE"));
        assert!(notes("SELECT * FROM v").contains("behind views and row security policies"));
        assert!(!notes("INSERT INTO t VALUES (1)").contains("catalog"));
        let answer = explain(config(THREE), "app", "app", "SELECT 1").expect("an answer");
        assert_eq!(
            (answer.shard.as_str(), answer.candidates),
            ("main", ["a:1", "b:1", "c:1"].map(String::from).to_vec())
        );
        assert_eq!(answer.decisions[0].considered, "a read, and the replica is fresh enough for this session");
    }
}

//! What `SHOW` shows: one entry a table, with its columns. The docs are made from this list.

use std::time::Instant;

use futures_util::future::BoxFuture;

use super::table::{Cell, Column, Kind, Row};
use crate::pool::PoolView;
use crate::proxy::Proxy;
use crate::route::Reason;
use crate::takeover::ShownClient;
use crate::topology::{Admission, Member, Role, Shard};

/// One table.
#[derive(Debug)]
pub struct Show {
    /// `SHOW name`, in lower case.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
    source: Source,
}

/// Where a table's rows are.
#[derive(Debug)]
enum Source {
    /// In this process.
    Here(fn(&Proxy) -> Vec<Row>),
    /// Also in others, which are asked.
    Everywhere(for<'p> fn(&'p Proxy) -> BoxFuture<'p, Vec<Row>>),
}

impl Show {
    /// Its rows, as of now.
    pub async fn rows(&self, proxy: &Proxy) -> Vec<Row> {
        match self.source {
            Source::Here(rows) => rows(proxy),
            Source::Everywhere(rows) => rows(proxy).await,
        }
    }
}

const fn column(name: &'static str, kind: Kind, meaning: &'static str) -> Column {
    Column { name, kind, meaning }
}

/// All tables, in the order of the docs.
pub const SHOWS: &[Show] = &[
    Show {
        name: "nodes",
        meaning: "The servers, and whether reads go there.",
        columns: NODES,
        source: Source::Here(nodes),
    },
    Show {
        name: "shards",
        meaning: "The shards, with their primaries.",
        columns: SHARDS,
        source: Source::Here(shards),
    },
    Show { name: "lag", meaning: "How far the replicas are behind.", columns: LAG, source: Source::Here(lag) },
    Show { name: "pools", meaning: "The pools of server connections.", columns: POOLS, source: Source::Here(pools) },
    Show { name: "servers", meaning: "The server connections.", columns: SERVERS, source: Source::Here(servers) },
    Show {
        name: "clients",
        meaning: "The clients, and what they are doing.",
        columns: CLIENTS,
        source: Source::Everywhere(clients),
    },
    Show {
        name: "routes",
        meaning: "How many statements went where, and why.",
        columns: ROUTES,
        source: Source::Here(routes),
    },
    Show {
        name: "statements",
        meaning: "What each statement has cost, the dearest first.",
        columns: STATEMENTS,
        source: Source::Here(statements),
    },
    Show {
        name: "config",
        meaning: "The config that is in force. Secrets are not shown.",
        columns: CONFIG,
        source: Source::Here(config),
    },
    Show { name: "version", meaning: "pgsluice's version.", columns: VERSION, source: Source::Here(version) },
    Show { name: "help", meaning: "What the admin database takes.", columns: HELP, source: Source::Here(help) },
];

const NODES: &[Column] = &[
    column("shard", Kind::Text, "its shard"),
    column("node", Kind::Text, "host:port"),
    column("role", Kind::Text, "primary, replica or unknown, as the server says itself"),
    column("state", Kind::Text, "up, down; of a replica also probation, drained, or ejected"),
    column("reason", Kind::Text, "why it is ejected"),
    column("weight", Kind::Int, "its share of the reads"),
    column("outstanding", Kind::Int, "statements and transactions that are there now"),
    column("connection_errors", Kind::Int, "failed connections in a row"),
];

const SHARDS: &[Column] = &[
    column("shard", Kind::Text, "its name"),
    column("primary", Kind::Text, "host:port of the primary, where one is known"),
    column("timeline", Kind::Int, "the primary's timeline"),
    column("lsn", Kind::Text, "the primary's insert position, when it was last asked"),
    column("nodes", Kind::Int, "how many nodes it has"),
    column("eligible_replicas", Kind::Int, "how many replicas take reads now"),
];

const LAG: &[Column] = &[
    column("shard", Kind::Text, "its shard"),
    column("node", Kind::Text, "host:port of the replica"),
    column("lag_seconds", Kind::Float, "replay lag in seconds; NULL is unknown"),
    column("lag_bytes", Kind::Int, "bytes of WAL that it has not replayed; NULL is unknown"),
    column("timeline", Kind::Int, "its timeline"),
    column("replay_lsn", Kind::Text, "its replay position, when it was last asked"),
    column("age_seconds", Kind::Float, "seconds since it was last asked"),
    column("state", Kind::Text, "as in SHOW NODES"),
];

const POOLS: &[Column] = &[
    column("node", Kind::Text, "host:port"),
    column("database", Kind::Text, "the database"),
    column("user", Kind::Text, "the role"),
    column("size", Kind::Int, "pool.size: how many connections there may be"),
    column("connections", Kind::Int, "how many there are"),
    column("idle", Kind::Int, "how many of them nobody uses"),
    column("used", Kind::Int, "how many of them clients use, or keep"),
    column("waiting", Kind::Int, "clients that wait for one"),
];

const SERVERS: &[Column] = &[
    column("node", Kind::Text, "host:port"),
    column("database", Kind::Text, "the database"),
    column("user", Kind::Text, "the role"),
    column("backend_pid", Kind::Int, "process ID of the backend there"),
    column("state", Kind::Text, "idle: in the pool; used: a client has it"),
    column("client", Kind::Int, "pid of the client that uses it now, as in SHOW CLIENTS"),
    column("age_seconds", Kind::Float, "seconds since it was logged in"),
];

const CLIENTS: &[Column] = &[
    column("pid", Kind::Int, "what the client was told as its backend's process ID; KILL takes it"),
    column("user", Kind::Text, "the role"),
    column("database", Kind::Text, "the database"),
    column("address", Kind::Text, "where it connected from"),
    column("tls", Kind::Bool, "whether the connection is encrypted"),
    column("state", Kind::Text, "idle, active, waiting (for a server, or for RESUME), idle in transaction"),
    column("node", Kind::Text, "the node that it has a connection to now"),
    column("backend_pid", Kind::Int, "process ID of the backend there"),
    column("pinned", Kind::Text, "what keeps it on that connection"),
    column("age_seconds", Kind::Float, "seconds since it logged in"),
    column(
        "process",
        Kind::Int,
        "process ID of the pgsluice that serves it: after a takeover, many stay with the old one",
    ),
];

const ROUTES: &[Column] = &[
    column("shard", Kind::Text, "the shard"),
    column("role", Kind::Text, "where they went"),
    column("reason", Kind::Text, "why, as in EXPLAIN ROUTE and the metrics"),
    column("statements", Kind::Int, "how many, since pgsluice started"),
    column("meaning", Kind::Text, "the reason in words"),
];

const STATEMENTS: &[Column] = &[
    column("fingerprint", Kind::Text, "the same in every process; NULL for what several statements share"),
    column("statement", Kind::Text, "the statement, with $n for its literals"),
    column("calls", Kind::Int, "how often it was run"),
    column("rows", Kind::Int, "rows that it returned or changed"),
    column("total_seconds", Kind::Float, "seconds that all calls took together"),
    column("mean_seconds", Kind::Float, "seconds that a call took"),
    column("min_seconds", Kind::Float, "seconds that the quickest call took"),
    column("max_seconds", Kind::Float, "seconds that the slowest call took"),
    column("replica_share", Kind::Float, "share of the calls that ran on replicas, 0 to 1"),
    column("heals", Kind::Int, "times that a replica refused it as a write, and the primary then ran it"),
    column("failures", Kind::Int, "calls that ended in an error"),
    column("reasons", Kind::Text, "calls by reason, as in SHOW ROUTES: reason=count, separated by commas"),
];

const CONFIG: &[Column] = &[
    column("key", Kind::Text, "section.key, as in the file"),
    column("value", Kind::Text, "what is in force"),
    column("needs_restart", Kind::Bool, "whether a change takes effect only after a restart"),
];

const VERSION: &[Column] = &[column("version", Kind::Text, "pgsluice and its version")];

const HELP: &[Column] =
    &[column("command", Kind::Text, "what may be said"), column("meaning", Kind::Text, "what it does")];

/// The commands that are no SHOW, for `SHOW HELP` and the docs.
pub const ACTIONS: &[(&str, &str)] = &[
    (
        "EXPLAIN ROUTE ON database statement",
        "Where the statement would go now from a new session, and why; every node that was considered.",
    ),
    ("RELOAD", "Reads the config file again; whole, or not at all. Admins only."),
    ("PAUSE", "Lets running transactions end, holds new ones, and returns when none is left. Admins only."),
    ("RESUME", "Ends a PAUSE. Admins only."),
    ("DRAIN node", "No new statements go to this replica; returns when those there have ended. Admins only."),
    ("UNDRAIN node", "Ends a DRAIN. Admins only."),
    ("KILL pid", "Ends a client's session, and the statement that it runs. Admins only."),
];

fn each_node(proxy: &Proxy, mut row: impl FnMut(&Shard, &Member) -> Option<Row>) -> Vec<Row> {
    let topology = proxy.topology.load();
    topology
        .shards
        .iter()
        .flat_map(|shard| shard.nodes.iter().map(move |member| (shard, member)))
        .filter_map(|(shard, member)| row(shard, member))
        .collect()
}

/// A node's state in one word, and why it gets no reads.
fn state(member: &Member) -> (&'static str, Option<&'static str>) {
    let node = &member.node;
    match (member.role, node.is_reachable(), node.admission()) {
        (_, false, Admission::Ejected(reason)) if member.role == Role::Replica => ("down", Some(reason.name())),
        (_, false, _) => ("down", None),
        (Role::Replica, true, _) if node.is_drained() => ("drained", None),
        (Role::Replica, true, Admission::Ejected(reason)) => ("ejected", Some(reason.name())),
        (Role::Replica, true, Admission::Probation) => ("probation", None),
        _ => ("up", None),
    }
}

fn nodes(proxy: &Proxy) -> Vec<Row> {
    each_node(proxy, |shard, member| {
        let (state, reason) = state(member);
        let node = &member.node;
        Some(vec![
            (&*shard.name).into(),
            (&*node.name).into(),
            member.role.name().into(),
            state.into(),
            reason.into(),
            node.weight().into(),
            node.outstanding().into(),
            node.connection_errors().into(),
        ])
    })
}

fn shards(proxy: &Proxy) -> Vec<Row> {
    let topology = proxy.topology.load();
    let row = |shard: &Shard| {
        let sample = shard.primary().and_then(|primary| primary.sample());
        let eligible = shard.replicas().filter(|node| !matches!(node.admission(), Admission::Ejected(_))).count();
        vec![
            (&*shard.name).into(),
            shard.primary().map(|primary| primary.name.to_string()).into(),
            sample.map(|sample| sample.position.timeline).into(),
            sample.map(|sample| sample.position.lsn.to_string()).into(),
            shard.nodes.len().into(),
            eligible.into(),
        ]
    };
    topology.shards.iter().map(row).collect()
}

fn lag(proxy: &Proxy) -> Vec<Row> {
    let now = Instant::now();
    each_node(proxy, |shard, member| {
        let node = &member.node;
        let sample = node.sample();
        (member.role == Role::Replica).then(|| {
            vec![
                (&*shard.name).into(),
                (&*node.name).into(),
                node.lag().map(|lag| lag.as_secs_f64()).into(),
                node.lag_bytes().into(),
                sample.map(|sample| sample.position.timeline).into(),
                sample.map(|sample| sample.position.lsn.to_string()).into(),
                sample.map(|sample| now.saturating_duration_since(sample.asked_at).as_secs_f64()).into(),
                state(member).0.into(),
            ]
        })
    })
}

fn pools(proxy: &Proxy) -> Vec<Row> {
    let row = |pool: PoolView| {
        vec![
            (&*pool.node).into(),
            (&*pool.identity.database).into(),
            (&*pool.identity.user).into(),
            pool.max_size.into(),
            pool.size.into(),
            pool.idle.into(),
            (pool.size - pool.idle).into(),
            pool.waiting.into(),
        ]
    };
    proxy.pools.view().into_iter().map(row).collect()
}

fn servers(proxy: &Proxy) -> Vec<Row> {
    let clients = proxy.clients.view();
    let now = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for server in proxy.pools.servers() {
        let has_it = |client: &&crate::session::ClientView| {
            client.server.as_ref().is_some_and(|(node, pid)| *node == server.node && *pid == server.pid)
        };
        rows.push(vec![
            (&*server.node).into(),
            (&*server.identity.database).into(),
            (&*server.identity.user).into(),
            server.pid.into(),
            (if server.is_idle { "idle" } else { "used" }).into(),
            clients.iter().find(has_it).map(|client| client.pid).into(),
            now.saturating_duration_since(server.created).as_secs_f64().into(),
        ]);
    }
    rows
}

fn clients(proxy: &Proxy) -> BoxFuture<'_, Vec<Row>> {
    Box::pin(async { proxy.clients.shown().await.into_iter().map(client).collect() })
}

fn client(client: ShownClient) -> Row {
    vec![
        client.pid.into(),
        (&*client.user).into(),
        (&*client.database).into(),
        client.address.into(),
        client.tls.into(),
        (&*client.state).into(),
        client.node.into(),
        client.backend_pid.into(),
        client.pinned.into(),
        client.age_seconds.into(),
        client.process.into(),
    ]
}

fn routes(proxy: &Proxy) -> Vec<Row> {
    let topology = proxy.topology.load();
    let shard = topology.shards.first().map_or("", |shard| &shard.name);
    let row = |(role, reason, count): (Role, Reason, u64)| {
        vec![shard.into(), role.name().into(), reason.name().into(), count.into(), reason.meaning().into()]
    };
    proxy.routes().map(row).collect()
}

fn statements(proxy: &Proxy) -> Vec<Row> {
    let mut found = proxy.statistics.snapshot();
    found.sort_by_key(|statement| std::cmp::Reverse(statement.total));
    let row = |statement: crate::statistics::Row| {
        let reasons: Vec<String> =
            statement.reasons.iter().map(|(reason, count)| format!("{}={count}", reason.name())).collect();
        vec![
            statement.fingerprint.clone().into(),
            (&*statement.text).into(),
            statement.calls.into(),
            statement.rows.into(),
            statement.total.as_secs_f64().into(),
            statement.mean().as_secs_f64().into(),
            statement.min.as_secs_f64().into(),
            statement.max.as_secs_f64().into(),
            statement.replica_share().into(),
            statement.heals.into(),
            statement.failures.into(),
            reasons.join(", ").into(),
        ]
    };
    found.into_iter().map(row).collect()
}

fn config(proxy: &Proxy) -> Vec<Row> {
    let config = proxy.config.load();
    let row =
        |(key, value, needs_restart): (String, String, bool)| vec![key.into(), value.into(), needs_restart.into()];
    config.shown().into_iter().map(row).collect()
}

fn version(_: &Proxy) -> Vec<Row> {
    vec![vec![concat!("pgsluice ", env!("CARGO_PKG_VERSION")).into()]]
}

fn help(_: &Proxy) -> Vec<Row> {
    let shows = SHOWS.iter().map(|show| vec![format!("SHOW {}", show.name.to_uppercase()).into(), show.meaning.into()]);
    let actions = ACTIONS.iter().map(|(command, meaning)| vec![Cell::from(*command), Cell::from(*meaning)]);
    shows.chain(actions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = SHOWS.iter().map(|show| show.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SHOWS.len());
    }
}

//! What is read of a running pgsluice, once: the tables of its admin database, and what `top` makes of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::admin::{Kind, SHOWS};
use crate::cli::connect::{Desk, Table};

/// The tables that are read each time, by their names in `SHOW`.
const TABLES: [&str; 6] = ["nodes", "lag", "pools", "clients", "routes", "statements"];

/// Beyond so many clients their table is large, and read less often.
const MANY_CLIENTS: usize = 1000;

/// How often it is read then.
const CLIENTS_INTERVAL: Duration = Duration::from_secs(5);

/// The tables as they came.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Tables {
    /// What `SHOW VERSION` says.
    version: String,
    /// `lag.eject_above`, in seconds.
    eject_above: Option<f64>,
    tables: BTreeMap<&'static str, Table>,
    clients_read: Option<Instant>,
}

impl Tables {
    /// What does not change while a connection lasts.
    pub(super) async fn begin(desk: &Desk) -> anyhow::Result<Self> {
        let version = desk.ask("SHOW VERSION").await?;
        let version = version.rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        Ok(Self { version, ..Self::default() })
    }

    /// Reads all that changes.
    pub(super) async fn refresh(&mut self, desk: &Desk) -> anyhow::Result<()> {
        for name in TABLES {
            if name == "clients" && !self.clients_are_due() {
                continue;
            }
            let table = desk.ask(&format!("SHOW {name}")).await?;
            self.tables.insert(name, table);
            if name == "clients" {
                self.clients_read = Some(Instant::now());
            }
        }
        let config = desk.ask("SHOW CONFIG").await?;
        let eject_above = lines(&config).find(|line| line.text("key") == "lag.eject_above");
        self.eject_above = eject_above
            .and_then(|line| humantime::parse_duration(line.text("value")).ok())
            .map(|lag| lag.as_secs_f64());
        Ok(())
    }

    fn clients_are_due(&self) -> bool {
        let has_many = self.tables.get("clients").is_some_and(|table| table.rows.len() > MANY_CLIENTS);
        !has_many || self.clients_read.is_none_or(|read| read.elapsed() >= CLIENTS_INTERVAL)
    }

    fn lines(&self, name: &str) -> impl Iterator<Item = Line<'_>> {
        self.tables.get(name).into_iter().flat_map(lines)
    }

    /// All of it, with numbers as numbers; clients are counted by state.
    pub(super) fn json(&self, address: &str) -> Value {
        let mut all = Map::new();
        all.insert("version".to_owned(), self.version.as_str().into());
        all.insert("address".to_owned(), address.into());
        for (name, table) in &self.tables {
            if *name != "clients" {
                let rows = lines(table).map(|line| line.json(name)).collect();
                all.insert((*name).to_owned(), Value::Array(rows));
            }
        }
        let clients = Clients::of(self);
        let by_state = clients.by_state.iter().map(|(state, count)| (state.clone(), (*count).into()));
        all.insert("clients".to_owned(), Value::Object(by_state.collect()));
        all.insert("pinned_clients".to_owned(), clients.pinned.into());
        Value::Object(all)
    }
}

fn lines(table: &Table) -> impl Iterator<Item = Line<'_>> {
    table.rows.iter().map(|row| Line { table, row })
}

/// A row, its cells by name.
#[derive(Clone, Copy)]
struct Line<'a> {
    table: &'a Table,
    row: &'a [Option<String>],
}

impl<'a> Line<'a> {
    fn cell(self, name: &str) -> Option<&'a str> {
        let index = self.table.columns.iter().position(|column| column == name)?;
        self.row.get(index)?.as_deref()
    }

    /// NULL, and a column that there is not, is empty.
    fn text(self, name: &str) -> &'a str {
        self.cell(name).unwrap_or_default()
    }

    fn float(self, name: &str) -> Option<f64> {
        self.cell(name)?.parse().ok()
    }

    /// NULL is 0.
    fn count(self, name: &str) -> u64 {
        self.cell(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn json(self, table: &str) -> Value {
        let kinds = SHOWS.iter().find(|show| show.name == table).map(|show| show.columns).unwrap_or_default();
        let value = |name: &str| {
            let Some(text) = self.cell(name) else { return Value::Null };
            let kind = kinds.iter().find(|column| column.name == name).map(|column| column.kind);
            match kind {
                Some(Kind::Int) => text.parse::<i64>().map_or(Value::Null, Value::from),
                Some(Kind::Float) => text.parse::<f64>().map_or(Value::Null, Value::from),
                Some(Kind::Bool) => matches!(text, "t" | "true").into(),
                Some(Kind::Text) | None => text.into(),
            }
        };
        Value::Object(self.table.columns.iter().map(|name| (name.clone(), value(name))).collect())
    }
}

/// What is shown, at one moment.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Reading {
    /// When it was read.
    pub(super) at: Instant,
    pub(super) version: String,
    /// `lag.eject_above`, in seconds.
    pub(super) eject_above: Option<f64>,
    pub(super) nodes: Vec<Node>,
    /// Those that clients wait for, and the fullest, first.
    pub(super) pools: Vec<Pool>,
    pub(super) clients: Clients,
    /// Statements so far, on primaries and on replicas.
    pub(super) routes: [u64; 2],
    pub(super) statements: Vec<Statement>,
}

/// A line of `SHOW NODES`, with what `SHOW LAG` says of it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) shard: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) outstanding: u64,
    /// Seconds; `None` is unknown, or of a primary.
    pub(super) lag: Option<f64>,
    pub(super) lag_bytes: Option<u64>,
}

/// A line of `SHOW POOLS`.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) node: String,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) size: u64,
    pub(super) connections: u64,
    pub(super) used: u64,
    pub(super) waiting: u64,
}

/// `SHOW CLIENTS`, counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients {
    pub(super) by_state: BTreeMap<String, u64>,
    pub(super) pinned: u64,
}

/// A line of `SHOW STATEMENTS`.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) fingerprint: String,
    pub(super) text: String,
    pub(super) calls: u64,
    pub(super) rows: u64,
    /// Seconds.
    pub(super) total: f64,
    /// Seconds.
    pub(super) mean: f64,
    /// 0 to 1.
    pub(super) replica_share: f64,
    pub(super) heals: u64,
    pub(super) failures: u64,
}

impl Clients {
    fn of(tables: &Tables) -> Self {
        let mut clients = Self::default();
        for line in tables.lines("clients") {
            *clients.by_state.entry(line.text("state").to_owned()).or_default() += 1;
            clients.pinned += u64::from(line.cell("pinned").is_some());
        }
        clients
    }

    pub(super) fn all(&self) -> u64 {
        self.by_state.values().sum()
    }
}

impl Reading {
    /// Of tables that were read at `at`.
    pub(super) fn of(tables: &Tables, at: Instant) -> Self {
        let node = |line: Line<'_>| {
            let lag = tables.lines("lag").find(|lag| lag.text("node") == line.text("node"));
            Node {
                shard: line.text("shard").to_owned(),
                name: line.text("node").to_owned(),
                role: line.text("role").to_owned(),
                state: line.text("state").to_owned(),
                reason: line.text("reason").to_owned(),
                outstanding: line.count("outstanding"),
                lag: lag.and_then(|lag| lag.float("lag_seconds")),
                lag_bytes: lag.and_then(|lag| lag.cell("lag_bytes")?.parse().ok()),
            }
        };
        let pool = |line: Line<'_>| Pool {
            node: line.text("node").to_owned(),
            database: line.text("database").to_owned(),
            user: line.text("user").to_owned(),
            size: line.count("size"),
            connections: line.count("connections"),
            used: line.count("used"),
            waiting: line.count("waiting"),
        };
        let mut pools: Vec<Pool> = tables.lines("pools").map(pool).collect();
        pools.sort_by_key(|pool| std::cmp::Reverse((pool.waiting, pool.used)));
        let statement = |line: Line<'_>| Statement {
            fingerprint: line.text("fingerprint").to_owned(),
            text: line.text("statement").to_owned(),
            calls: line.count("calls"),
            rows: line.count("rows"),
            total: line.float("total_seconds").unwrap_or_default(),
            mean: line.float("mean_seconds").unwrap_or_default(),
            replica_share: line.float("replica_share").unwrap_or_default(),
            heals: line.count("heals"),
            failures: line.count("failures"),
        };
        let run_on = |role: &str| {
            let there = tables.lines("routes").filter(|line| line.text("role") == role);
            there.map(|line| line.count("statements")).sum()
        };
        Self {
            at,
            version: tables.version.clone(),
            eject_above: tables.eject_above,
            nodes: tables.lines("nodes").map(node).collect(),
            pools,
            clients: Clients::of(tables),
            routes: [run_on("primary"), run_on("replica")],
            statements: tables.lines("statements").map(statement).collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn table(columns: &str, rows: &[&str]) -> Table {
        let cell = |text: &str| (text != "-").then(|| text.to_owned());
        Table {
            columns: columns.split(' ').map(str::to_owned).collect(),
            rows: rows.iter().map(|row| row.split('|').map(cell).collect()).collect(),
        }
    }

    /// A primary, a replica that takes reads, and one that does not; `calls` of the first statement.
    pub(in crate::cli::top) fn example(calls: u64) -> Tables {
        let statements = [
            format!("f1|SELECT * FROM accounts WHERE id = $1|{calls}|{calls}|{}|0.002|0.75|1|0", calls as f64 * 0.002),
            "f2|UPDATE accounts SET x = $1|5|5|9.5|1.9|0|0|2".to_owned(),
        ];
        let nodes = ["main|10.0.0.1:5432|primary|up|-|1|2|0", "main|10.0.0.2:5432|replica|up|-|1|1|0"];
        let nodes = [&nodes[..], &["main|10.0.0.3:5432|replica|ejected|lag|1|0|0"]].concat();
        let tables = [
            ("nodes", table("shard node role state reason weight outstanding connection_errors", &nodes)),
            (
                "lag",
                table(
                    "shard node lag_seconds lag_bytes",
                    &["main|10.0.0.2:5432|0.0125|2048", "main|10.0.0.3:5432|-|-"],
                ),
            ),
            (
                "pools",
                table(
                    "node database user size connections idle used waiting",
                    &["10.0.0.1:5432|app|app|20|3|1|2|0", "10.0.0.2:5432|app|app|20|20|0|20|4"],
                ),
            ),
            ("clients", table("pid state pinned", &["1|idle|-", "2|active|-", "3|idle|temporary"])),
            (
                "routes",
                table("role reason statements", &["primary|write|5", &format!("replica|fresh_replica|{calls}")]),
            ),
            (
                "statements",
                table(
                    "fingerprint statement calls rows total_seconds mean_seconds replica_share heals failures",
                    &statements.iter().map(String::as_str).collect::<Vec<_>>(),
                ),
            ),
        ];
        Tables {
            version: "pgsluice 1.2.3".to_owned(),
            eject_above: Some(0.1),
            tables: tables.into(),
            clients_read: None,
        }
    }

    #[test]
    fn tables_become_a_reading() {
        let reading = Reading::of(&example(40), Instant::now());
        let lags: Vec<_> = reading.nodes.iter().map(|node| (node.lag, node.lag_bytes)).collect();
        assert_eq!(lags, [(None, None), (Some(0.0125), Some(2048)), (None, None)]);
        assert_eq!(reading.pools[0].node, "10.0.0.2:5432", "clients wait for it");
        assert_eq!((reading.clients.all(), reading.clients.pinned, reading.routes), (3, 1, [5, 40]));
    }

    #[test]
    fn json_has_numbers() {
        let json = example(40).json("127.0.0.1:6432");
        assert_eq!(json["lag"][0]["lag_seconds"], 0.0125);
        assert_eq!(json["lag"][1]["lag_seconds"], Value::Null);
        assert_eq!(json["nodes"][2]["reason"], "lag");
        assert_eq!(json["statements"][0]["calls"], 40);
        assert_eq!(json["clients"], serde_json::json!({ "idle": 2, "active": 1 }));
    }
}

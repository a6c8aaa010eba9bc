//! The same statements on one plain PostgreSQL and on three shards behind pgsluice: the same answers, or pgsluice's own
//! refusal; never another answer. `reads.sql` and `writes.sql` are written by hand, and are run in each way that a client
//! can send them; `grammar.rs` and `queries.rs` make more of them at random. `scripts/differential` runs more of those.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

mod clients;
mod grammar;
mod queries;
mod script;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use clients::{Encoded, Seen, Way, ask};
use pgsluice::demo::ClusterOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use script::{Statement, Unit, units};
use support::DEADLINE;
use support::raw::{self, Raw};
use support::shards::Shards;

const TABLES: &str = include_str!("tables.toml");
const SCHEMA: &str = include_str!("schema.sql");
const SEED: &str = include_str!("seed.sql");
const READS: &str = include_str!("reads.sql");
const WRITES: &str = include_str!("writes.sql");

const NAMES: [&str; 13] = [
    "ints", "notes", "marks", "bigs", "texts", "uuids", "dates", "numbers", "pairs", "words", "kinds", "places",
    "singles",
];

/// Of the statements written by hand, so many are refused and no more.
const MOST_REFUSED: usize = 44;

/// Both servers, and what has become of the statements so far.
struct Both {
    stand: Shards,
    plain: Raw,
    shards: Raw,
    /// Parameters in binary.
    encoded: Encoded,
    /// Answers that were equal.
    same: usize,
    /// What was refused: the statement, and how pgsluice said so.
    refused: BTreeMap<String, String>,
    different: Vec<String>,
}

impl Both {
    async fn start(statements: &[Unit]) -> Self {
        let stand = Shards::start_with(3, ClusterOptions::with_replicas(0), TABLES).await;
        let options = stand.clusters[0].options();
        let (app, password) = (options.app.user.as_str(), options.app.password.as_str());
        stand.primary(2).sql(&format!("CREATE DATABASE plain OWNER {app}")).await.expect("created");
        let address = stand.primary(2).address();
        let login = raw::Login { address: &address, user: app, password, database: "plain", minor: 0, settings: &[] };
        let (mut plain, mut shards) = (Raw::connect(&login).await, stand.raw().await);
        for statement in units(SCHEMA).iter().flatten() {
            for client in [&mut plain, &mut shards] {
                client.rows(&statement.sql).await;
            }
        }
        stand.coordinate().await;
        let start = Instant::now();
        while !raw::sqlstates(&shards.query("SELECT * FROM ints WHERE id = 0").await).is_empty() {
            assert!(start.elapsed() < DEADLINE, "the tables are not read");
        }
        let encoded = Encoded::of(&mut plain, statements.iter().flatten()).await;
        Self { stand, plain, shards, encoded, same: 0, refused: BTreeMap::new(), different: Vec::new() }
    }

    /// The rows of `seed.sql`, and no others.
    async fn reset(&mut self) {
        let seed = units(SEED);
        for client in [&mut self.plain, &mut self.shards] {
            for name in NAMES {
                client.rows(&format!("DELETE FROM {name}")).await;
            }
            for statement in seed.iter().flatten() {
                client.rows(&statement.sql).await;
            }
        }
    }

    /// What pgsluice refuses is not asked of the plain server either; in a transaction, none of it is.
    async fn run(&mut self, unit: &[Statement], way: Way, label: &str) {
        let mut answers = Vec::new();
        for statement in unit {
            let Some(seen) = ask(&mut self.shards, statement, way, &self.encoded).await else { continue };
            let Some(refusal) = seen.refusal() else {
                answers.push((statement, seen));
                continue;
            };
            self.refused.entry(statement.sql.clone()).or_insert_with(|| format!("{way:?}: {refusal}"));
            if seen.status.last() != Some(&b'I') {
                self.shards.rows("ROLLBACK").await;
                return;
            }
        }
        for (statement, through) in answers {
            let direct = ask(&mut self.plain, statement, way, &self.encoded).await.expect("it was sent so before");
            if is_same(statement, &through, &direct) {
                self.same += 1;
            } else if !is_documented(statement, &through) {
                self.different.push(format!(
                    "{label}, {way:?}: {}\nthrough pgsluice: {through:?}one server: {direct:?}",
                    statement.sql
                ));
            }
        }
    }

    /// All rows are the same, once all is committed.
    async fn compare_tables(&mut self, label: &str) {
        for name in NAMES {
            let sql = format!("SELECT x::text FROM {name} x");
            let (mut through, mut direct) = (self.shards.rows(&sql).await, self.plain.rows(&sql).await);
            through.sort();
            direct.sort();
            assert_eq!(through, direct, "{label}: {name}");
        }
    }

    fn conclude(&self) {
        let count = self.different.len();
        assert_eq!(count, 0, "{count} answers differ:\n{}", self.different.join("\n"));
    }

    async fn stop(self) {
        drop((self.plain, self.shards));
        self.stand.stop().await;
    }
}

/// A plan is of course another one; but where one server explains, so does pgsluice.
fn is_same(statement: &Statement, through: &Seen, direct: &Seen) -> bool {
    match statement.sql.starts_with("EXPLAIN") {
        true => through.sqlstates == direct.sqlstates,
        false => through.is_same(direct),
    }
}

fn is_documented(statement: &Statement, through: &Seen) -> bool {
    statement.documented.as_ref().is_some_and(|code| through.sqlstates.first() == Some(code))
}

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Statements written by hand, in every way, each time on the same rows; then others at random.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_server() {
    let (reads, writes) = (units(READS), units(WRITES));
    let all = [&reads[..], &writes[..]].concat();
    let mut both = Both::start(&all).await;
    for way in [Way::Simple, Way::Text, Way::Binary, Way::Portal] {
        let start = Instant::now();
        both.reset().await;
        for unit in &reads {
            both.run(unit, way, "reads.sql").await;
        }
        println!("{way:?}: reads.sql in {:?}", start.elapsed());
        // To fetch in two goes changes nothing for a write.
        if way == Way::Portal {
            continue;
        }
        for unit in &writes {
            both.run(unit, way, "writes.sql").await;
        }
        both.compare_tables(&format!("{way:?}")).await;
        println!("{way:?}: with writes.sql in {:?}", start.elapsed());
    }
    let (count, refused) = (all.iter().flatten().count(), both.refused.len());
    println!(
        "{count} statements by hand: {} equal answers, {refused} statements refused: {:#?}",
        both.same, both.refused
    );
    both.conclude();
    assert!(count >= 400, "{count}");
    assert!(refused <= MOST_REFUSED, "{refused} are refused");
    random_statements(&mut both).await;
    both.stop().await;
}

/// What stands for the statements of `queries.rs` among the templates.
const MADE: &str = "a SELECT made of parts";

fn filled(templates: &[&'static str], random: &mut StdRng) -> (&'static str, String) {
    let template = templates[random.random_range(0..templates.len())];
    (template, grammar::fill(template, random))
}

async fn random_statements(both: &mut Both) {
    let (seed, count) = (
        told("PGSLUICE_SEED").unwrap_or(1),
        usize::try_from(told("PGSLUICE_STATEMENTS").unwrap_or(600)).expect("some"),
    );
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    (both.same, both.refused) = (0, BTreeMap::new());
    let mut refused = BTreeMap::<&str, usize>::new();
    for number in 0..count {
        let (template, sql) = match random.random_range(0..4) {
            0 => (MADE, queries::select(&mut random)),
            1 => filled(grammar::READS, &mut random),
            _ => filled(grammar::WRITES, &mut random),
        };
        let way = [Way::Simple, Way::Text, Way::Binary][random.random_range(0..3)];
        let statement = Statement { sql, binds: Vec::new(), documented: None };
        both.run(&[statement], way, &format!("seed {seed}, statement {number}")).await;
        both.conclude();
        if !std::mem::take(&mut both.refused).is_empty() {
            *refused.entry(template).or_default() += 1;
        }
    }
    println!(
        "{} of {count} random statements had the same answer, in {:?}; refused: {refused:#?}",
        both.same,
        start.elapsed()
    );
    assert!(both.same * 10 > count * 7, "{refused:#?}");
    both.compare_tables(&format!("seed {seed}")).await;
}

//! Four books about the same statements: what `EXPLAIN ROUTE` foresaw, `SHOW ROUTES` with `SHOW STATEMENTS`, the metrics, and
//! the audit log. Of one run they give the same numbers, by reason.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::audit_log::{lines, of};
use support::raw::{self, Raw, bind, execute, parse, sync};
use support::{DEADLINE, Stand, connect};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Replicas stay admitted whatever the machine does.
const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

const SCHEMA: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO accounts SELECT i, 0 FROM generate_series(0, 99) i;
    CREATE SEQUENCE s;
    -- Declared STABLE, it lies: replicas refuse it, and the primary runs it.
    CREATE FUNCTION lie() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN nextval(''s''); END'";

/// How an `EXPLAIN ROUTE` begins: it is a statement too, and counted like any other.
const ASKING: &str = "EXPLAIN ROUTE";

/// Statements by reason.
type Counts = BTreeMap<String, u64>;

fn add(counts: &mut Counts, reason: &str, count: u64) {
    if count > 0 {
        *counts.entry(reason.to_owned()).or_default() += count;
    }
}

fn without(mut counts: Counts, others: &Counts) -> Counts {
    for (reason, count) in others {
        *counts.get_mut(reason).unwrap_or_else(|| panic!("{reason} was counted")) -= count;
    }
    counts.retain(|_, count| *count > 0);
    counts
}

async fn rows(client: &Client, command: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(command).await.unwrap_or_else(|error| panic!("{command}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    rows.collect()
}

/// A line of `SHOW STATEMENTS`.
#[derive(Debug)]
struct Statement {
    fingerprint: String,
    text: String,
    calls: u64,
    rows: u64,
    seconds: [f64; 4],
    replica_share: f64,
    heals: u64,
    failures: u64,
    reasons: Counts,
}

/// What the books say at one moment.
struct Books {
    metrics: Counts,
    routes: Counts,
    statements: Vec<Statement>,
}

impl Books {
    async fn open(stand: &Stand, admin: &Client) -> Self {
        let mut metrics = Counts::new();
        let page = stand.proxy.http_get("/metrics").await;
        for line in page.lines().filter(|line| line.starts_with("pgsluice_statements_total{")) {
            let reason = line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a reason");
            add(
                &mut metrics,
                reason,
                line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number"),
            );
        }
        let mut routes = Counts::new();
        for row in rows(admin, "SHOW ROUTES").await {
            add(&mut routes, &row[2], row[3].parse().expect("a number"));
        }
        let statements = rows(admin, "SHOW STATEMENTS").await.iter().map(|row| Statement::read(row)).collect();
        Self { metrics, routes, statements }
    }

    /// Of `SHOW STATEMENTS`: those that only ask, or the others.
    fn by_reason(&self, asking: bool) -> Counts {
        let mut counts = Counts::new();
        for statement in self.statements.iter().filter(|statement| statement.text.starts_with(ASKING) == asking) {
            statement.reasons.iter().for_each(|(reason, count)| add(&mut counts, reason, *count));
        }
        counts
    }

    fn of(&self, text: &str) -> &Statement {
        self.statements.iter().find(|row| row.text == text).unwrap_or_else(|| panic!("{text} was run"))
    }
}

impl Statement {
    fn read(row: &[String]) -> Self {
        let number = |index: usize| row[index].parse::<u64>().expect("a number");
        let float = |index: usize| row[index].parse::<f64>().expect("a number");
        let mut reasons = Counts::new();
        for part in row[11].split(", ") {
            let (reason, count) = part.split_once('=').expect("a count");
            add(&mut reasons, reason, count.parse().expect("a number"));
        }
        Self {
            fingerprint: row[0].clone(),
            text: row[1].clone(),
            calls: number(2),
            rows: number(3),
            seconds: [float(6), float(5), float(7), float(4)],
            replica_share: float(8),
            heals: number(9),
            failures: number(10),
            reasons,
        }
    }
}

/// The audit log's statements by reason: those that only ask, and the others.
fn written(statements: &[Value]) -> (Counts, Counts) {
    let (mut asking, mut others) = (Counts::new(), Counts::new());
    for statement in statements {
        let is_asking = statement["text"].as_str().expect("a text").starts_with(ASKING);
        add(if is_asking { &mut asking } else { &mut others }, statement["reason"].as_str().expect("a reason"), 1);
    }
    (asking, others)
}

/// A client that asks of everything where it would go, and then runs it.
struct Asker {
    client: Client,
    raw: Raw,
    /// What it was told.
    foreseen: Counts,
}

impl Asker {
    async fn start(stand: &Stand, settings: &str) -> Self {
        let mut asker = Self { client: connect(&stand.url()).await, raw: stand.raw().await, foreseen: Counts::new() };
        for setting in settings.split("; ").filter(|setting| !setting.is_empty()) {
            asker.run(setting).await;
            asker.ask_raw(setting, 1).await;
            asker.raw.rows(setting).await;
        }
        asker
    }

    async fn ask(&mut self, sql: &str, times: u64) -> String {
        let reason = rows(&self.client, &format!("{ASKING} {sql}")).await.remove(0).remove(3);
        add(&mut self.foreseen, &reason, times);
        reason
    }

    async fn ask_raw(&mut self, sql: &str, times: u64) {
        let reason = self.raw.rows(&format!("{ASKING} {sql}")).await.remove(0).remove(3);
        add(&mut self.foreseen, &reason, times);
    }

    async fn run(&mut self, sql: &str) {
        self.ask(sql, 1).await;
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn run_all(&mut self, statements: &[&str]) {
        for sql in statements {
            self.run(sql).await;
        }
    }

    fn count(&self) -> u64 {
        self.foreseen.values().sum()
    }

    /// So many statements of all sorts.
    async fn mixed(mut self, statements: u64, seed: u32) -> Counts {
        const READ: &str = "SELECT n FROM accounts WHERE id = $1";
        let prepared = self.client.prepare(READ).await.expect("it is prepared");
        let mut round = seed;
        while self.count() < statements {
            round += 1;
            let id = i32::try_from(round % 100).expect("a number");
            match round % 18 {
                0 => {
                    self.ask(READ, 1).await;
                    self.client.query(&prepared, &[&id]).await.expect("a read");
                }
                1 => self.run(&format!("UPDATE accounts SET n = n + 1 WHERE id = {id}")).await,
                // Texts of several statements go where they have to go together.
                2 => {
                    self.ask("BEGIN", 3).await;
                    let sql = format!("BEGIN; SELECT n FROM accounts WHERE id = {id}; COMMIT");
                    self.client.batch_execute(&sql).await.expect("a transaction");
                }
                3 => {
                    self.run("BEGIN READ ONLY").await;
                    self.ask(READ, 1).await;
                    self.client.query(&prepared, &[&id]).await.expect("a read");
                    self.run("COMMIT").await;
                }
                // The second fails, and the third is never run.
                4 => {
                    self.ask("SELECT 1", 2).await;
                    self.client.batch_execute("SELECT 1; SELECT 1/0; SELECT 2").await.expect_err("by zero");
                }
                5 => {
                    let read = "SELECT count(*) FROM accounts";
                    self.run_all(&["SET pgsluice.route = 'primary'", read, "RESET pgsluice.route"]).await;
                }
                6 => self.pipeline().await,
                7 => {
                    self.ask("SELECT id FROM accounts WHERE id < 5", 1).await;
                    assert_eq!(rows(&self.client, "SELECT id FROM accounts WHERE id < 5").await.len(), 5);
                }
                // Of an empty text nothing can be asked; it goes where any read goes.
                8 => {
                    self.ask_raw("SELECT 1", 1).await;
                    assert!(self.raw.query("").await.len() > 1, "an empty text is answered");
                }
                9 => {
                    let hinted = |hint: &str| format!("/* pgsluice: {hint} */ SELECT n FROM accounts WHERE id = {id}");
                    for hint in [
                        "consistency=strong",
                        "consistency=bounded, max_staleness=1h",
                        "route=replica",
                        "route=primary",
                    ] {
                        self.run(&hinted(hint)).await;
                    }
                }
                10 => self.run("SELECT lie()").await,
                11 => {
                    let update = format!("UPDATE accounts SET n = n - 1 WHERE id = {id}");
                    self.run_all(&["BEGIN", &update, "SAVEPOINT a", "SELECT 1", "ROLLBACK TO a", "ROLLBACK"]).await;
                }
                12 => {
                    self.run_all(&[
                        "SELECT nextval('s')",
                        "SELECT n FROM accounts WHERE id = 1 FOR UPDATE",
                        "SELECT pg_advisory_xact_lock(1)",
                        "SELECT pg_is_in_recovery()",
                        "DO 'BEGIN END'",
                    ])
                    .await;
                }
                // It is kept on its connection, and what comes goes there.
                13 => self.run_all(&["LISTEN news", "SELECT 1", "UNLISTEN *", "SELECT 1"]).await,
                14 => self.run_all(&["PREPARE p AS SELECT 1", "EXECUTE p", "SELECT 1", "DEALLOCATE p"]).await,
                15 => {
                    self.run_all(&[
                        "SET default_transaction_isolation = 'serializable'",
                        "SELECT 1",
                        "RESET default_transaction_isolation",
                        "SET default_transaction_read_only = on",
                        "BEGIN",
                        "SELECT 1",
                        "COMMIT",
                        "RESET default_transaction_read_only",
                    ])
                    .await;
                }
                16 => self.run_all(&["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1", "COMMIT"]).await,
                _ => self.run_all(&["BEGIN", "SET TRANSACTION READ ONLY", "SELECT 1", "COMMIT"]).await,
            }
        }
        self.foreseen
    }

    /// Three, of which the second fails and the third is passed over.
    async fn pipeline(&mut self) {
        self.ask_raw("SELECT 1", 2).await;
        let run = |text: &str| [parse("", text), bind("", "", &[]), execute("", 0)].concat();
        let pipeline = [run("SELECT 1"), run("SELECT 1/0"), run("SELECT 2"), sync()].concat();
        let answers = self.raw.exchange(&pipeline).await;
        assert_eq!(raw::sqlstates(&answers), ["22012"]);
    }

    /// Asks until it is told this reason, as it will be from then on.
    async fn wait_for(&mut self, sql: &str, reason: &str) {
        let start = Instant::now();
        while self.ask(sql, 0).await != reason {
            assert!(start.elapsed() < DEADLINE, "{sql} does not come to {reason}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first time `SELECT lie()` runs: nobody can foresee that the replica refuses it, but once.
    async fn heal(&mut self) {
        self.wait_for("SELECT lie()", "fresh_replica").await;
        self.client.batch_execute("SELECT lie()").await.expect("it is run");
        add(&mut self.foreseen, "refused_by_standby", 1);
    }

    /// Where freshness decides, and is known: nothing is replayed.
    async fn stale(mut self, stand: &Stand) -> Counts {
        let replica = &stand.cluster.replicas()[0];
        replica.pause_replay().await.expect("it is paused");
        self.run("UPDATE accounts SET n = 0 WHERE id = 7").await;
        self.wait_for("SELECT n FROM accounts WHERE id = 7", "not_fresh").await;
        for _ in 0..20 {
            self.run("SELECT n FROM accounts WHERE id = 7").await;
            self.run("/* pgsluice: consistency=eventual */ SELECT n FROM accounts WHERE id = 7").await;
        }
        replica.resume_replay().await.expect("it goes on");
        self.foreseen
    }

    /// Without replicas.
    async fn drained(mut self, stand: &Stand, admin: &Client) -> Counts {
        let replica = stand.cluster.replicas()[0].address();
        admin.batch_execute(&format!("DRAIN '{replica}'")).await.expect("it is drained");
        self.wait_for("SELECT 1", "no_replica").await;
        for _ in 0..20 {
            self.run("SELECT 1").await;
        }
        admin.batch_execute(&format!("UNDRAIN '{replica}'")).await.expect("it is back");
        self.foreseen
    }
}

/// Statements that were run and are in the audit log, once it has as many as were counted, and no more come.
async fn settled(stand: &Stand, log: &Path, before: usize, foreseen: u64) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let statements = of(&lines(log), "statement").split_off(before);
        let run = written(&statements).1.values().sum::<u64>();
        let metrics = stand.proxy.statements(&[]).await as usize;
        if run >= foreseen && metrics == before + statements.len() {
            return statements;
        }
        assert!(start.elapsed() < DEADLINE, "{run} of {foreseen} written; {metrics} counted, {}", statements.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_books_agree() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let audit = format!("{CALM}[audit]\nfile = {log:?}\nstatements = [\"all\"]\nrotate_size = \"1GiB\"\n");
    let stand = Stand::start(1, &audit).await;
    let admin_url = format!("{}/pgsluice", stand.superuser_url().rsplit_once('/').expect("a database").0);
    let admin = connect(&admin_url).await;
    let client = stand.client().await;
    client.batch_execute(SCHEMA).await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    let fresh = rows(&client, "EXPLAIN ROUTE SELECT 1");
    assert_eq!(fresh.await.len(), 2);
    // All is written of what was run until now, and the replica is known to have it.
    let mut first = Asker::start(&stand, "").await;
    first.wait_for("/* pgsluice: consistency=eventual */ SELECT n FROM accounts", "fresh_replica").await;
    let start = Instant::now();
    let (already, before) = loop {
        // A statement is booked just after its client has been answered.
        let before = Books::open(&stand, &admin).await;
        let already = of(&lines(&log), "statement").len();
        let sums = [&before.metrics, &before.routes].map(|counts| counts.values().sum::<u64>());
        let calls: u64 = before.statements.iter().map(|row| row.calls).sum();
        if [sums[0], sums[1], calls] == [already as u64; 3] {
            break (already, before);
        }
        assert!(start.elapsed() < DEADLINE, "the books differ before anything was done: {already}, {sums:?}, {calls}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    let began = Instant::now();
    first.heal().await;
    let eventual = Asker::start(&stand, "SET pgsluice.consistency = 'eventual'").await;
    let bounded = Asker::start(&stand, "SET pgsluice.consistency = 'bounded'; SET pgsluice.max_staleness = '1h'").await;
    let other = Asker::start(&stand, "SET pgsluice.consistency = 'eventual'").await;
    let parts = tokio::join!(eventual.mixed(3400, 0), bounded.mixed(3400, 5), other.mixed(3400, 11));
    let stale = Asker::start(&stand, "").await.stale(&stand).await;
    let drained = Asker::start(&stand, "SET pgsluice.consistency = 'eventual'").await.drained(&stand, &admin).await;
    let mut foreseen = first.foreseen;
    for part in [parts.0, parts.1, parts.2, stale, drained] {
        part.iter().for_each(|(reason, count)| add(&mut foreseen, reason, *count));
    }
    let total: u64 = foreseen.values().sum();
    println!("{total} statements in {:?}: {foreseen:?}", began.elapsed());
    assert!(total >= 10_000 && foreseen.len() >= 14, "{foreseen:?}");

    let statements = settled(&stand, &log, already, total).await;
    let after = Books::open(&stand, &admin).await;
    assert_eq!(stand.proxy.metric("pgsluice_audit_lost_total", &[]).await, Some(0.0));
    // What only asked is taken out of all four in the same way.
    let (asking, audited) = written(&statements);
    let [asked, shown] = [true, false].map(|asking| without(after.by_reason(asking), &before.by_reason(asking)));
    let metrics = without(without(after.metrics.clone(), &before.metrics), &asking);
    let routes = without(without(after.routes.clone(), &before.routes), &asking);
    assert_eq!(asked, asking, "SHOW STATEMENTS, audit log: of EXPLAIN ROUTE itself");
    assert_eq!(metrics, foreseen, "metrics, EXPLAIN ROUTE");
    assert_eq!(routes, foreseen, "SHOW ROUTES, EXPLAIN ROUTE");
    assert_eq!(shown, foreseen, "SHOW STATEMENTS, EXPLAIN ROUTE");
    assert_eq!(audited, foreseen, "audit log, EXPLAIN ROUTE");

    let healed = of(&lines(&log), "heal");
    assert_eq!(Some(healed.len() as f64), stand.proxy.metric("pgsluice_healed_statements_total", &[]).await);
    let lie = after.of("SELECT lie()");
    assert_eq!((lie.heals, lie.failures, lie.replica_share), (1, 0, 0.0));
    assert_eq!(lie.reasons.get("refused_by_standby"), Some(&lie.calls), "{lie:?}");
    assert_eq!(healed[0]["fingerprint"].as_str(), Some(&*lie.fingerprint));
    by_statement(&before, &after, &statements);
    drop((admin, client));
    stand.stop().await;
}

/// `SHOW STATEMENTS` and the audit log, by statement: calls, failures, rows.
fn by_statement(before: &Books, after: &Books, statements: &[Value]) {
    let mut audited: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for statement in statements {
        let sums = audited.entry(statement["fingerprint"].as_str().expect("a fingerprint")).or_default();
        sums[0] += 1;
        sums[1] += u64::from(statement["sqlstate"].is_string());
        sums[2] += statement["rows"].as_u64().expect("a number");
    }
    let sums = |row: &Statement| [row.calls, row.failures, row.rows];
    let mut shown: BTreeMap<&str, [u64; 3]> =
        after.statements.iter().map(|row| (&*row.fingerprint, sums(row))).collect();
    for row in &before.statements {
        let now = shown.get_mut(&*row.fingerprint).expect("it is still there");
        sums(row).iter().zip(now).for_each(|(before, now)| *now -= before);
    }
    shown.retain(|_, sums| sums[0] > 0);
    assert_eq!(audited, shown);

    let five = after.of("SELECT id FROM accounts WHERE id < $1");
    assert_eq!(five.rows, 5 * five.calls);
    let by_zero = after.of("SELECT $1/$2");
    assert_eq!((by_zero.failures, by_zero.rows), (by_zero.calls, 0));
    for row in &after.statements {
        assert!(row.seconds.is_sorted(), "shortest, mean, longest, all: {row:?}");
    }
}

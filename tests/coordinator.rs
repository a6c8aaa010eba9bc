//! The coordinator on real shards: it answers as one plain database with all rows would, and shows nobody more than his
//! grants do.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

use std::process::Stdio;
use std::time::Duration;

use pgsluice::config::Config;
use pgsluice::demo::{Cluster, ClusterOptions, StopMode};
use pgsluice::gather::coordinator::{READY, VIEWS, ready_mark};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const DEADLINE: Duration = Duration::from_secs(60);

/// The application's database on every shard.
const DATABASE: &str = "app";

/// What a DBA gives the account; docs/coordinator.md says the same.
const ON_EVERY_SHARD: &str = "GRANT pg_read_all_data TO pgsluice";
const ON_THE_COORDINATOR: &str = "CREATE EXTENSION postgres_fdw; \
    GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO pgsluice; GRANT CREATE ON DATABASE app TO pgsluice";

/// Shards `a`, `b` …, each a cluster of its own, and a config for them.
struct Shards {
    clusters: Vec<Cluster>,
    folder: TempDir,
}

/// What `pgsluice` said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Shards {
    /// With so many replicas each. The servers log what they would log of DDL on a careful site.
    async fn start(replicas: &[usize]) -> Self {
        let options = |replicas: &usize| ClusterOptions::with_replicas(*replicas).setting("log_statement", "ddl");
        let started = replicas.iter().map(|replicas| Cluster::start(options(replicas)));
        let clusters: Vec<Cluster> = futures_util::future::try_join_all(started).await.expect("the clusters start");
        let shards = Self { clusters, folder: tempfile::tempdir().expect("a folder") };
        for shard in 0..shards.clusters.len() {
            shards.superuser(shard, ON_EVERY_SHARD).await;
        }
        shards
    }

    fn name(shard: usize) -> char {
        ['a', 'b', 'c'][shard]
    }

    fn config(&self, tables: &str) -> String {
        let mut text = format!(
            "[auth]\nmethod = \"trust\"\n[[databases]]\nname = \"{DATABASE}\"\n[coordinator]\nshard = \"a\"\n{tables}"
        );
        for (shard, cluster) in self.clusters.iter().enumerate() {
            // Replicas first: it is not the order that tells the primary.
            let nodes = cluster.servers().iter().rev().map(|server| format!("\"{}\"", server.address()));
            let nodes = nodes.collect::<Vec<_>>().join(", ");
            let (name, password) = (Self::name(shard), &cluster.options().monitor.password);
            text += &format!("[[shards]]\nname = \"{name}\"\nnodes = [{nodes}]\npassword = \"{password}\"\n");
        }
        text
    }

    /// `pgsluice coordinator …` with these `[[tables]]`. No password is ever in what it says.
    async fn run(&self, tables: &str, arguments: &[&str]) -> Said {
        let file = self.folder.path().join("pgsluice.toml");
        std::fs::write(&file, self.config(tables)).expect("the config is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        command.arg("coordinator").args(arguments).arg("--config").arg(&file);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) };
        for cluster in &self.clusters {
            let password = &cluster.options().monitor.password;
            assert!(!said.out.contains(password) && !said.err.contains(password), "{}{}", said.out, said.err);
        }
        said
    }

    async fn setup(&self, tables: &str) -> String {
        let said = self.run(tables, &["setup"]).await;
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        said.out
    }

    async fn refused(&self, tables: &str) -> String {
        let said = self.run(tables, &["setup"]).await;
        assert_eq!((said.code, &*said.out), (1, ""), "{}", said.err);
        said.err
    }

    async fn superuser(&self, shard: usize, sql: &str) {
        let primary = self.clusters[shard].primary();
        primary.sql_in(DATABASE, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// On every shard, as the application's user, who owns the tables.
    async fn everywhere(&self, sql: &str) {
        for shard in 0..self.clusters.len() {
            self.app(shard).await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    async fn login(&self, shard: usize, user: &str, password: &str, database: &str) -> Client {
        let url = format!("postgresql://{user}:{password}@{}/{database}", self.clusters[shard].primary().address());
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("the client connects");
        tokio::spawn(connection);
        client
    }

    async fn app(&self, shard: usize) -> Client {
        let app = &self.clusters[shard].options().app;
        self.login(shard, &app.user, &app.password, DATABASE).await
    }

    /// A client of the coordinator who sees all rows.
    async fn coordinator(&self) -> Client {
        let client = self.app(0).await;
        client.batch_execute(&format!("SET search_path = {VIEWS}, public")).await.unwrap();
        client
    }

    /// No server has written a password to its log.
    fn check_logs(&self) {
        for (shard, cluster) in self.clusters.iter().enumerate() {
            let log = std::fs::read_to_string(&cluster.describe().servers[0].log_file).expect("the log");
            assert!(shard > 0 || log.contains("CREATE USER MAPPING"), "DDL is logged: {log}");
            // The roles were made with their passwords, before there was anything of pgsluice.
            let ours: Vec<&str> = log.lines().filter(|line| !line.contains("CREATE ROLE")).collect();
            for other in &self.clusters {
                assert!(!ours.join("\n").contains(&other.options().monitor.password), "{log}");
            }
        }
    }

    async fn stop(self) {
        for cluster in self.clusters {
            cluster.shutdown().await.expect("the cluster stops");
        }
    }
}

async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The first column's lines.
async fn lines(client: &Client, sql: &str) -> String {
    rows(client, sql).await.into_iter().filter_map(|row| row.into_iter().next()?).collect::<Vec<_>>().join("\n")
}

async fn sqlstate(client: &Client, sql: &str) -> String {
    let error = client.simple_query(sql).await.expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

const TABLES: &str = "\
[[tables]]\nname = \"accounts\"\nshard_key = \"id\"\n[[tables]]\nname = \"public.orders\"\nshard_key = \"id\"\n\
[[tables]]\nname = \"currencies\"\nreference = true\n[[tables]]\nname = \"settings\"\nshard = \"b\"\n\
[[tables]]\nname = \"notes\"\nshard = \"a\"\n";

const ACCOUNTS_AND_ORDERS: &str = "\
CREATE TYPE mood AS ENUM ('new', 'paid', 'lost');
CREATE TABLE accounts (id int PRIMARY KEY, gone int, name text COLLATE \"de-x-icu\" NOT NULL, balance numeric(12, 2),
    opened timestamptz NOT NULL, tags text[] NOT NULL, extra jsonb, twice numeric GENERATED ALWAYS AS (balance * 2) STORED);
ALTER TABLE accounts DROP COLUMN gone;
CREATE TABLE orders (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, account_id int, currency text NOT NULL,
    amount numeric NOT NULL, note varchar(20), state mood NOT NULL, \"Odd \"\"name\" uuid);
CREATE TABLE currencies (code text PRIMARY KEY, rate numeric NOT NULL);
INSERT INTO currencies VALUES ('EUR', 1), ('USD', 1.1), ('JPY', 160.25)";

/// Rows whose number fits a condition; all of them with `true`. What belongs together does not lie together.
fn fill(condition: &str) -> String {
    format!(
        "INSERT INTO accounts SELECT i, (ARRAY['äpfel', 'Apfel', 'apfel', 'Zebra', 'zebra', 'Öl', 'ol', 'Straße'])[1 + i % 8] || i / 16,
            CASE WHEN i % 11 > 0 THEN (i * 7919 % 100000) / 100.0 END, TIMESTAMPTZ '2024-01-01 00:00+00' + i * INTERVAL '7 hours',
            ARRAY[i::text, (i % 5)::text], CASE WHEN i % 3 > 0 THEN jsonb_build_object('n', i % 7, 'k', ARRAY[i]) END
         FROM generate_series(1, 300) AS i WHERE {0};
         INSERT INTO orders SELECT i, CASE WHEN i % 17 > 0 THEN (i * 31) % 290 END, (ARRAY['EUR', 'USD', 'JPY'])[1 + i % 3],
            (i * 104729 % 10007) / 10.0, CASE WHEN i % 4 > 0 THEN 'note ' || i % 50 END,
            (ARRAY['paid', 'new', 'lost'])[1 + i % 3]::mood, md5(i::text)::uuid
         FROM generate_series(1, 2000) AS i WHERE {0}",
        condition
    )
}

/// What no merge of the shards' answers could answer, and a few of what it could.
const STATEMENTS: [&str; 30] = [
    "SELECT a.id, a.name, o.id, o.amount FROM accounts a JOIN orders o ON o.account_id = a.id WHERE a.id < 40 ORDER BY 1, 3",
    "SELECT a.name, count(o.id), sum(o.amount) FROM accounts a LEFT JOIN orders o ON o.account_id = a.id GROUP BY a.name ORDER BY a.name",
    "SELECT o.id, a.id FROM orders o FULL JOIN accounts a ON a.id = o.account_id WHERE o.id IS NULL OR a.id IS NULL ORDER BY 1, 2",
    "SELECT id, amount, row_number() OVER (ORDER BY amount, id), rank() OVER (PARTITION BY state ORDER BY amount DESC) FROM orders ORDER BY id LIMIT 200",
    "SELECT id, sum(amount) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) FROM orders ORDER BY id",
    "SELECT id, lag(name) OVER w, ntile(7) OVER w FROM accounts WINDOW w AS (ORDER BY opened) ORDER BY id",
    "SELECT currency, avg(amount), stddev(amount), min(note), max(note) FROM orders GROUP BY currency HAVING count(*) > 10 ORDER BY currency",
    "SELECT account_id FROM orders GROUP BY account_id HAVING sum(amount) > 4000 ORDER BY account_id NULLS FIRST",
    "SELECT account_id % 7 AS k, count(*), count(note), count(DISTINCT note) FROM orders GROUP BY 1 ORDER BY 1",
    "SELECT count(DISTINCT note), count(DISTINCT state), count(DISTINCT (currency, state)), sum(DISTINCT amount) FROM orders",
    "SELECT name FROM accounts ORDER BY name, id",
    "SELECT name, id FROM accounts ORDER BY name DESC, id LIMIT 20 OFFSET 13",
    "SELECT min(name), max(name) FROM accounts",
    "SELECT id FROM accounts WHERE name > 'b' AND name < 'p' ORDER BY id",
    "SELECT DISTINCT state FROM orders ORDER BY state DESC",
    "SELECT state, count(*) FROM orders WHERE state > 'new' GROUP BY state ORDER BY state",
    "SELECT id FROM accounts a WHERE EXISTS (SELECT FROM orders o WHERE o.account_id = a.id AND o.state = 'lost') ORDER BY id",
    "SELECT id FROM accounts a WHERE NOT EXISTS (SELECT FROM orders o WHERE o.account_id = a.id) ORDER BY id",
    "SELECT id FROM accounts WHERE balance > (SELECT avg(balance) FROM accounts) ORDER BY id",
    "SELECT id, (SELECT max(amount) FROM orders o WHERE o.account_id = a.id) FROM accounts a WHERE id % 10 = 0 ORDER BY id",
    "SELECT id FROM accounts WHERE id NOT IN (SELECT account_id FROM orders WHERE account_id IS NOT NULL) ORDER BY id",
    "SELECT id % 9 FROM accounts UNION SELECT account_id % 11 FROM orders ORDER BY 1",
    "SELECT id FROM accounts EXCEPT SELECT account_id FROM orders ORDER BY 1",
    "SELECT id FROM accounts INTERSECT ALL SELECT account_id FROM orders ORDER BY 1",
    "WITH RECURSIVE w (id, depth) AS (SELECT 1, 0 UNION ALL SELECT a.id, depth + 1 FROM w JOIN accounts a ON a.id = w.id + 1 WHERE depth < 20) SELECT count(*), max(depth) FROM w",
    "SELECT c.code, sum(o.amount / c.rate) FROM orders o JOIN currencies c ON c.code = o.currency JOIN settings s ON s.key = c.code GROUP BY c.code ORDER BY c.code",
    "SELECT currency, state, grouping(currency, state), count(*) FROM orders GROUP BY ROLLUP (currency, state) ORDER BY 1, 2, 3",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount), mode() WITHIN GROUP (ORDER BY currency) FROM orders",
    "SELECT string_agg(name, ',' ORDER BY name, id), array_agg(tags ORDER BY id), jsonb_agg(extra ORDER BY id) FROM accounts WHERE id < 30",
    "SELECT * FROM accounts a JOIN orders o ON o.account_id = a.id LEFT JOIN notes n ON n.id = a.id ORDER BY a.id, o.id",
];

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_database() {
    let shards = Shards::start(&[0, 0, 0]).await;
    shards.superuser(0, ON_THE_COORDINATOR).await;
    shards.everywhere(ACCOUNTS_AND_ORDERS).await;
    let (settings, notes) =
        ("CREATE TABLE settings (key text PRIMARY KEY, value text)", "CREATE TABLE notes (id int, note text)");
    let rows_of = "INSERT INTO settings VALUES ('EUR', 'x'), ('JPY', 'y'); ";
    shards.app(1).await.batch_execute(&format!("{settings}; {rows_of}")).await.unwrap();
    shards.app(0).await.batch_execute(&format!("{notes}; INSERT INTO notes VALUES (7, 'seven')")).await.unwrap();
    for shard in 0..3 {
        let client = shards.app(shard).await;
        client.batch_execute(&fill(&format!("i * 7919 % 13 % 3 = {shard}"))).await.unwrap();
    }
    // One plain database with all of it.
    shards.superuser(1, "CREATE DATABASE plain OWNER app").await;
    let app = &shards.clusters[1].options().app;
    let plain = shards.login(1, &app.user, &app.password, "plain").await;
    let all = format!(
        "{ACCOUNTS_AND_ORDERS}; {settings}; {rows_of} {notes}; INSERT INTO notes VALUES (7, 'seven'); {}",
        fill("true")
    );
    plain.batch_execute(&all).await.unwrap();

    shards.setup(TABLES).await;
    shards.check_logs();
    let coordinator = shards.coordinator().await;
    for zone in ["UTC", "America/New_York"] {
        for client in [&plain, &coordinator] {
            client.batch_execute(&format!("SET timezone = '{zone}'")).await.unwrap();
        }
        for sql in STATEMENTS {
            let expected = rows(&plain, sql).await;
            assert!(!expected.is_empty(), "{sql}");
            assert_eq!(rows(&coordinator, sql).await, expected, "{sql}");
        }
    }
    // Parameters and binary results.
    let sql = "SELECT a.name, o.amount::float8, o.\"Odd \"\"name\"::text FROM accounts a JOIN orders o ON o.account_id = a.id \
               WHERE a.id = $1 AND o.amount > $2::float8 ORDER BY o.id";
    let ask = async |client: &Client| {
        let rows = client.query(sql, &[&31, &50.5]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect::<Vec<(String, f64, String)>>()
    };
    assert_eq!(ask(&coordinator).await, ask(&plain).await);
    assert!(!ask(&plain).await.is_empty());

    how_it_is_planned(&coordinator).await;
    who_may_read(&shards).await;
    // What is in the schema, and the mark that says for which declaration.
    let ready = coordinator.query_one(READY, &[]).await.unwrap();
    let config = Config::parse(&shards.config(TABLES), std::path::Path::new("/"), "t").unwrap();
    assert_eq!(ready.get::<_, Option<String>>(0), Some(ready_mark(&config)));
    assert_eq!(ready.get::<_, Vec<String>>(1), ["accounts", "orders", "settings"]);
    // Nothing is written past pgsluice.
    let owner = shards.login(0, "pgsluice", &shards.clusters[0].options().monitor.password, DATABASE).await;
    for sql in [
        "DELETE FROM pgsluice_shard_b.settings",
        "TRUNCATE pgsluice_shard_b.settings",
        "INSERT INTO pgsluice_all.settings VALUES ('k', 'v')",
    ] {
        assert!(["55000", "42809"].contains(&&*sqlstate(&owner, sql).await), "{sql}");
    }
    drop((coordinator, plain, owner));
    shards.stop().await;
}

/// All shards are read at the same time, each with the statement's own conditions.
async fn how_it_is_planned(coordinator: &Client) {
    let plan =
        lines(coordinator, "EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM accounts WHERE id = 7 AND balance > 1.5")
            .await;
    assert_eq!(plan.matches("Async Foreign Scan on").count(), 3, "{plan}");
    let remote: Vec<&str> = plan.lines().filter(|line| line.contains("Remote SQL")).collect();
    assert!(remote.iter().all(|sql| sql.contains("(balance > 1.5)") && sql.contains("(id = 7)")), "{plan}");
    assert!(remote.iter().all(|sql| sql.contains("SELECT name FROM public.accounts")), "only what is needed: {plan}");
    let plan =
        lines(coordinator, "EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM accounts ORDER BY name LIMIT 10").await;
    assert_eq!(plan.matches("Foreign Scan on").count(), 3, "{plan}");
    let plan = lines(coordinator, "EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM currencies").await;
    assert!(plan.contains("Seq Scan on public.currencies"), "{plan}");
}

/// Grants on the tables decide, on every shard; the foreign tables are nobody's but the account's.
async fn who_may_read(shards: &Shards) {
    for shard in 0..3 {
        let grants = "CREATE ROLE reader LOGIN PASSWORD 'r'; CREATE ROLE few LOGIN PASSWORD 's'; CREATE ROLE half LOGIN PASSWORD 'h'; \
            CREATE ROLE nobody LOGIN PASSWORD 'n'; GRANT SELECT ON accounts TO reader; GRANT SELECT (id, name) ON accounts TO few; \
            CREATE SCHEMA vault; CREATE TABLE vault.coins (id int); GRANT SELECT ON vault.coins TO PUBLIC; GRANT USAGE ON SCHEMA vault TO reader";
        shards.superuser(shard, grants).await;
        if shard != 2 {
            shards.superuser(shard, "GRANT SELECT ON accounts TO half").await;
        }
    }
    let tables = format!("{TABLES}[[tables]]\nname = \"vault.coins\"\nshard_key = \"id\"\n");
    let said = shards.setup(&tables).await;
    assert!(said.contains("changed: privileges on view pgsluice_all.accounts"), "{said}");
    let login = async |user: &str, password: &str| {
        let client = shards.login(0, user, password, DATABASE).await;
        client.batch_execute(&format!("SET search_path = {VIEWS}, public")).await.unwrap();
        client
    };
    let [reader, few, half, nobody] =
        [login("reader", "r").await, login("few", "s").await, login("half", "h").await, login("nobody", "n").await];
    assert_eq!(lines(&reader, "SELECT count(*) FROM accounts").await, "300");
    assert_eq!(lines(&reader, "SELECT count(*) FROM coins").await, "0");
    assert_eq!(lines(&few, "SELECT count(name) FROM accounts WHERE id > 0").await, "300");
    for (client, sql) in [
        (&reader, "SELECT count(*) FROM orders"),
        (&reader, "SELECT count(*) FROM pgsluice_shard_b.accounts"),
        (&few, "SELECT balance FROM accounts"),
        (&few, "SELECT * FROM accounts"),
        (&half, "SELECT id FROM accounts"),
        (&nobody, "SELECT id FROM accounts"),
        // Everybody may read it who may enter its schema; he may not.
        (&nobody, "SELECT id FROM coins"),
        (&nobody, "CREATE TABLE pgsluice_all.x (a int)"),
    ] {
        assert_eq!(sqlstate(client, sql).await, "42501", "{sql}");
    }
    for shard in 0..3 {
        shards.superuser(shard, "REVOKE SELECT ON accounts FROM reader").await;
    }
    let said = shards.run(&tables, &["check"]).await;
    assert_eq!(
        (said.code, &*said.out),
        (1, "app: out of date: privileges on view pgsluice_all.accounts\n"),
        "{}",
        said.err
    );
    shards.setup(&tables).await;
    assert_eq!(sqlstate(&reader, "SELECT count(*) FROM accounts").await, "42501");
    let said = shards.setup(TABLES).await;
    assert!(said.contains("dropped: view pgsluice_all.coins"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_up() {
    const ONE: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n";
    const TWO: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n[[tables]]\nname = \"u\"\nshard_key = \"id\"\n";
    let mut shards = Shards::start(&[0, 1]).await;
    shards.everywhere("CREATE TABLE t (id int PRIMARY KEY, note text)").await;

    // What the account may not do is told, with what gives it the right.
    let refused = async |needed: &str| {
        let said = shards.refused(ONE).await;
        assert!(said.contains(needed), "{said}");
        shards.superuser(0, needed).await;
    };
    let wrapper = "GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO \"pgsluice\"";
    assert!(shards.refused(ONE).await.contains(&format!("CREATE EXTENSION postgres_fdw; {wrapper}")));
    refused("GRANT CREATE ON DATABASE \"app\" TO \"pgsluice\"").await;
    assert!(shards.refused(ONE).await.contains("in this database: CREATE EXTENSION postgres_fdw; "));
    shards.superuser(0, "CREATE EXTENSION postgres_fdw").await;
    refused(wrapper).await;
    shards.superuser(1, "REVOKE pg_read_all_data FROM pgsluice").await;
    let said = shards.refused(ONE).await;
    assert_eq!(
        said,
        "pgsluice: app: pgsluice may not read \"public\".\"t\" on shard b: GRANT pg_read_all_data TO pgsluice\n"
    );
    shards.superuser(1, ON_EVERY_SHARD).await;

    // A rehearsal changes nothing; a setup does, once.
    let client = shards.coordinator().await;
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgsluice%'";
    let said = shards.run(ONE, &["setup", "--dry-run"]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("CREATE VIEW \"pgsluice_all\".\"t\" AS SELECT")
            && said.out.contains("(ADD \"password\" '…');"),
        "{}",
        said.out
    );
    assert_eq!(lines(&client, there).await, "0");
    let said = shards.run(ONE, &["check", "--json"]).await;
    let value: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (said.code, &value[0]["database"], &value[0]["differences"][0]["state"]),
        (1, &"app".into(), &"missing".into())
    );
    let said = shards.setup(ONE).await;
    assert_eq!(said.lines().count(), 10, "{said}");
    let oids = "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'pgsluice%'";
    let before = lines(&client, oids).await;
    assert_eq!(shards.setup(ONE).await, "app: up to date, nothing to do\n");
    assert_eq!(lines(&client, oids).await, before);
    let said = shards.run(ONE, &["check"]).await;
    assert_eq!((said.code, &*said.out), (0, "app: up to date, nothing to do\n"), "{}", said.err);
    shards.check_logs();

    // DDL is not held up by the views, and is noticed.
    shards
        .everywhere(
            "ALTER TABLE t DROP COLUMN note; ALTER TABLE t ADD COLUMN amount numeric(5, 1); CREATE TABLE u (id int)",
        )
        .await;
    let said = shards.run(ONE, &["check"]).await;
    let expected = ["view pgsluice_all.t", "foreign table pgsluice_shard_a.t", "foreign table pgsluice_shard_b.t"];
    assert_eq!(
        (said.code, said.out),
        (1, expected.map(|what| format!("app: out of date: {what}\n")).concat()),
        "{}",
        said.err
    );
    let said = shards.setup(TWO).await;
    assert!(
        said.contains("app: changed: view pgsluice_all.t\n") && said.contains("app: created: view pgsluice_all.u\n"),
        "{said}"
    );
    for shard in 0..2 {
        shards.app(shard).await.batch_execute(&format!("INSERT INTO t VALUES ({shard}, 1.5)")).await.unwrap();
    }
    assert_eq!(lines(&client, "SELECT sum(amount) FROM t").await, "3.0");

    // A new primary is found, by the coordinator and by the setup.
    let cluster = &shards.clusters[1];
    cluster.wait_replicated().await.unwrap();
    cluster.primary().stop(StopMode::Immediate).await.unwrap();
    cluster.replicas()[0].sql("SELECT pg_promote(true)").await.unwrap();
    // A connection that has gone is noticed by the first statement; the next one makes another.
    let _ = client.simple_query("SELECT count(*) FROM t").await;
    assert_eq!(lines(&client, "SELECT sum(amount) FROM t").await, "3.0");
    assert_eq!(shards.setup(TWO).await, "app: up to date, nothing to do\n");
    drop(client);

    // A password that is wrong on the coordinator is put right; one that is wrong everywhere is said to be.
    shards.superuser(0, "ALTER USER MAPPING FOR pgsluice SERVER pgsluice_b OPTIONS (SET password 'old')").await;
    let said = shards.setup(TWO).await;
    assert_eq!(said, "app: changed: user mapping for pgsluice on server pgsluice_b\n");

    // Undeclared, and gone.
    let said = shards.setup(ONE).await;
    assert!(said.contains("app: dropped: view pgsluice_all.u\n"), "{said}");
    assert!(said.contains("app: dropped: foreign table pgsluice_shard_b.u\n"), "{said}");
    let folder = std::mem::replace(&mut shards.folder, tempfile::tempdir().unwrap());
    drop(folder);
    shards.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused() {
    const TABLE: &str = "[[tables]]\nname = \"t\"\nshard_key = \"id\"\n";
    let shards = Shards::start(&[0, 0]).await;
    shards.superuser(0, ON_THE_COORDINATOR).await;
    shards.everywhere("CREATE TABLE t (id int PRIMARY KEY, note text COLLATE \"de-x-icu\")").await;
    shards.setup(TABLE).await;
    let client = shards.app(1).await;

    for (change, undo, expected) in [
        (
            "ALTER TABLE t ADD x int",
            "ALTER TABLE t DROP x",
            "\"public\".\"t\", column 3 differs: none on shard a, \"x\" integer on shard b",
        ),
        (
            "ALTER TABLE t ALTER id TYPE bigint",
            "ALTER TABLE t ALTER id TYPE int",
            "\"public\".\"t\", column 1 differs: \"id\" integer NOT NULL on shard a, \"id\" bigint NOT NULL on shard b",
        ),
        (
            "ALTER TABLE t ALTER note TYPE text COLLATE \"C\"",
            "ALTER TABLE t ALTER note TYPE text COLLATE \"de-x-icu\"",
            "column 2 differs: \"note\" text COLLATE pg_catalog.\"de-x-icu\" on shard a, \"note\" text COLLATE pg_catalog.\"C\" on shard b",
        ),
        ("ALTER TABLE t ALTER note SET NOT NULL", "ALTER TABLE t ALTER note DROP NOT NULL", "column 2 differs"),
        (
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
            "\"public\".\"t\" has row level security on shard b",
        ),
        (
            "ALTER TABLE t RENAME TO t2",
            "ALTER TABLE t2 RENAME TO t",
            "\"public\".\"t\" is on shard a and not on shard b",
        ),
    ] {
        client.batch_execute(change).await.unwrap();
        let said = shards.refused(TABLE).await;
        assert!(said.contains(expected) && said.lines().count() == 1, "{change}: {said}");
        let said = shards.run(TABLE, &["check", "--json"]).await;
        let value: Value = serde_json::from_str(&said.out).expect("JSON");
        assert!(said.code == 1 && value[0]["errors"][0].as_str().unwrap().contains(expected), "{value}");
        client.batch_execute(undo).await.unwrap();
    }

    // A name that could mean two tables.
    shards.superuser(0, "CREATE SCHEMA other; CREATE TABLE other.t (id int)").await;
    let said = shards.refused(TABLE).await;
    assert!(said.contains("the name t is declared in several schemas (other, public)"), "{said}");
    let qualified = TABLE.replace("\"t\"", "\"public.t\"");
    assert!(shards.setup(&qualified).await.contains("schema pgsluice_all"), "another declaration");

    // The same name for a collation that is another.
    for (shard, locale) in ["de", "sv"].iter().enumerate() {
        let sql = format!(
            "CREATE COLLATION mine (provider = icu, locale = '{locale}'); ALTER TABLE t ALTER note TYPE text COLLATE mine"
        );
        shards.app(shard).await.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let said = shards.refused(&qualified).await;
    assert!(said.contains("the collation of \"public\".\"t\", column note differs: provider i, locale de"), "{said}");
    shards.everywhere("ALTER TABLE t ALTER note TYPE text COLLATE \"C\"").await;

    // A shard that the coordinator cannot log in to: nothing is changed.
    shards.everywhere("ALTER TABLE t ADD late int").await;
    let before = "SELECT count(*) FROM pg_attribute WHERE attname = 'late' AND attrelid = 'pgsluice_all.t'::regclass";
    let hba = shards.clusters[1].describe().servers[0].data_dir.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    // pgsluice itself gets in from 127.0.0.1 without its password; postgres_fdw asks that it be used.
    std::fs::write(&hba, rules.replace("scram-sha-256", "trust")).unwrap();
    shards.superuser(1, "SELECT pg_reload_conf()").await;
    let said = shards.refused(&qualified).await;
    assert!(said.contains("the coordinator cannot read shard b"), "{said}");
    assert_eq!(shards.clusters[0].primary().sql_in(DATABASE, before).await.unwrap()[0][0].as_deref(), Some("0"));
    std::fs::write(&hba, rules).unwrap();
    shards.superuser(1, "SELECT pg_reload_conf()").await;

    // Databases are named, or there are none; a shard that is down is named.
    let said = shards.run(&qualified, &["setup", "--database", "nowhere"]).await;
    assert!(said.code == 1 && said.err.contains("database \"nowhere\" does not exist"), "{}", said.err);
    let said = shards.run(&qualified, &["setup", "--database"]).await;
    assert_eq!(said.code, 2, "{}", said.err);
    shards.clusters[1].primary().stop(StopMode::Immediate).await.unwrap();
    let said = shards.refused(&qualified).await;
    assert!(said.starts_with("pgsluice: app: the primary of shard b is not to be reached"), "{said}");
    shards.stop().await;
}

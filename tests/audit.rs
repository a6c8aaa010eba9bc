//! Metrics, statistics and the audit log are told of the same statements; and what else the audit log tells.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::config::Config;
use pgsluice::demo::{Cluster, ClusterOptions, proxy_config};
use pgsluice::proxy::Proxy;
use pgsluice::route::Reason;
use pgsluice::telemetry::metrics;
use serde_json::Value;
use support::raw::{self, *};
use support::{DEADLINE, Stand, connect, try_connect};
use tokio_postgres::SimpleQueryMessage;

/// Replicas stay admitted whatever the machine does.
const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn of(lines: &[Value], event: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["event"] == event).cloned().collect()
}

async fn wait_for(what: &str, path: &Path, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let lines = lines(path);
        if is_so(&lines) {
            return lines;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: {lines:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A proxy within this process, so that its statistics can be asked.
struct Within {
    cluster: Cluster,
    proxy: Arc<Proxy>,
    address: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Within {
    async fn start(sections: &str) -> (Self, metrics_page::Page) {
        let cluster = Cluster::start(ClusterOptions::with_replicas(1)).await.expect("the cluster starts");
        let text = proxy_config(&cluster, sections);
        let config = Config::parse(&text, Path::new("/"), "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let page = metrics_page::Page(metrics::install().expect("the recorder"));
        let proxy = Proxy::start(config).expect("the proxy starts");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let serving = tokio::spawn(Arc::clone(&proxy).serve(listener));
        let start = Instant::now();
        let admitted = || {
            let topology = proxy.topology.load();
            topology.shards.first().is_some_and(|shard| {
                let admitted = pgsluice::topology::Admission::Admitted;
                shard.primary().is_some() && shard.replicas().any(|node| node.admission() == admitted)
            })
        };
        while !admitted() {
            assert!(start.elapsed() < DEADLINE, "the replica is not admitted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (Self { cluster, proxy, address, serving }, page)
    }

    fn url(&self) -> String {
        let options = self.cluster.options();
        let (user, password) = (&options.app.user, &options.app.password);
        format!("postgresql://{user}:{password}@{}/{}", self.address, options.database)
    }

    async fn raw(&self) -> Raw {
        let options = self.cluster.options();
        let (user, password) = (options.app.user.as_str(), options.app.password.as_str());
        let database = &options.database;
        Raw::connect(&Login { address: &self.address, user, password, database, minor: 0, settings: &[] }).await
    }
}

mod metrics_page {
    use std::collections::BTreeMap;

    use metrics_exporter_prometheus::PrometheusHandle;

    pub struct Page(pub PrometheusHandle);

    impl Page {
        /// `pgsluice_statements_total` by reason, without zeros.
        pub fn statements(&self) -> BTreeMap<String, u64> {
            let mut counts = BTreeMap::new();
            for line in self.0.render().lines().filter(|line| line.starts_with("pgsluice_statements_total{")) {
                let reason = line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a reason");
                let count: u64 = line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number");
                *counts.entry(reason.to_owned()).or_default() += count;
            }
            counts.retain(|_, count| *count > 0);
            counts
        }

        pub fn counter(&self, name: &str) -> u64 {
            let page = self.0.render();
            let line = page.lines().find(|line| line.starts_with(name)).expect("the counter");
            line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
        }
    }
}

/// So many statements of all sorts by one client; how many there were.
async fn mixed(within: &Within, statements: usize, seed: usize) -> usize {
    let client = connect(&within.url()).await;
    let prepared = client.prepare("SELECT n FROM accounts WHERE id = $1").await.expect("it is prepared");
    let mut raw = within.raw().await;
    let mut done = 0;
    let mut round = seed;
    while done < statements {
        round += 1;
        let id = i32::try_from(round % 100).expect("a number");
        done += match round % 9 {
            0 => {
                client.query(&prepared, &[&id]).await.expect("a read");
                1
            }
            1 => {
                client.batch_execute(&format!("UPDATE accounts SET n = n + 1 WHERE id = {id}")).await.expect("a write");
                1
            }
            2 => {
                let sql = format!("BEGIN; SELECT n FROM accounts WHERE id = {id}; COMMIT");
                client.batch_execute(&sql).await.expect("a transaction");
                3
            }
            3 => {
                client.batch_execute("BEGIN READ ONLY").await.expect("begin");
                client.query(&prepared, &[&id]).await.expect("a read");
                client.batch_execute("COMMIT").await.expect("commit");
                3
            }
            // The second fails, and the third is never run.
            4 => {
                client.batch_execute("SELECT 1; SELECT 1/0; SELECT 2").await.expect_err("by zero");
                2
            }
            5 => {
                client.batch_execute("SET pgsluice.route = 'primary'").await.expect("a setting");
                client.query_one("SELECT count(*) FROM accounts", &[]).await.expect("a read");
                client.batch_execute("RESET pgsluice.route").await.expect("a setting");
                3
            }
            // A pipeline of three, of which the second fails and the third is passed over.
            6 => {
                let mut pipeline = Vec::new();
                for text in ["SELECT 1", "SELECT 1/0", "SELECT 2"] {
                    pipeline.extend([parse("", text), bind("", "", &[]), execute("", 0)].concat());
                }
                pipeline.extend(sync());
                raw.send(&pipeline).await;
                let answers = raw.until_ready(1).await;
                assert_eq!(raw::sqlstates(&answers), ["22012"]);
                2
            }
            7 => {
                let rows = client.simple_query("SELECT id FROM accounts WHERE id < 5").await.expect("a read");
                assert_eq!(rows.iter().filter(|row| matches!(row, SimpleQueryMessage::Row(_))).count(), 5);
                1
            }
            _ => {
                assert!(raw.query("").await.len() > 1, "an empty text is answered");
                1
            }
        };
    }
    done
}

/// Runs a statement until a replica refuses it as a write, and the primary runs it: how often that took, for
/// until the function is known the primary runs it without asking.
async fn heal(within: &Within, client: &tokio_postgres::Client) -> u64 {
    let start = Instant::now();
    let mut runs = 0;
    let heals = || within.proxy.statistics.snapshot().iter().map(|row| row.heals).sum::<u64>();
    while heals() == 0 {
        assert!(start.elapsed() < DEADLINE, "no replica has refused it");
        client.batch_execute("SELECT lie()").await.expect("it is run");
        runs += 1;
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_statistics_and_audit_log_agree() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let audit = format!("{CALM}[audit]\nfile = {log:?}\nstatements = [\"all\"]\nrotate_size = \"1GiB\"\n");
    let (within, page) = Within::start(&audit).await;
    let client = connect(&within.url()).await;
    client.batch_execute("CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL)").await.unwrap();
    client.batch_execute("INSERT INTO accounts SELECT i, 0 FROM generate_series(0, 99) i").await.unwrap();
    // Declared STABLE, it lies: replicas refuse it, and the primary runs it.
    let lie = "CREATE SEQUENCE s; CREATE FUNCTION lie() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN nextval(''s''); END'";
    client.batch_execute(lie).await.unwrap();
    let ready = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get::<_, String>(0);
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{ready}'");
    let start = Instant::now();
    while within.cluster.replicas()[0].sql(&caught_up).await.unwrap()[0][0].as_deref() != Some("t") {
        assert!(start.elapsed() < DEADLINE, "the replica does not catch up");
    }
    within.proxy.statistics.reset();
    let before = page.statements();
    assert!(within.proxy.audit.flush(DEADLINE).await);
    let already = of(&lines(&log), "statement").len();

    let lies = heal(&within, &client).await;
    let began = Instant::now();
    let done = tokio::join!(mixed(&within, 3400, 0), mixed(&within, 3400, 3), mixed(&within, 3400, 7));
    let done = done.0 + done.1 + done.2 + usize::try_from(lies).unwrap();
    println!("{done} statements in {:?}", began.elapsed());
    assert!(done >= 10_000);
    // Who prepares a text runs nothing.
    let counted_since = || {
        let mut counted = page.statements();
        for (reason, count) in &mut counted {
            *count -= before.get(reason).copied().unwrap_or(0);
        }
        counted.retain(|_, count| *count > 0);
        counted
    };
    // The last ones are counted a moment after their answers were sent.
    let start = Instant::now();
    while counted_since().values().sum::<u64>() < done as u64 && start.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(within.proxy.audit.flush(DEADLINE).await);
    let counted = counted_since();
    assert_eq!(counted.values().sum::<u64>(), done as u64, "{counted:#?}");

    let rows = within.proxy.statistics.snapshot();
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in rows.iter().flat_map(|row| &row.reasons) {
        *kept.entry(reason.name().to_owned()).or_default() += count;
    }
    assert_eq!(kept, counted, "statistics, metrics");
    assert!(within.proxy.audit.flush(DEADLINE).await);
    assert_eq!(page.counter("pgsluice_audit_lost_total"), 0);
    let statements = of(&lines(&log), "statement").split_off(already);
    let mut written: BTreeMap<String, u64> = BTreeMap::new();
    for statement in &statements {
        *written.entry(statement["reason"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(written, counted, "audit log, metrics");
    assert!(counted.len() >= 6, "{counted:?}");

    let healed = of(&lines(&log), "heal");
    assert_eq!(healed.len() as u64, page.counter("pgsluice_healed_statements_total"));
    let lie = rows.iter().find(|row| &*row.text == "SELECT lie()").expect("it was run");
    assert_eq!((lie.heals, lie.calls, lie.on_replicas, lie.failures), (1, lies, 0, 0));
    assert!(lie.reasons.contains(&(Reason::RefusedByStandby, 1)), "{lie:?}");
    assert_eq!(healed[0]["fingerprint"].as_str(), lie.fingerprint.as_deref());

    // And by statement, between statistics and audit log: calls, failures, rows.
    let mut by_fingerprint: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for statement in &statements {
        let entry = by_fingerprint.entry(statement["fingerprint"].as_str().expect("a fingerprint").to_owned());
        let sums = entry.or_default();
        sums.0 += 1;
        sums.1 += u64::from(statement["sqlstate"].is_string());
        sums.2 += statement["rows"].as_u64().unwrap();
    }
    let from_rows: BTreeMap<String, (u64, u64, u64)> = (rows.iter())
        .map(|row| (row.fingerprint.clone().expect("a fingerprint"), (row.calls, row.failures, row.rows)))
        .collect();
    assert_eq!(by_fingerprint, from_rows);
    let five = rows.iter().find(|row| &*row.text == "SELECT id FROM accounts WHERE id < $1").expect("a read");
    assert_eq!(five.rows, 5 * five.calls);
    let by_zero = rows.iter().find(|row| &*row.text == "SELECT $1/$2").expect("it fails");
    assert_eq!((by_zero.failures, by_zero.rows), (by_zero.calls, 0));
    assert!(rows.iter().all(|row| row.min <= row.mean() && row.mean() <= row.max), "{rows:#?}");

    within.proxy.shut_down();
    drop(client);
    within.serving.await.unwrap();
    within.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let sections = format!(
        "[lag]\nreadmit_after = \"50ms\"\n\n[audit]\nfile = {log:?}\nstatements = [\"ddl\"]\ntables = [\"public.secrets\"]\n"
    );
    let mut stand = Stand::start(1, &sections).await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE secrets (id int, word text)").await.unwrap();
    client.batch_execute("CREATE TABLE others (id int)").await.unwrap();
    client.batch_execute("INSERT INTO secrets VALUES (1, 'hush')").await.unwrap();
    client.batch_execute("INSERT INTO others VALUES (1)").await.unwrap();
    client.query("SELECT word FROM secrets WHERE id = $1", &[&4711]).await.unwrap();
    client.query("SELECT id FROM others", &[]).await.unwrap();
    let wrong = stand.url().replace(&stand.cluster.options().app.password, "wrong-password");
    assert!(try_connect(&wrong).await.is_err());
    client.batch_execute("SET pgsluice.consistency = 'nonsense'").await.expect_err("no such level");

    let lines = wait_for("statements and logins", &log, |lines| {
        of(lines, "statement").len() >= 4 && !of(lines, "statement_refused").is_empty()
    })
    .await;
    let texts: Vec<String> =
        of(&lines, "statement").iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        texts,
        [
            "CREATE TABLE secrets (id int, word text)",
            "CREATE TABLE others (id int)",
            "INSERT INTO secrets VALUES ($1, $2)",
            "SELECT word FROM secrets WHERE id = $1"
        ]
    );
    let insert = &of(&lines, "statement")[2];
    assert_eq!(
        (&insert["kind"], &insert["reason"], &insert["role"]),
        (&"write".into(), &"write".into(), &"primary".into())
    );
    assert_eq!((&insert["rows"], &insert["user"], &insert["database"]), (&1.into(), &"app".into(), &"app".into()));
    assert_eq!(insert["node"], stand.cluster.primary().address());
    assert!(insert["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{insert}");
    assert!(insert["duration_seconds"].as_f64().unwrap() > 0.0 && insert["sqlstate"].is_null());
    assert_eq!(of(&lines, "login")[0]["method"], "scram-sha-256");
    let refused = &of(&lines, "login_refused")[0];
    assert_eq!((&refused["sqlstate"], &refused["user"]), (&"28P01".into(), &"app".into()));
    assert_eq!(of(&lines, "statement_refused")[0]["sqlstate"], "22023");
    assert_eq!(of(&lines, "started").len(), 1);
    assert!(of(&lines, "role_changed").iter().any(|line| line["to"] == "primary"));
    assert!(of(&lines, "replica_returned").iter().any(|line| line["state"] == "admitted"));

    // A replica leaves and returns.
    let replica = &stand.cluster.replicas()[0];
    replica.pause_replay().await.unwrap();
    client.batch_execute("INSERT INTO others VALUES (2)").await.unwrap();
    stand.proxy.wait_ejected(&replica.address()).await;
    replica.resume_replay().await.unwrap();
    stand.proxy.wait_admitted(&replica.address()).await;
    wait_for("ejected and back", &log, |lines| {
        let ejected = of(lines, "replica_ejected");
        let back = |line: &Value| line["state"] == "admitted" && line["time"].as_str() > ejected[0]["time"].as_str();
        !ejected.is_empty() && of(lines, "replica_returned").iter().any(back)
    })
    .await;

    // The config changes; of a secret only that it has.
    stand.proxy.rewrite_config(|text| {
        let secret = format!("password = {:?}", stand.cluster.options().superuser.password);
        text.replace(&secret, "password = \"another-secret\"") + "\n[pool]\nsize = 7\n"
    });
    let lines = wait_for("the change", &log, |lines| !of(lines, "config_changed").is_empty()).await;
    let changes = of(&lines, "config_changed")[0]["changes"].to_string();
    assert!(changes.contains("pool.size: 20 -> 7") && changes.contains(".password: changed"), "{changes}");
    stand.proxy.rewrite_config(|text| text.replace("size = 7", "sise = 7"));
    let lines = wait_for("the refusal", &log, |lines| !of(lines, "config_refused").is_empty()).await;
    assert!(of(&lines, "config_refused")[0]["mistakes"].to_string().contains("sise"));
    stand.proxy.rewrite_config(|text| text.replace("sise = 7", "size = 7"));

    // Put aside by logrotate: SIGHUP opens it anew.
    let aside = folder.path().join("audit.log.old");
    std::fs::rename(&log, &aside).unwrap();
    stand.proxy.signal(Signal::SIGHUP);
    let start = Instant::now();
    while !log.exists() {
        assert!(start.elapsed() < DEADLINE, "it is not opened anew");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute("DROP TABLE secrets").await.unwrap();
    wait_for("the new file", &log, |lines| of(lines, "statement").iter().any(|line| line["kind"] == "ddl")).await;

    // What was told last is there when the process has ended.
    stand.proxy.signal(Signal::SIGTERM);
    assert_eq!(stand.proxy.wait().await, Some(0), "{}", stand.proxy.log_text());
    let whole = std::fs::read_to_string(&aside).unwrap() + &std::fs::read_to_string(&log).unwrap();
    assert_eq!(of(&self::lines(&log), "ended").len(), 1, "{whole}");
    for secret in ["hush", "4711", "wrong-password", "another-secret", &stand.cluster.options().app.password] {
        assert!(!whole.contains(secret), "{secret}: {whole}");
    }
    stand.cluster.shutdown().await.unwrap();
}

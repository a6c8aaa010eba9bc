//! Change and stop: a running proxy takes over another config without dropping a client, refuses a bad
//! one whole, and ends in good order.

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{DEADLINE, ProxyProcess, Stand, connect, try_connect};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_postgres::Client;

const RELOADS: &str = "pgsluice_config_reloads_total";

impl Stand {
    /// Changes the file, and waits until the change is in force.
    async fn change(&self, change: impl FnOnce(String) -> String) {
        let before = self.proxy.metric(RELOADS, &["outcome=\"applied\""]).await.unwrap_or(0.0);
        self.proxy.rewrite_config(change);
        self.proxy.wait_for_metric(RELOADS, &["outcome=\"applied\""], |value| value > before).await;
    }

    async fn wait_for_log(&self, words: &str) {
        let start = Instant::now();
        while !self.proxy.log_text().contains(words) {
            assert!(start.elapsed() < DEADLINE, "{words:?} is not in the log:\n{}", self.proxy.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The port of the server that runs a read.
async fn port_of_a_read(client: &Client) -> i32 {
    client
        .query_one("/* a read */ SELECT setting::int FROM pg_settings WHERE name = 'port'", &[])
        .await
        .expect("a read")
        .get(0)
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_under_a_connected_client() {
    let stand = Stand::start(2, "").await;
    let client = stand.client().await;
    client.batch_execute("SET application_name = 'stays'; CREATE TEMP TABLE mine AS SELECT 7 AS n").await.unwrap();
    let reader = stand.client().await;
    let [one, two] = stand.cluster.replicas() else { panic!("two replicas") };
    let (one_port, two_port) = (i32::from(one.port()), i32::from(two.port()));
    let listed = format!(", {:?}", two.address());

    stand.change(|text| text.replace(&listed, "")).await;
    for _ in 0..50 {
        assert_ne!(port_of_a_read(&reader).await, two_port, "the replica has been removed");
    }
    stand.wait_for_log(&format!("nodes[{}]: removed", two.address())).await;
    let only = format!("{:?}", one.address());
    stand.change(|text| text.replace(&only, &format!("{only}{listed}"))).await;
    stand.proxy.wait_admitted(&two.address()).await;
    wait_until("the replica that was added gets no reads", async || port_of_a_read(&reader).await == two_port).await;
    wait_until("the other one gets no reads", async || port_of_a_read(&reader).await == one_port).await;
    // Nobody was dropped, and nothing forgotten.
    let row = client.query_one("SELECT n, current_setting('application_name') FROM mine", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (7, "stays"));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_thresholds_and_sizes_change() {
    let stand = Stand::start(1, "[pool]\nsize = 1\ncheckout_timeout = \"200ms\"\n\n[consistency]\nlevel = \"session\"\n\n[lag]\neject_above = \"100ms\"\n").await;
    let replica = &stand.cluster.replicas()[0];
    let (primary_port, replica_port) = (i32::from(stand.cluster.primary().port()), i32::from(replica.port()));
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    wait_until("reads reach the replica", async || port_of_a_read(&client).await == replica_port).await;

    // consistency.level, and with SIGHUP where the file's change went unnoticed or not.
    stand.change(|text| text.replace("level = \"session\"", "level = \"primary\"")).await;
    assert_eq!(port_of_a_read(&client).await, primary_port);
    stand.change(|text| text.replace("level = \"primary\"", "level = \"eventual\"")).await;
    assert_eq!(port_of_a_read(&client).await, replica_port);

    // pool.size: with one connection to the primary, a second transaction finds none; with two it does.
    let other = stand.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let error = other.batch_execute("BEGIN").await.expect_err("the only connection is taken");
    assert_eq!(error.code().map(|code| code.code()), Some("53300"), "{error:?}");
    stand.change(|text| text.replace("size = 1\n", "size = 2\n")).await;
    other.batch_execute("BEGIN; INSERT INTO t VALUES (1); COMMIT").await.expect("now there are two");
    stand.change(|text| text.replace("size = 2\n", "size = 1\n")).await;
    // What was open goes on.
    client.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();

    // lag.eject_above: a replica that stands still is out, and with another threshold in again.
    replica.pause_replay().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    stand.proxy.wait_ejected(&replica.address()).await;
    stand
        .change(|text| {
            text.replace(
                "eject_above = \"100ms\"",
                "eject_above = \"1h\"\nreadmit_below = \"1h\"\nreadmit_after = \"0s\"",
            )
        })
        .await;
    stand.proxy.wait_admitted(&replica.address()).await;
    replica.resume_replay().await.unwrap();
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_and_go() {
    let stand = Stand::start(0, "").await;
    stand.cluster.primary().sql("CREATE ROLE late LOGIN PASSWORD 'late''s password'").await.unwrap();
    let url = format!("postgresql://late:late's password@{}/app", stand.proxy.address);
    assert_eq!(try_connect(&url).await.err().and_then(|error| error.code().cloned()).unwrap().code(), "28P01");
    let entry = "\n[[auth.users]]\nname = \"late\"\npassword = \"late's password\"\n";
    stand.change(|text| text + entry).await;
    let late = connect(&url).await;
    late.query_one("SELECT 1", &[]).await.unwrap();
    stand.change(|text| text.replace("late's password", "another password")).await;
    assert!(try_connect(&url).await.is_err(), "the old password is no longer taken");
    stand.change(|text| text.replace(&entry.replace("late's password", "another password"), "")).await;
    assert_eq!(try_connect(&url).await.err().and_then(|error| error.code().cloned()).unwrap().code(), "28P01");
    // Who was in stays in.
    late.query_one("SELECT 1", &[]).await.unwrap();
    let log = stand.proxy.log_text();
    assert!(log.contains("auth.users[late]: added") && log.contains("auth.users[late].password: changed"), "{log}");
    assert!(!log.contains("late's password") && !log.contains("another password"), "{log}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_is_refused_whole() {
    let stand = Stand::start(1, "[consistency]\nlevel = \"session\"\n").await;
    let client = stand.client().await;
    let replica_port = i32::from(stand.cluster.replicas()[0].port());
    wait_until("reads reach the replica", async || port_of_a_read(&client).await == replica_port).await;
    let good = std::fs::read_to_string(&stand.proxy.config).unwrap();
    let refused = async || stand.proxy.metric(RELOADS, &["outcome=\"refused\""]).await.unwrap_or(0.0);
    let mut count = refused().await;
    for (bad, words) in [
        (good.replace("level = \"session\"", "level = \"primary\"\nlevle = \"x\""), "levle"),
        (good.replace("level = \"session\"", "level = \"primary\"\n\n[pool]\nsize = 0"), "pool.size"),
        (good.replace("level = \"session\"", "level = \"primary"), "pgsluice.toml:"),
        (
            good.replace("level = \"session\"", "level = \"primary\"").replacen(
                "[listen]\n",
                "[listen]\ntls = \"require\"\ncert = \"none.crt\"\nkey = \"none.key\"\n",
                1,
            ),
            "none.",
        ),
        (String::new(), "shards"),
    ] {
        stand.proxy.rewrite_config(|_| bad);
        let before = count;
        count = stand.proxy.wait_for_metric(RELOADS, &["outcome=\"refused\""], |value| value > before).await;
        assert_eq!(port_of_a_read(&client).await, replica_port, "nothing of the bad config is in force");
        stand.wait_for_log(words).await;
    }
    // The log says where: the file, the line, and the column.
    let log = stand.proxy.log_text();
    assert!(log.contains("the old one stays") && log.contains("pgsluice.toml:"), "{log}");
    try_connect(&stand.url()).await.expect("new clients are served as before");
    // SIGHUP reads the file again, changed or not: the bad one is refused again, the good one taken.
    let before = count;
    stand.proxy.signal(Signal::SIGHUP);
    stand.proxy.wait_for_metric(RELOADS, &["outcome=\"refused\""], |value| value > before).await;
    stand.change(|_| good).await;
    let before = stand.proxy.metric(RELOADS, &["outcome=\"applied\""]).await.unwrap();
    stand.proxy.signal(Signal::SIGHUP);
    stand.proxy.wait_for_metric(RELOADS, &["outcome=\"applied\""], |value| value > before).await;
    // What needs a restart is named, and stays as it was.
    stand.change(|text| text.replacen("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:1\"", 1)).await;
    stand.wait_for_log("takes effect after a restart").await;
    assert!(stand.proxy.log_text().contains("listen.address"));
    try_connect(&stand.url()).await.expect("the address is what it was");
    client.query_one("SELECT 1", &[]).await.unwrap();
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() {
    let mut stand = Stand::start(0, "").await;
    let (idle, busy) = (stand.client().await, stand.client().await);
    busy.batch_execute("CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert!(stand.proxy.http_get("/readyz").await.starts_with("HTTP/1.1 200"));
    stand.proxy.signal(Signal::SIGTERM);

    wait_until("/readyz says that it drains", async || {
        stand.proxy.http_get("/readyz").await.starts_with("HTTP/1.1 503")
    })
    .await;
    wait_until("new connections are refused", async || {
        tokio::net::TcpStream::connect(&stand.proxy.address).await.is_err()
    })
    .await;
    wait_until("the idle client is sent away", async || idle.is_closed()).await;
    assert!(!busy.is_closed(), "a running transaction may finish");
    busy.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    assert_eq!(stand.proxy.wait().await, Some(0), "{}", stand.proxy.log_text());
    let rows = stand.cluster.primary().sql_in("app", "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("2"));
    stand.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_is_told_why_it_is_sent_away() {
    let mut stand = Stand::start(0, "").await;
    let mut idle = support::unruly::Raw::log_in(&stand).await;
    stand.proxy.signal(Signal::SIGTERM);
    let told = idle.farewell().await;
    assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "57P01"), "{told:?}");
    assert_eq!(stand.proxy.wait().await, Some(0));
    stand.cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_it_ends_all_the_same() {
    let mut stand = Stand::start(0, "[limits]\ndrain_timeout = \"1s\"\n").await;
    let (open, running) = (stand.client().await, stand.client().await);
    open.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let sleeping = tokio::spawn(async move { running.simple_query("SELECT pg_sleep(600)").await.map(|_| ()) });
    wait_until("somebody sleeps", async || {
        !stand
            .cluster
            .primary()
            .sql("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    stand.proxy.signal(Signal::SIGTERM);
    let start = Instant::now();
    assert_eq!(stand.proxy.wait().await, Some(0), "{}", stand.proxy.log_text());
    assert!(start.elapsed() >= Duration::from_millis(900), "after {:?}", start.elapsed());
    assert!(sleeping.await.unwrap().is_err());
    wait_until("the transaction is rolled back", async || {
        let sql = "SELECT FROM pg_stat_activity WHERE usename = 'app' AND state LIKE 'idle in transaction%'";
        stand.cluster.primary().sql(sql).await.unwrap().is_empty()
    })
    .await;
    let rows = stand.cluster.primary().sql_in("app", "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("0"));
    stand.cluster.shutdown().await.unwrap();
}

/// The binary with these arguments: exit code, stdout, stderr.
async fn pgsluice(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    command.args(arguments).stdin(Stdio::null()).env("NO_COLOR", "1").kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn exit_codes_of_check_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.toml"), folder.path().join("bad.toml"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let rest = "[http]\naddress = \"127.0.0.1:0\"\n[[auth.users]]\nname = \"a\"\npassword = \"b\"\n[[shards]]\nnodes = [\"127.0.0.1:1\"]\n";
    std::fs::write(&good, format!("[listen]\naddress = \"{address}\"\n{rest}")).unwrap();
    std::fs::write(&bad, "[pool]\nsise = 3\nmode = \"statement\"\n").unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());

    let (code, out, err) = pgsluice(&["check", "--config", good]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("good.toml: ok"), "{out}");
    for arguments in [["check", "-c", bad], ["run", "-c", bad]] {
        let (code, out, err) = pgsluice(&arguments).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?} {err}");
        for words in ["bad.toml:2:", "size", "bad.toml:3:", "transaction", "shards"] {
            assert!(err.contains(words), "{arguments:?}: {words:?} is not in {err}");
        }
    }
    let (code, out, _) = pgsluice(&["check", "--json", "-c", bad]).await;
    assert_eq!(code, Some(1));
    let mistakes: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(mistakes.as_array().is_some_and(|mistakes| mistakes.len() >= 3), "{out}");
    for command in ["check", "run"] {
        let (code, _, err) = pgsluice(&[command, "-c", "/nonexistent/x.toml"]).await;
        assert_eq!(code, Some(1));
        assert!(err.contains("/nonexistent/x.toml"), "{err}");
        assert_eq!(pgsluice(&[command]).await.0, Some(2), "usage");
    }
    assert_eq!(pgsluice(&["nonesuch"]).await.0, Some(2));
    assert_eq!(pgsluice(&["--version"]).await.0, Some(0));

    // An address that somebody else has.
    let (code, _, err) = pgsluice(&["run", "-c", good]).await;
    assert_eq!(code, Some(1));
    let last = err.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("pgsluice: ") && last.contains(&format!("cannot listen on {address} (listen.address)")),
        "{err}"
    );
    assert!(last.contains("in use"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_leaves_nothing_behind() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_pgsluice"))
        .args(["demo", "--json", "--replicas", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the demo starts");
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let line =
        tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").unwrap().expect("a line of JSON");
    let shown: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let text = |pointer: &str| {
        shown.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_else(|| panic!("{pointer}")).to_owned()
    };
    let url = format!(
        "postgresql://{}:{}@{}/{}",
        text("/app/user"),
        text("/app/password"),
        text("/pgsluice/address"),
        text("/database")
    );
    wait_until("the demo serves", async || match try_connect(&url).await {
        Ok(client) => client.batch_execute("CREATE TABLE IF NOT EXISTS t (n int)").await.is_ok(),
        Err(_) => false,
    })
    .await;
    let servers = shown["servers"].as_array().expect("servers");
    assert_eq!(servers.len(), 2);
    let pids: Vec<i32> = servers.iter().map(|server| server["pid"].as_i64().unwrap() as i32).collect();
    let folders: Vec<String> =
        (0..2).map(|n| text(&format!("/servers/{n}/data_dir"))).chain([text("/pgsluice/config")]).collect();
    assert!(folders.iter().all(|path| std::path::Path::new(path).exists()));

    let pid = nix::unistd::Pid::from_raw(demo.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(DEADLINE, demo.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "server {pid} still runs");
    }
    let home = std::path::Path::new(&text("/pgsluice/config")).parent().unwrap().to_owned();
    assert!(!home.exists(), "{} is left", home.display());
    assert!(folders.iter().all(|path| !std::path::Path::new(path).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_starts_before_its_servers() {
    // Nothing listens there: it serves all the same, says that it is not ready, and tells clients why.
    let text = "[listen]\naddress = \"127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n[[auth.users]]\nname = \"a\"\npassword = \"b\"\n[[shards]]\nnodes = [\"127.0.0.1:1\"]\n";
    let proxy = ProxyProcess::start_with_config(text).await;
    assert!(proxy.http_get("/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(proxy.http_get("/healthz").await.starts_with("HTTP/1.1 200"));
    let error = try_connect(&format!("postgresql://a:b@{}/a", proxy.address)).await.expect_err("nobody is there");
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    proxy.stop().await;
}

//! What the audit log tells. That it agrees with the other books about statements: see `agreement.rs`.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::audit_log::{lines, of};
use support::{DEADLINE, Stand, connect, try_connect};

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
    assert_eq!(of(&support::audit_log::lines(&log), "ended").len(), 1, "{whole}");
    for secret in ["hush", "4711", "wrong-password", "another-secret", &stand.cluster.options().app.password] {
        assert!(!whole.contains(secret), "{secret}: {whole}");
    }
    stand.cluster.shutdown().await.unwrap();
}

/// How many clients were sent away for this.
async fn cut(stand: &Stand, cause: &str) -> Option<f64> {
    stand.proxy.metric("pgsluice_clients_cut_total", &[&format!("cause=\"{cause}\"")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_limit_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let limits = "statement_timeout = \"300ms\"\nidle_in_transaction_session_timeout = \"300ms\"\n\
        idle_session_timeout = \"2s\"\ndrain_timeout = \"1s\"\nstatements_per_second = 1000000";
    let pool = "[pool]\nsize = 1\ncheckout_timeout = \"200ms\"";
    let sections = format!("[limits]\n{limits}\n{pool}\n[audit]\nfile = {log:?}\nevents = [\"refusals\"]\n");
    let mut stand = Stand::start(0, &sections).await;

    let mut raw = stand.raw().await;
    raw.query("SELECT pg_sleep(60) /* hush */").await;
    // The only connection is taken.
    raw.query("BEGIN").await;
    let mut other = stand.raw().await;
    assert_eq!(support::raw::sqlstates(&other.query("SELECT 1").await), ["53300"]);
    assert_eq!(raw.read().await.field(b'C').as_deref(), Some("25P03"));
    assert_eq!(other.read().await.field(b'C').as_deref(), Some("57P05"));

    // Killed while idle, and while it is being answered.
    let admin_url = format!("{}/pgsluice", stand.superuser_url().rsplit_once('/').unwrap().0);
    let admin = connect(&admin_url).await;
    let mut killed = stand.raw().await;
    let clients = admin.simple_query("SHOW CLIENTS").await.unwrap();
    let pid = clients.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("pid").map(str::to_owned),
        _ => None,
    });
    admin.batch_execute(&format!("KILL {}", pid.expect("a client"))).await.unwrap();
    assert_eq!(killed.read().await.field(b'C').as_deref(), Some("57P01"));
    // Of no type that there is; and longer than any message may be.
    for nonsense in [support::raw::frame(b'?', b""), [&b"Q"[..], &u32::MAX.to_be_bytes()].concat()] {
        let mut raw = stand.raw().await;
        raw.send(&nonsense).await;
        assert_eq!(raw.read().await.field(b'C').as_deref(), Some("08P01"));
    }
    for (cause, count) in [
        ("idle_session_timeout", 1.0),
        ("idle_in_transaction_session_timeout", 1.0),
        ("kill", 1.0),
        ("protocol", 2.0),
        ("shutdown", 0.0),
        ("server", 0.0),
    ] {
        assert_eq!(cut(&stand, cause).await, Some(count), "{cause}");
    }
    assert_eq!(stand.proxy.metric("pgsluice_checkout_timeouts_total", &[]).await, Some(1.0));

    // Who is idle goes at once; whose transaction does not end, in the end.
    let idle = stand.client().await;
    let mut busy = stand.raw().await;
    stand.proxy.rewrite_config(|text| text.replace("statement_timeout = \"300ms\"", "statement_timeout = \"0s\""));
    stand.proxy.wait_for_metric("pgsluice_config_reloads_total", &["outcome=\"applied\""], |count| count > 0.0).await;
    busy.send(&support::raw::query("SELECT pg_sleep(60)")).await;
    stand.proxy.wait_for_metric("pgsluice_clients", &["state=\"active\""], |count| count == 1.0).await;
    stand.proxy.signal(Signal::SIGTERM);
    assert_eq!(stand.proxy.wait().await, Some(0), "{}", stand.proxy.log_text());
    drop((idle, busy));

    let lines = lines(&log);
    let timed_out = &of(&lines, "statement_timed_out")[0];
    assert_eq!((&timed_out["limit_seconds"], &timed_out["text"]), (&0.3.into(), &"SELECT pg_sleep($1)".into()));
    assert_eq!(timed_out["node"], stand.cluster.primary().address());
    assert_eq!(of(&lines, "statement_refused")[0]["sqlstate"], "53300");
    let cut: Vec<(String, String)> = (of(&lines, "client_cut").iter())
        .inspect(|line| assert!(line["client"].is_string() && line["user"] == "app" && line["database"] == "app"))
        .map(|line| (line["cause"].as_str().unwrap().to_owned(), line["sqlstate"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("idle_in_transaction_session_timeout", "25P03"),
        ("idle_session_timeout", "57P05"),
        ("kill", "57P01"),
        ("protocol", "08P01"),
        ("protocol", "08P01"),
        ("shutdown", "57P01"),
        ("drain_timeout", "57P01"),
    ];
    assert_eq!(cut, expected.map(|(cause, sqlstate)| (cause.to_owned(), sqlstate.to_owned())));
    stand.cluster.shutdown().await.unwrap();
}

//! What the audit log tells. That it agrees with the other books about statements: see `agreement.rs`.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::audit_log::{lines, of};
use support::{DEADLINE, Stand, try_connect};

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

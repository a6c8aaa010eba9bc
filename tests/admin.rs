//! The admin database, as an operator uses it.

mod support;

use std::time::{Duration, Instant};

use pgsluice::admin::SHOWS;
use pgsluice::demo::ClusterOptions;
use support::raw::{self, Raw};
use support::{DEADLINE, Stand, connect, try_connect};
use tokio::process::Command;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A busy machine must not eject a replica here.
const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

fn admin_url(stand: &Stand) -> String {
    on_admin_database(&stand.superuser_url())
}

fn on_admin_database(url: &str) -> String {
    format!("{}/pgsluice", url.rsplit_once('/').expect("a database").0)
}

/// The rows of a command, as text.
async fn rows(client: &Client, command: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(command).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()),
        _ => None,
    });
    rows.collect()
}

/// One column of the rows in which another has this value.
async fn cells(client: &Client, command: &str, key: usize, value: &str, wanted: usize) -> Vec<String> {
    let all = rows(client, command).await;
    let matching = all.into_iter().filter(|row| row[key].as_deref() == Some(value));
    matching.map(|row| row[wanted].clone().unwrap_or_default()).collect()
}

async fn refused(client: &Client, command: &str) -> (String, String) {
    let error = client.simple_query(command).await.unwrap_err();
    let error = error.as_db_error().unwrap_or_else(|| panic!("{command}: {error:?}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_shown_in_both_protocols() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let client = stand.client().await;
    client.batch_execute("CREATE TEMPORARY TABLE mine (a int)").await.unwrap();
    let admin = connect(&admin_url(&stand)).await;
    for show in SHOWS {
        let command = format!("SHOW {}", show.name);
        let simple = rows(&admin, &command).await;
        assert!(!simple.is_empty(), "{command}");
        assert!(simple.iter().all(|row| row.len() == show.columns.len()), "{command}");
        // Binary, with each column's type.
        let extended = admin.query(&command, &[]).await.unwrap();
        let header = extended[0].columns();
        let names: Vec<_> = header.iter().map(tokio_postgres::Column::name).collect();
        assert_eq!(names, show.columns.iter().map(|column| column.name).collect::<Vec<_>>(), "{command}");
        for (column, described) in header.iter().zip(show.columns) {
            let expected = match described.kind.name() {
                "bigint" => "int8",
                "double precision" => "float8",
                "boolean" => "bool",
                other => other,
            };
            assert_eq!(column.type_().name(), expected, "{command} {}", described.name);
        }
    }
    let primary = stand.cluster.primary().address();
    assert_eq!(cells(&admin, "SHOW NODES", 1, &primary, 2).await, ["primary"]);
    assert_eq!(cells(&admin, "SHOW CLIENTS", 2, "app", 8).await, ["temporary"]);
    assert_eq!(cells(&admin, "SHOW CLIENTS", 2, "app", 6).await, [&*primary]);
    let pid = cells(&admin, "SHOW CLIENTS", 2, "app", 0).await.remove(0);
    assert_eq!(cells(&admin, "SHOW SERVERS", 5, &pid, 4).await, ["used"]);
    assert_eq!(cells(&admin, "SHOW POOLS", 0, &primary, 6).await, ["1"]);
    let settings = rows(&admin, "SHOW CONFIG").await;
    let secret = |row: &&Vec<Option<String>>| row[0].as_deref().unwrap().contains("password");
    assert!(settings.iter().filter(secret).count() > 0);
    assert!(settings.iter().filter(secret).all(|row| row[1].as_deref() == Some("(secret)")), "{settings:?}");
    let counted: f64 = stand.proxy.statements(&[]).await;
    let shown: f64 =
        rows(&admin, "SHOW ROUTES").await.iter().map(|row| row[3].as_deref().unwrap().parse::<f64>().unwrap()).sum();
    assert!((shown - counted).abs() < f64::EPSILON, "{shown} {counted}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_it_lets_in_and_what_they_may_do() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    // The application's user may look.
    let stats = connect(&on_admin_database(&stand.url())).await;
    assert!(!rows(&stats, "SHOW NODES").await.is_empty());
    for command in ["RELOAD", "PAUSE", "RESUME", "KILL 1", "DRAIN x:1", "UNDRAIN x:1"] {
        assert_eq!(refused(&stats, command).await.0, "42501", "{command}");
    }
    let admin = connect(&admin_url(&stand)).await;
    let primary = stand.cluster.primary().address();
    for (command, sqlstate, message) in [
        ("SHOW nod", "42704", "there is no SHOW NOD".to_owned()),
        ("FROB", "42601", "the admin database does not know \"FROB\"".to_owned()),
        (
            "SELECT * FROM pg_class",
            "0A000",
            "the admin database holds no tables: it takes pgsluice's own commands only".to_owned(),
        ),
        ("KILL 1", "42704", "there is no client with pid 1".to_owned()),
        ("DRAIN nowhere:1", "42704", "there is no node \"nowhere:1\"".to_owned()),
        (&format!("DRAIN {primary}"), "55000", format!("{primary} is the primary")),
        ("RESUME", "55000", "pgsluice is not paused".to_owned()),
    ] {
        assert_eq!(refused(&admin, command).await, (sqlstate.to_owned(), message), "{command}");
    }
    // What drivers say of themselves, and what asks whether somebody is there.
    for command in ["SET application_name = 'x'", "BEGIN", "SELECT 1", "select version()", "COMMIT", ""] {
        admin.simple_query(command).await.unwrap();
    }
    let explained = rows(&admin, "EXPLAIN ROUTE ON app SELECT 1 FOR UPDATE").await;
    assert_eq!(explained[0][1..4], [Some(primary), Some("primary".to_owned()), Some("locking_clause".to_owned())]);

    std::fs::write(
        &stand.proxy.config,
        std::fs::read_to_string(&stand.proxy.config).unwrap().replace("stats = [\"app\"]", "stats = []"),
    )
    .unwrap();
    admin.batch_execute("RELOAD").await.unwrap();
    let error = try_connect(&on_admin_database(&stand.url())).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42501");
    std::fs::write(&stand.proxy.config, "nonsense = 1").unwrap();
    let (sqlstate, message) = refused(&admin, "RELOAD").await;
    assert_eq!(sqlstate, "F0000");
    assert!(message.contains("nonsense"), "{message}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_its_questions() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let url = admin_url(&stand);
    let psql = async |arguments: &[&str]| {
        let output = Command::new("psql").args(["-X", &url]).args(arguments).output().await.unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (shown, _) = psql(&["-c", "SHOW NODES", "-c", "\\conninfo", "-c", "SHOW VERSION"]).await;
    assert!(shown.contains(&stand.cluster.primary().address()) && shown.contains("database \"pgsluice\""), "{shown}");
    for question in ["\\l", "\\d", "\\dt", "\\du", "\\df", "\\dn", "\\x"] {
        let (_, told) = psql(&["-c", question]).await;
        assert!(told.is_empty() || told.contains("holds no tables"), "{question}: {told}");
    }
    let (shown, told) = psql(&["-l"]).await;
    assert!(told.contains("holds no tables"), "{shown} {told}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_end_one_connection() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let admin = connect(&admin_url(&stand)).await;
    let options = stand.cluster.options();
    let bad: [&[u8]; 9] = [
        b"P\0\0\0\x05x",
        b"B\0\0\0\x06\0\0",
        b"E\0\0\0\x05x",
        b"D\0\0\0\x04",
        b"Q\0\0\0\x08ab\0c",
        b"p\0\0\0\x04",
        b"S\0\0\0\x05x",
        b"Q\x7f\xff\xff\xff",
        b"\0\0\0\0\0",
    ];
    for bytes in bad {
        let login = raw::Login {
            user: &options.superuser.user,
            password: &options.superuser.password,
            database: "pgsluice",
            ..stand.login()
        };
        let mut client = Raw::connect(&login).await;
        client.send(bytes).await;
        let start = Instant::now();
        while client.next().await.is_some() {
            assert!(start.elapsed() < DEADLINE);
        }
    }
    assert!(!rows(&admin, "SHOW CLIENTS").await.is_empty() || rows(&admin, "SHOW NODES").await.len() == 2);
    assert!(!stand.proxy.log_text().contains("defect"), "{}", stand.proxy.log_text());
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_waits_and_holds() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let admin = connect(&admin_url(&stand)).await;
    let (running, idle) = (stand.client().await, stand.client().await);
    running.batch_execute("CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    idle.batch_execute("SELECT 1").await.unwrap();
    let pausing = tokio::spawn({
        let admin = connect(&admin_url(&stand)).await;
        async move { admin.batch_execute("PAUSE").await }
    });
    // Who comes from then on waits, and can give up.
    let token = idle.cancel_token();
    let held = tokio::spawn(async move {
        let gave_up = loop {
            if let Err(error) = idle.simple_query("SELECT 2").await {
                break error;
            }
        };
        (idle, gave_up)
    });
    until("a client waits", async || (!cells(&admin, "SHOW CLIENTS", 5, "waiting", 0).await.is_empty()).then_some(()))
        .await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let (idle, gave_up) = held.await.unwrap();
    assert_eq!(gave_up.code().unwrap().code(), "57014");
    // The transaction goes on, and its end ends the waiting.
    assert!(!pausing.is_finished());
    running.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    pausing.await.unwrap().unwrap();
    until("no server connection is left", async || rows(&admin, "SHOW SERVERS").await.is_empty().then_some(())).await;
    // As for a restart of the primary: nobody notices anything but the wait.
    let held: Vec<_> = [running, idle]
        .into_iter()
        .map(|client| {
            tokio::spawn(async move {
                client.query_one("SELECT count(*) FROM t", &[]).await.map(|row| row.get::<_, i64>(0))
            })
        })
        .collect();
    until("both wait", async || (cells(&admin, "SHOW CLIENTS", 5, "waiting", 0).await.len() == 2).then_some(())).await;
    stand.cluster.primary().stop(pgsluice::demo::StopMode::Fast).await.unwrap();
    stand.cluster.primary().start().await.unwrap();
    until("the primary is known again", async || {
        (cells(&admin, "SHOW NODES", 2, "primary", 3).await == ["up"]).then_some(())
    })
    .await;
    assert!(held.iter().all(|task| !task.is_finished()));
    admin.batch_execute("RESUME").await.unwrap();
    for task in held {
        assert_eq!(task.await.unwrap().unwrap(), 2);
    }
    // Resumed while it waits.
    let running = stand.client().await;
    running.batch_execute("BEGIN").await.unwrap();
    let pausing = tokio::spawn({
        let admin = connect(&admin_url(&stand)).await;
        async move { refused(&admin, "PAUSE").await }
    });
    until("it is paused", async || admin.simple_query("RESUME").await.is_ok().then_some(())).await;
    assert_eq!(pausing.await.unwrap().0, "57014");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_lets_statements_end_and_kill_does_not() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let admin = connect(&admin_url(&stand)).await;
    let replica = stand.cluster.replicas()[0].address();
    let reader = stand.client().await;
    let role = async |client: &Client| {
        let rows = client.query("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap();
        rows[0].get::<_, String>("role")
    };
    until("reads go to the replica", async || (role(&reader).await == "replica").then_some(())).await;
    reader.batch_execute("BEGIN READ ONLY; SELECT 1").await.unwrap();
    let draining = tokio::spawn({
        let (admin, command) = (connect(&admin_url(&stand)).await, format!("DRAIN {replica}"));
        async move { admin.batch_execute(&command).await }
    });
    until("it is drained", async || (cells(&admin, "SHOW NODES", 1, &replica, 3).await == ["drained"]).then_some(()))
        .await;
    let other = stand.client().await;
    assert_eq!(role(&other).await, "primary");
    assert!(!draining.is_finished());
    reader.batch_execute("SELECT 2; COMMIT").await.unwrap();
    draining.await.unwrap().unwrap();
    admin.batch_execute(&format!("UNDRAIN {replica}")).await.unwrap();
    until("reads go there again", async || (role(&reader).await == "replica").then_some(())).await;

    // KILL ends a session in the middle of a statement, and the statement with it.
    let victim = stand.client().await;
    let sleeping = tokio::spawn(async move {
        let result = victim.simple_query("SELECT pg_sleep(600), txid_current()").await;
        (victim, result)
    });
    let pid = until("it sleeps", async || {
        let asleep =
            stand.cluster.primary().sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await.unwrap();
        // Asked behind that: it is among those who are active then.
        let busy = cells(&admin, "SHOW CLIENTS", 5, "active", 0).await;
        // Another one may still be about to come to rest.
        if let ([pid], false) = (&*busy, asleep.is_empty()) { Some(pid.clone()) } else { None }
    })
    .await;
    admin.batch_execute(&format!("KILL {pid}")).await.unwrap();
    let (victim, result) = sleeping.await.unwrap();
    let error = result.unwrap_err();
    assert!(
        error.is_closed() || error.code().is_some_and(|code| ["57P01", "57014"].contains(&code.code())),
        "{error:?}"
    );
    until("it is cut", async || victim.is_closed().then_some(())).await;
    until("its statement is over", async || {
        let asleep =
            stand.cluster.primary().sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await.unwrap();
        asleep.is_empty().then_some(())
    })
    .await;
    until("it is listed no more", async || cells(&admin, "SHOW CLIENTS", 0, &pid, 0).await.is_empty().then_some(()))
        .await;
    stand.stop().await;
}

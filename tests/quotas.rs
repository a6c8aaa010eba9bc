//! What a user, a database and a client may take: clients, time, pace, and connections for themselves.

mod support;

use std::time::{Duration, Instant};

use support::raw::{Raw, bind, execute, parse, run, sqlstates, sync, tags};
use support::{DEADLINE, Stand, connect, try_connect};
use tokio_postgres::error::DbError;

async fn refusal(url: &str) -> DbError {
    let error = try_connect(url).await.expect_err("it is refused");
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone()
}

/// Waits until a changed config is in force.
async fn reloaded(stand: &Stand, change: impl FnOnce(String) -> String) {
    let before = stand.proxy.metric("pgsluice_config_reloads_total", &["outcome=\"applied\""]).await.unwrap_or(0.0);
    stand.proxy.rewrite_config(change);
    stand.proxy.wait_for_metric("pgsluice_config_reloads_total", &["outcome=\"applied\""], |now| now > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_user_and_of_one_database() {
    let stand = Stand::start(0, "[limits]\nclients_per_user = 2\nclients_per_database = 3\n").await;
    let (app, superuser) = (stand.url(), stand.superuser_url());
    let mut inside = vec![connect(&app).await, connect(&app).await, connect(&superuser).await];
    let told = refusal(&superuser).await;
    assert_eq!((told.severity(), told.code().code()), ("FATAL", "53300"));
    assert_eq!(told.message(), "too many connections for database \"app\"");
    let elsewhere = superuser.replace("/app", "/postgres");
    inside.push(connect(&elsewhere).await);
    let told = refusal(&elsewhere).await;
    assert!(told.message().starts_with("too many connections for role "), "{told:?}");
    // More are let in after a reload, and nobody was thrown out.
    reloaded(&stand, |text| text.replace("clients_per_user = 2", "clients_per_user = 0")).await;
    inside.push(connect(&elsewhere).await);
    // Who leaves makes room.
    drop(inside.remove(0));
    let start = Instant::now();
    while try_connect(&app).await.is_err() {
        assert!(start.elapsed() < DEADLINE, "{}", stand.proxy.log_text());
    }
    for client in &inside {
        client.query_one("SELECT 1", &[]).await.unwrap();
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_cancelled_as_by_the_server_itself() {
    let stand = Stand::start(1, "[limits]\nstatement_timeout = \"300ms\"\n").await;
    let mut raw = stand.raw().await;
    let message = "canceling statement due to statement timeout";
    let of = |messages: &[support::raw::Message]| {
        let error = messages.iter().find(|message| message.tag == b'E').expect("an error");
        (error.field(b'S'), error.field(b'C'), error.field(b'M'))
    };
    let expected = (Some("ERROR".to_owned()), Some("57014".to_owned()), Some(message.to_owned()));
    for text in ["SELECT pg_sleep(60)", "SELECT 1; SELECT pg_sleep(60)"] {
        assert_eq!(of(&raw.query(text).await), expected, "{text}");
        assert_eq!(raw.value("SELECT 7").await, "7");
    }
    assert_eq!(of(&raw.exchange(&[run("SELECT pg_sleep(60)", &[]), sync()].concat()).await), expected);
    // In a transaction it fails the transaction, and nothing else.
    raw.query("BEGIN").await;
    assert_eq!(of(&raw.query("SELECT pg_sleep(60)").await), expected);
    assert_eq!(sqlstates(&raw.query("SELECT 1").await), ["25P02"]);
    raw.query("ROLLBACK").await;
    assert_eq!(raw.value("SELECT 7").await, "7");
    // The server runs nothing of it any more.
    let admin = connect(&stand.superuser_url()).await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
    assert_eq!(admin.query_one(running, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(stand.proxy.metric("pgsluice_statement_timeouts_total", &[]).await, Some(4.0));
    // A user can have a limit of its own, after a reload.
    reloaded(&stand, |text| text.replacen("name = \"app\"\n", "name = \"app\"\nstatement_timeout = \"0s\"\n", 1)).await;
    assert_eq!(raw.value("SELECT pg_sleep(0.6)::text || 'x'").await, "x");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_statement_has_its_own_time() {
    let stand = Stand::start(0, "[limits]\nstatement_timeout = \"1s\"\n").await;
    let mut raw = stand.raw().await;
    let nap = "SELECT pg_sleep(0.4)";
    let none: [String; 0] = [];
    let start = Instant::now();
    assert_eq!(sqlstates(&raw.query(&[nap; 3].join("; ")).await), none);
    let pipeline = [run(nap, &[]), run(nap, &[]), run(nap, &[]), sync()].concat();
    assert_eq!(sqlstates(&raw.exchange(&pipeline).await), none);
    assert!(start.elapsed() > Duration::from_secs(2));
    // They have three times the limit together: the first two had no trouble, and the third is told of its own.
    let messages = raw.query(&format!("{nap}; {nap}; SELECT pg_sleep(60)")).await;
    assert_eq!(tags(&messages), "TDCTDCTEZ");
    assert_eq!(sqlstates(&messages), ["57014"]);
    // A commit may take as long as it takes.
    raw.query("CREATE TABLE t (a int)").await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.3); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    raw.query(slow).await;
    for insert in ["BEGIN; INSERT INTO t VALUES (1); COMMIT", "BEGIN; INSERT INTO t VALUES (1)"] {
        assert_eq!(sqlstates(&raw.query(insert).await), none, "{insert}");
    }
    assert_eq!(sqlstates(&raw.query("COMMIT").await), none);
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "2");
    assert_eq!(stand.proxy.metric("pgsluice_statement_timeouts_total", &[]).await, Some(1.0));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_idle_for_too_long_is_sent_away() {
    let sections = "[limits]\nidle_in_transaction_session_timeout = \"1s\"\nidle_session_timeout = \"2s\"\n";
    let stand = Stand::start(0, sections).await;
    let mut raw = stand.raw().await;
    raw.query("CREATE TABLE t (a int)").await;
    raw.query("BEGIN").await;
    raw.query("INSERT INTO t VALUES (1)").await;
    let last = raw.read().await;
    assert_eq!((last.field(b'S').as_deref(), last.field(b'C').as_deref()), (Some("FATAL"), Some("25P03")), "{last:?}");
    assert_eq!(last.field(b'M').as_deref(), Some("terminating connection due to idle-in-transaction timeout"));
    assert!(raw.next().await.is_none());
    let mut raw = stand.raw().await;
    // Its transaction was rolled back, and its locks are gone.
    raw.query("LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await;
    assert_eq!(raw.value("SELECT count(*) FROM t").await, "0");
    // A statement may take longer than a client may be idle.
    assert_eq!(raw.value("SELECT pg_sleep(2.5)::text || 'x'").await, "x");
    let last = raw.read().await;
    assert_eq!((last.field(b'S').as_deref(), last.field(b'C').as_deref()), (Some("FATAL"), Some("57P05")), "{last:?}");
    assert_eq!(last.field(b'M').as_deref(), Some("terminating connection due to idle-session timeout"));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_s_pace_is_kept_by_all_of_its_sessions_together() {
    let stand = Stand::start(0, "[limits]\nstatements_per_second = 50\n").await;
    let other = connect(&stand.superuser_url()).await;
    let clients = futures_util::future::join_all((0..5).map(|_| stand.client())).await;
    let start = Instant::now();
    // 50 at once, and 100 more in two seconds.
    let work = clients.iter().map(|client| async move {
        for _ in 0..30 {
            client.simple_query("SELECT 1").await.unwrap();
        }
        start.elapsed()
    });
    let ends = futures_util::future::join_all(work).await;
    assert!(start.elapsed() >= Duration::from_millis(1900), "{ends:?}");
    // Fairly: all that had to wait end at about the same time. Who was quick may have been served out of the first 50.
    let waited: Vec<_> = ends.iter().filter(|end| **end > Duration::from_secs(1)).collect();
    let (first, last) = (waited.iter().min().unwrap(), waited.iter().max().unwrap());
    assert!(waited.len() >= 3 && **first * 2 > **last, "{ends:?}");
    assert!(stand.proxy.metric("pgsluice_rate_limited_statements_total", &[]).await.unwrap() >= 50.0);
    other.query_one("SELECT 1", &[]).await.unwrap();

    // What waits can be cancelled.
    let client = &clients[0];
    let crowd = vec!["SELECT 1"; 500].join(";");
    let token = client.cancel_token();
    // A request that comes while the client is still idle does nothing, so there are many.
    let cancels = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        }
    };
    let result = tokio::select! {
        result = client.simple_query(&crowd) => result,
        () = cancels => unreachable!("there is no end of them"),
    };
    let error = result.expect_err("it was cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    stand.stop().await;
}

/// A place is given back just after the client has its answer.
async fn until_granted(client: &mut Raw, sql: &str) {
    let start = Instant::now();
    while !sqlstates(&client.query(sql).await).is_empty() {
        assert!(start.elapsed() < DEADLINE, "{sql}: no room is made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_do_not_take_every_connection() {
    let stand = Stand::start(0, "[pool]\nsize = 3\n").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(stand.raw().await);
    }
    assert_eq!(sqlstates(&clients[0].query("LISTEN a").await), Vec::<String>::new());
    assert_eq!(sqlstates(&clients[1].query("CREATE TEMP TABLE t (a int)").await), Vec::<String>::new());
    stand.proxy.wait_for_metric("pgsluice_pinned_clients", &["cause=\"listen\""], |value| value == 1.0).await;
    stand.proxy.wait_for_metric("pgsluice_pinned_clients", &["cause=\"temporary\""], |value| value == 1.0).await;

    let refused = |messages: &[support::raw::Message]| {
        let error = messages.iter().find(|message| message.tag == b'E').expect("an error");
        assert_eq!(error.field(b'C').as_deref(), Some("53300"), "{error:?}");
        assert!(error.field(b'D').unwrap().contains("2 of the 3 connections"), "{error:?}");
        assert!(error.field(b'H').unwrap().contains("pool.max_pinned"), "{error:?}");
    };
    refused(&clients[2].query("LISTEN b").await);
    // By a prepared statement, where Bind is what is refused, and within a transaction, which then has failed.
    let client = &mut clients[2];
    client.exchange(&[parse("lock", "SELECT pg_advisory_lock(1)"), sync()].concat()).await;
    refused(&client.exchange(&[bind("", "lock", &[]), execute("", 0), sync()].concat()).await);
    client.query("BEGIN").await;
    refused(&client.query("CREATE TEMP TABLE t (a int)").await);
    assert_eq!(sqlstates(&client.query("SELECT 1").await), ["25P02"]);
    client.query("ROLLBACK").await;
    // Who is pinned may do more of the same, and the others have the rest.
    assert_eq!(sqlstates(&clients[0].query("LISTEN c").await), Vec::<String>::new());
    for client in &mut clients[2..] {
        assert_eq!(client.value("SELECT 7").await, "7");
    }
    // Who gives up what it has makes room; who leaves does too.
    clients[1].query("DROP TABLE t").await;
    until_granted(&mut clients[2], "LISTEN b").await;
    refused(&clients[3].query("LISTEN d").await);
    drop(clients.remove(0));
    stand.proxy.wait_for_metric("pgsluice_pinned_clients", &["cause=\"listen\""], |value| value == 1.0).await;
    until_granted(&mut clients[2], "LISTEN d").await;
    drop(clients);
    stand.proxy.wait_for_metric("pgsluice_pinned_clients", &[], |value| value == 0.0).await;
    stand.stop().await;
}

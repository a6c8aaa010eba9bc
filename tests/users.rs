//! Users that PostgreSQL knows and the config does not, and logins without a stored password.

mod support;

use std::time::Instant;

use support::{DEADLINE, Stand, connect, try_connect};
use tokio_postgres::Client;

/// Counts how often it is asked, in a sequence.
const LOOKUP: &str = "\
CREATE SEQUENCE public.lookups;
CREATE FUNCTION public.pgsluice_user(name) RETURNS TABLE (name name, verifier text, valid_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM nextval('public.lookups');
    RETURN QUERY SELECT rolname, rolpassword::text, rolvaliduntil FROM pg_authid WHERE rolname = $1 AND rolcanlogin;
END $$";

fn auth(lines: &str) -> String {
    format!("[auth]\n{lines}\n")
}

fn by_function() -> String {
    auth("query = \"SELECT * FROM public.pgsluice_user($1)\"\nquery_database = \"app\"\nquery_cache = \"1h\"")
}

async fn primary(stand: &Stand) -> Client {
    let superuser = &stand.cluster.options().superuser;
    let (user, password) = (&superuser.user, &superuser.password);
    connect(&format!("postgresql://{user}:{password}@{}/app", stand.cluster.primary().address())).await
}

fn url(stand: &Stand, user: &str, password: &str) -> String {
    format!("postgresql://{user}:{password}@{}/app", stand.proxy.address)
}

async fn refusal(stand: &Stand, user: &str, password: &str) -> tokio_postgres::error::DbError {
    let error = try_connect(&url(stand, user, password)).await.expect_err("it is refused");
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone()
}

async fn until_it_logs_in(stand: &Stand, user: &str, password: &str) -> Client {
    let start = Instant::now();
    loop {
        match try_connect(&url(stand, user, password)).await {
            Ok(client) => return client,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{error:?}\n{}", stand.proxy.log_text()),
        }
    }
}

async fn until_it_is_refused(stand: &Stand, user: &str, password: &str) {
    let start = Instant::now();
    while try_connect(&url(stand, user, password)).await.is_ok() {
        assert!(start.elapsed() < DEADLINE, "{user} still gets in");
    }
}

async fn value(client: &Client, sql: &str) -> String {
    client.query_one(&format!("SELECT ({sql})::text"), &[]).await.expect(sql).get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_the_servers_logs_in_with_no_word_of_it_in_the_config() {
    let stand = Stand::start(1, &by_function()).await;
    let admin = primary(&stand).await;
    // As long as the function is not there, nobody can be looked up, and that is what is said.
    let told = refusal(&stand, "newcomer", "first").await;
    assert_eq!((told.severity(), told.code().code()), ("FATAL", "57P03"), "{told:?}");
    assert!(told.message().contains("cannot be looked up"), "{told:?}");
    admin.batch_execute(LOOKUP).await.unwrap();
    let start = Instant::now();
    while refusal(&stand, "newcomer", "first").await.code().code() != "28P01" {
        assert!(start.elapsed() < DEADLINE, "{}", stand.proxy.log_text());
    }

    admin
        .batch_execute(
            "CREATE ROLE newcomer LOGIN PASSWORD 'first'; CREATE TABLE t AS SELECT 1 AS a; GRANT ALL ON t TO newcomer",
        )
        .await
        .unwrap();
    let client = until_it_logs_in(&stand, "newcomer", "first").await;
    assert_eq!(value(&client, "SELECT current_user").await, "newcomer");
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    let start = Instant::now();
    while value(&client, "SELECT pg_sleep(0) IS NOT NULL AND count(*) = 2 FROM t").await != "true"
        || stand.proxy.statements(&["role=\"replica\""]).await < 3.0
    {
        assert!(start.elapsed() < DEADLINE, "no read has gone to the replica");
    }
    let told = refusal(&stand, "newcomer", "wrong").await;
    assert_eq!(told.code().code(), "28P01");
    assert_eq!(told.message(), "password authentication failed for user \"newcomer\"");

    // New server connections are made with what the client proved when it logged in.
    let killed = admin
        .query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'newcomer'", &[])
        .await
        .unwrap();
    assert!(!killed.is_empty());
    let start = Instant::now();
    while client.batch_execute("INSERT INTO t VALUES (3)").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "{}", stand.proxy.log_text());
    }

    // A new password holds after one login has failed, however long verifiers are kept.
    admin.batch_execute("ALTER ROLE newcomer PASSWORD 'second'").await.unwrap();
    until_it_logs_in(&stand, "newcomer", "second").await;
    assert_eq!(refusal(&stand, "newcomer", "first").await.code().code(), "28P01");

    // Where it was changed through pgsluice, no login has to fail.
    let client = until_it_logs_in(&stand, "newcomer", "second").await;
    client.batch_execute("ALTER ROLE newcomer PASSWORD 'third'").await.unwrap();
    // Answered after the change was taken note of.
    client.batch_execute("SELECT 1").await.unwrap();
    try_connect(&url(&stand, "newcomer", "third")).await.expect("the new password");

    // The file comes first: its user has another password on the servers now, and is not asked for that one.
    let app = &stand.cluster.options().app;
    admin.batch_execute(&format!("ALTER ROLE {} PASSWORD 'other'", app.user)).await.unwrap();
    assert_eq!(refusal(&stand, &app.user, "other").await.code().code(), "28P01");

    for secret in ["first", "second", "third", "SCRAM-SHA-256$"] {
        assert!(!stand.proxy.log_text().contains(secret), "{secret}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_may_not_log_in_do_not_and_a_crowd_asks_once() {
    let stand = Stand::start(0, &by_function()).await;
    let admin = primary(&stand).await;
    admin.batch_execute(LOOKUP).await.unwrap();
    admin
        .batch_execute(
            "CREATE ROLE no_login PASSWORD 'pw'; CREATE ROLE no_password LOGIN;
             CREATE ROLE expired LOGIN PASSWORD 'pw' VALID UNTIL '2001-01-01';
             CREATE ROLE everlasting LOGIN PASSWORD 'pw' VALID UNTIL 'infinity';
             CREATE ROLE mayfly LOGIN PASSWORD 'pw';
             SET password_encryption = 'md5'; CREATE ROLE old_style LOGIN PASSWORD 'pw'; RESET password_encryption;
             CREATE ROLE \"O'Neil \"\"x\"\"\" LOGIN PASSWORD 'pw'; CREATE ROLE crowd LOGIN PASSWORD 'pw'",
        )
        .await
        .unwrap();
    for user in ["no_login", "no_password", "expired", "old_style", "nobody"] {
        let told = refusal(&stand, user, "pw").await;
        assert_eq!(told.code().code(), "28P01", "{user}: {told:?}");
    }
    assert!(stand.proxy.log_text().contains("is no SCRAM-SHA-256 verifier"));
    until_it_logs_in(&stand, "everlasting", "pw").await;
    until_it_logs_in(&stand, "O'Neil%20%22x%22", "pw").await;

    // A verifier is not remembered beyond its time.
    admin
        .batch_execute(
            "DO $$BEGIN EXECUTE format('ALTER ROLE mayfly VALID UNTIL %L', clock_timestamp() + interval '3 s'); END$$",
        )
        .await
        .unwrap();
    until_it_logs_in(&stand, "mayfly", "pw").await;
    until_it_is_refused(&stand, "mayfly", "pw").await;

    let before: i64 = value(&admin, "SELECT last_value FROM lookups").await.parse().unwrap();
    let url = url(&stand, "crowd", "pw");
    let clients = futures_util::future::join_all((0..30).map(|_| try_connect(&url))).await;
    assert!(clients.iter().all(Result::is_ok), "{}", stand.proxy.log_text());
    let after: i64 = value(&admin, "SELECT last_value FROM lookups").await.parse().unwrap();
    assert_eq!(after - before, 1);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_in_the_file_is_all_that_is_needed() {
    let mut stand = Stand::start(0, "").await;
    let admin = primary(&stand).await;
    admin.batch_execute("CREATE ROLE keeper LOGIN PASSWORD 'pencil'").await.unwrap();
    let verifier = value(&admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'keeper'").await;
    let config = std::fs::read_to_string(&stand.proxy.config).unwrap();
    let config = format!("{config}\n[[auth.users]]\nname = \"keeper\"\npassword = {verifier:?}\n");
    let with_verifier = support::ProxyProcess::start_with_config(&config).await;
    std::mem::replace(&mut stand.proxy, with_verifier).stop().await;
    stand.proxy.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;

    let client = connect(&url(&stand, "keeper", "pencil")).await;
    assert_eq!(value(&client, "SELECT current_user").await, "keeper");
    assert_eq!(refusal(&stand, "keeper", "pen").await.code().code(), "28P01");

    // The same password with another salt is another verifier: the key is good for nothing there.
    admin.batch_execute("ALTER ROLE keeper PASSWORD 'pencil'").await.unwrap();
    admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'", &[]).await.unwrap();
    let start = Instant::now();
    let told = loop {
        let error = client.query_one("SELECT 1", &[]).await.err();
        match error.as_ref().and_then(tokio_postgres::Error::as_db_error) {
            Some(told) if told.code().code() == "28P01" => break told.clone(),
            _ => assert!(start.elapsed() < DEADLINE && !client.is_closed(), "{error:?}"),
        }
    };
    assert!(told.message().contains("has another SCRAM verifier for user \"keeper\""), "{told:?}");
    assert!(
        told.hint().is_some_and(|hint| hint.contains("log in again") && hint.contains("server_password")),
        "{told:?}"
    );
    stand.stop().await;
}

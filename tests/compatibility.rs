//! What the test suites of drivers and frameworks do, and what only showed there.

mod support;

use std::time::Instant;

use support::raw::{self, bind, close_statement, describe_statement, execute, parse, sync};
use support::{DEADLINE, Stand, connect};

/// What a statement says, in full.
async fn error_of(client: &tokio_postgres::Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => "no error".to_owned(),
        Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()),
    }
}

/// Runs what wants a database for itself. A server waits five seconds for the others to leave it; on a busy machine
/// they take longer.
async fn alone(client: &tokio_postgres::Client, sql: &str) {
    let start = Instant::now();
    while let Err(error) = client.batch_execute(sql).await {
        let is_in_use = error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE);
        assert!(is_in_use && start.elapsed() < DEADLINE, "{sql}: {error:?}");
    }
}

/// A database that a test suite has made, used and left is dropped, renamed and copied as on a direct connection: no
/// connection to it stays behind, not the pool's and not the monitor's.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_its_clients_have_left_can_be_dropped() {
    for mode in ["transaction", "session"] {
        let stand = Stand::start(1, &format!("[pool]\nmode = \"{mode}\"")).await;
        let url = stand.superuser_url();
        let at = |name: &str| format!("{}/{name}", url.rsplit_once('/').expect("a database").0);
        let owner = connect(&url).await;
        owner.batch_execute("CREATE DATABASE first").await.unwrap();
        for round in 0..2 {
            let clients = [connect(&at("first")).await, connect(&at("first")).await];
            for client in &clients {
                // The catalog of this database is wanted from here on.
                client.batch_execute("CREATE TABLE IF NOT EXISTS t (n int)").await.unwrap();
                client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                client.batch_execute("SELECT count(*), lower('X') FROM t").await.unwrap();
            }
            drop(clients);
            let next = ["CREATE DATABASE second TEMPLATE first", "ALTER DATABASE first RENAME TO third"];
            alone(&owner, next[round]).await;
        }
        if mode == "session" {
            // A client that is connected is in the way, as it is on a direct connection.
            let third = connect(&at("third")).await;
            third.batch_execute("CREATE TEMP TABLE mine (n int)").await.unwrap();
            let refused = error_of(&owner, "DROP DATABASE third").await;
            assert_eq!(refused, "database \"third\" is being accessed by other users");
            third.batch_execute("SELECT * FROM mine").await.unwrap();
        }
        let idle = connect(&at("third")).await;
        if mode == "transaction" {
            // The connection of this one is kept for it in case that it asks for `currval`, and until it is in the way.
            idle.batch_execute("CREATE SEQUENCE numbers").await.unwrap();
            idle.batch_execute("SELECT nextval('numbers')").await.unwrap();
        } else {
            drop(idle);
        }
        alone(&owner, "DROP DATABASE third").await;
        alone(&owner, "DROP DATABASE second").await;
        stand.stop().await;
    }
}

/// In session mode a client keeps its connection, also when a transaction turns out to be read only.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_transaction_stays_where_the_session_is() {
    let stand = Stand::start(1, "[pool]\nmode = \"session\"").await;
    let client = stand.client().await;
    let backend = async || client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    client.batch_execute("CREATE SEQUENCE numbers; SELECT nextval('numbers')").await.unwrap();
    let before = backend().await;
    stand.cluster.wait_replicated().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.unwrap();
    // A replica would say 33: sequences are logged ahead of what was taken.
    let last: i64 = client.query_one("SELECT last_value FROM numbers", &[]).await.unwrap().get(0);
    assert_eq!((last, backend().await), (1, before));
    client.batch_execute("COMMIT").await.unwrap();
    let current: i64 = client.query_one("SELECT currval('numbers')", &[]).await.unwrap().get(0);
    assert_eq!((current, backend().await), (1, before));
    stand.stop().await;
}

/// EXECUTE and DEALLOCATE find what `Parse` has prepared also when they come by `Parse` themselves, each client its own,
/// and on another server connection than the one where that was.
#[tokio::test(flavor = "multi_thread")]
async fn sql_finds_protocol_level_statements_in_the_extended_protocol() {
    let stand = Stand::start(0, "[pool]\nsize = 2").await;
    let mut clients = [stand.raw().await, stand.raw().await];
    let mut others = [stand.raw().await, stand.raw().await];
    for (number, client) in clients.iter_mut().enumerate() {
        let text = format!("SELECT {number} + $1::int");
        let made =
            [parse("mine", &text), parse("run", "EXECUTE mine (10)"), describe_statement("run"), sync()].concat();
        assert_eq!(raw::tags(&client.exchange(&made).await), "11tTZ");
    }
    for round in 0..4 {
        // Every other round somebody else is on the connection that was used last.
        if round % 2 == 1 {
            others[0].value("BEGIN; SELECT 1").await;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let named = [bind("", "run", &[]), execute("", 0), sync()].concat();
            assert_eq!(raw::rows(&client.exchange(&named).await), [[format!("{}", number + 10)]]);
            let unnamed = [parse("", "EXECUTE mine (20)"), bind("", "", &[]), execute("", 0), sync()].concat();
            assert_eq!(raw::rows(&client.exchange(&unnamed).await), [[format!("{}", number + 20)]]);
        }
        others[0].query("ROLLBACK").await;
        others[1].value("SELECT 1").await;
    }
    let gone = [parse("", "DEALLOCATE mine"), bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(raw::sqlstates(&clients[0].exchange(&gone).await), Vec::<String>::new());
    assert_eq!(raw::sqlstates(&clients[0].query("EXECUTE mine (1)").await), ["26000"]);
    assert_eq!(clients[1].value("EXECUTE mine (1)").await, "2");
    clients[1].exchange(&[close_statement("run"), sync()].concat()).await;
    assert_eq!(clients[1].value("EXECUTE mine (2)").await, "3");
    stand.stop().await;
}

/// In session mode a statement that is closed is closed, and the others are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_statement_is_gone_from_the_server() {
    let stand = Stand::start(0, "[pool]\nmode = \"session\"").await;
    let mut client = stand.raw().await;
    let made = [parse("one", "SELECT 1"), parse("same", "SELECT 1"), parse("two", "SELECT 2"), sync()].concat();
    assert_eq!(raw::tags(&client.exchange(&made).await), "111Z");
    let count = "SELECT count(*) FROM pg_prepared_statements";
    client.exchange(&[close_statement("two"), sync()].concat()).await;
    assert_eq!(client.value(count).await, "1");
    // The text of these two is one statement on the server.
    client.exchange(&[close_statement("one"), sync()].concat()).await;
    assert_eq!(client.value(count).await, "1");
    assert_eq!(raw::rows(&client.exchange(&[raw::run_prepared("same", &[]), sync()].concat()).await), [["1"]]);
    // A Close behind an error is not carried out, but the client may say it again.
    let failed = [parse("", "SELECT 1/0"), bind("", "", &[]), execute("", 0), close_statement("same"), sync()].concat();
    client.exchange(&failed).await;
    client.exchange(&[close_statement("same"), sync()].concat()).await;
    let again = [parse("same", "SELECT 1"), sync(), parse("two", "SELECT 2"), sync()].concat();
    client.send(&again).await;
    let said = client.until_ready(2).await;
    assert_eq!(raw::tags(&said), "1Z1Z", "{said:?}");
    assert_eq!(raw::rows(&client.exchange(&[raw::run_prepared("two", &[]), sync()].concat()).await), [["2"]]);
    stand.stop().await;
}

/// A long pipeline is sent on while it comes, as soon as nothing that comes can change its way: its error is there
/// before its end, as on a direct connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_pipeline_fails_before_its_end() {
    for mode in ["transaction", "session"] {
        let stand = Stand::start(1, &format!("[pool]\nmode = \"{mode}\"")).await;
        let mut client = stand.raw().await;
        client.query("CREATE TABLE many (a text, b int PRIMARY KEY)").await;
        let long = "x".repeat(20_000);
        let row = |b: &str| [bind("", "", &[&long, b]), execute("", 0)].concat();
        // Behind the row that fails there is more than is held back of a pipeline that is under way.
        let rows = ["1", "1", "2", "3", "4", "5"].map(row).concat();
        client.send(&[parse("", "INSERT INTO many VALUES ($1, $2)"), rows].concat()).await;
        let said = client.until(b'E', 1).await;
        assert_eq!((raw::tags(&said).as_str(), raw::sqlstates(&said)), ("12C2E", vec!["23505".to_owned()]), "{mode}");
        let rest = client.exchange(&[row("6"), sync()].concat()).await;
        assert_eq!(raw::tags(&rest), "Z", "{mode}");
        assert_eq!(client.value("SELECT count(*) FROM many").await, "0", "{mode}");
        stand.stop().await;
    }
}

/// In session mode a client is told the process ID of its own backend, and is disconnected together with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_its_backends_process_id_and_its_fate() {
    let stand = Stand::start(0, "[pool]\nmode = \"session\"").await;
    let mut client = raw::Raw::open(&stand.proxy.address).await;
    let greeting = client.log_in(&stand.login()).await;
    let key = greeting.iter().find(|message| message.tag == b'K').expect("a key");
    let told = i32::from_be_bytes(key.body[..4].try_into().expect("a process ID"));
    assert_eq!(client.value("SELECT pg_backend_pid()").await, told.to_string());
    stand.cluster.primary().sql(&format!("SELECT pg_terminate_backend({told}, 60000)")).await.unwrap();
    client.send(&raw::query("SELECT 1")).await;
    let mut said = Vec::new();
    while let Some(message) = client.next().await {
        said.push(message);
    }
    assert_eq!(raw::tags(&said), "E", "{said:?}");
    assert_eq!(said[0].field(b'S').as_deref(), Some("FATAL"), "{said:?}");
    stand.stop().await;
}

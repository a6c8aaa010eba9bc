//! What the test suites of drivers and frameworks do, and what only showed there.

mod support;

use support::{Stand, connect};

/// What a statement says, in full.
async fn error_of(client: &tokio_postgres::Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => "no error".to_owned(),
        Err(error) => error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()),
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
        let functions = "pgsluice_statements_total";
        for round in 0..2 {
            let clients = [connect(&at("first")).await, connect(&at("first")).await];
            for client in &clients {
                // The catalog of this database is wanted from here on.
                client.batch_execute("CREATE TABLE IF NOT EXISTS t (n int)").await.unwrap();
                client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                client.batch_execute("SELECT count(*), lower('X') FROM t").await.unwrap();
            }
            assert!(stand.proxy.metric(functions, &[]).await > Some(0.0));
            drop(clients);
            let next = ["CREATE DATABASE second TEMPLATE first", "ALTER DATABASE first RENAME TO third"];
            if round == 0 {
                owner.batch_execute(next[0]).await.unwrap();
            } else {
                owner.batch_execute(next[1]).await.unwrap();
            }
        }
        // A client that is connected is in the way, as it is on a direct connection.
        let third = connect(&at("third")).await;
        third.batch_execute("CREATE TEMP TABLE mine (n int)").await.unwrap();
        assert_eq!(
            error_of(&owner, "DROP DATABASE third").await,
            "database \"third\" is being accessed by other users",
            "{mode}"
        );
        third.batch_execute("SELECT * FROM mine").await.unwrap();
        drop(third);
        owner.batch_execute("DROP DATABASE third").await.unwrap();
        owner.batch_execute("DROP DATABASE second").await.unwrap();
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

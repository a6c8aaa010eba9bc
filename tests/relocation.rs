//! Transactions that turn out to belong elsewhere before they have run anything.

mod support;

use support::Stand;

/// Whether the transaction that is open runs on a standby.
async fn is_on_standby(client: &tokio_postgres::Client) -> bool {
    // Not a function that would itself be sent to the primary, and a transaction stays where it is.
    let row = client.query_one("SELECT setting FROM pg_settings WHERE name = 'in_hot_standby'", &[]).await.unwrap();
    row.get::<_, &str>(0) == "on"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_moves_before_its_first_statement() {
    // Freshness would send a session that has just read from the primary back there.
    let stand = Stand::start(1, "[consistency]\nlevel = \"eventual\"").await;
    let client = stand.client().await;
    for (script, expected) in [
        (&["BEGIN READ ONLY"][..], true),
        (&["BEGIN"], false),
        (&["BEGIN", "SET TRANSACTION READ ONLY"], true),
        (&["BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY"], false),
        (&["BEGIN ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION READ ONLY"], false),
        (&["BEGIN", "SELECT 1", "SET TRANSACTION READ ONLY"], false),
        (&["BEGIN READ ONLY", "SET TRANSACTION READ WRITE"], false),
        (&["BEGIN READ ONLY", "SELECT pg_advisory_xact_lock(1)"], false),
    ] {
        for sql in script {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{script:?}: {error}"));
        }
        assert_eq!(is_on_standby(&client).await, expected, "{script:?}");
        client.batch_execute("COMMIT").await.unwrap();
    }
    // It really writes, and really is read only.
    client.batch_execute("BEGIN READ ONLY; SET TRANSACTION READ WRITE; CREATE TABLE t (a int); COMMIT").await.unwrap();
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    client.batch_execute("SET TRANSACTION READ WRITE").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SET TRANSACTION READ ONLY").await.unwrap();
    let error = client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "25006");
    client.batch_execute("ROLLBACK").await.unwrap();
    stand.stop().await;
}

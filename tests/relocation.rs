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
        (&["BEGIN", "SET TRANSACTION READ ONLY", "SELECT pg_export_snapshot()"], false),
        (&["BEGIN", "SET TRANSACTION READ ONLY", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"], true),
        // A standby refuses READ WRITE and SERIALIZABLE, also where they are taken back at once.
        (&["BEGIN", "SET TRANSACTION READ ONLY", "SET TRANSACTION READ WRITE", "SET TRANSACTION READ ONLY"], false),
        (&["BEGIN READ WRITE", "SET TRANSACTION READ ONLY"], false),
        (&["BEGIN ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"], false),
        (&["BEGIN", "SET TRANSACTION READ ONLY", "SELECT 1", "SELECT pg_export_snapshot()"], true),
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

/// As the jobs of `pg_dump -j` do it, each in a read-only transaction.
#[tokio::test(flavor = "multi_thread")]
async fn who_imports_a_snapshot_meets_who_exported_it() {
    let stand = Stand::start(2, "[consistency]\nlevel = \"eventual\"").await;
    let begin = async |client: &tokio_postgres::Client| {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.unwrap();
    };
    let leader = stand.client().await;
    leader.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    begin(&leader).await;
    let exported = leader.simple_query("SELECT pg_export_snapshot()").await.unwrap();
    let snapshot = exported.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let import = format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.expect("a snapshot"));
    stand.client().await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    for job in 0..4 {
        let client = stand.client().await;
        begin(&client).await;
        client.batch_execute(&import).await.unwrap_or_else(|error| panic!("job {job}: {error}"));
        let modes = client
            .query_one("SELECT current_setting('transaction_read_only'), current_setting('transaction_isolation')", &[])
            .await
            .unwrap();
        assert_eq!((modes.get::<_, &str>(0), modes.get::<_, &str>(1)), ("on", "repeatable read"));
        let rows: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(rows, 0, "job {job} sees what was committed after the snapshot");
        client.batch_execute("COMMIT").await.unwrap();
    }
    leader.batch_execute("COMMIT").await.unwrap();
    stand.stop().await;
}

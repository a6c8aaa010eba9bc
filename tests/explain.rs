//! `EXPLAIN ROUTE` says where a statement would go: what it says is what happens.

mod support;

use std::time::Instant;

use pgsluice::demo::ClusterOptions;
use support::{DEADLINE, Stand};
use tokio_postgres::{Client, SimpleQueryMessage};

const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

const SCHEMA: &str = "
    CREATE TABLE t (a int);
    CREATE FUNCTION f_volatile() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t VALUES (1) RETURNING a';
    CREATE VIEW v_volatile AS SELECT f_volatile() AS a;";

/// Columns: shard, node, role, reason, considered.
type Row = [Option<String>; 5];

async fn stand(sections: &str) -> (Stand, Client) {
    let stand = Stand::start_with(ClusterOptions::with_replicas(2), &format!("{CALM}{sections}")).await;
    let client = stand.client().await;
    client.batch_execute(SCHEMA).await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    let start = Instant::now();
    // All replicas are known to have the table.
    while explain(&client, "SELECT * FROM t").await.iter().any(|row| texts(row)[4].contains("replayed")) {
        assert!(start.elapsed() < DEADLINE);
    }
    (stand, client)
}

async fn explain(client: &Client, sql: &str) -> Vec<Row> {
    let messages = client.simple_query(&format!("EXPLAIN ROUTE {sql}")).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some([0, 1, 2, 3, 4].map(|index| row.get(index).map(str::to_owned))),
        _ => None,
    });
    rows.collect()
}

fn texts(row: &Row) -> [&str; 5] {
    row.each_ref().map(|cell| cell.as_deref().unwrap_or("-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_is_what_happens() {
    let (stand, client) = stand("").await;
    client.batch_execute("SET pgsluice.consistency = 'eventual'").await.unwrap();
    let statements = [
        "SELECT * FROM t",
        "INSERT INTO t VALUES (1)",
        "SELECT * FROM t FOR UPDATE",
        "WITH gone AS (DELETE FROM t RETURNING a) SELECT * FROM gone",
        "SELECT f_volatile()",
        "SELECT * FROM v_volatile",
        "SELECT pg_is_in_recovery()",
        "SELECT pg_try_advisory_xact_lock(1)",
        "ANALYZE t",
        "/* pgsluice: route=primary */ SELECT 1",
        "/* pgsluice: route=replica */ SELECT 1",
        "/* pgsluice: consistency=strong */ SELECT 1",
        "CREATE TABLE IF NOT EXISTS t (a int)",
    ];
    for sql in statements {
        let role_and_reason = |row: &Row| (row[2].clone().unwrap(), row[3].clone().unwrap());
        let (role, reason) = role_and_reason(&explain(&client, sql).await[0]);
        let labels = [format!("role=\"{role}\""), format!("reason=\"{reason}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let before = stand.proxy.statements(&labels).await;
        client.simple_query(sql).await.unwrap();
        let start = Instant::now();
        while stand.proxy.statements(&labels).await == before {
            assert!(start.elapsed() < DEADLINE, "{sql}: {role} {reason}, but that was not counted");
        }
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_spoken_of() {
    let (stand, client) = stand("").await;
    let primary = stand.cluster.primary().address();
    let rows = explain(&client, "SELECT * FROM t").await;
    assert_eq!(rows.len(), 3);
    let [shard, node, role, reason, why] = texts(&rows[0]);
    assert_eq!([shard, role, reason], ["main", "replica", "fresh_replica"]);
    assert!(why.starts_with("chosen: a read"), "{why}");
    assert!(stand.cluster.replicas().iter().any(|replica| replica.address() == node));
    let others: Vec<_> = rows[1..].iter().map(|row| texts(row)[1..].join("|")).collect();
    assert!(others.contains(&format!("{primary}|primary|-|not needed: a replica will do")), "{others:?}");
    assert!(
        others.iter().any(|row| row.ends_with("|replica|-|eligible; another one was picked by load")),
        "{others:?}"
    );

    // Until the catalog is read again it does not know the function.
    let start = Instant::now();
    let rows = loop {
        let rows = explain(&client, "SELECT f_volatile()").await;
        if rows[0][3].as_deref() != Some("unknown_function") || start.elapsed() > DEADLINE {
            break rows;
        }
    };
    let expected = "chosen: it calls a function that may write (VOLATILE), itself or through a view: f_volatile";
    assert_eq!(texts(&rows[0]), ["main", &primary, "primary", "volatile_function", expected]);
    assert_eq!(texts(&rows[1])[4], "takes no such statement");

    // A replica that is left out, and one that has not this session's writes yet.
    stand.cluster.replicas()[0].kill().await.unwrap();
    stand.proxy.wait_ejected(&stand.cluster.replicas()[0].address()).await;
    stand.cluster.replicas()[1].pause_replay().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (5)").await.unwrap();
    let rows = explain(&client, "SELECT * FROM t").await;
    assert_eq!(texts(&rows[0])[2..4], ["primary", "not_fresh"], "{rows:?}");
    let row_of = |index: usize| {
        let address = stand.cluster.replicas()[index].address();
        texts(rows.iter().find(|row| row[1].as_deref() == Some(&address)).unwrap())[4].to_owned()
    };
    assert!(row_of(0).starts_with("ejected: "), "{}", row_of(0));
    assert!(row_of(1).starts_with("not fresh: it has replayed "), "{}", row_of(1));
    let rows = explain(&client, "/* pgsluice: route=replica, consistency=session */ SELECT * FROM t").await;
    assert_eq!(texts(&rows[0])[1..4], ["-", "-", "no_fresh_replica"], "{rows:?}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_knows_the_session() {
    let (stand, mut client) = stand("").await;
    let transaction = client.transaction().await.unwrap();
    let row = transaction.query_one("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>("considered"), "chosen: the open transaction is there");
    assert_eq!(row.get::<_, String>("role"), "primary");
    transaction.rollback().await.unwrap();

    // A statement that was prepared long ago is explained as of now.
    let prepared = client.prepare("EXPLAIN ROUTE SELECT * FROM t").await.unwrap();
    let reason = async |client: &Client| {
        let rows = client.query(&prepared, &[]).await.unwrap();
        rows[0].get::<_, Option<String>>("reason").unwrap()
    };
    client.batch_execute("SET pgsluice.route = 'primary'").await.unwrap();
    assert_eq!(reason(&client).await, "route_primary");
    client.batch_execute("SET pgsluice.route = 'auto'; SET pgsluice.consistency = 'eventual'").await.unwrap();
    assert_eq!(reason(&client).await, "fresh_replica");

    client.batch_execute("CREATE TEMPORARY TABLE mine (a int)").await.unwrap();
    let rows = explain(&client, "SELECT * FROM mine").await;
    assert_eq!(texts(&rows[0])[4], "chosen: this session is pinned there by temporary");
    assert_eq!(rows.len(), 1);

    let error = client.simple_query("EXPLAIN ROUTE").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42601");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused() {
    let (stand, client) = stand("[consistency]\nallow_hints = [\"consistency\"]\n").await;
    for sql in
        ["SET pgsluice.route = 'primary'", "/* pgsluice: route=primary */ SELECT 1", "SET pgsluice.session_key = 'a'"]
    {
        let error = client.simple_query(sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
    }
    client.batch_execute("SET pgsluice.consistency = 'eventual'").await.unwrap();
    client.batch_execute("/* pgsluice: consistency=primary */ SELECT 1").await.unwrap();
    stand.stop().await;
}

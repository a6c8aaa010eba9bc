//! The shortest way through: connect, write, read.

mod support;

use support::Stand;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_back_and_reads_reach_replicas() {
    let stand = Stand::start(2, "").await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE t (a int PRIMARY KEY, b text)").await.unwrap();
    for round in 0..20 {
        client.execute("INSERT INTO t VALUES ($1, 'x')", &[&round]).await.unwrap();
        let row = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), i64::from(round) + 1);
    }
    // With no more writes, reads go to replicas again.
    let start = std::time::Instant::now();
    while stand.proxy.statements(&["role=\"replica\"", "reason=\"fresh_replica\""]).await < 5.0 {
        client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        assert!(start.elapsed() < support::DEADLINE, "{}", stand.proxy.http_get("/metrics").await);
    }
    stand.stop().await;
}

//! More clients than there may be, and more work than there are connections.

use std::time::{Duration, Instant};

use crate::bystander::assert_no_defect;
use crate::support::{DEADLINE, Stand, connect, try_connect};

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients() {
    let stand = Stand::start_listening(0, "max_clients = 3\n", "").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(stand.client().await);
    }
    for _ in 0..5 {
        let error = try_connect(&stand.url()).await.expect_err("one too many");
        let error = error.as_db_error().expect("it is told");
        assert_eq!((error.severity(), error.code().code()), ("FATAL", "53300"), "{error:?}");
        assert!(error.message().contains("too many clients"), "{error:?}");
    }
    for client in &clients {
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    }
    // A place that is given up is there for the next.
    drop(clients.pop());
    let start = Instant::now();
    while let Err(error) = try_connect(&stand.url()).await {
        assert_eq!(error.code().map(|code| code.code()), Some("53300"), "{error:?}");
        assert!(start.elapsed() < DEADLINE, "the place is not given to anybody");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_no_defect(&stand);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_full_use() {
    let stand = Stand::start(0, "[pool]\nsize = 2\ncheckout_timeout = \"300ms\"\n").await;
    let mut holders = Vec::new();
    let waiting = stand.client().await;
    for _ in 0..2 {
        let client = stand.client().await;
        client.batch_execute("BEGIN").await.unwrap();
        holders.push(client);
    }
    for round in 0..3 {
        let start = Instant::now();
        let error = match round {
            0 => waiting.simple_query("SELECT 1").await.err(),
            1 => waiting.query("SELECT $1::int", &[&1]).await.err(),
            _ => waiting.batch_execute("BEGIN").await.err(),
        };
        let error = error.expect("nothing is free");
        assert!(start.elapsed() >= Duration::from_millis(280), "after {:?}", start.elapsed());
        let error = error.as_db_error().expect("it is told");
        assert_eq!((error.severity(), error.code().code()), ("ERROR", "53300"), "{error:?}");
        assert!(error.message().contains(&stand.cluster.primary().address()), "{error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains("2 connections")), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("pool.size")), "{error:?}");
    }
    // Others have a pool of their own.
    let other = connect(&stand.superuser_url()).await;
    other.query_one("SELECT 1", &[]).await.unwrap();
    // And the one that was refused is served as soon as there is a connection.
    holders.remove(0).batch_execute("COMMIT").await.unwrap();
    assert_eq!(waiting.query_one("SELECT $1::int", &[&7]).await.unwrap().get::<_, i32>(0), 7);
    assert_no_defect(&stand);
    stand.stop().await;
}

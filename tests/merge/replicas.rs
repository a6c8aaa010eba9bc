//! Reads of several shards on replicas: each shard's part where this session's writes are seen, and somewhere else when a
//! replica fails.

use std::time::Instant;

use nix::sys::signal::Signal;
use pgsluice::demo::ClusterOptions;

use crate::support::raw::Raw;
use crate::support::shards::Shards;
use crate::support::{DEADLINE, connect};

const TABLES: &str = "
[[tables]]
name = \"items\"
shard_key = \"id\"
";

/// The role of the node that each shard's part would be read on.
async fn roles(client: &mut Raw) -> Vec<String> {
    let rows = client.rows("EXPLAIN ROUTE SELECT count(*) FROM items").await;
    rows.into_iter().filter(|row| row[3] == "merged").map(|row| row[2].clone()).collect()
}

/// Until the reads of a session that has written nothing go to these.
async fn wait_for_roles(stand: &Shards, wanted: &[&str]) {
    let start = Instant::now();
    loop {
        let mut client = stand.raw().await;
        let found = roles(&mut client).await;
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{found:?} and not {wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_what_it_has_written_on_each_shard() {
    let stand = Shards::start_with(2, ClusterOptions::with_replicas(1), TABLES).await;
    let mut client = stand.raw().await;
    client.rows("CREATE TABLE items (id int PRIMARY KEY, v int)").await;
    let start = Instant::now();
    while !crate::support::raw::sqlstates(&client.query("SELECT v FROM items WHERE id = 0").await).is_empty() {
        assert!(start.elapsed() < DEADLINE, "the table is not read");
    }
    wait_for_roles(&stand, &["replica", "replica"]).await;
    let reads =
        ["SELECT count(*) FROM items", "SELECT DISTINCT v FROM items", "SELECT v FROM items ORDER BY v DESC LIMIT 1"];
    for id in 1..=60 {
        client.rows(&format!("INSERT INTO items VALUES ({id}, {id})")).await;
        let (count, all, most) =
            (client.rows(reads[0]).await, client.rows(reads[1]).await, client.rows(reads[2]).await);
        assert_eq!((count[0][0].clone(), all.len()), (id.to_string(), id), "{id}");
        assert_eq!(most, [[id.to_string()]]);
    }
    // One shard's replica stands still: that shard's part is read on its primary, where the session needs it.
    let account = &stand.clusters[1].options().superuser;
    let replica = stand.clusters[1].replicas()[0].address();
    let own = connect(&format!("postgresql://{}:{}@{replica}/postgres", account.user, account.password)).await;
    own.batch_execute("SELECT pg_wal_replay_pause()").await.expect("paused");
    for id in 61..=100 {
        client.rows(&format!("INSERT INTO items VALUES ({id}, {id})")).await;
        assert_eq!(client.rows(reads[0]).await, [[id.to_string()]]);
        assert_eq!(client.rows(reads[2]).await, [[id.to_string()]]);
    }
    own.batch_execute("SELECT pg_wal_replay_resume()").await.expect("resumed");
    wait_for_roles(&stand, &["replica", "replica"]).await;
    // A replica that dies under the reads: they are answered all the same, by the primary.
    let mut reader = stand.raw().await;
    assert_eq!(reader.rows(reads[0]).await, [["100"]]);
    stand.clusters[0].replicas()[0].signal_all(Signal::SIGKILL).expect("killed");
    for read in reads.iter().cycle().take(30) {
        assert!(!reader.rows(read).await.is_empty(), "{read}");
    }
    wait_for_roles(&stand, &["primary", "replica"]).await;
    drop((client, reader, own));
    stand.stop().await;
}

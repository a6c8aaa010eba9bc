//! What a session has seen of several shards.

mod support;

use std::time::Instant;

use pgsluice::demo::ClusterOptions;
use support::DEADLINE;
use support::shards::Shards;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A replica that stands still is read from all the same.
const SECTIONS: &str = "
[[tables]]
name = \"items\"
shard_key = \"id\"
[lag]
eject_above = \"60s\"
readmit_below = \"30s\"
[pool]
checkout_timeout = \"3s\"
";

/// Two shards with a replica each, and a row that lies on each shard.
async fn stand_with(sections: &str) -> (Shards, [i32; 2]) {
    let stand = Shards::start_with(2, ClusterOptions::with_replicas(1), &format!("{SECTIONS}{sections}")).await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE items (id int PRIMARY KEY, v int)").await.unwrap();
    let rows: Vec<String> = (0..20).map(|id| format!("({id}, 0)")).collect();
    client.batch_execute(&format!("INSERT INTO items VALUES {}", rows.join(", "))).await.unwrap();
    let ids = stand.on_each("SELECT min(id) FROM items").await;
    for cluster in &stand.clusters {
        cluster.wait_replicated().await.unwrap();
    }
    // What the monitor knows of replicas comes a moment later.
    let start = Instant::now();
    while roles(&stand).await != ["replica", "replica"] {
        assert!(start.elapsed() < DEADLINE, "no replica is read from");
    }
    (stand, [ids[0].parse().unwrap(), ids[1].parse().unwrap()])
}

/// Where each shard's part of a read would go from a session that has seen nothing.
async fn roles(stand: &Shards) -> Vec<String> {
    let rows = stand.raw().await.rows("EXPLAIN ROUTE SELECT count(*) FROM items").await;
    rows.into_iter().filter(|row| row[3] == "merged").map(|row| row[2].clone()).collect()
}

async fn first(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("{sql}: no row"))
}

fn read(id: i32) -> String {
    format!("SELECT v FROM items WHERE id = {id}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_over_shards_has_read_stays_seen() {
    let (stand, [a, b]) = stand_with("[coordinator]\nshard = \"a\"\n").await;
    stand.coordinate().await;
    let writer = stand.client().await;
    for (at, ids) in [(0, [a, b]), (1, [b, a])] {
        let replica = &stand.clusters[at].replicas()[0];
        replica.pause_replay().await.unwrap();
        writer.batch_execute(&format!("UPDATE items SET v = 7 WHERE id = {}", ids[0])).await.unwrap();
        for end in ["COMMIT", "ROLLBACK"] {
            let reader = stand.client().await;
            reader.batch_execute("BEGIN").await.unwrap();
            for id in ids {
                first(&reader, &read(id)).await;
            }
            reader.batch_execute(end).await.unwrap();
            assert_eq!(first(&reader, &read(ids[0])).await, "7", "shard {at}, {end}");
        }
        // And what came by way of the coordinator.
        let reader = stand.client().await;
        let all = "SELECT sum(v) OVER () FROM items LIMIT 1";
        assert_eq!(first(&reader, all).await, if at == 0 { "7" } else { "14" });
        assert_eq!(first(&reader, &read(ids[0])).await, "7", "shard {at}");
        replica.resume_replay().await.unwrap();
    }
    stand.stop().await;
}

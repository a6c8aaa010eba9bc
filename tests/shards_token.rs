//! `pgsluice.session_token` over several shards: what one session has written or read on each, another one sees behind it.

mod support;

use std::time::Instant;

use pgsluice::demo::ClusterOptions;
use support::DEADLINE;
use support::raw::{self, *};
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
async fn stand() -> (Shards, [i32; 2]) {
    stand_with("").await
}

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

async fn token(client: &Client) -> String {
    first(client, "SHOW pgsluice.session_token").await
}

fn read(id: i32) -> String {
    format!("SELECT v FROM items WHERE id = {id}")
}

/// The shards that it is about.
fn shards(token: &str) -> Vec<&str> {
    token.split(',').filter_map(|part| part.split(':').next()).filter(|shard| !shard.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_token_the_writes_of_another_session_are_seen() {
    let (stand, [a, b]) = stand().await;
    stand.clusters[1].replicas()[0].pause_replay().await.unwrap();
    let writer = stand.client().await;
    assert_eq!(token(&writer).await, "", "nothing is seen yet");
    for round in 1..=10 {
        writer.execute(&format!("UPDATE items SET v = {round} WHERE id = {b}"), &[]).await.unwrap();
        let told = token(&writer).await;
        assert_eq!(shards(&told), ["b"], "{told}");
        assert_eq!(first(&stand.client().await, &read(b)).await, "0", "the replica stands still");
        let with_token = stand.client().await;
        with_token.batch_execute(&format!("SET pgsluice.session_token = '{told}'")).await.unwrap();
        assert_eq!(first(&with_token, &read(b)).await, round.to_string());
        assert_eq!(first(&with_token, "SELECT sum(v) FROM items").await, round.to_string());
        for hint in [format!("session_token={told}"), format!("session_token = '{told}', route=auto")] {
            let hinted = stand.client().await;
            assert_eq!(first(&hinted, &format!("/* pgsluice: {hint} */ {}", read(b))).await, round.to_string());
        }
        // What has only been read is carried on.
        let reader = stand.client().await;
        assert_eq!(first(&reader, &format!("/* pgsluice: route=primary */ {}", read(b))).await, round.to_string());
        let told = reader.query_one("SHOW pgsluice.session_token", &[]).await.unwrap().get::<_, String>(0);
        assert_eq!(shards(&told), ["b"], "{told}");
        let third = stand.client().await;
        third.batch_execute(&format!("SET pgsluice.session_token = '{told}'")).await.unwrap();
        assert_eq!(first(&third, &read(b)).await, round.to_string());
    }
    // Both shards at once, by two-phase commit.
    stand.clusters[0].replicas()[0].pause_replay().await.unwrap();
    for round in 11..=20 {
        writer.batch_execute("BEGIN").await.unwrap();
        for id in [a, b] {
            writer.batch_execute(&format!("UPDATE items SET v = {round} WHERE id = {id}")).await.unwrap();
        }
        writer.batch_execute("COMMIT").await.unwrap();
        let told = token(&writer).await;
        assert_eq!(shards(&told), ["a", "b"], "{told}");
        let (with_token, without) = (stand.client().await, stand.client().await);
        with_token.batch_execute(&format!("SET pgsluice.session_token = '{told}'")).await.unwrap();
        for id in [a, b] {
            assert_eq!(first(&with_token, &read(id)).await, round.to_string());
            assert_eq!(first(&without, &read(id)).await, "0");
        }
        // Of one shard alone, as another release gives it.
        let half = stand.client().await;
        let of_a = told.split(',').next().unwrap();
        half.batch_execute(&format!("SET pgsluice.session_token = '{of_a}'")).await.unwrap();
        assert_eq!(first(&half, &read(a)).await, round.to_string());
        assert_eq!(first(&half, &read(b)).await, "0");
    }
    for cluster in &stand.clusters {
        cluster.replicas()[0].resume_replay().await.unwrap();
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_whole_or_none() {
    let (stand, [a, b]) = stand().await;
    let (both, one) = (stand.client().await, stand.client().await);
    for id in [a, b] {
        both.batch_execute(&format!("UPDATE items SET v = 1 WHERE id = {id}")).await.unwrap();
    }
    one.batch_execute(&format!("UPDATE items SET v = 2 WHERE id = {a}")).await.unwrap();
    // What there is not, and what cannot be read.
    for value in ["x:1:0/1", "a:1:0/1,x:1:0/1", "a:1:0/1,", "0/1", "a:1:0/1;b:1:0/1"] {
        for sql in [
            format!("SET pgsluice.session_token = '{value}'"),
            format!("/* pgsluice: session_token='{value}' */ SELECT 1"),
        ] {
            let error = one.batch_execute(&sql).await.expect_err(&sql);
            assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{sql}: {error:?}");
        }
    }
    one.batch_execute("SET pgsluice.session_token = ''").await.unwrap();
    // In a transaction of its own, what that has read is in it; in one that has failed there is none.
    one.batch_execute("BEGIN").await.unwrap();
    first(&one, &read(b)).await;
    assert_eq!(shards(&token(&one).await), ["a", "b"]);
    one.batch_execute("SELECT 1 / 0").await.unwrap_err();
    let error = one.simple_query("SHOW pgsluice.session_token").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("25P02"), "{error:?}");
    one.batch_execute("ROLLBACK").await.unwrap();
    // In one pipeline with what it would have to cover.
    let mut client = stand.raw().await;
    let update = format!("UPDATE items SET v = 3 WHERE id = {a}");
    let messages =
        client.exchange(&[run(&update, &[]), run("SHOW pgsluice.session_token", &[]), sync()].concat()).await;
    assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
    assert_eq!(first(&one, &read(a)).await, "2");
    // A shard that cannot be asked.
    let only_a = stand.client().await;
    first(&only_a, &read(a)).await;
    stand.primary(1).kill().await.unwrap();
    let error = both.simple_query("SHOW pgsluice.session_token").await.unwrap_err();
    let told = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(told.code().code(), "57P03", "{told:?}");
    assert!(told.message().contains("\"b\"") && told.hint().is_some(), "{told:?}");
    assert_eq!(shards(&token(&only_a).await), ["a"]);
    stand.primary(1).start().await.unwrap();
    let start = Instant::now();
    while both.simple_query("SHOW pgsluice.session_token").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "it is never told again");
    }
    assert_eq!(shards(&token(&both).await), ["a", "b"]);
    stand.stop().await;
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

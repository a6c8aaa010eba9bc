//! What a session reads: its own writes, and never less than it has read before.
//!
//! Lag ejects nobody here unless a test says so: positions alone keep stale replicas away.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgsluice::demo::{ClusterOptions, Server};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::server_log::{self, logging};
use support::{DEADLINE, Stand, connect};
use tokio::task::JoinSet;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Replicas stay eligible however far they lag.
const NOBODY_IS_EJECTED: &str = "[lag]\npoll_interval = \"10ms\"\neject_above = \"1h\"";

const SESSIONS: i32 = 16;

/// Of each session: 1,008 together.
const ROUNDS: i32 = 63;

/// Of the pauses' order and length.
const SEED: u64 = 20_260_101;

const ON_REPLICAS: &[&str] = &["role=\"replica\""];

#[tokio::test(flavor = "multi_thread")]
async fn with_replay_paused_everywhere() {
    let stand = with_table(Stand::start(2, NOBODY_IS_EJECTED).await).await;
    for replica in stand.cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    let before = stand.proxy.statements(ON_REPLICAS).await;
    all_rounds(&stand, "").await;
    let after = stand.proxy.statements(ON_REPLICAS).await;
    assert_eq!(after, before, "no replica has any of these sessions' writes");

    // What keeps them away is the session's level, and nothing else.
    let eventual = stand.client().await;
    eventual.batch_execute("SET pgsluice.consistency = 'eventual'").await.unwrap();
    assert_eq!(read_simple(&eventual, 1).await, 0, "a replica's answer");
    // It is counted a moment after its answer was sent.
    stand.proxy.wait_for_metric("pgsluice_statements_total", ON_REPLICAS, |count| count > after).await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_random_pauses() {
    rounds_with_pauses("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_random_pauses_and_without_synchronous_commit() {
    rounds_with_pauses("SET synchronous_commit = off").await;
}

async fn rounds_with_pauses(setup: &str) {
    let stand = with_table(Stand::start(2, NOBODY_IS_EJECTED).await).await;
    let before = stand.proxy.statements(ON_REPLICAS).await;
    tokio::select! {
        () = all_rounds(&stand, setup) => {}
        () = pause_at_random(stand.cluster.replicas()) => {}
    }
    let on_replicas = stand.proxy.statements(ON_REPLICAS).await - before;
    assert!(on_replicas > 0.0, "some reads found a replica that was fresh enough");
    stand.stop().await;
}

async fn with_table(stand: Stand) -> Stand {
    let client = stand.client().await;
    let table = "CREATE TABLE w (id int PRIMARY KEY, v int); INSERT INTO w SELECT i, 0 FROM generate_series(0, 15) i; \
                 CREATE FUNCTION put(key int, value int) RETURNS int LANGUAGE sql VOLATILE \
                 AS 'UPDATE w SET v = value WHERE id = key RETURNING v'";
    client.batch_execute(table).await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    stand
}

async fn all_rounds(stand: &Stand, setup: &str) {
    let mut sessions = JoinSet::new();
    for id in 0..SESSIONS {
        let client = stand.client().await;
        if !setup.is_empty() {
            client.batch_execute(setup).await.unwrap();
        }
        sessions.spawn(async move {
            for round in 1..=ROUNDS {
                one_round(&client, id, round).await;
            }
        });
    }
    let all = async {
        while let Some(ended) = sessions.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(2 * DEADLINE, all).await.expect("the rounds end");
}

/// Writes in one of several ways, then reads at once and again a little later, in several ways.
async fn one_round(client: &Client, id: i32, round: i32) {
    match round % 5 {
        0 => drop(client.execute("UPDATE w SET v = $2 WHERE id = $1", &[&id, &round]).await.unwrap()),
        1 => client.batch_execute(&format!("UPDATE w SET v = {round} WHERE id = {id}")).await.unwrap(),
        2 => {
            client.batch_execute("BEGIN").await.unwrap();
            client.execute("UPDATE w SET v = $2 WHERE id = $1", &[&id, &round]).await.unwrap();
            client.batch_execute("COMMIT").await.unwrap();
        }
        3 => drop(client.query_one("SELECT put($1, $2)", &[&id, &round]).await.unwrap()),
        _ => {
            let text = "WITH x AS (UPDATE w SET v = $2 WHERE id = $1 RETURNING v) SELECT v FROM x";
            client.query_one(text, &[&id, &round]).await.unwrap();
        }
    }
    assert_eq!(read_extended(client, id).await, round, "session {id} reads at once");
    let pause = rand::random_range(0..40);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    assert_eq!(read_simple(client, id).await, round, "session {id} reads after {pause} ms");
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    assert_eq!(read_simple(client, id).await, round, "session {id} reads in a transaction");
    client.batch_execute("COMMIT").await.unwrap();
}

async fn read_extended(client: &Client, id: i32) -> i32 {
    client.query_one("SELECT v FROM w WHERE id = $1", &[&id]).await.unwrap().get(0)
}

async fn read_simple(client: &Client, id: i32) -> i32 {
    single(client, &format!("SELECT v FROM w WHERE id = {id}")).await
}

async fn single(client: &Client, text: &str) -> i32 {
    single_text(client, text).await.parse().unwrap()
}

async fn single_text(client: &Client, text: &str) -> String {
    let messages = client.simple_query(text).await.unwrap();
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    value.expect("a row").to_owned()
}

/// Pauses and resumes replay, for as long as it is polled.
async fn pause_at_random(replicas: &[Server]) {
    let mut dice = StdRng::seed_from_u64(SEED);
    loop {
        let replica = &replicas[dice.random_range(0..replicas.len())];
        if dice.random_bool(0.5) {
            replica.pause_replay().await.unwrap();
        } else {
            replica.resume_replay().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(5..60))).await;
    }
}

/// What the readers of a counter have seen.
#[derive(Default)]
struct Seen {
    reads: AtomicU64,
    stop: AtomicBool,
    /// At level `eventual`.
    went_back: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_never_go_backwards() {
    let stand = Stand::start_with(logging(ClusterOptions::with_replicas(2)), NOBODY_IS_EJECTED).await;
    let writer = stand.client().await;
    writer.batch_execute("CREATE TABLE c (v int); INSERT INTO c VALUES (0)").await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    let seen = std::sync::Arc::new(Seen::default());
    let mut readers = JoinSet::new();
    for number in 0..9 {
        let (client, seen) = (connect(&stand.url()).await, std::sync::Arc::clone(&seen));
        readers.spawn(async move {
            // One shows what the others are spared.
            let is_eventual = number == 8;
            if is_eventual {
                client.batch_execute("SET pgsluice.consistency = 'eventual'").await.unwrap();
            }
            let mut last = 0;
            while !seen.stop.load(Ordering::Relaxed) {
                let value = if number % 2 == 0 {
                    single(&client, "SELECT v FROM c").await
                } else {
                    client.query_one("SELECT v FROM c", &[]).await.unwrap().get(0)
                };
                if is_eventual {
                    seen.went_back.fetch_or(value < last, Ordering::Relaxed);
                } else {
                    assert!(value >= last, "session {number} read {value} after {last}");
                }
                last = value;
                seen.reads.fetch_add(1, Ordering::Relaxed);
                if number >= 3 {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(0..60))).await;
                }
            }
        });
    }
    let write = async {
        loop {
            writer.execute("UPDATE c SET v = v + 1", &[]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let asked = |replica| server_log::count(replica, "SELECT v FROM c");
    let enough = async {
        let start = Instant::now();
        loop {
            let is_enough = seen.reads.load(Ordering::Relaxed) >= 5_000
                && seen.went_back.load(Ordering::Relaxed)
                && stand.cluster.replicas().iter().all(|replica| asked(replica) > 100);
            if is_enough {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{} reads", seen.reads.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = write => {}
        () = pause_at_random(&stand.cluster.replicas()[..1]) => {}
        () = enough => {}
    }
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = readers.join_next().await {
        ended.unwrap();
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_waits_for_a_replica_as_long_as_the_config_says() {
    let sections = format!("{NOBODY_IS_EJECTED}\n[consistency]\nwait = \"2s\"");
    let stand = with_table(Stand::start(2, &sections).await).await;
    let client = stand.client().await;
    let waits = async |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        stand.proxy.metric("pgsluice_causal_waits_total", &[&outcome]).await.unwrap_or(0.0)
    };
    for round in 1..=20 {
        let before = stand.proxy.statements(ON_REPLICAS).await;
        client.execute("UPDATE w SET v = $1 WHERE id = 1", &[&round]).await.unwrap();
        assert_eq!(read_extended(&client, 1).await, round);
        if waits("primary").await == 0.0 {
            // It waited, or the replica that was asked had caught up already.
            assert!(stand.proxy.statements(ON_REPLICAS).await > before, "a replica answered it");
        }
    }

    // It waits no longer than it may.
    for replica in stand.cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    client.execute("UPDATE w SET v = 100 WHERE id = 1", &[]).await.unwrap();
    let (start, gave_up) = (Instant::now(), waits("primary").await);
    assert_eq!(read_extended(&client, 1).await, 100);
    assert!(start.elapsed() >= Duration::from_secs(2), "it went to the primary after {:?}", start.elapsed());
    assert_eq!(waits("primary").await, gave_up + 1.0);

    // And goes on as soon as one replica has caught up.
    client.execute("UPDATE w SET v = 101 WHERE id = 1", &[]).await.unwrap();
    let (before, caught_up) = (stand.proxy.statements(ON_REPLICAS).await, waits("caught_up").await);
    let (value, ()) = tokio::join!(read_extended(&client, 1), async {
        stand.cluster.replicas()[1].resume_replay().await.unwrap();
    });
    assert_eq!(value, 101);
    assert!(stand.proxy.statements(ON_REPLICAS).await > before);
    assert_eq!(waits("caught_up").await, caught_up + 1.0);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_catalog_are_seen_by_every_session_at_once() {
    let stand = with_table(Stand::start(2, NOBODY_IS_EJECTED).await).await;
    let (owner, other, eventual) = (stand.client().await, stand.client().await, stand.client().await);
    owner.batch_execute("CREATE VIEW g AS SELECT 0 AS v").await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();
    eventual.batch_execute("SET pgsluice.consistency = 'eventual'").await.unwrap();
    wait_for_replica(&stand, &other).await;
    for replica in stand.cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }

    // At level `eventual` a read goes to a replica and shows what is there.
    owner.execute("UPDATE w SET v = 5 WHERE id = 1", &[]).await.unwrap();
    assert_eq!(read_simple(&eventual, 1).await, 0);
    assert_eq!(read_extended(&eventual, 1).await, 0);

    owner.batch_execute("ALTER TABLE w ADD COLUMN added int DEFAULT 9").await.unwrap();
    for client in [&other, &eventual] {
        assert_eq!(single(client, "SELECT added FROM w WHERE id = 1").await, 9);
        let row = client.query_one("SELECT * FROM w WHERE id = 1", &[]).await.unwrap();
        assert_eq!(row.len(), 3);
    }
    // The same where a stale catalog would be no error. By now nobody knows the new one but the primary.
    for definition in 1..=200 {
        if definition % 2 == 0 {
            owner.batch_execute(&format!("CREATE OR REPLACE VIEW g AS SELECT {definition} AS v")).await.unwrap();
        } else {
            owner.batch_execute("BEGIN").await.unwrap();
            owner.batch_execute(&format!("CREATE OR REPLACE VIEW g AS SELECT {definition} AS v")).await.unwrap();
            owner.batch_execute("COMMIT").await.unwrap();
        }
        for client in [&other, &eventual] {
            assert_eq!(single(client, "SELECT v FROM g").await, definition);
        }
    }
    let failed_first = stand.proxy.statements(&["reason=\"standby_error\""]).await;
    assert_eq!(failed_first, 0.0, "they did not go to a replica first");

    for replica in stand.cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    wait_for_replica(&stand, &other).await;
    assert_eq!(single(&other, "SELECT v FROM g").await, 200);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_are_too_long_to_be_read_count_as_writes() {
    let stand = with_table(Stand::start(1, NOBODY_IS_EJECTED).await).await;
    let client = stand.client().await;
    wait_for_replica(&stand, &client).await;
    stand.cluster.replicas()[0].pause_replay().await.unwrap();
    let long = "x".repeat(2 << 20);
    for round in 1..=5 {
        let text = format!("UPDATE w SET v = {round} + 0 * length('{long}') WHERE id = 1");
        match round % 2 {
            0 => drop(client.execute(&text, &[]).await.unwrap()),
            _ => client.batch_execute(&text).await.unwrap(),
        }
        assert_eq!(read_simple(&client, 1).await, round);
        // A setting in such a text is the client's, too.
        client.batch_execute(&format!("SELECT length('{long}'); SET application_name = 'n{round}'")).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..3 {
            let other = stand.client().await;
            others.push(other.query_one("SHOW application_name", &[]).await.unwrap().get::<_, String>(0));
        }
        assert_eq!(others, [""; 3]);
        assert_eq!(
            client.query_one("SHOW application_name", &[]).await.unwrap().get::<_, String>(0),
            format!("n{round}")
        );
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_prove_itself_leaves_no_trace() {
    let sections = "[lag]\npoll_interval = \"200ms\"\neject_above = \"1h\"";
    let stand = with_table(Stand::start_with(logging(ClusterOptions::with_replicas(1)), sections).await).await;
    let replica = &stand.cluster.replicas()[0];
    let client = stand.client().await;
    // Longer than what is read at once, so that its answer is under way when the replica is found to be behind.
    let wide = "SELECT repeat(v::text, 500000) AS wide FROM w WHERE id = 1";
    let mut asked = 0;
    for round in 1..=9 {
        replica.resume_replay().await.unwrap();
        stand.cluster.wait_replicated().await.unwrap();
        tokio::time::sleep(Duration::from_millis(450)).await;
        replica.pause_replay().await.unwrap();
        client.execute("UPDATE w SET v = $1 WHERE id = 1", &[&round]).await.unwrap();
        // The primary's next sample settles what this session has written; the replica is not far behind yet.
        let before = server_log::count(replica, "AS wide");
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            // In the simple protocol: nothing has to be prepared first, so the read is sent right behind the question.
            let row = single_text(&client, wide).await;
            assert!(row == round.to_string().repeat(500_000), "{} bytes: {:.20}…", row.len(), row);
        }
        assert_eq!(read_simple(&client, 1).await, round);
        asked += server_log::count(replica, "AS wide") - before;
    }
    assert!(asked > 0, "the replica was never asked");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_seen_under_the_same_key_and_behind_a_token() {
    let stand = with_table(Stand::start(1, NOBODY_IS_EJECTED).await).await;
    let writer = stand.client().await;
    wait_for_replica(&stand, &writer).await;
    let (same_key, other_key, with_token) = (stand.client().await, stand.client().await, stand.client().await);
    writer.batch_execute("SET pgsluice.session_key = 'user 1'").await.unwrap();
    same_key.batch_execute("SET pgsluice.session_key = 'user 1'").await.unwrap();
    other_key.batch_execute("SET pgsluice.session_key = 'user 2'").await.unwrap();
    stand.cluster.replicas()[0].pause_replay().await.unwrap();
    for round in 1..=20 {
        // In the extended protocol, and before the monitor has heard of anything.
        writer.execute("UPDATE w SET v = $1 WHERE id = 1", &[&round]).await.unwrap();
        assert_eq!(read_simple(&same_key, 1).await, round);
        assert_eq!(read_simple(&other_key, 1).await, 0, "a replica's answer");
        let token = single_text(&writer, "SHOW pgsluice.session_token").await;
        assert!(token.starts_with("main:1:0/"), "{token}");
        with_token.batch_execute(&format!("SET pgsluice.session_token = '{token}'")).await.unwrap();
        assert_eq!(read_simple(&with_token, 1).await, round);
    }
    stand.cluster.replicas()[0].resume_replay().await.unwrap();
    let start = Instant::now();
    while stand.proxy.statements(ON_REPLICAS).await == {
        let before = stand.proxy.statements(ON_REPLICAS).await;
        assert_eq!(read_simple(&with_token, 1).await, 20);
        before
    } {
        assert!(start.elapsed() < DEADLINE, "nothing is read from the replica again");
    }
    stand.stop().await;
}

/// Reads until a replica answers.
async fn wait_for_replica(stand: &Stand, client: &Client) {
    let start = Instant::now();
    let before = stand.proxy.statements(ON_REPLICAS).await;
    while stand.proxy.statements(ON_REPLICAS).await <= before {
        read_simple(client, 1).await;
        assert!(start.elapsed() < DEADLINE, "no replica answers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

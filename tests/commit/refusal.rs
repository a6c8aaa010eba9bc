//! What a server refuses is rolled back everywhere, and its words are the client's.

use std::time::Instant;

use pgsluice::commit::{Cause, Coordinators, Outcome, Participant};
use pgsluice::demo::StopMode;

use crate::stand::{Connection, Script, Shards, commit_all};
use crate::support::DEADLINE;

/// Runs a transfer in which a shard has also done `extra`: who refused it, and with what.
async fn refused(shards: &Shards, shard: usize, extra: &str) -> (String, Cause) {
    let coordinators = Coordinators::default();
    let mut connections = shards.participants(&Script::peaceful()).await;
    for connection in &mut connections {
        connection.transfer(1).await;
    }
    let raw = connections[shard].raw.as_mut().unwrap();
    raw.query(extra).await;
    let outcome = commit_all(&coordinators, &mut connections).await;
    let Outcome::RolledBack { shard, cause, unfinished, .. } = outcome else { panic!("{extra}: {outcome:?}") };
    assert_eq!(unfinished, [], "{extra}");
    assert_eq!(coordinators.unsettled(), 0, "{extra}");
    assert_eq!(shards.prepared().await, Vec::<String>::new(), "{extra}");
    assert!(shards.check().await.is_empty(), "{extra}");
    for connection in &mut connections {
        idle(connection).await;
    }
    (shard.as_str().to_owned(), cause)
}

/// It has no transaction open any more, and is of use.
async fn idle(connection: &mut Connection) {
    connection.run("SELECT 1").await.unwrap();
    let messages = connection.raw.as_mut().unwrap().query("SELECT 1").await;
    assert_eq!(messages.last().unwrap().body, b"I");
}

fn words(cause: &Cause) -> (String, String, String) {
    let Cause::Refused(refusal) = cause else { panic!("{cause:?}") };
    let field = |code| {
        let text = pgsluice::wire::backend::error_field(&refusal.0, code).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    (field(b'C'), field(b'M'), field(b'H'))
}

#[tokio::test]
async fn what_is_refused_is_rolled_back_everywhere() {
    let shards = Shards::start().await;
    let cases = [
        (1, "CREATE TEMP TABLE t (n int)", "0A000"),
        (2, "LISTEN something", "0A000"),
        (1, "NOTIFY something", "0A000"),
        (1, "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "0A000"),
        (2, "SELECT pg_export_snapshot()", "0A000"),
        // Deferred until the shard prepares, and until the decider commits.
        (1, "INSERT INTO journal VALUES (1)", "23505"),
        (0, "INSERT INTO journal VALUES (1)", "23505"),
        // These have failed before.
        (2, "SELECT 1 / 0", "25P02"),
        (0, "SELECT 1 / 0", "25P02"),
    ];
    for (shard, extra, sqlstate) in cases {
        let (by, cause) = refused(&shards, shard, extra).await;
        assert_eq!((by.as_str(), words(&cause).0.as_str()), (shards.names[shard].as_str(), sqlstate), "{extra}");
        println!("{extra}: {cause:?}");
    }
    weak_durability_is_not_for_decisions(&shards).await;
    no_room_to_prepare(&shards).await;
    shards.stop().await;
}

/// `synchronous_commit = off` may cost a client its last commits, not the other shards a half of one.
async fn weak_durability_is_not_for_decisions(shards: &Shards) {
    let mut raw = shards.raw(0).await;
    for (before, after) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
        raw.rows(&format!("SET synchronous_commit = {before}")).await;
        raw.rows("BEGIN; SELECT pgsluice.decide(gen_random_uuid(), '{b}')").await;
        assert_eq!(raw.value("SHOW synchronous_commit").await, after);
        raw.rows("ROLLBACK").await;
        assert_eq!(raw.value("SHOW synchronous_commit").await, before);
    }
}

/// PostgreSQL's own default is that nothing can be prepared.
async fn no_room_to_prepare(shards: &Shards) {
    shards.server(1).sql("ALTER SYSTEM SET max_prepared_transactions = 0").await.unwrap();
    shards.server(1).stop(StopMode::Fast).await.unwrap();
    shards.server(1).start().await.unwrap();
    let start = Instant::now();
    let (by, cause) = refused(shards, 1, "SELECT 1").await;
    assert!(start.elapsed() < DEADLINE);
    let (sqlstate, message, hint) = words(&cause);
    assert_eq!((by.as_str(), sqlstate.as_str()), ("b", "55000"));
    assert_eq!(message, "prepared transactions are disabled");
    assert!(hint.contains("max_prepared_transactions"), "{hint}");
}

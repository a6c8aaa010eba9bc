//! A decision and recovery's claim of the rollback, in every order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use pgsluice::commit::{Cause, Coordinators, Outcome, Why};

use crate::stand::{Moment, Script, Shards, Strike, commit_all};
use crate::support::DEADLINE;
use crate::support::raw::{Raw, query, sqlstates};

const DECISION: usize = 2;

#[tokio::test]
async fn a_decision_and_a_claim_exclude_each_other() {
    let shards = Shards::start().await;
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    for (id, level) in (0..).zip(levels) {
        late_decision(&shards, level, id).await;
        in_time(&shards, level, 10 + id).await;
    }
    patient_with_its_own(&shards).await;
    undecided_yet(&shards, "COMMIT").await;
    undecided_yet(&shards, "ROLLBACK").await;
    claim_in_flight(&shards).await;
    shards.sql(0, "DELETE FROM pgsluice.decision").await;
    rollbacks_outlive_late_deciders(&shards).await;
    two_recoveries(&shards).await;
    shards.stop().await;
}

/// Recovery of another process claims the rollback when all is prepared and nothing decided: the coordinator is told
/// so.
async fn late_decision(shards: &Shards, level: &str, id: i64) {
    let coordinators = Coordinators::default();
    let script = Script::new(DECISION, Moment::Before, Strike::Pause);
    let mut connections = shards.participants(&script).await;
    for connection in &mut connections {
        let set = format!("SET default_transaction_isolation = '{level}'");
        connection.raw.as_mut().unwrap().rows(&set).await;
        connection.transfer(id).await;
    }
    let recovery = async {
        script.struck().await;
        assert_eq!(shards.prepared().await.len(), 2);
        let round = shards.stranger().round().await;
        assert_eq!((round.rolled_back, round.committed, &round.left), (2, 0, &vec![]), "{round:?}");
        script.go_on();
    };
    let (outcome, ()) = tokio::join!(commit_all(&coordinators, &mut connections), recovery);
    let Outcome::RolledBack { shard, cause: Cause::Refused(refusal), unfinished, .. } = outcome else {
        panic!("{level}: {outcome:?}")
    };
    assert_eq!((shard.as_str(), refusal.sqlstate(), unfinished), ("a", &b"40001"[..], vec![]), "{level}: {refusal}");
    assert_eq!(coordinators.unsettled(), 0);
    assert!(!shards.check().await.contains(&id));
    // All connections are of use again.
    for connection in &mut connections {
        assert_eq!(connection.raw.as_mut().unwrap().value("SELECT 1").await, "1");
    }
}

/// And where nobody interferes it commits, at every level.
async fn in_time(shards: &Shards, level: &str, id: i64) {
    let mut connections = shards.participants(&Script::peaceful()).await;
    for connection in &mut connections {
        let set = format!("SET default_transaction_isolation = '{level}'");
        connection.raw.as_mut().unwrap().rows(&set).await;
        connection.transfer(id).await;
    }
    let outcome = commit_all(&Coordinators::default(), &mut connections).await;
    assert!(matches!(outcome, Outcome::Committed), "{level}: {outcome:?}");
    assert!(shards.check().await.contains(&id));
}

/// Recovery of the same process leaves alone what a living coordinator works on, however long it takes.
async fn patient_with_its_own(shards: &Shards) {
    let coordinators = Arc::new(Coordinators::default());
    let script = Script::new(DECISION, Moment::Before, Strike::Pause);
    let mut connections = shards.participants(&script).await;
    for connection in &mut connections {
        connection.transfer(100).await;
    }
    let recovery = async {
        script.struck().await;
        let round = shards.recovery(&coordinators).round().await;
        assert_eq!((round.waiting, round.rolled_back, round.committed), (2, 0, 0), "{round:?}");
        script.go_on();
    };
    let (outcome, ()) = tokio::join!(commit_all(&coordinators, &mut connections), recovery);
    assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    assert!(shards.check().await.contains(&100));
}

/// Prepares on shard `b` under a secret that the test knows, and decides on `a`, all by hand.
struct ByHand {
    decider: Raw,
    gid: String,
    decide: String,
}

impl ByHand {
    async fn prepare(shards: &Shards) -> Self {
        let mut decider = shards.raw(0).await;
        let secret = decider.value("SELECT gen_random_uuid()").await;
        let id = decider.value(&format!("SELECT replace(pgsluice.decision_id('{secret}')::text, '-', '')")).await;
        let gid = format!("pgsluice:1:{id}:a:0");
        decider.rows("BEGIN; UPDATE account SET balance = balance").await;
        let mut other = shards.raw(1).await;
        let prepare = format!("BEGIN; UPDATE account SET balance = balance; PREPARE TRANSACTION '{gid}'");
        other.rows(&prepare).await;
        Self { decider, gid, decide: format!("SELECT pgsluice.decide('{secret}', '{{b}}')") }
    }
}

/// The decision is written and not committed: recovery waits for it, not for ever, and then goes by what came of it.
async fn undecided_yet(shards: &Shards, end: &str) {
    let mut hand = ByHand::prepare(shards).await;
    hand.decider.rows(&hand.decide).await;
    let mut recovery = shards.stranger();
    let round = recovery.round().await;
    assert_eq!(round.left.iter().map(|left| &left.why).collect::<Vec<_>>(), [&Why::Busy], "{round:?}");
    assert_eq!(shards.prepared().await, [hand.gid.clone()]);
    let later = async {
        // Recovery is at its claim again.
        blocked(shards, 0).await;
        hand.decider.rows(end).await;
    };
    let (round, ()) = tokio::join!(recovery.round(), later);
    let expected = if end == "COMMIT" { (1, 0) } else { (0, 1) };
    assert_eq!((round.committed, round.rolled_back), expected, "{end}: {round:?}");
    assert_eq!(shards.prepared().await, Vec::<String>::new());
}

/// The claim is written and not committed: the decision waits for it, and fails.
async fn claim_in_flight(shards: &Shards) {
    let mut hand = ByHand::prepare(shards).await;
    let id = hand.gid.split(':').nth(2).unwrap();
    let options = shards.clusters[0].options();
    let mut claim = shards.raw_as(0, &options.monitor.user, &options.monitor.password).await;
    let insert = format!("BEGIN; INSERT INTO pgsluice.decision VALUES ('{id}', false, '{{}}')");
    claim.rows(&insert).await;
    hand.decider.send(&query(&hand.decide)).await;
    blocked(shards, 0).await;
    claim.rows("COMMIT").await;
    assert_eq!(sqlstates(&hand.decider.until_ready(1).await), ["40001"]);
    assert_eq!(shards.stranger().round().await.rolled_back, 1);
}

/// Waits until somebody waits for a transaction's end on a shard.
async fn blocked(shards: &Shards, shard: usize) {
    let start = Instant::now();
    let text = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
    while shards.value(shard, text).await == "0" {
        assert!(start.elapsed() < DEADLINE);
    }
}

/// A claim is not forgotten while the transaction that it was made against may still try to decide.
async fn rollbacks_outlive_late_deciders(shards: &Shards) {
    let mut hand = ByHand::prepare(shards).await;
    let mut recovery = shards.forgetful();
    assert_eq!(recovery.round().await.rolled_back, 1);
    for _ in 0..4 {
        recovery.round().await;
    }
    assert_eq!(shards.value(0, "SELECT count(*) FROM pgsluice.decision WHERE NOT committed").await, "1");
    // Transactions that begin now do not keep it.
    let mut other = shards.raw(0).await;
    other.rows("BEGIN; SELECT pg_current_xact_id()").await;
    let messages = hand.decider.query(&hand.decide).await;
    assert_eq!(sqlstates(&messages), ["40001"]);
    hand.decider.rows("ROLLBACK").await;
    let start = Instant::now();
    while shards.decisions().await > 0 {
        recovery.round().await;
        assert!(start.elapsed() < DEADLINE);
    }
}

/// Half of them decided, half not, and two recoveries at the same time.
async fn two_recoveries(shards: &Shards) {
    const EACH: i64 = 6;
    let before = shards.check().await;
    let mut decided = BTreeSet::new();
    for id in 200..200 + 2 * EACH {
        let is_decided = id % 2 == 0;
        let mut hand = [shards.raw(1).await, shards.raw(2).await];
        let mut decider = shards.raw(0).await;
        let secret = decider.value("SELECT gen_random_uuid()").await;
        let tid = decider.value(&format!("SELECT replace(pgsluice.decision_id('{secret}')::text, '-', '')")).await;
        for (ordinal, raw) in hand.iter_mut().enumerate() {
            let gid = format!("pgsluice:1:{tid}:a:{ordinal}");
            raw.rows(&format!("BEGIN; INSERT INTO journal VALUES ({id}); PREPARE TRANSACTION '{gid}'")).await;
        }
        if is_decided {
            let decide = format!("SELECT pgsluice.decide('{secret}', '{{b,c}}')");
            decider.rows(&format!("BEGIN; INSERT INTO journal VALUES ({id}); {decide}; COMMIT")).await;
            decided.insert(id);
        }
    }
    let (mut one, mut two) = (shards.stranger(), shards.stranger());
    let (first, second) = tokio::join!(one.round(), two.round());
    shards.settle(&mut one).await;
    println!("{first:?}\n{second:?}");
    let journals = shards.journals().await;
    for journal in &journals {
        assert_eq!(journal.difference(&before).copied().collect::<BTreeSet<_>>(), decided);
    }
}

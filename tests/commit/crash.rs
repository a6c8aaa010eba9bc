//! A crash at every step of the commit, and recovery by somebody else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice::commit::{Coordinators, Outcome, Recovery};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::stand::{BALANCE, Direct, Moment, Script, Shards, Strike, transfer};

/// PREPARE twice, the decision, COMMIT PREPARED twice.
const STEPS: usize = 5;
const DECISION: usize = 2;
const MOMENTS: [Moment; 3] = [Moment::Before, Moment::Sent, Moment::Answered];

/// What must have come of a transfer that was struck.
#[derive(Debug, PartialEq)]
enum Fate {
    Committed,
    RolledBack,
    Either,
}

fn fate(step: usize, moment: Moment) -> Fate {
    match (step.cmp(&DECISION), moment) {
        (std::cmp::Ordering::Less, _) | (std::cmp::Ordering::Equal, Moment::Before) => Fate::RolledBack,
        (std::cmp::Ordering::Equal, Moment::Sent) => Fate::Either,
        (std::cmp::Ordering::Equal, Moment::Answered) | (std::cmp::Ordering::Greater, _) => Fate::Committed,
    }
}

#[tokio::test]
async fn all_or_nothing_whatever_is_lost_at_whatever_step() {
    let shards = Shards::start().await;
    let coordinators = Coordinators::default();
    let script = Script::peaceful();
    let outcome = transfer(&shards, &coordinators, &script, 0).await;
    assert!(matches!(outcome, Some(Outcome::Committed)), "{outcome:?}");
    assert_eq!(script.steps(), STEPS);
    assert_eq!(shards.check().await, BTreeSet::from([0]));
    let mut id = 0;
    let mut recovery = shards.stranger();
    for strike in [Strike::Coordinator, Strike::Connection] {
        for step in 0..STEPS {
            for moment in MOMENTS {
                id += 1;
                strike_once(&shards, &mut recovery, (step, moment, strike), id).await;
            }
        }
    }
    forgets_everything(&shards).await;
    shards.stop().await;
}

async fn strike_once(
    shards: &Shards,
    recovery: &mut Recovery<Direct>,
    (step, moment, strike): (usize, Moment, Strike),
    id: i64,
) {
    let case = format!("{strike:?} {moment:?} step {step}");
    let coordinators = Arc::new(Coordinators::default());
    let script = Script::new(step, moment, strike);
    let outcome = transfer(shards, &coordinators, &script, id).await;
    println!("{case}: {outcome:?}");
    let rounds = shards.settle(recovery).await;
    assert!(rounds.iter().all(|round| round.left.is_empty()), "{case}: {rounds:?}");
    let is_there = shards.check().await.contains(&id);
    match fate(step, moment) {
        Fate::Committed => assert!(is_there, "{case}"),
        Fate::RolledBack => assert!(!is_there, "{case}"),
        Fate::Either => {}
    }
    match outcome {
        None => assert_eq!(strike, Strike::Coordinator, "{case}"),
        Some(Outcome::Committed) => panic!("{case}: nobody has noticed"),
        Some(Outcome::CommittedNotEverywhere { ref unfinished, .. }) => {
            assert!(is_there && unfinished.len() == 1 && step > DECISION, "{case}: {outcome:?}");
        }
        Some(Outcome::RolledBack { .. }) => assert!(!is_there && step < DECISION, "{case}: {outcome:?}"),
        Some(Outcome::InDoubt { .. }) => assert_eq!(step, DECISION, "{case}"),
    }
    // The one who has left something learns from its own recovery that it is settled.
    shards.recovery(&coordinators).round().await;
    assert_eq!(coordinators.unsettled(), 0, "{case}");
}

/// Decisions are deleted when nobody needs them, and not before.
async fn forgets_everything(shards: &Shards) {
    let mut recovery = shards.forgetful();
    let start = Instant::now();
    while shards.decisions().await > 0 {
        recovery.round().await;
        assert!(start.elapsed() < crate::support::DEADLINE);
    }
    // A commit whose participant cannot be asked, or has it prepared, stays.
    for (shard, participants) in [(0, "{b,elsewhere}"), (0, "{c}"), (0, "{b}")] {
        let text = format!("SELECT pgsluice.decide(gen_random_uuid(), '{participants}')");
        shards.sql(shard, &text).await;
    }
    let id =
        shards.value(0, "SELECT replace(id::text, '-', '') FROM pgsluice.decision WHERE participants = '{c}'").await;
    let mut raw = shards.raw(2).await;
    // Of a form that recovery leaves alone, so that it stays; as does the decision that its id names.
    raw.rows(&format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'pgsluice:1:{id}:nowhere:0'")).await;
    for _ in 0..3 {
        recovery.round().await;
    }
    let rows = shards.sql(0, "SELECT participants::text FROM pgsluice.decision ORDER BY 1").await;
    let left: Vec<String> = rows.into_iter().flatten().flatten().collect();
    assert_eq!(left, ["{b,elsewhere}", "{c}"]);
    raw.rows(&format!("ROLLBACK PREPARED 'pgsluice:1:{id}:nowhere:0'")).await;
    recovery.round().await;
    assert_eq!(shards.decisions().await, 1);
    shards.sql(0, "DELETE FROM pgsluice.decision").await;
}

/// Many at once, some of them struck, while two recoveries of other processes are at work all the time.
#[tokio::test]
async fn clients_and_recoveries_at_once() {
    const CLIENTS: i64 = 6;
    const TRANSFERS: i64 = 20;
    let shards = Arc::new(Shards::start().await);
    let mut recoveries = tokio::task::JoinSet::new();
    for recovery in [shards.stranger(), shards.forgetful()] {
        recoveries.spawn(recovery.run(|_| ()));
    }
    let coordinators = Arc::new(Coordinators::new(Duration::from_secs(30)));
    recoveries.spawn(shards.recovery(&coordinators).run(|_| ()));
    let clients = (0..CLIENTS).map(|client| {
        let (shards, coordinators) = (Arc::clone(&shards), Arc::clone(&coordinators));
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(client.unsigned_abs());
            let mut acknowledged = BTreeSet::new();
            for number in 0..TRANSFERS {
                let id = client * TRANSFERS + number;
                let strike = if random.random() { Strike::Coordinator } else { Strike::Connection };
                let script = match random.random_range(0..3) {
                    0 => Script::new(random.random_range(0..STEPS), MOMENTS[random.random_range(0..3)], strike),
                    _ => Script::peaceful(),
                };
                let outcome = transfer(&shards, &coordinators, &script, id).await;
                if let Some(Outcome::Committed | Outcome::CommittedNotEverywhere { .. }) = outcome {
                    acknowledged.insert(id);
                }
            }
            acknowledged
        })
    });
    let mut acknowledged = BTreeSet::new();
    for client in clients.collect::<Vec<_>>() {
        acknowledged.extend(client.await.expect("the client ends"));
    }
    recoveries.shutdown().await;
    let shards = Arc::into_inner(shards).expect("all clients have ended");
    shards.settle(&mut shards.stranger()).await;
    let there = shards.check().await;
    println!("{} of {} acknowledged, {} there", acknowledged.len(), CLIENTS * TRANSFERS, there.len());
    assert!(there.is_superset(&acknowledged));
    assert!(!acknowledged.is_empty() && i64::try_from(there.len()).unwrap() <= BALANCE / 2);
    shards.stop().await;
}

//! A primary is killed in the middle of a commit, and comes back.

use std::sync::Arc;
use std::time::Duration;

use pgsluice::commit::{Cause, Coordinators, Outcome, Why};

use crate::stand::{Moment, Script, Shards, Strike, commit_all, transfer};

const DECISION: usize = 2;

#[tokio::test]
async fn a_primary_is_killed_and_comes_back() {
    let shards = Shards::start().await;
    let peaceful = Script::peaceful();
    assert!(matches!(transfer(&shards, &Arc::default(), &peaceful, 0).await, Some(Outcome::Committed)));
    decider_before_it_decides(&shards).await;
    decider_after_it_has_decided(&shards).await;
    participant_before_the_decision(&shards).await;
    participant_after_the_decision(&shards).await;
    frozen_participant(&shards).await;
    shards.stop().await;
}

/// Commits, and kills a shard when the script has struck.
async fn commit_and_kill(
    shards: &Shards,
    coordinators: &Coordinators,
    (step, kill): (usize, usize),
    id: i64,
) -> Outcome {
    let script = Script::new(step, Moment::Before, Strike::Pause);
    let mut connections = shards.participants(&script).await;
    for connection in &mut connections {
        connection.transfer(id).await;
    }
    let killer = async {
        script.struck().await;
        shards.server(kill).kill().await.unwrap();
        script.go_on();
    };
    tokio::join!(commit_all(coordinators, &mut connections), killer).0
}

async fn decider_before_it_decides(shards: &Shards) {
    let coordinators = Arc::new(Coordinators::default());
    let outcome = commit_and_kill(shards, &coordinators, (DECISION, 0), 1).await;
    let Outcome::InDoubt { id, decider, unfinished } = outcome else { panic!("{outcome:?}") };
    assert_eq!((decider.as_str(), unfinished.len()), ("a", 2));
    // As long as it is away nobody knows, and nothing happens.
    let mut recovery = shards.recovery(&coordinators);
    for _ in 0..2 {
        let round = recovery.round().await;
        assert_eq!(round.left.len(), 3, "{round:?}");
        assert!(round.left.iter().any(|left| left.gid.is_none() && left.shard == decider));
        let waits = |why: &Why| matches!(why, Why::NoVerdict { decider: of, .. } if *of == decider);
        assert_eq!(round.left.iter().filter(|left| waits(&left.why)).count(), 2, "{round:?}");
    }
    shards.server(0).start().await.unwrap();
    let round = recovery.round().await;
    assert_eq!((round.rolled_back, round.left.len()), (2, 0), "{round:?}");
    coordinators.settled(id).await;
    assert!(!shards.check().await.contains(&1));
}

async fn decider_after_it_has_decided(shards: &Shards) {
    let coordinators = Arc::default();
    let script = Script::new(DECISION, Moment::Answered, Strike::Coordinator);
    assert!(transfer(shards, &coordinators, &script, 2).await.is_none());
    shards.server(0).kill().await.unwrap();
    let mut recovery = shards.stranger();
    let round = recovery.round().await;
    assert_eq!((round.committed, round.rolled_back, round.left.len()), (0, 0, 3), "{round:?}");
    shards.server(0).start().await.unwrap();
    let round = recovery.round().await;
    assert_eq!((round.committed, round.left.len()), (2, 0), "{round:?}");
    assert!(shards.check().await.contains(&2));
}

async fn participant_before_the_decision(shards: &Shards) {
    let coordinators = Arc::new(Coordinators::default());
    let outcome = commit_and_kill(shards, &coordinators, (0, 1), 3).await;
    let Outcome::RolledBack { id, shard, cause, unfinished } = outcome else { panic!("{outcome:?}") };
    assert_eq!((shard.as_str(), unfinished.len()), ("b", 1));
    assert!(matches!(cause, Cause::Lost(_)), "{cause:?}");
    shards.server(1).start().await.unwrap();
    shards.settle(&mut shards.recovery(&coordinators)).await;
    coordinators.settled(id).await;
    assert!(!shards.check().await.contains(&3));
}

async fn participant_after_the_decision(shards: &Shards) {
    let coordinators = Arc::new(Coordinators::default());
    // The recovery that is told of it, as in a running pgsluice.
    let recovery = tokio::spawn(shards.recovery(&coordinators).run(|_| ()));
    let outcome = commit_and_kill(shards, &coordinators, (DECISION + 1, 1), 4).await;
    let Outcome::CommittedNotEverywhere { id, unfinished } = outcome else { panic!("{outcome:?}") };
    assert_eq!(unfinished, [shards.names[1].clone()]);
    shards.server(1).start().await.unwrap();
    tokio::time::timeout(crate::support::DEADLINE, coordinators.settled(id)).await.expect("it is settled");
    assert!(shards.check().await.contains(&4));
    recovery.abort();
}

/// A shard that does not answer holds the client up for a while only, once the outcome is certain.
async fn frozen_participant(shards: &Shards) {
    use nix::sys::signal::Signal;
    let coordinators = Arc::new(Coordinators::new(Duration::from_millis(300)));
    let script = Script::new(DECISION + 1, Moment::Before, Strike::Pause);
    let mut connections = shards.participants(&script).await;
    for connection in &mut connections {
        connection.transfer(5).await;
    }
    let freezer = async {
        script.struck().await;
        shards.server(1).signal_all(Signal::SIGSTOP).unwrap();
        script.go_on();
    };
    let (outcome, ()) = tokio::join!(commit_all(&coordinators, &mut connections), freezer);
    let Outcome::CommittedNotEverywhere { unfinished, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(unfinished, [shards.names[1].clone()]);
    drop(connections);
    shards.server(1).signal_all(Signal::SIGCONT).unwrap();
    shards.settle(&mut shards.recovery(&coordinators)).await;
    assert!(shards.check().await.contains(&5));
    assert_eq!(coordinators.unsettled(), 0);
}

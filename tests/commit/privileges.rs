//! What it takes to settle a transaction, and what a role without that can do to one.

use pgsluice::commit::{Left, Outcome, Round, Why};

use crate::stand::{Moment, Script, Shards, Strike, commit_all, transfer};
use crate::support::raw::sqlstates;

#[tokio::test]
async fn only_who_may_decides_and_settles() {
    let shards = Shards::start().await;
    nobody_else_decides(&shards).await;
    recovery_needs_the_role(&shards).await;
    prepared_as_somebody_else(&shards).await;
    strange_names_are_left_alone(&shards).await;
    shards.stop().await;
}

/// A role that can log in and nothing more sees gids, and cannot make a commit of a transaction that has not decided.
async fn nobody_else_decides(shards: &Shards) {
    for shard in 0..3 {
        shards.sql(shard, "CREATE ROLE mallory LOGIN PASSWORD 'm'").await;
    }
    let script = Script::new(2, Moment::Before, Strike::Coordinator);
    assert!(transfer(shards, &Default::default(), &script, 1).await.is_none());
    let gids = shards.prepared().await;
    assert_eq!(gids.len(), 2);
    let id = gids[0].split(':').nth(2).unwrap();
    let mut mallory = shards.raw_as(0, "mallory", "m").await;
    let cases = [
        ("SELECT * FROM pgsluice.decision".to_owned(), "42501"),
        (format!("INSERT INTO pgsluice.decision VALUES ('{id}', true, '{{b}}')"), "42501"),
        (format!("INSERT INTO pgsluice.decision VALUES ('{id}', false, '{{}}')"), "42501"),
        ("DELETE FROM pgsluice.decision".to_owned(), "42501"),
        ("SELECT pgsluice.decide(gen_random_uuid(), '{\"a b\"}')".to_owned(), "22023"),
        ("SELECT pgsluice.decide(gen_random_uuid(), '{NULL}')".to_owned(), "22023"),
        ("SELECT pgsluice.decide(gen_random_uuid(), array_fill('b'::text, ARRAY[1025]))".to_owned(), "22023"),
    ];
    for (text, sqlstate) in cases {
        assert_eq!(sqlstates(&mallory.query(&text).await), [sqlstate], "{text}");
    }
    // It may decide, of course; what it decides concerns a transaction that nobody has.
    mallory.rows(&format!("SELECT pgsluice.decide('{id}', '{{b,c}}')")).await;
    let mut other = shards.raw_as(1, "mallory", "m").await;
    assert_eq!(sqlstates(&other.query(&format!("COMMIT PREPARED '{}'", gids[0])).await), ["42501"]);
    // Nor do overlays of names in its own schemas and settings change what the function does.
    mallory.rows("SET search_path = pg_temp; CREATE TEMP TABLE decision (id uuid)").await;
    mallory.rows("SELECT pgsluice.decide(gen_random_uuid(), '{b}')").await;
    assert_eq!(mallory.value("SELECT count(*) FROM decision").await, "0");
    drop((mallory, other));
    let rounds = shards.settle(&mut shards.stranger()).await;
    assert_eq!(rounds.iter().map(|round| round.rolled_back).sum::<usize>(), 2, "{rounds:?}");
    assert!(shards.check().await.is_empty());
}

/// An account that is no superuser settles for the roles that it is a member of, and says of which it is not.
async fn recovery_needs_the_role(shards: &Shards) {
    let options = shards.clusters[0].options();
    let (app, monitor) = (&options.app.user, &options.monitor.user);
    for shard in 0..3 {
        shards.sql(shard, &format!("REVOKE {app} FROM {monitor}")).await;
    }
    let coordinators = std::sync::Arc::default();
    let script = Script::new(2, Moment::Answered, Strike::Coordinator);
    assert!(transfer(shards, &coordinators, &script, 2).await.is_none());
    let mut recovery = shards.recovery(&coordinators);
    let Round { left, committed, .. } = recovery.round().await;
    assert_eq!((left.len(), committed), (2, 0), "{left:?}");
    for Left { why, .. } in &left {
        println!("{why}");
        assert!(matches!(why, Why::NotPermitted { owner, .. } if owner == app), "{why:?}");
    }
    assert_eq!(coordinators.unsettled(), 1);
    shards.sql(1, &format!("GRANT {app} TO {monitor}")).await;
    shards.sql(2, &format!("ALTER ROLE {monitor} SUPERUSER")).await;
    let round = recovery.round().await;
    assert_eq!((round.committed, &round.left), (2, &vec![]), "{round:?}");
    assert_eq!(coordinators.unsettled(), 0);
    assert_eq!(shards.check().await.len(), 1);
    shards.sql(2, &format!("ALTER ROLE {monitor} NOSUPERUSER")).await;
    for shard in [0, 2] {
        shards.sql(shard, &format!("GRANT {app} TO {monitor}")).await;
    }
}

/// The role that was SET LOCAL has prepared it, and is the client's no more when it is to be committed.
async fn prepared_as_somebody_else(shards: &Shards) {
    let options = shards.clusters[0].options();
    let (app, monitor) = (&options.app.user, &options.monitor.user);
    for shard in 0..3 {
        let text = format!("CREATE ROLE \"an Other\"; GRANT \"an Other\" TO {app}, {monitor}");
        shards.sql(shard, &text).await;
    }
    let coordinators = std::sync::Arc::default();
    let mut connections = shards.participants(&Script::peaceful()).await;
    for connection in &mut connections {
        connection.transfer(3).await;
        connection.raw.as_mut().unwrap().rows("SET LOCAL ROLE \"an Other\"").await;
    }
    let outcome = commit_all(&coordinators, &mut connections).await;
    assert!(
        matches!(&outcome, Outcome::CommittedNotEverywhere { unfinished, .. } if unfinished.len() == 2),
        "{outcome:?}"
    );
    let round = shards.recovery(&coordinators).round().await;
    assert_eq!((round.committed, &round.left), (2, &vec![]), "{round:?}");
    assert_eq!(coordinators.unsettled(), 0);
    assert!(shards.check().await.contains(&3));
}

/// Other programs prepare transactions too, and so will later versions.
async fn strange_names_are_left_alone(shards: &Shards) {
    let gids = ["other", "pgsluic", "PGSLUICE:1:x", "pgsluice:9:0123456789abcdef0123456789abcdef:a:0:new"];
    for gid in gids {
        let mut raw = shards.raw(0).await;
        raw.rows(&format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{gid}'")).await;
    }
    let mut recovery = shards.stranger();
    for _ in 0..2 {
        let round = recovery.round().await;
        let expected = Left { shard: shards.names[0].clone(), gid: Some(gids[3].to_owned()), why: Why::UnknownForm };
        assert_eq!((round.committed, round.rolled_back, round.left), (0, 0, vec![expected]));
    }
    assert_eq!(shards.prepared().await, gids);
    for gid in gids {
        shards.raw(0).await.rows(&format!("ROLLBACK PREPARED '{gid}'")).await;
    }
}

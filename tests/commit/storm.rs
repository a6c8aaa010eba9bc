//! Clients, while shards' primaries are killed and coordinators vanish at random.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgsluice::commit::{Coordinators, Outcome, Participant, Refusal, RunError, ShardName, commit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Error, NoTls};

use crate::stand::Shards;

/// Deaths of a primary. `PGSLUICE_STORM` asks for more of them.
const DEATHS: u32 = 6;
const CLIENTS: u64 = 4;

/// A connection of the driver's, as a participant.
struct Driven {
    shard: ShardName,
    client: Client,
}

impl Participant for Driven {
    fn shard(&self) -> &ShardName {
        &self.shard
    }

    async fn run(&mut self, sql: &str) -> Result<(), RunError> {
        self.client.batch_execute(sql).await.map_err(|error| match error.as_db_error() {
            Some(words) => {
                let body = format!("C{}\0M{}\0\0", words.code().code(), words.message());
                let refusal = Refusal(body.into_bytes().into());
                let goes_on = words.parsed_severity() == Some(Severity::Error);
                if goes_on { RunError::Refused(refusal) } else { RunError::Lost(Some(refusal)) }
            }
            None => RunError::Lost(None),
        })
    }
}

/// What a client of one try has heard.
async fn attempt(shards: &Shards, coordinators: &Coordinators, id: i64) -> Result<Outcome, Error> {
    let mut participants = Vec::new();
    for (shard, by) in [(0, -2), (1, 1), (2, 1)] {
        let conninfo = shards.server(shard).conninfo(&shards.clusters[shard].options().app.user, shards.database());
        let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await?;
        tokio::spawn(connection);
        let text = format!("BEGIN; UPDATE account SET balance = balance + {by}; INSERT INTO journal VALUES ({id})");
        client.batch_execute(&text).await?;
        participants.push(Driven { shard: shards.names[shard].clone(), client });
    }
    // Each of the shards decides now and then: the sum does not care.
    let decider = usize::try_from(id.rem_euclid(3)).unwrap();
    participants.swap(0, decider);
    let (decider, others) = participants.split_first_mut().unwrap();
    Ok(commit(coordinators, shards.database(), decider, others).await)
}

/// The tries of one client; which of them were acknowledged.
async fn client(shards: Arc<Shards>, coordinators: Arc<Coordinators>, number: u64, is_over: Arc<AtomicBool>) -> Tally {
    let mut random = StdRng::seed_from_u64(number);
    let mut tally = Tally::default();
    let mut id = i64::try_from(number).unwrap() * 1_000_000;
    while !is_over.load(Ordering::Relaxed) {
        id += 1;
        // Now and then the coordinator vanishes with all of its connections, wherever it is.
        let patience = if random.random_ratio(1, 4) { random.random_range(1..60) } else { 20_000 };
        match timeout(Duration::from_millis(patience), attempt(&shards, &coordinators, id)).await {
            Ok(Ok(Outcome::Committed | Outcome::CommittedNotEverywhere { .. })) => drop(tally.acknowledged.insert(id)),
            Ok(Ok(Outcome::RolledBack { .. })) => drop(tally.refused.insert(id)),
            Ok(Ok(Outcome::InDoubt { .. })) => tally.in_doubt += 1,
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(_) => tally.vanished += 1,
        }
    }
    tally
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: BTreeSet<i64>,
    refused: BTreeSet<i64>,
    in_doubt: usize,
    vanished: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primaries_are_killed_at_random() {
    let deaths = std::env::var("PGSLUICE_STORM").map_or(DEATHS, |deaths| deaths.parse().unwrap());
    let shards = Arc::new(Shards::start().await);
    let coordinators = Arc::new(Coordinators::new(Duration::from_millis(500)));
    for shard in 0..3 {
        // Any shard may give any number of times.
        shards.sql(shard, "UPDATE account SET balance = 1000000").await;
    }
    let mut recoveries = tokio::task::JoinSet::new();
    recoveries.spawn(shards.recovery(&coordinators).run(|_| ()));
    recoveries.spawn(shards.forgetful().run(|_| ()));
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            tokio::spawn(client(Arc::clone(&shards), Arc::clone(&coordinators), number, Arc::clone(&is_over)))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(99);
    for _ in 0..deaths {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
        let shard = random.random_range(0..3);
        shards.server(shard).kill().await.unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        shards.server(shard).start().await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut refused, mut in_doubt, mut vanished) = (BTreeSet::new(), BTreeSet::new(), 0, 0);
    for client in clients {
        let tally = client.await.expect("the client ends");
        acknowledged.extend(tally.acknowledged);
        refused.extend(tally.refused);
        in_doubt += tally.in_doubt;
        vanished += tally.vanished;
    }
    recoveries.shutdown().await;
    shards.settle(&mut shards.stranger()).await;
    let there = shards.journal_is_whole(1_000_000).await;
    let (many, few) = (acknowledged.len(), refused.len());
    println!("{many} acknowledged, {few} refused, {in_doubt} in doubt, {vanished} vanished; {} there", there.len());
    assert!(there.is_superset(&acknowledged));
    assert!(there.is_disjoint(&refused));
    assert!(!acknowledged.is_empty());
    Arc::into_inner(shards).expect("all have ended").stop().await;
}

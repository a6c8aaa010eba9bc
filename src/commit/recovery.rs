//! Settles what coordinators have left, of this process, of another one, or of one that was killed.
//!
//! One task for a set of shards. It works at its start, when a coordinator of this process has left something, and
//! every few seconds. All that it goes by is on the shards, so any number of processes can do this at the same time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tracing::{info, warn};

use super::coordinators::Coordinators;
use super::forget::{candidates, forget};
use super::name::{ShardName, TransactionId};
use super::reach::Reach;
use super::settle::{Left, Prepared, Verdict, Why, prepared, settle};

/// When what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between two rounds, more or less by a quarter.
    pub interval: Duration,
    /// For how long it is left to its coordinator what is prepared, unless that is known to have gone. A coordinator
    /// of another process that takes longer to decide is told to try again (40001).
    pub grace: Duration,
    /// Between two rounds that delete old decisions.
    pub forget_interval: Duration,
    /// How old decisions are when they are deleted.
    pub retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(4),
            grace: Duration::from_secs(10),
            forget_interval: Duration::from_secs(15),
            retention: Duration::from_secs(300),
        }
    }
}

/// What a round has done.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// Parts of transactions that are committed now.
    pub committed: usize,
    /// Parts that are rolled back now.
    pub rolled_back: usize,
    /// Decisions that were deleted.
    pub forgotten: u64,
    /// Parts that are left to their coordinators for the time being.
    pub waiting: usize,
    /// What could not be settled.
    pub left: Vec<Left>,
}

/// Recovery for a set of shards.
#[derive(Debug)]
pub struct Recovery<R> {
    reach: R,
    coordinators: Arc<Coordinators>,
    settings: Settings,
    /// Where decisions may lie.
    databases: BTreeSet<String>,
    forgot_at: Option<Instant>,
    /// What the log has been told of already.
    told: HashSet<(ShardName, Option<String>)>,
}

type Listings = HashMap<ShardName, Vec<Prepared>>;

impl<R: Reach> Recovery<R> {
    /// Of what the coordinators of this process leave, and of all else that is found on the shards.
    pub fn new(reach: R, coordinators: Arc<Coordinators>, settings: Settings) -> Self {
        Self { reach, coordinators, settings, databases: BTreeSet::new(), forgot_at: None, told: HashSet::new() }
    }

    /// Works until it is dropped. `watcher` is told of every round.
    pub async fn run(mut self, mut watcher: impl FnMut(&Round)) {
        loop {
            let round = self.round().await;
            watcher(&round);
            // Several processes that were started at once must not go on in step.
            let pause = self.settings.interval.mul_f64(rand::random_range(0.75..1.25));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.coordinators.woken() => {}
            }
        }
    }

    /// Looks once at all shards, and settles what can be settled.
    pub async fn round(&mut self) -> Round {
        let forgets = self.forgot_at.is_none_or(|at| at.elapsed() >= self.settings.forget_interval);
        let old = if forgets {
            self.databases.extend(self.reach.databases());
            self.databases.extend(self.coordinators.databases());
            candidates(&self.reach, &self.databases, self.settings.retention).await
        } else {
            Vec::new()
        };
        // Taken before it is looked: what is left later may not have been there yet.
        let expected = self.coordinators.left();
        let (listings, mut left) = self.look().await;
        let (due, waiting) = self.due(&listings, &expected);
        let (done, not_done) = settle(&self.reach, due).await;
        left.extend(not_done);
        self.report(&expected, &listings, &done);
        let forgotten = if forgets {
            self.forgot_at = Some(Instant::now());
            forget(old, &listings, self.settings.retention).await
        } else {
            0
        };
        self.tell(&done, &left);
        let committed = done.iter().filter(|(_, verdict)| *verdict == Verdict::Commit).count();
        Round { committed, rolled_back: done.len() - committed, forgotten, waiting, left }
    }

    /// What is prepared, of every shard that says so.
    async fn look(&mut self) -> (Listings, Vec<Left>) {
        let shards = self.reach.shards();
        let (mut listings, mut left) = (HashMap::new(), Vec::new());
        let looks = join_all(shards.iter().map(|shard| prepared(&self.reach, shard))).await;
        for (shard, looked) in shards.into_iter().zip(looks) {
            match looked {
                Ok((parts, strange)) => {
                    let strange = strange.into_iter().map(Some);
                    left.extend(strange.map(|gid| Left { shard: shard.clone(), gid, why: Why::UnknownForm }));
                    self.databases.extend(parts.iter().map(|part| part.database.clone()));
                    listings.insert(shard, parts);
                }
                Err(error) => left.push(Left { shard, gid: None, why: Why::Unreachable(error.to_string()) }),
            }
        }
        (listings, left)
    }

    /// What nobody else works on; and how many parts somebody may be working on.
    fn due(
        &self,
        listings: &Listings,
        expected: &HashMap<TransactionId, HashSet<ShardName>>,
    ) -> (Vec<Prepared>, usize) {
        let is_due = |part: &Prepared| {
            !self.coordinators.is_living(part.gid.id)
                && (part.age >= self.settings.grace || expected.contains_key(&part.gid.id))
        };
        let (due, waiting): (Vec<_>, Vec<_>) = listings.values().flatten().cloned().partition(is_due);
        (due, waiting.len())
    }

    /// Tells who waits for it what is over.
    fn report(
        &self,
        expected: &HashMap<TransactionId, HashSet<ShardName>>,
        listings: &Listings,
        done: &[(Prepared, Verdict)],
    ) {
        for (id, shards) in expected {
            for shard in shards {
                let Some(parts) = listings.get(shard) else { continue };
                let was_there = parts.iter().any(|part| part.gid.id == *id);
                let is_done = done.iter().any(|(part, _)| part.gid.id == *id && part.shard == *shard);
                if is_done || !was_there {
                    self.coordinators.settle(*id, shard);
                }
            }
        }
    }

    /// Each success, and each difficulty once for as long as it lasts.
    fn tell(&mut self, done: &[(Prepared, Verdict)], left: &[Left]) {
        for (part, verdict) in done {
            info!(shard = %part.shard, gid = %part.gid, database = part.database, ?verdict, "prepared transaction settled");
        }
        let key = |left: &Left| (left.shard.clone(), left.gid.clone());
        for left in left.iter().filter(|left| left.why != Why::Busy && !self.told.contains(&key(left))) {
            warn!(shard = %left.shard, gid = left.gid, why = %left.why, "prepared transactions cannot be settled");
        }
        self.told = left.iter().filter(|left| left.why != Why::Busy).map(key).collect();
    }
}

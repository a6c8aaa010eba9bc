//! Who of this process is committing over several shards just now, and what they have left for recovery.
//!
//! Recovery keeps its hands off what a living coordinator works on; and when one has left something, or has died itself
//! (its future was dropped), recovery is woken and does not wait for its grace time. Nothing here is needed after a
//! restart.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::name::{Secret, ShardName, TransactionId};

/// How long it may take to carry out what is decided before the client is told without it.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// The coordinators of this process, and what recovery knows of them. One for a set of shards.
#[derive(Debug)]
pub struct Coordinators {
    state: Mutex<State>,
    wake: Notify,
    /// Raised when something was settled.
    settled: watch::Sender<()>,
    finish_within: Duration,
}

#[derive(Debug, Default)]
struct State {
    living: HashSet<TransactionId>,
    left: HashMap<TransactionId, HashSet<ShardName>>,
    /// Where decisions were made.
    databases: BTreeSet<String>,
}

impl Default for Coordinators {
    fn default() -> Self {
        Self::new(FINISH_WITHIN)
    }
}

impl Coordinators {
    /// `finish_within` bounds how long a client whose transaction is decided waits for shards that do not answer.
    pub fn new(finish_within: Duration) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), settled: watch::Sender::new(()), finish_within }
    }

    /// Waits until recovery has settled all that was left of a transaction: whoever then looks at those shards sees
    /// what came of it. At once where nothing was left. It may take as long as one of the shards is away.
    pub async fn settled(&self, id: TransactionId) {
        let mut changes = self.settled.subscribe();
        while self.state().left.contains_key(&id) {
            // Not an error as long as `self` is there.
            let _ = changes.changed().await;
        }
    }

    /// How many transactions wait for recovery, as far as this process has begun them.
    pub fn unsettled(&self) -> usize {
        self.state().left.len()
    }

    pub(super) fn begin(&self, database: &str) -> Coordinator<'_> {
        let secret = Secret::random();
        let id = secret.id();
        let mut state = self.state();
        state.living.insert(id);
        if !state.databases.contains(database) {
            state.databases.insert(database.to_owned());
        }
        drop(state);
        Coordinator { all: self, secret, id, left: Vec::new() }
    }

    pub(super) fn is_living(&self, id: TransactionId) -> bool {
        self.state().living.contains(&id)
    }

    /// What coordinators of this process have left so far.
    pub(super) fn left(&self) -> HashMap<TransactionId, HashSet<ShardName>> {
        self.state().left.clone()
    }

    pub(super) fn databases(&self) -> BTreeSet<String> {
        self.state().databases.clone()
    }

    /// Nothing of the transaction is prepared on the shard any more.
    pub(super) fn settle(&self, id: TransactionId, shard: &ShardName) {
        let mut state = self.state();
        if let Some(shards) = state.left.get_mut(&id) {
            shards.remove(shard);
            if shards.is_empty() {
                state.left.remove(&id);
            }
        }
        drop(state);
        self.settled.send_replace(());
    }

    /// Until a coordinator has left something.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A coordinator at work. When it is dropped, what it has left is recovery's.
pub(super) struct Coordinator<'a> {
    all: &'a Coordinators,
    pub(super) secret: Secret,
    pub(super) id: TransactionId,
    /// Where something may be prepared as things stand.
    pub(super) left: Vec<ShardName>,
}

impl Coordinator<'_> {
    pub(super) fn finish_within(&self) -> Duration {
        self.all.finish_within
    }
}

impl Drop for Coordinator<'_> {
    fn drop(&mut self) {
        let mut state = self.all.state();
        state.living.remove(&self.id);
        if self.left.is_empty() {
            return;
        }
        state.left.insert(self.id, self.left.drain(..).collect());
        drop(state);
        self.all.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_is_waited_for() {
        let all = Coordinators::default();
        let [a, b]: [ShardName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let mut work = all.begin("db");
        let id = work.id;
        assert!(all.is_living(id));
        work.left = vec![a.clone(), b.clone()];
        drop(work);
        assert!(!all.is_living(id));
        all.woken().await;
        assert_eq!(all.unsettled(), 1);
        all.settle(id, &a);
        let mut waiting = std::pin::pin!(all.settled(id));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        all.settle(id, &b);
        waiting.await;
        assert_eq!(all.unsettled(), 0);
    }

    #[tokio::test]
    async fn who_leaves_nothing_wakes_nobody() {
        let all = Coordinators::default();
        let id = all.begin("db").id;
        assert!(!all.is_living(id));
        all.settled(id).await;
        assert!(futures_util::poll!(std::pin::pin!(all.woken())).is_pending());
    }
}

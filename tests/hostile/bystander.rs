//! A client that minds its own business while others misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::support::{DEADLINE, Stand};

/// Reads and writes, again and again, until it is asked how it went.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Bystander {
    pub async fn start(stand: &Stand) -> Self {
        let client = stand.client().await;
        client.batch_execute("CREATE TABLE IF NOT EXISTS bystander (n bigint)").await.expect("a table");
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let task = tokio::spawn(async move {
            let insert = client.prepare("INSERT INTO bystander VALUES ($1)").await.expect("prepared");
            while !stopped.load(Ordering::Relaxed) {
                let round = async {
                    let n = i64::try_from(counted.load(Ordering::Relaxed)).expect("few rounds");
                    client.execute(&insert, &[&n]).await?;
                    client.query_one("SELECT max(n) FROM bystander", &[]).await
                };
                let row = tokio::time::timeout(DEADLINE, round).await.expect("in time").expect("no error");
                assert_eq!(row.get::<_, i64>(0), i64::try_from(counted.fetch_add(1, Ordering::Relaxed)).unwrap());
            }
        });
        Self { stop, rounds, task }
    }

    /// Waits until it has got on by so many rounds from now.
    pub async fn goes_on(&self, rounds: u64) {
        let (start, from) = (std::time::Instant::now(), self.rounds.load(Ordering::Relaxed));
        while self.rounds.load(Ordering::Relaxed) < from + rounds {
            assert!(!self.task.is_finished(), "the bystander has come to grief");
            assert!(start.elapsed() < DEADLINE, "the bystander is held up");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// It has not noticed anything, and neither has the proxy's log noticed a defect of its own.
    pub async fn leave_undisturbed(self, stand: &Stand) {
        self.goes_on(3).await;
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the bystander was not disturbed");
        assert_no_defect(stand);
    }
}

/// Nothing in the proxy's log speaks of a panic.
pub fn assert_no_defect(stand: &Stand) {
    let log = stand.proxy.log_text();
    for word in ["panicked", "defect"] {
        assert!(!log.contains(word), "{log}");
    }
}

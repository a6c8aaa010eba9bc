//! Sessions that read one row again and again, as one application would.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{DEADLINE, Stand, connect};

/// In each of their statements.
pub const MARK: &str = "FROM seen WHERE";

/// Sessions that read. Every other one uses the simple protocol, the others a prepared statement;
/// every fourth pauses between its reads, the others do not.
pub struct Readers {
    shared: Arc<Shared>,
    sessions: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    reads: AtomicU64,
    slowest: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Readers {
    /// Makes their table and starts them.
    pub async fn start(stand: &Stand, count: u32) -> Self {
        let client = stand.client().await;
        client
            .batch_execute("CREATE TABLE seen (id int PRIMARY KEY, v int); INSERT INTO seen VALUES (1, 7)")
            .await
            .unwrap();
        stand.cluster.wait_replicated().await.unwrap();
        // Until this table is known to be there, reads go to the primary.
        let on_replicas = ["role=\"replica\"", "reason=\"fresh_replica\""];
        let before = stand.proxy.statements(&on_replicas).await;
        while stand.proxy.statements(&on_replicas).await <= before {
            stand.client().await.query_one("SELECT 1", &[]).await.unwrap();
        }
        let (shared, mut sessions) = (Arc::new(Shared::default()), JoinSet::new());
        for number in 0..count {
            let client = connect(&stand.url()).await;
            sessions.spawn(read_on(client, number, Arc::clone(&shared)));
        }
        Self { shared, sessions }
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// What they were told that they should not have been told.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }

    /// The longest that a read took, since this was last asked.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest.swap(0, Ordering::Relaxed))
    }

    /// Waits until they have read so many times more.
    pub async fn read_more(&self, count: u64) {
        let (start, goal) = (Instant::now(), self.reads() + count);
        while self.reads() < goal {
            assert_eq!(self.failures(), [""; 0]);
            assert!(start.elapsed() < DEADLINE, "{} reads of {goal}", self.reads());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops them. None of their reads has failed; how many there were.
    pub async fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(DEADLINE, async { while self.sessions.join_next().await.is_some() {} })
            .await
            .expect("every read ends");
        assert_eq!(self.failures(), [""; 0]);
        self.reads()
    }
}

async fn read_on(client: Client, number: u32, shared: Arc<Shared>) {
    let statement = client.prepare(&format!("SELECT v {MARK} id = $1")).await.unwrap();
    let text = format!("SELECT v {MARK} id = 1");
    while !shared.stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let value = if number.is_multiple_of(2) {
            client.simple_query(&text).await.map(|messages| {
                messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).and_then(|text| text.parse().ok()),
                    _ => None,
                })
            })
        } else {
            client.query_one(&statement, &[&1]).await.map(|row| row.get::<_, Option<i32>>(0))
        };
        let took = u64::try_from(start.elapsed().as_micros()).unwrap();
        shared.slowest.fetch_max(took, Ordering::Relaxed);
        shared.reads.fetch_add(1, Ordering::Relaxed);
        match value {
            Ok(Some(7)) => {}
            other => shared.failures.lock().unwrap().push(format!("session {number}: {other:?}")),
        }
        if client.is_closed() {
            return;
        }
        if number.is_multiple_of(4) {
            // Not in step with anything.
            tokio::time::sleep(Duration::from_millis(rand::random_range(60..200))).await;
        }
    }
}

//! Transactions over several shards while pgsluice and shards' primaries are killed; and shards that do not notice
//! that another one stands still.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::Rng as _;
use support::shards::Shards;
use support::{DEADLINE, ProxyProcess, try_connect};

const TABLES: &str = "
[pool]
checkout_timeout = \"2s\"
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"transfers\"
shard_key = \"account\"
";

const ACCOUNTS: i64 = 60;

/// What each account has at first.
const START: i64 = 1000;

async fn stand(count: usize) -> Shards {
    let stand = Shards::start(count, TABLES).await;
    let client = stand.client().await;
    for sql in [
        "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)",
        "CREATE TABLE transfers (account bigint, id text, amount bigint, PRIMARY KEY (account, id))",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let start = Instant::now();
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {START})")).collect();
    let insert = format!("INSERT INTO accounts VALUES {} ON CONFLICT DO NOTHING", rows.join(", "));
    while let Err(error) = client.batch_execute(&insert).await {
        assert!(start.elapsed() < DEADLINE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stand
}

/// How long it goes on, in seconds.
fn seconds(default: u64) -> Duration {
    let told = std::env::var("PGSLUICE_FAULT_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(default))
}

/// One client's work: transfers between two accounts, each told to both of them by rows of its own.
async fn transfer_on(
    client: u64,
    url: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let target = url.lock().unwrap().clone();
        let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(5), try_connect(&target)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let id = format!("{client}-{number}");
            let (from, to) = {
                let mut random = rand::rng();
                (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS))
            };
            // In the order of their IDs, so that no two wait for each other.
            let (from, to) = (from.min(to), from.max(to));
            if from == to {
                continue;
            }
            let work = async {
                connection.batch_execute("BEGIN").await?;
                for (account, amount) in [(from, -1i64), (to, 1)] {
                    let update = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
                    connection.execute(update, &[&account, &amount]).await?;
                    connection.execute("INSERT INTO transfers VALUES ($1, $2, $3)", &[&account, &id, &amount]).await?;
                }
                connection.batch_execute("COMMIT").await
            };
            match tokio::time::timeout(Duration::from_secs(20), work).await {
                Ok(Ok(())) => acknowledged.lock().unwrap().push(id),
                Ok(Err(error)) if !connection.is_closed() && error.as_db_error().is_some() => {
                    if connection.batch_execute("ROLLBACK").await.is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
    }
}

/// Nothing is left half done, and nothing that was acknowledged is missing.
async fn assert_whole(stand: &Shards, acknowledged: &[String]) {
    let start = Instant::now();
    // Recovery finishes what was left.
    while stand.on_each("SELECT count(*) FROM pg_prepared_xacts").await.iter().any(|count| count != "0") {
        assert!(start.elapsed() < DEADLINE, "transactions are left prepared");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (mut sum, mut sides) = (0, std::collections::HashMap::<String, i64>::new());
    for shard in 0..stand.clusters.len() {
        let direct = stand.direct(shard).await;
        sum += direct
            .query_one("SELECT coalesce(sum(balance), 0)::bigint FROM accounts", &[])
            .await
            .unwrap()
            .get::<_, i64>(0);
        for row in direct.query("SELECT id FROM transfers", &[]).await.unwrap() {
            *sides.entry(row.get(0)).or_default() += 1;
        }
    }
    assert_eq!(sum, ACCOUNTS * START);
    let half: Vec<_> = sides.iter().filter(|(_, count)| **count != 2).collect();
    assert!(half.is_empty(), "half done: {half:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !sides.contains_key(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_whole_whatever_is_killed() {
    let mut stand = stand(3).await;
    let url = Arc::new(Mutex::new(stand.url()));
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let clients: Vec<_> = (0..16)
        .map(|client| tokio::spawn(transfer_on(client, Arc::clone(&url), Arc::clone(&stop), Arc::clone(&acknowledged))))
        .collect();
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < seconds(12) {
        let (pause, what, shard) = {
            let mut random = rand::rng();
            (random.random_range(300..1500), random.random_range(0..3), random.random_range(0..3usize))
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        kills += 1;
        if what != 1 {
            stand.primary(shard).kill().await.expect("the primary is killed");
        }
        if what != 0 {
            stand.proxy.signal(Signal::SIGKILL);
            let text = std::fs::read_to_string(&stand.proxy.config).unwrap();
            stand.proxy = ProxyProcess::start_with_config(&text).await;
            *url.lock().unwrap() = stand.url();
        }
        if what != 1 {
            stand.primary(shard).start().await.expect("the primary starts again");
        }
    }
    let during = acknowledged.lock().unwrap().len();
    // It goes on after all that.
    let calm = Instant::now();
    while acknowledged.lock().unwrap().len() < during + 50 {
        assert!(calm.elapsed() < DEADLINE, "nothing is acknowledged any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert_whole(&stand, &acknowledged).await;
    println!("{kills} kills, {during} transfers acknowledged meanwhile, {} in all", acknowledged.len());
    stand.stop().await;
}

/// How many statements clients of some accounts get through in so long a time.
async fn throughput(stand: &Shards, accounts: &[i64], time: Duration) -> (u64, Duration) {
    let done = Arc::new(AtomicU64::new(0));
    let slowest = Arc::new(Mutex::new(Vec::new()));
    let mut clients = Vec::new();
    for account in accounts {
        let (client, account, done) = (stand.client().await, *account, Arc::clone(&done));
        let slowest = Arc::clone(&slowest);
        clients.push(tokio::spawn(async move {
            let start = Instant::now();
            let mut times = Vec::new();
            while start.elapsed() < time {
                let begun = Instant::now();
                client.query("SELECT balance FROM accounts WHERE id = $1", &[&account]).await.expect("it is answered");
                times.push(begun.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
            }
            slowest.lock().unwrap().extend(times);
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let mut times = slowest.lock().unwrap().clone();
    times.sort_unstable();
    (done.load(Ordering::Relaxed), times[times.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_recovery_looks_into_can_be_dropped() {
    let names = "[[databases]]\nname = \"app\"\n[[databases]]\nname = \"extra\"\n";
    let stand = Shards::start(2, &format!("{TABLES}\n{names}")).await;
    let there = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = 'extra'";
    let start = Instant::now();
    let mut servers = Vec::new();
    for shard in 0..2 {
        let server = stand.superuser(shard).await;
        server.batch_execute("CREATE DATABASE extra").await.unwrap();
        servers.push(server);
    }
    // Idle, and so for good: not one that is there for a moment.
    for server in &servers {
        let mut pids = vec![0];
        while pids.is_empty() || pids[0] == 0 {
            let idle = "SELECT pid FROM pg_stat_activity WHERE datname = 'extra' AND application_name = 'pgsluice_monitor' \
                        AND state = 'idle' AND state_change < now() - interval '1 second'";
            pids = server.query(idle, &[]).await.unwrap().iter().map(|row| row.get::<_, i32>(0)).collect();
            assert!(start.elapsed() < DEADLINE, "recovery does not look into it");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let options = stand.clusters[0].options();
    let (user, password) = (&options.superuser.user, &options.superuser.password);
    let url = format!("postgresql://{user}:{password}@{}/{}", stand.proxy.address, options.database);
    let client = try_connect(&url).await.expect("it may log in");
    for shard in ["a", "b"] {
        client.batch_execute(&format!("/* pgsluice: shard={shard} */ DROP DATABASE extra")).await.expect("dropped");
    }
    for server in &servers {
        assert_eq!(server.query_one(there, &[]).await.unwrap().get::<_, i32>(0), 0);
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_stands_still_holds_up_nobody_else() {
    let stand = stand(4).await;
    let frozen = stand.direct(1).await;
    let there: Vec<i64> =
        frozen.query("SELECT id FROM accounts", &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    drop(frozen);
    let others: Vec<i64> = (0..ACCOUNTS).filter(|id| !there.contains(id)).take(8).collect();
    let time = seconds(3);
    throughput(&stand, &others, time).await;
    let (before, p99_before) = throughput(&stand, &others, time).await;
    stand.primary(1).signal_all(Signal::SIGSTOP).expect("frozen");
    // Those who want that shard wait, and take nothing from the others: more of them than any pool has connections.
    let url = stand.url();
    let waiting: Vec<_> = (0..40)
        .map(|number| {
            let (url, account) = (url.clone(), there[number % there.len()]);
            tokio::spawn(async move {
                let client = try_connect(&url).await.expect("it may log in");
                client.query("SELECT balance FROM accounts WHERE id = $1", &[&account]).await.map(drop)
            })
        })
        .collect();
    let (during, p99_during) = throughput(&stand, &others, time).await;
    println!("{before} statements (p99 {p99_before:?}) before, {during} (p99 {p99_during:?}) with a shard frozen");
    // In the other tests the machine is busy with other things: `scripts/faults-shards` measures; here it must go on at all.
    assert!(during * 4 > before, "{before} before, {during} with a shard frozen");
    stand.primary(1).signal_all(Signal::SIGCONT).expect("goes on");
    for client in waiting {
        // Answered late, or told that there was no connection.
        let _ = client.await.unwrap();
    }
    let again = stand.client().await;
    let start = Instant::now();
    while again.query_one("SELECT balance FROM accounts WHERE id = $1", &[&there[0]]).await.is_err() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.stop().await;
}

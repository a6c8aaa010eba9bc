//! Servers that die, freeze or restart under load.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::{ClusterOptions, Server, StopMode};
use support::readers::{MARK, Readers};
use support::server_log::{self, logging};
use support::{DEADLINE, Stand, pgbench};
use tokio_postgres::{Client, NoTls};

/// A read that was sent to a replica which then froze is asked of another node when the monitor's next poll
/// has gone unanswered: at the latest after `lag.poll_interval` (50 ms) and `lag.poll_timeout` (500 ms), once
/// for each of the replicas. The rest is for a busy machine.
const FROZEN_BOUND: Duration = Duration::from_millis(3000);

/// These tests measure time, so they do not disturb each other.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PGBENCH_READ: &str = "SELECT abalance FROM pgbench_accounts";

/// pgbench's select-only script, for some seconds.
const PGBENCH: [&str; 6] = ["-S", "-n", "-c", "4", "-T", "6"];

/// Sixteen readers and pgbench in each of its modes, all of which this replica has answered.
async fn load(stand: &Stand, replica: &Server) -> (Readers, [tokio::process::Child; 3]) {
    pgbench::run(&stand.url(), &["-i", "-q"]).await;
    let readers = Readers::start(stand, 16).await;
    let runs = pgbench::MODES.map(|mode| pgbench::start(&stand.url(), &[&PGBENCH[..], &["-M", mode]].concat()));
    server_log::wait_asked(replica, MARK, Duration::ZERO).await;
    server_log::wait_asked(replica, PGBENCH_READ, Duration::ZERO).await;
    (readers, runs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_under_load() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stand = Stand::start_with(logging(ClusterOptions::with_replicas(2)), "").await;
    let victim = &stand.cluster.replicas()[0];
    let (readers, runs) = load(&stand, victim).await;

    victim.kill().await.unwrap();
    readers.read_more(1000).await;
    stand.proxy.wait_ejected(&victim.address()).await;
    readers.read_more(1000).await;
    for run in runs {
        assert!(pgbench::finish(run).await > 0);
    }
    victim.start().await.unwrap();
    stand.proxy.wait_admitted(&victim.address()).await;
    server_log::wait_asked(victim, MARK, server_log::now()).await;
    readers.stop().await;
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_freezes_under_load() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stand = Stand::start_with(logging(ClusterOptions::with_replicas(2)), "").await;
    let victim = &stand.cluster.replicas()[0];
    let (readers, runs) = load(&stand, victim).await;

    readers.take_slowest();
    victim.signal_all(Signal::SIGSTOP).unwrap();
    // Clients that come only now, for which connections have to be made or brought to their settings.
    let mut slowest_client = Duration::ZERO;
    for number in 0..8 {
        let settings = format!("?application_name=late{number}");
        for url in [stand.url() + &settings, stand.superuser_url() + &settings] {
            let start = std::time::Instant::now();
            assert_eq!(value(&url).await, 7);
            slowest_client = slowest_client.max(start.elapsed());
        }
    }
    stand.proxy.wait_ejected(&victim.address()).await;
    readers.read_more(2000).await;
    let slowest = readers.take_slowest();
    assert!(slowest <= FROZEN_BOUND, "a read took {slowest:?}");
    assert!(slowest_client <= FROZEN_BOUND, "a new client took {slowest_client:?}");
    for run in runs {
        assert!(pgbench::finish(run).await > 0);
    }
    victim.signal_all(Signal::SIGCONT).unwrap();
    stand.proxy.wait_admitted(&victim.address()).await;
    server_log::wait_asked(victim, MARK, server_log::now()).await;
    readers.stop().await;
    stand.stop().await;
}

async fn value(url: &str) -> i32 {
    support::connect(url).await.query_one("SELECT v FROM seen WHERE id = 1", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_restarts_under_load() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Without a primary no lag is known, so that no replica counts as fresh: this lets reads go on.
    let stand = Stand::start(2, "[lag]\nwhen_none = \"stalest\"").await;
    let primary = stand.cluster.primary();
    let readers = Readers::start(&stand, 8).await;
    let writer = stand.client().await;
    writer.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    // Until the replicas are known to have the table everybody reads from the primary.
    let on_primary = async || stand.proxy.statements(&["reason=\"not_fresh\""]).await;
    loop {
        let before = on_primary().await;
        readers.read_more(200).await;
        // Long enough for each session, and for some polls.
        tokio::time::sleep(Duration::from_millis(300)).await;
        if on_primary().await == before {
            break;
        }
    }

    let (in_transaction, connection) = tokio_postgres::connect(&stand.url(), NoTls).await.unwrap();
    let end = tokio::spawn(connection);
    in_transaction.batch_execute("BEGIN; INSERT INTO t VALUES (-1)").await.unwrap();
    let under_way = stand.client().await;
    let long = "INSERT INTO t SELECT -2 FROM pg_sleep(60)";
    let (long, written) = tokio::join!(under_way.execute(long, &[]), async {
        let mut written = write_until(&writer, 0, |result| result.is_ok()).await;
        let running = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND state = 'active'";
        while primary.sql(running).await.unwrap()[0][0].as_deref() != Some("t") {}
        primary.stop(StopMode::Fast).await.unwrap();
        written.extend(write_until(&writer, 100, |result| result.is_err()).await);
        written
    });

    // What was under way may have been committed, as far as anybody can know: that is said, and it is not repeated.
    let error = long.unwrap_err();
    let error = error.as_db_error().expect("an error and no lost connection");
    assert_eq!((error.code().code(), error.severity()), ("08007", "ERROR"), "{error:?}");
    assert!(error.hint().is_some());
    // A transaction is over, and so is its connection.
    let end = tokio::time::timeout(DEADLINE, end).await.expect("the connection ends").unwrap().unwrap_err();
    let end = end.as_db_error().expect("a FATAL error");
    assert_eq!((end.code().code(), end.severity()), ("57P01", "FATAL"), "{end:?}");
    assert!(in_transaction.execute("INSERT INTO t VALUES (-1)", &[]).await.is_err());

    // Reads go on meanwhile.
    for replica in stand.cluster.replicas() {
        stand.proxy.wait_ejected(&replica.address()).await;
    }
    readers.read_more(500).await;
    assert!(stand.proxy.statements(&["role=\"replica\"", "reason=\"stalest\""]).await > 0.0);

    primary.start().await.unwrap();
    let later = write_until(&writer, 1000, |result| result.is_ok()).await;
    under_way.execute("INSERT INTO t VALUES (-3)", &[]).await.unwrap();
    for replica in stand.cluster.replicas() {
        stand.proxy.wait_admitted(&replica.address()).await;
    }
    readers.read_more(500).await;
    readers.stop().await;

    // All that was acknowledged is there, and nothing twice.
    let rows = primary.sql_in("app", "SELECT a FROM t ORDER BY a").await.unwrap();
    let rows: Vec<i32> = rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    let mut distinct = rows.clone();
    distinct.dedup();
    assert_eq!(rows, distinct);
    for acknowledged in written.iter().chain(&later) {
        assert!(rows.contains(acknowledged), "{acknowledged} is not in {rows:?}");
    }
    assert!(!rows.contains(&-1) && !rows.contains(&-2) && rows.contains(&-3), "{rows:?}");
    stand.stop().await;
}

/// Writes numbers from `first` on until one write ends as wanted; those that were acknowledged. Whatever fails
/// must fail with a code that says what is the matter, and the client must stay connected.
async fn write_until(
    client: &Client,
    first: i32,
    is_wanted: impl Fn(&Result<u64, tokio_postgres::Error>) -> bool,
) -> Vec<i32> {
    let (start, mut acknowledged) = (std::time::Instant::now(), Vec::new());
    for number in first.. {
        let result = client.execute("INSERT INTO t VALUES ($1)", &[&number]).await;
        match &result {
            Ok(_) => acknowledged.push(number),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("the client was cut off: {error:?}"));
                let known = ["08006", "08007", "57P01", "57P03"];
                assert!(known.contains(&error.code().code()), "{error:?}");
                assert_eq!(error.severity(), "ERROR", "{error:?}");
            }
        }
        if is_wanted(&result) {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{result:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn without_primary_reads_fail_clearly_by_default() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stand = Stand::start(1, "").await;
    let (primary, replica) = (stand.cluster.primary(), &stand.cluster.replicas()[0]);
    let client = stand.client().await;
    client.query_one("SELECT 1", &[]).await.unwrap();
    primary.stop(StopMode::Immediate).await.unwrap();
    stand.proxy.wait_ejected(&replica.address()).await;
    let error = client.query_one("SELECT 1", &[]).await.unwrap_err();
    let error = error.as_db_error().expect("an error and no lost connection");
    assert!(["08006", "57P03"].contains(&error.code().code()), "{error:?}");
    assert!(error.message().contains(&primary.address()), "{error:?}");
    primary.start().await.unwrap();
    stand.proxy.wait_admitted(&replica.address()).await;
    client.query_one("SELECT 1", &[]).await.unwrap();
    stand.stop().await;
}

//! A replica that lags gets no reads, nobody notices, and it comes back.

mod support;

use std::time::{Duration, Instant};

use pgsluice::demo::{ClusterOptions, Server};
use support::readers::{MARK, Readers};
use support::server_log::{self, logging};
use support::{DEADLINE, Stand};
use tokio_postgres::Client;

/// `lag.eject_above` of the default config.
const THRESHOLD: Duration = Duration::from_millis(100);

/// From when the lag has passed the threshold until the last statement may be sent there.
const BOUND: Duration = Duration::from_secs(1);

/// These tests measure time, so they do not disturb each other.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_replica_that_lags_and_no_read_fails() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stand = Stand::start_with(logging(ClusterOptions::with_replicas(2)), "").await;
    let (paused, other) = (&stand.cluster.replicas()[0], &stand.cluster.replicas()[1]);
    let readers = Readers::start(&stand, 16).await;
    for replica in [paused, other] {
        server_log::wait_asked(replica, MARK, Duration::ZERO).await;
    }
    let writer = stand.client().await;
    writer.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();

    paused.pause_replay().await.unwrap();
    // The lag begins with the first write that is not replayed.
    writer.execute("INSERT INTO t VALUES (0)", &[]).await.unwrap();
    let behind_since = server_log::now();
    let before = readers.reads();
    let start = Instant::now();
    // Longer than the bound by far, and enough reads.
    while start.elapsed() < 4 * BOUND || readers.reads() < before + 10_000 {
        writer.execute("INSERT INTO t VALUES (0)", &[]).await.unwrap();
        assert_eq!(readers.failures(), [""; 0]);
        assert!(start.elapsed() < DEADLINE, "{} reads", readers.reads() - before);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let lag = ejected_for(&stand, paused, "lag").await;
    assert_eq!(lag, 1.0);
    let resumed_at = server_log::now();
    let asked = |server| {
        let began = server_log::statements(server, MARK).into_iter();
        began.filter(|at| (behind_since + THRESHOLD + BOUND..resumed_at).contains(at)).collect::<Vec<_>>()
    };
    let late: Vec<Duration> = asked(paused).iter().map(|at| *at - behind_since - THRESHOLD).collect();
    assert!(late.is_empty(), "it was sent {} reads, the last {:?} after the threshold", late.len(), late.last());
    assert!(!asked(other).is_empty(), "the other replica gets reads all the time");

    paused.resume_replay().await.unwrap();
    stand.proxy.wait_admitted(&paused.address()).await;
    server_log::wait_asked(paused, MARK, server_log::now()).await;
    assert!(readers.stop().await >= 10_000);
    stand.stop().await;
}

async fn ejected_for(stand: &Stand, server: &Server, reason: &str) -> f64 {
    let labels = [format!("node=\"{}\"", server.address()), format!("reason=\"{reason}\"")];
    stand.proxy.metric("pgsluice_replica_ejected", &[&labels[0], &labels[1]]).await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_replica_left_when_none_decides() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stand = Stand::start(1, "[lag]\nwhen_none = \"error\"").await;
    let replica = &stand.cluster.replicas()[0];
    let writer = stand.client().await;
    writer.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
    stand.cluster.wait_replicated().await.unwrap();

    // error: reads are refused, clearly, and nothing else is.
    make_lag(&stand, &writer, replica, "UPDATE t SET a = 2").await;
    let reader = stand.client().await;
    for client in [&reader, &writer] {
        let error = client.query_one("SELECT a FROM t", &[]).await.unwrap_err();
        let error = error.as_db_error().expect("an error of the proxy's");
        assert_eq!((error.code().code(), error.severity()), ("57P03", "ERROR"), "{error}");
        assert!(error.hint().is_some(), "{error:?}");
        assert!(client.simple_query("SELECT a FROM t").await.is_err());
        assert_eq!(client.execute("UPDATE t SET a = 2", &[]).await.unwrap(), 1);
    }
    replica.resume_replay().await.unwrap();
    stand.proxy.wait_admitted(&replica.address()).await;
    assert_eq!(value(&reader).await, 2);

    // stalest: the replica answers still, but never against the session's level.
    reload(&stand, "\"error\"", "\"stalest\"").await;
    make_lag(&stand, &writer, replica, "UPDATE t SET a = 3").await;
    assert_eq!(value(&writer).await, 3, "a session reads what it wrote");
    let stranger = stand.client().await;
    assert_eq!(value(&stranger).await, 2, "what the replica shows");
    assert!(stand.proxy.statements(&["role=\"replica\"", "reason=\"stalest\""]).await >= 1.0);

    // primary: the default.
    reload(&stand, "\"stalest\"", "\"primary\"").await;
    let stranger = stand.client().await;
    assert_eq!(value(&stranger).await, 3);
    assert!(stand.proxy.statements(&["role=\"primary\"", "reason=\"no_replica\""]).await >= 1.0);
    stand.stop().await;
}

async fn make_lag(stand: &Stand, writer: &Client, replica: &Server, write: &str) {
    stand.cluster.wait_replicated().await.unwrap();
    replica.pause_replay().await.unwrap();
    writer.execute(write, &[]).await.unwrap();
    stand.proxy.wait_ejected(&replica.address()).await;
}

async fn value(client: &Client) -> i32 {
    client.query_one("SELECT a FROM t", &[]).await.unwrap().get(0)
}

async fn reload(stand: &Stand, from: &str, to: &str) {
    let outcome = ["outcome=\"applied\""];
    let before = stand.proxy.metric("pgsluice_config_reloads_total", &outcome).await.unwrap_or(0.0);
    stand.proxy.rewrite_config(|text| text.replace(from, to));
    stand.proxy.wait_for_metric("pgsluice_config_reloads_total", &outcome, |value| value > before).await;
}

//! Who may come in: rules, failed logins, and crowds of strangers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::unruly::{Raw, V3, startup};
use support::{DEADLINE, Stand, connect, try_connect};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

async fn refusal(url: &str) -> DbError {
    let error = try_connect(url).await.expect_err("it is refused");
    error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone()
}

const RULES: &str = r#"
[auth]
failure_delay = "0s"
[[auth.rules]]
users = ["/^mallory"]
method = "reject"
[[auth.rules]]
addresses = ["10.0.0.0/8"]
[[auth.rules]]
databases = ["app"]
tls = "required"
method = "reject"
[[auth.rules]]
databases = ["app", "sameuser"]
users = ["app"]
addresses = ["loopback"]
[[auth.rules]]
databases = ["postgres"]
method = "trust"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_matches_decides_and_the_last_word_is_no() {
    let stand = Stand::start(0, RULES).await;
    let address = &stand.proxy.address;
    let app = &stand.cluster.options().app;
    connect(&stand.url()).await.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!(refusal(&stand.url().replace(&app.password, "wrong")).await.code().code(), "28P01");
    // Nobody is asked for a password here; the servers still have theirs.
    let superuser = &stand.cluster.options().superuser.user;
    connect(&format!("postgresql://{superuser}@{address}/postgres")).await.query_one("SELECT 1", &[]).await.unwrap();

    let host = "host \"127.0.0.1\"";
    for (user, database, message) in [
        (
            "mallory",
            "app",
            format!("auth.rules rejects connection for {host}, user \"mallory\", database \"app\", no encryption"),
        ),
        (
            "mallory2",
            "postgres",
            format!(
                "auth.rules rejects connection for {host}, user \"mallory2\", database \"postgres\", no encryption"
            ),
        ),
        ("other", "app", format!("no auth.rules entry for {host}, user \"other\", database \"app\", no encryption")),
    ] {
        let told = refusal(&format!("postgresql://{user}:x@{address}/{database}")).await;
        assert_eq!((told.severity(), told.code().code(), told.message()), ("FATAL", "28000", &*message));
    }
    let mut raw = Raw::connect(address).await;
    raw.send(&startup(V3, &[("user", "app"), ("database", "app"), ("replication", "true")])).await;
    let told = raw.farewell().await;
    let message = format!("no auth.rules entry for replication connection from {host}, user \"app\", no encryption");
    assert_eq!((told.code.as_str(), told.message), ("28000", message));
    assert_eq!(stand.proxy.metric("pgsluice_logins_total", &["outcome=\"rejected\""]).await, Some(4.0));

    // A reload changes who may come, and throws nobody out.
    let inside = stand.client().await;
    stand.proxy.rewrite_config(|text| text.replace("users = [\"/^mallory\"]", "users = [\"app\"]"));
    let start = Instant::now();
    while try_connect(&stand.url()).await.is_ok() {
        assert!(start.elapsed() < DEADLINE, "{}", stand.proxy.log_text());
    }
    inside.query_one("SELECT 1", &[]).await.unwrap();
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_slow_counted_logged_and_not_without_end() {
    let sections = "[auth]\nfailure_delay = \"400ms\"\nmax_failures = 6\n";
    let stand = Stand::start_listening(0, "max_clients = 1\n", sections).await;
    let wrong = stand.url().replace(&stand.cluster.options().app.password, "wrong");
    let strange = format!("postgresql://no%0Abody%22:x@{}/app", stand.proxy.address);

    let start = Instant::now();
    let failing = tokio::spawn({
        let wrong = wrong.clone();
        async move { refusal(&wrong).await }
    });
    // While one waits for its answer, the only place there is belongs to who may have it.
    let client = stand.client().await;
    assert_eq!(failing.await.unwrap().code().code(), "28P01");
    assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
    assert_eq!(refusal(&stand.url()).await.code().code(), "53300");
    assert_eq!(refusal(&strange).await.code().code(), "28P01");
    let log = stand.proxy.log_text();
    assert!(log.contains(r#"user="no\nbody\"""#) && log.contains("address=127.0.0.1"), "{log}");
    assert!(log.contains(r#"user="app" database="app""#), "{log}");

    futures_util::future::join_all((0..4).map(|_| refusal(&wrong))).await;
    let told = refusal(&wrong).await;
    assert_eq!((told.code().code(), told.message()), ("28000", "too many failed logins from this address"));
    assert!(told.hint().is_some_and(|hint| hint.starts_with("Try again in ")), "{told:?}");
    // Neither is the right password heard.
    drop(client);
    assert_eq!(refusal(&stand.url()).await.code().code(), "28000");
    for (outcome, count) in [("ok", 1.0), ("failed", 6.0), ("too_many", 1.0), ("throttled", 2.0), ("gone", 0.0)] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(stand.proxy.metric("pgsluice_logins_total", &[&label]).await, Some(count), "{outcome}");
    }
    // It is forgiven with time, or by an operator.
    stand.proxy.rewrite_config(|text| text.replace("max_failures = 6", "max_failures = 0"));
    let start = Instant::now();
    while try_connect(&stand.url()).await.is_err() {
        assert!(start.elapsed() < DEADLINE, "{}", stand.proxy.log_text());
    }
    stand.stop().await;
}

/// Connections that say nothing, `rate` a second, each until it is sent away.
struct Flood {
    refused: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    async fn start(address: &str, count: usize, rate: u64) -> Self {
        let refused = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::with_capacity(count);
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
        for _ in 0..count {
            ticks.tick().await;
            let (address, refused) = (address.to_owned(), Arc::clone(&refused));
            tasks.push(tokio::spawn(async move {
                let mut stream = TcpStream::connect(&address).await.expect("it connects");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                let answer = String::from_utf8_lossy(&answer);
                assert!(
                    answer.contains("C53300") && answer.contains("too many connections are logging in"),
                    "{answer}"
                );
                refused.fetch_add(1, Ordering::Relaxed);
            }));
        }
        Self { refused, tasks }
    }

    fn stop(self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The 99th percentile of a statement's time, with these clients at work for so long.
async fn p99(clients: &[Client], time: Duration) -> Duration {
    let worker = async |client: &Client| {
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            let asked = Instant::now();
            client.query_one("SELECT 1", &[]).await.expect("it works");
            times.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        times
    };
    let mut times = futures_util::future::join_all(clients.iter().map(worker)).await.concat();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// What a stranger may cost the proxy, in bytes. docs/users.md says so.
const PER_STRANGER: u64 = 8 * 1024;

async fn flood(count: usize, most: usize, rate: u64, time: Duration) -> (Duration, Duration) {
    let stand =
        Stand::start_listening(0, &format!("max_logins = {most}\n"), "[limits]\nlogin_timeout = \"10min\"\n").await;
    let clients = futures_util::future::join_all((0..16).map(|_| stand.client())).await;
    let before = p99(&clients, time).await;
    stand.proxy.reset_peak_memory();
    let memory = stand.proxy.memory();
    let address = stand.proxy.address.clone();
    let flooding = tokio::spawn(async move { Flood::start(&address, count, rate).await });
    let during = p99(&clients, time).await;
    let flood = flooding.await.expect("the flood");
    // A newcomer gets in past all of them.
    stand.client().await.query_one("SELECT 1", &[]).await.expect("it works");
    let crowded_out = |value: f64| value as usize >= count - most;
    stand.proxy.wait_for_metric("pgsluice_logins_total", &["outcome=\"crowded_out\""], crowded_out).await;
    let start = Instant::now();
    while flood.refused.load(Ordering::Relaxed) < count - most {
        assert!(start.elapsed() < DEADLINE, "not all have been told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let grown = stand.proxy.peak_memory().saturating_sub(memory);
    let held = u64::try_from(most.min(count)).expect("few");
    println!("{count} strangers, at most {most}: p99 {before:?}, then {during:?}; {} KiB more", grown / 1024);
    assert!(grown < held * PER_STRANGER + (8 << 20), "{} KiB", grown / 1024);
    flood.stop();
    stand.proxy.wait_for_metric("pgsluice_clients", &["state=\"login\""], |value| value == 0.0).await;
    stand.stop().await;
    (before, during)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_strangers_is_bounded_and_keeps_nobody_out() {
    flood(1500, 300, 1000, Duration::from_secs(2)).await;
}

/// Descriptors that the proxy may have: this many more than it has now.
fn leave_descriptors(stand: &Stand, more: usize) {
    let pid = stand.proxy.pid();
    let now = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    // The soft one: an unprivileged test may not raise a hard one again.
    let limit = format!("--nofile={}:", now + more);
    let status = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_strangers_make_room_and_nothing_spins() {
    let stand = Stand::start(0, "").await;
    let client = stand.client().await;
    client.query_one("SELECT 1", &[]).await.unwrap();
    let raised = std::fs::read_to_string(format!("/proc/{}/limits", stand.proxy.pid())).unwrap();
    let line: Vec<&str> =
        raised.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(line[3], line[4], "the soft limit is the hard one: {line:?}");

    leave_descriptors(&stand, 5);
    let start = Instant::now();
    let mut strangers = Vec::new();
    for _ in 0..30 {
        strangers.push(TcpStream::connect(&stand.proxy.address).await.unwrap());
    }
    let newcomer = tokio::time::timeout(DEADLINE, stand.client()).await.expect("a newcomer gets in past all of them");
    newcomer.query_one("SELECT 1", &[]).await.unwrap();
    client.query_one("SELECT 1", &[]).await.unwrap();
    let cause = ["cause=\"descriptors\""];
    let failures = stand.proxy.wait_for_metric("pgsluice_accept_failures_total", &cause, |count| count > 0.0).await;
    let seconds = start.elapsed().as_secs_f64();
    assert!(failures <= 10.0 * seconds + 1.0, "{failures} in {seconds} s");
    let log = stand.proxy.log_text();
    let lines = log.lines().filter(|line| line.contains("connections cannot be accepted")).count();
    assert!(lines >= 1 && lines as f64 <= 1.0 + seconds / 10.0, "{seconds} s: {log}");

    drop(strangers);
    leave_descriptors(&stand, 1000);
    stand.client().await.query_one("SELECT 1", &[]).await.unwrap();
    stand.stop().await;
}

/// `scripts/flood`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes the machine for itself"]
async fn a_flood_of_20000_does_not_slow_those_who_work() {
    let (before, during) = flood(20_000, 5000, 2000, Duration::from_secs(15)).await;
    assert!(during < 2 * before.max(Duration::from_millis(1)), "p99 {before:?}, then {during:?}");
}

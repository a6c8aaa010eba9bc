//! Restart without a dropped client: the next process takes the sockets over, the old one stays for its clients.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{DEADLINE, ProxyProcess, Stand, connect, try_connect};
use tokio_postgres::Client;

/// With a socket to take over on; the folder must outlive the stand.
async fn stand(limits: &str) -> (Stand, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("takeover.sock");
    let listen = format!("takeover = {socket:?}\n");
    (Stand::start_listening(0, &listen, limits).await, folder)
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Clients that are counted as logged in by this process.
async fn clients_of(proxy: &ProxyProcess) -> f64 {
    proxy.metric("pgsluice_clients", &["state=\"idle\""]).await.unwrap_or(0.0)
        + proxy.metric("pgsluice_clients", &["state=\"active\""]).await.unwrap_or(0.0)
}

async fn one(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN; SELECT 1; COMMIT").await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_stay_and_new_ones_are_served_by_the_next() {
    let (stand, _folder) = stand("").await;
    let idle = stand.client().await;
    idle.batch_execute("SET application_name = 'stays'").await.unwrap();
    let busy = stand.client().await;
    busy.batch_execute("CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let next = stand.proxy.take_over("next.log").await;
    assert_eq!((&next.address, &next.http), (&stand.proxy.address, &stand.proxy.http));

    // Who was there stays, with all that it has, and new ones are the next process's.
    assert!(next.http_get("/readyz").await.starts_with("HTTP/1.1 200"));
    let fresh = connect(&stand.url()).await;
    one(&fresh).await.unwrap();
    wait_until("the next process counts one client", async || clients_of(&next).await == 1.0).await;
    busy.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    let name: String = idle.query_one("SELECT current_setting('application_name')", &[]).await.unwrap().get(0);
    assert_eq!(name, "stays");

    // A cancel request reaches the next process, and the statement that is meant runs in the old one.
    let cancel = idle.cancel_token();
    let sleeping = tokio::spawn(async move {
        let result = idle.batch_execute("SELECT pg_sleep(600)").await;
        (idle, result)
    });
    let asleep = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until("somebody sleeps", async || !stand.cluster.primary().sql(asleep).await.unwrap().is_empty()).await;
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let (idle, result) = sleeping.await.unwrap();
    assert_eq!(result.unwrap_err().code().map(|code| code.code()), Some("57014"));

    // The old process ends with its last client.
    let Stand { cluster, mut proxy } = stand;
    one(&idle).await.unwrap();
    drop((idle, busy));
    assert_eq!(proxy.wait().await, Some(0), "{}", proxy.log_text());
    assert!(proxy.log_text().contains("another process has taken over"), "{}", proxy.log_text());
    one(&fresh).await.unwrap();
    drop(fresh);
    next.stop().await;
    cluster.shutdown().await.unwrap();
}

/// Column `wanted` of the rows of `SHOW CLIENTS` in which column `key` has this value.
async fn shown(admin: &Client, key: &str, value: &str, wanted: &str) -> Vec<String> {
    let messages = admin.simple_query("SHOW CLIENTS").await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) if row.get(key) == Some(value) => {
            row.get(wanted).map(str::to_owned)
        }
        _ => None,
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_reach_clients_that_stayed() {
    let (stand, _folder) = stand("").await;
    let idle = stand.client().await;
    let mut raw = stand.raw().await;
    raw.query("LISTEN news").await;
    // A chain of two takeovers: the last process asks the second, and that one the first.
    let second = stand.proxy.take_over("second.log").await;
    let between = stand.client().await;
    let third = second.take_over("third.log").await;
    let fresh = stand.client().await;
    let admin = connect(&format!("{}/pgsluice", stand.superuser_url().rsplit_once('/').unwrap().0)).await;

    let [first_pid, second_pid, third_pid] = [&stand.proxy, &second, &third].map(|process| process.pid().to_string());
    assert_eq!(shown(&admin, "process", &first_pid, "user").await, ["app", "app"]);
    assert_eq!(shown(&admin, "process", &second_pid, "user").await, ["app"]);
    assert_eq!(shown(&admin, "process", &third_pid, "user").await, ["app"]);
    assert_eq!(shown(&admin, "pinned", "listen", "process").await, [&*first_pid]);

    let pid = shown(&admin, "pinned", "listen", "pid").await.remove(0);
    admin.batch_execute(&format!("KILL {pid}")).await.unwrap();
    assert_eq!(raw.read().await.field(b'C').as_deref(), Some("57P01"));
    wait_until("it is gone", async || shown(&admin, "process", &first_pid, "pid").await.len() == 1).await;
    let error = admin.batch_execute(&format!("KILL {pid}")).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42704"));
    one(&idle).await.unwrap();
    // The second has no client left, and stays as the way to the first.
    let pid = shown(&admin, "process", &second_pid, "pid").await.remove(0);
    admin.batch_execute(&format!("KILL {pid}")).await.unwrap();
    wait_until("the second has none", async || shown(&admin, "process", &second_pid, "pid").await.is_empty()).await;
    // The first ends with its last client, and then the second.
    let pid = shown(&admin, "process", &first_pid, "pid").await.remove(0);
    admin.batch_execute(&format!("KILL {pid}")).await.unwrap();
    let Stand { cluster, mut proxy } = stand;
    assert_eq!(proxy.wait().await, Some(0), "{}", proxy.log_text());
    wait_until("the client knows it", async || idle.is_closed()).await;
    let mut second = second;
    assert_eq!(second.wait().await, Some(0), "{}", second.log_text());
    assert_eq!(shown(&admin, "user", "app", "process").await, [third_pid]);
    let error = admin.batch_execute("KILL 1").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42704"));
    drop((between, fresh, admin));
    third.stop().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_too_long_is_sent_away() {
    let (stand, _folder) = stand("[limits]\ntakeover_timeout = \"300ms\"\n").await;
    let idle = stand.client().await;
    let next = stand.proxy.take_over("next.log").await;
    let Stand { cluster, mut proxy } = stand;
    assert_eq!(proxy.wait().await, Some(0), "{}", proxy.log_text());
    wait_until("the client is sent away", async || idle.is_closed()).await;
    next.stop().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_fails_changes_nothing() {
    let (stand, folder) = stand("").await;
    let client = stand.client().await;
    // One that hangs up when it has the sockets, and one that talks nonsense.
    let socket = folder.path().join("takeover.sock");
    for words in [&b"{\"take\":{\"pid\":1}}\n"[..], b"nonsense\n", b""] {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, words).await.unwrap();
        if words.starts_with(b"{") {
            let mut answer = [0; 64];
            assert!(tokio::io::AsyncReadExt::read(&mut stream, &mut answer).await.unwrap() > 0);
        }
    }
    one(&client).await.unwrap();
    one(&connect(&stand.url()).await).await.unwrap();

    // Another process that does not take over is refused, and does not disturb.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    command.args(["run", "--config"]).arg(&stand.proxy.config).env("NO_COLOR", "1").kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends").unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("--takeover"), "{told}");

    // And still somebody can.
    let next = stand.proxy.take_over("next.log").await;
    one(&connect(&stand.url()).await).await.unwrap();
    let Stand { cluster, mut proxy } = stand;
    drop(client);
    assert_eq!(proxy.wait().await, Some(0), "{}", proxy.log_text());
    next.stop().await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigusr2_starts_the_next_process_and_systemd_is_told() {
    let (stand, folder) = stand("").await;
    // What systemd would be told by a process that it has started; here one that takes over.
    let notify = folder.path().join("notify.sock");
    let heard = tokio::net::UnixDatagram::bind(&notify).unwrap();
    let next = stand.proxy.take_over_notifying("next.log", &notify).await;
    let mut words = [0; 256];
    let count = tokio::time::timeout(DEADLINE, heard.recv(&mut words)).await.expect("in time").unwrap();
    let words = String::from_utf8_lossy(&words[..count]).into_owned();
    assert_eq!(words, format!("READY=1\nMAINPID={}\n", next.pid()));
    let Stand { cluster, mut proxy } = stand;
    assert_eq!(proxy.wait().await, Some(0), "{}", proxy.log_text());

    let client = connect_at(&cluster, &next.address).await;
    next.signal(Signal::SIGUSR2);
    let mut words = [0; 256];
    let count = tokio::time::timeout(DEADLINE, heard.recv(&mut words)).await.expect("in time").unwrap();
    let words = String::from_utf8_lossy(&words[..count]).into_owned();
    let pid: i32 = words.split("MAINPID=").nth(1).and_then(|rest| rest.trim().parse().ok()).expect("a pid");
    assert_ne!(pid, next.pid());
    one(&client).await.unwrap();
    one(&connect_at(&cluster, &next.address).await).await.unwrap();
    drop(client);
    let mut next = next;
    assert_eq!(next.wait().await, Some(0), "{}", next.log_text());
    // This one is nobody's child any more.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    wait_until("the last process ends", async || tokio::net::TcpStream::connect(&next.address).await.is_err()).await;
    cluster.shutdown().await.unwrap();
}

async fn connect_at(cluster: &pgsluice::demo::Cluster, address: &str) -> Client {
    let options = cluster.options();
    let (user, password) = (&options.app.user, &options.app.password);
    connect(&format!("postgresql://{user}:{password}@{address}/{}", options.database)).await
}

/// What the clients of a load have gone through.
#[derive(Default)]
struct Tally {
    transactions: AtomicU64,
    connections: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
}

/// A client that goes on until the end; `every` transactions it connects anew, as some do, or else only when cut.
async fn work(url: String, every: Option<u64>, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut client = None;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let connected = match client.take() {
            Some(client) => client,
            None => match try_connect(&url).await {
                Ok(connected) => {
                    tally.connections.fetch_add(1, Ordering::Relaxed);
                    connected
                }
                Err(error) => {
                    println!("refused: {error:?}");
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            },
        };
        if let Err(error) = one(&connected).await {
            println!("cut: {error:?}");
            tally.cut.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        tally.transactions.fetch_add(1, Ordering::Relaxed);
        done += 1;
        client = every.is_none_or(|every| done % every != 0).then_some(connected);
    }
}

/// `TAKEOVER_TRANSACTIONS` and `TAKEOVERS` make it longer: `scripts/check-takeover`.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_cut_by_several_takeovers_under_load() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let (transactions, takeovers) = (number("TAKEOVER_TRANSACTIONS", 3000), number("TAKEOVERS", 3));
    let (stand, _folder) = stand("[pool]\nsize = 10\n").await;
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    // Fifty that stay; and ten that come and go, of whom none may be lost while it waits to be accepted.
    let workers: Vec<_> = (0..60)
        .map(|n| {
            let every = (n >= 50).then_some(5);
            tokio::spawn(work(stand.url(), every, Arc::clone(&tally), Arc::clone(&stop)))
        })
        .collect();
    let done = || tally.transactions.load(Ordering::Relaxed);
    let Stand { cluster, proxy } = stand;
    let mut processes = vec![proxy];
    for takeover in 1..=takeovers {
        let enough = transactions * takeover / (takeovers + 1);
        wait_until("transactions are done", async || done() >= enough || tally.cut.load(Ordering::Relaxed) > 0).await;
        let last = processes.last().expect("a process");
        processes.push(last.take_over(&format!("next{takeover}.log")).await);
    }
    let began = Instant::now();
    while done() < transactions {
        assert!(began.elapsed() < 10 * DEADLINE, "{} transactions", done());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (cut, refused) = (count(&tally.cut), count(&tally.refused));
    println!(
        "{} transactions, {} connections, {takeovers} takeovers: {cut} cut, {refused} refused",
        done(),
        count(&tally.connections)
    );
    assert_eq!((cut, refused), (0, 0));
    // With their clients all but the last have ended.
    let last = processes.pop().expect("a process");
    for mut process in processes {
        assert_eq!(process.wait().await, Some(0), "{}", process.log_text());
    }
    last.stop().await;
    cluster.shutdown().await.unwrap();
}

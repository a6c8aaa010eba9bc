//! The local cluster itself, which the other tests on real servers build on.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::{Cluster, ClusterOptions, Server, StopMode};
use tokio_postgres::NoTls;

/// Generous: a loaded machine only makes a test slower.
const DEADLINE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn value(server: &Server, sql: &str) -> String {
    server.sql_in("app", sql).await.unwrap()[0][0].clone().unwrap()
}

async fn rows_in_t(server: &Server) -> String {
    value(server, "SELECT count(*) FROM t").await
}

/// The state letter of `/proc/PID/stat`, unless the process is gone.
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_gone(pid: u32) -> bool {
    matches!(process_state(pid), None | Some('Z'))
}

/// The PIDs of this machine for which `wanted` holds, given what a file of theirs in `/proc` says.
/// Both files used here may be read of anyone's process, without any capability.
fn processes_whose(file: &str, wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let says = |pid: &u32| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| wanted(&String::from_utf8_lossy(&says(pid))))
        .collect()
}

/// The processes that were started with a folder in their arguments: postmasters, and the watchdog.
fn processes_with(folder: &Path) -> Vec<u32> {
    processes_whose("cmdline", |arguments| arguments.contains(&*folder.to_string_lossy()))
}

/// The postmaster of a data directory, and its children.
fn family(data_dir: &Path) -> Vec<u32> {
    let pidfile = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap();
    let postmaster: u32 = pidfile.lines().next().unwrap().parse().unwrap();
    let parent = postmaster.to_string();
    let mut family = processes_whose("stat", |stat| {
        stat.rsplit_once(") ").and_then(|(_, fields)| fields.split_whitespace().nth(1)) == Some(parent.as_str())
    });
    family.push(postmaster);
    family
}

/// The System V segment that a running server holds.
fn shared_memory_in(data_dir: &Path) -> String {
    let pidfile = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap();
    pidfile.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

/// All System V segments of this machine.
fn shared_memory_ids() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect()
}

/// One life of a cluster with everything that the other tests do to one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_replicates_survives_mishaps_and_leaves_nothing() {
    let options = ClusterOptions::with_replicas(2).setting("work_mem", "5MB");
    let cluster = Cluster::start(options).await.unwrap();
    let (primary, replicas) = (cluster.primary(), cluster.replicas());
    assert_eq!(replicas.len(), 2);

    roles_and_settings(&cluster).await;

    primary.sql_in("app", "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 10)").await.unwrap();
    cluster.wait_replicated().await.unwrap();
    for replica in replicas {
        assert_eq!(rows_in_t(replica).await, "10");
        assert_eq!(value(replica, "SELECT pg_is_in_recovery()").await, "t");
    }

    paused_replay(&cluster, &replicas[0]).await;
    killed(&cluster, &replicas[0]).await;
    frozen(&cluster, &replicas[1]).await;
    stopped_primary(&cluster).await;

    // A server that stays killed leaves no shared memory behind.
    let segment = shared_memory_in(replicas[0].data_dir());
    replicas[0].kill().await.unwrap();
    assert!(shared_memory_ids().contains(&segment));

    let folder = cluster.folder().to_owned();
    let running = cluster.servers().iter().filter(|server| server.is_running());
    let pids: Vec<u32> = running.flat_map(|server| family(server.data_dir())).collect();
    assert!(pids.len() > 8 && processes_with(&folder).len() == 3, "two postmasters and the watchdog: {pids:?}");
    cluster.shutdown().await.unwrap();
    assert!(!folder.exists());
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(processes_with(&folder), Vec::<u32>::new());
    assert!(!shared_memory_ids().contains(&segment));
}

async fn roles_and_settings(cluster: &Cluster) {
    let options = cluster.options();
    for server in cluster.servers() {
        assert_eq!(value(server, "SHOW work_mem").await, "5MB");
        for role in [&options.superuser, &options.monitor, &options.app] {
            let conninfo = server.conninfo(&role.user, "app");
            let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            let row = client.query_one("SELECT current_user::text, inet_server_port()", &[]).await.unwrap();
            assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), (role.user.as_str(), i32::from(server.port())));
            drop(client);
            connection.await.unwrap().unwrap();
        }
        let wrong = format!("host=127.0.0.1 port={} user=app dbname=app password=wrong", server.port());
        let Err(error) = tokio_postgres::connect(&wrong, NoTls).await else { panic!("a wrong password was let in") };
        assert_eq!(error.code().unwrap().code(), "28P01");
    }
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'";
    assert_eq!(value(cluster.primary(), owner).await, "app");
    assert_eq!(value(cluster.primary(), "SELECT pg_has_role('pgsluice', 'pg_monitor', 'member')").await, "t");

    let description = serde_json::to_value(cluster.describe()).unwrap();
    assert_eq!(description["servers"][0]["role"], "primary");
    assert_eq!(description["servers"][2]["address"], cluster.server(2).unwrap().address());
    assert_eq!(description["app"]["password"], options.app.password.as_str());
    assert!(cluster.server(3).is_err());
}

async fn paused_replay(cluster: &Cluster, replica: &Server) {
    replica.pause_replay().await.unwrap();
    assert_eq!(value(replica, "SELECT pg_get_wal_replay_pause_state()").await, "paused");
    let before = rows_in_t(replica).await;
    cluster.primary().sql_in("app", "INSERT INTO t VALUES (11)").await.unwrap();
    // Received, so only the pause can keep it from being seen.
    let flushed = value(cluster.primary(), "SELECT pg_current_wal_flush_lsn()").await;
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{flushed}'::pg_lsn");
    until("the paused replica to receive", async || value(replica, &received).await == "t").await;
    assert_eq!(rows_in_t(replica).await, before);
    replica.resume_replay().await.unwrap();
    cluster.wait_replicated().await.unwrap();
    assert_eq!(rows_in_t(replica).await, "11");
}

async fn killed(cluster: &Cluster, replica: &Server) {
    let pid = replica.pid().unwrap();
    let family = family(replica.data_dir());
    assert!(family.contains(&pid) && family.len() > 3, "{family:?}");
    replica.kill().await.unwrap();
    assert!(family.into_iter().all(is_gone));
    assert!(!replica.is_running() && replica.sql("SELECT 1").await.is_err() && replica.kill().await.is_err());

    cluster.primary().sql_in("app", "INSERT INTO t VALUES (12)").await.unwrap();
    cluster.wait_replicated().await.unwrap();
    replica.start().await.unwrap();
    assert!(replica.start().await.is_err(), "a running server was started again");
    cluster.wait_replicated().await.unwrap();
    assert_eq!(rows_in_t(replica).await, "12");
    assert_ne!(replica.pid().unwrap(), pid);
}

async fn frozen(cluster: &Cluster, replica: &Server) {
    let folder: PathBuf = replica.data_dir().to_owned();
    let states =
        |expected: fn(char) -> bool| processes_with(&folder).into_iter().filter_map(process_state).all(expected);
    replica.signal_all(Signal::SIGSTOP).unwrap();
    until("all processes to be frozen", async || states(|state| state == 'T')).await;
    assert!(replica.is_running());
    let answer = tokio::time::timeout(Duration::from_millis(300), replica.sql("SELECT 1")).await;
    assert!(answer.is_err(), "a frozen server answered");
    cluster.primary().sql_in("app", "INSERT INTO t VALUES (13)").await.unwrap();
    replica.signal_all(Signal::SIGCONT).unwrap();
    until("all processes to be thawed", async || states(|state| state != 'T')).await;
    cluster.wait_replicated().await.unwrap();
    assert_eq!(rows_in_t(replica).await, "13");
}

/// The primary goes and comes back; its replicas find it again by themselves.
async fn stopped_primary(cluster: &Cluster) {
    let primary = cluster.primary();
    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        primary.stop(mode).await.unwrap();
        assert!(!primary.is_running());
        primary.stop(mode).await.unwrap();
        primary.start().await.unwrap();
        primary.sql_in("app", "INSERT INTO t VALUES (14)").await.unwrap();
        cluster.wait_replicated().await.unwrap();
    }
    assert_eq!(rows_in_t(&cluster.replicas()[1]).await, "16");
}

/// A panic runs destructors: servers end and files go, frozen and killed servers included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_leaves_nothing() {
    let cluster = Cluster::start(ClusterOptions::with_replicas(1)).await.unwrap();
    let folder = cluster.folder().to_owned();
    let pids: Vec<u32> = cluster.servers().iter().flat_map(|server| family(server.data_dir())).collect();
    cluster.replicas()[0].signal_all(Signal::SIGSTOP).unwrap();
    let ended = tokio::spawn(async move {
        let _cluster = cluster;
        panic!("on purpose");
    });
    assert!(ended.await.unwrap_err().is_panic());
    assert!(!folder.exists());
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(processes_with(&folder), Vec::<u32>::new());
}

/// A setting that PostgreSQL refuses: its own words are in the error, and nothing is left.
#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let options = ClusterOptions::with_replicas(1).setting("shared_buffers", "a lot");
    let message = Cluster::start(options).await.unwrap_err().to_string();
    assert!(message.contains("node0") && message.contains("shared_buffers"), "{message}");
}

/// The environment variable under which the test below starts itself again.
const HOLDER: &str = "PGSLUICE_TEST_HOLDS_A_CLUSTER";

/// A process that dies without running destructors leaves nothing either.
#[tokio::test]
async fn a_killed_owner_leaves_nothing() {
    if std::env::var_os(HOLDER).is_some() {
        let cluster = Cluster::start(ClusterOptions::with_replicas(1)).await.unwrap();
        println!("FOLDER {}", cluster.folder().display());
        std::future::pending::<()>().await;
    }
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_killed_owner_leaves_nothing"])
        .env(HOLDER, "1")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let folder = folder_printed_by(&mut owner).await;
    let segment = shared_memory_in(&folder.join("node0"));
    let pids = [family(&folder.join("node0")), family(&folder.join("node1"))].concat();
    assert!(folder.exists() && pids.len() > 6, "{pids:?}");

    owner.kill().await.unwrap();
    until("the folder to go", async || !folder.exists()).await;
    until("the processes to go", async || pids.iter().copied().all(is_gone)).await;
    assert!(!shared_memory_ids().contains(&segment));
}

async fn folder_printed_by(owner: &mut tokio::process::Child) -> PathBuf {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let find = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, folder)) = line.split_once("FOLDER ") {
                return PathBuf::from(folder);
            }
        }
        panic!("the owner ended early");
    };
    tokio::time::timeout(DEADLINE, find).await.unwrap()
}

//! Replication connections: refused, or passed on to the server that the client names; with PostgreSQL's own tools.

mod support;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Instant;

use pgsluice::demo::{Account, Binaries, ClusterOptions};
use support::unruly::{Raw, V3, startup};
use support::{DEADLINE, Stand};
use tokio::process::Command;

fn conninfo(stand: &Stand, more: &str) -> String {
    let (host, port) = stand.proxy.address.rsplit_once(':').expect("a port");
    let superuser = &stand.cluster.options().superuser;
    format!("host={host} port={port} user={} password={} {more}", superuser.user, superuser.password)
}

fn tool(program: &str, folder: &Path) -> Command {
    let account = Account::find().expect("an account");
    let path = Binaries::find().expect("binaries").path(program);
    let mut command = Command::from(account.command(path, folder));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Output {
    tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends").expect("it runs")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("pgsluice-replication").tempdir_in("/tmp").expect("a folder");
    Account::find().expect("an account").give(folder.path()).expect("given");
    folder
}

fn is_fine(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_unless_it_is_asked_for() {
    let stand = Stand::start(0, "").await;
    for mode in ["true", "database", "on"] {
        let mut raw = Raw::connect(&stand.proxy.address).await;
        raw.send(&startup(V3, &[("user", "app"), ("database", "app"), ("replication", mode)])).await;
        let told = raw.farewell().await;
        assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "0A000"), "{told:?}");
        assert!(told.hint.contains("server itself") && told.hint.contains("listen.replication"), "{told:?}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_on_to_the_server_that_is_named() {
    if !Binaries::find().expect("binaries").path("pg_basebackup").exists() {
        eprintln!("not run: these binaries are without client programs, and others' are of another version");
        return;
    }
    let mut options = ClusterOptions::with_replicas(1);
    options.settings.push(("wal_level".to_owned(), "logical".to_owned()));
    let stand = Stand::start_with(options, "").await;
    stand.proxy.rewrite_config(|text| text.replacen("[listen]\n", "[listen]\nreplication = \"pass\"\n", 1));
    stand.proxy.wait_for_metric("pgsluice_config_reloads_total", &["outcome=\"applied\""], |count| count == 1.0).await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let home = folder();

    // A whole cluster, from the replica, with a progress report and its WAL streamed on a second connection.
    let replica = stand.cluster.replicas()[0].address();
    let backup = home.path().join("backup");
    let mut command = tool("pg_basebackup", home.path());
    command.arg("-D").arg(&backup).args(["--checkpoint=fast", "-X", "stream", "-d"]);
    command.arg(conninfo(&stand, &format!("options='-c pgsluice.node={replica}'")));
    is_fine(&run(command).await);
    assert!(backup.join("PG_VERSION").exists() && backup.join("backup_label").exists());

    // WAL, from the primary, until it is told to stop.
    let wal = home.path().join("wal");
    std::fs::create_dir(&wal).unwrap();
    Account::find().unwrap().give(&wal).unwrap();
    let mut command = tool("pg_receivewal", home.path());
    command.arg("-D").arg(&wal).args(["--no-loop", "-d"]).arg(conninfo(&stand, "options='-c pgsluice.node=primary'"));
    let mut receiver = command.spawn().unwrap();
    let start = Instant::now();
    while std::fs::read_dir(&wal).unwrap().next().is_none() {
        assert!(start.elapsed() < DEADLINE && receiver.try_wait().unwrap().is_none(), "{}", stand.proxy.log_text());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let pid = i32::try_from(receiver.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(receiver.wait().await.unwrap().success());

    // Changes of one database, row by row.
    let logical = |arguments: &[&str]| {
        let mut command = tool("pg_recvlogical", home.path());
        command.args(["--slot=tested", "-d"]).arg(conninfo(&stand, "dbname=app options='-c pgsluice.node=primary'"));
        command.args(arguments);
        command
    };
    is_fine(&run(logical(&["--create-slot", "--plugin=test_decoding"])).await);
    client.batch_execute("INSERT INTO t VALUES (4711)").await.unwrap();
    let admin = support::connect(&stand.superuser_url()).await;
    let end: String = admin.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    let output = run(logical(&["--start", "-f", "-", "--endpos", &end])).await;
    is_fine(&output);
    let changes = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(changes.contains("table public.t: INSERT: a[integer]:4711"), "{changes}");
    is_fine(&run(logical(&["--drop-slot"])).await);

    // Who names none, or one that is not there, is told which there are.
    for (more, message) in
        [("", "has to name a server"), ("options='-c pgsluice.node=nowhere:1'", "there is no server \"nowhere:1\"")]
    {
        let mut command = tool("pg_receivewal", home.path());
        command.arg("-D").arg(&wal).args(["--no-loop", "-d"]).arg(conninfo(&stand, more));
        let output = run(command).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(message) && said.contains(&replica), "{said}");
    }
    stand.stop().await;
}

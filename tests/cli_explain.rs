//! `pgsluice explain` and `pgsluice top`, as somebody at a shell uses them.

mod support;

use std::process::{Output, Stdio};

use pgsluice::demo::ClusterOptions;
use serde_json::Value;
use support::{DEADLINE, ProxyProcess, Stand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const CALM: &str =
    "[lag]\npoll_timeout = \"20s\"\neject_above = \"40s\"\nreadmit_below = \"30s\"\nreadmit_after = \"100ms\"\n";

fn pgsluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    for variable in ["PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSSLMODE"] {
        command.env_remove(variable);
    }
    command.args(arguments).env("HOME", "/nonexistent").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Output {
    tokio::time::timeout(DEADLINE, pgsluice(arguments).output()).await.expect("it ends").expect("it runs")
}

/// Exit code, stdout, stderr.
fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

fn json(output: &Output) -> Value {
    let (_, out, err) = parts(output);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_proxy_explains() {
    let stand = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let client = stand.client().await;
    client
        .batch_execute(
            "CREATE TABLE t (a int); CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
        )
        .await
        .expect("a schema");
    stand.cluster.wait_replicated().await.expect("replicated");
    let (url, primary) = (stand.url(), stand.cluster.primary().address());

    // The application's own connection string says which database is meant.
    let output = run(&["explain", "--connect", &url, "--json", "INSERT INTO t VALUES (1)"]).await;
    let (code, answer) = (parts(&output).0, json(&output));
    assert_eq!((code, &answer["source"], &answer["database"]), (0, &"proxy".into(), &"app".into()), "{answer}");
    let first = &answer["nodes"][0];
    assert_eq!((&first["node"], &first["reason"]), (&primary.as_str().into(), &"write".into()));
    assert_eq!(answer["nodes"].as_array().map(Vec::len), Some(2));
    let (code, out, err) = parts(&run(&["explain", "--connect", &url, "SELECT * FROM t FOR UPDATE"]).await);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(" shard | node"), "{out}");
    assert!(out.lines().nth(2).is_some_and(|line| line.contains("locking_clause") && line.contains(&primary)), "{out}");

    // The catalog is read first, of a database that nobody has used too.
    let superuser = stand.superuser_url();
    stand.cluster.primary().sql("CREATE DATABASE fresh").await.expect("a database");
    for (database, sql, reason) in [
        ("app", "SELECT f_stable()", "-"),
        ("fresh", "SELECT f_stable()", "unknown_function"),
        ("fresh", "SELECT * FROM pg_stat_activity", "server_relation"),
    ] {
        let answer = json(&run(&["explain", "--connect", &superuser, "-d", database, "--json", sql]).await);
        let shown = answer["nodes"][0]["reason"].as_str().unwrap_or_default();
        // Of a read only that it is not for the statement's sake on the primary.
        let is_read = ["fresh_replica", "not_fresh"].contains(&shown);
        assert!(shown == reason || reason == "-" && is_read, "{database} {sql}: {answer}");
    }

    // What pgsluice refuses, and what it cannot parse, is wrong.
    let refused = run(&["explain", "--connect", &url, "--json", "/* pgsluice: consistency=soon */ SELECT 1"]).await;
    assert_eq!(parts(&refused).0, 1);
    let considered = json(&refused)["nodes"][0]["considered"].as_str().expect("a text").to_owned();
    assert!(considered.starts_with("refused: invalid value for parameter"), "{considered}");
    let (code, out, err) = parts(&run(&["explain", "--connect", &url, "SELEC 1"]).await);
    assert!(code == 1 && out.contains("unparsed") && err.contains("could not parse"), "{code} {out} {err}");

    // Who is not let in is told so in one line, and the password is in none.
    let (code, _, err) = parts(&run(&["explain", "--connect", "postgresql://app@127.0.0.1:1/app", "SELECT 1"]).await);
    assert!(code == 1 && err.starts_with("pgsluice: 127.0.0.1:1 as \"app\":"), "{err}");
    let wrong = url.replace(&stand.cluster.options().app.password, "hunter2");
    let (code, _, err) = parts(&run(&["top", "--once", "--connect", &wrong]).await);
    assert!(code == 1 && err.contains("password authentication failed") && !err.contains("hunter2"), "{err}");
    let bare = url.replace(&format!(":{}@", stand.cluster.options().app.password), "@");
    let (code, _, err) = parts(&run(&["top", "--once", "--connect", &bare]).await);
    assert!(code == 1 && err.contains("give it by PGPASSWORD"), "{err}");
    // The config has a password for the user, and says who may look.
    let config = stand.proxy.config.display().to_string();
    let address = format!("postgresql://{}", stand.proxy.address);
    let (code, out, err) = parts(&run(&["top", "--once", "--connect", &address, "-c", &config]).await);
    assert!(code == 0 && out.contains(&format!(" at {}", stand.proxy.address)), "{out}{err}");

    let top = json(&run(&["top", "--json", "--connect", &url]).await);
    assert_eq!(top["nodes"][0]["role"], "primary", "{top}");
    assert!(top["lag"][0]["lag_seconds"].is_number(), "{top}");
    assert_eq!(top["clients"]["idle"], 1, "{top}");
    let statements = top["statements"].as_array().expect("statements");
    assert!(statements.iter().any(|row| row["statement"].as_str().is_some_and(|text| text.contains("CREATE TABLE t"))));
    stand.stop().await;
}

#[tokio::test]
async fn the_config_alone_explains() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pgsluice.toml");
    // Nobody listens there.
    let text = "auth.users = [{ name = 'app', password = 'x' }]\ndatabases = [{ name = 'shop' }]\n\
                audit.file = '/nonexistent/audit.log'\nshards = [{ nodes = ['127.0.0.1:1', '127.0.0.1:2'] }]\n";
    std::fs::write(&path, text).expect("written");
    let config = path.display().to_string();
    let (code, out, err) = parts(&run(&["explain", "SELECT * FROM t", "-c", &config]).await);
    assert_eq!(code, 0, "{err}");
    for part in
        ["replica | fresh_replica", "primary | not_fresh", "primary | no_replica", "Not known without the servers:"]
    {
        assert!(out.contains(part), "{part} in:\n{out}");
    }
    let mut child = pgsluice(&["explain", "-", "--json", "-d", "shop", "-c", &config])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("stdin").write_all(b"DELETE FROM t;\n").await.expect("written");
    let answer = json(&child.wait_with_output().await.expect("it ends"));
    assert_eq!((&answer["source"], &answer["decisions"][0]["reason"]), (&"config".into(), &"write".into()), "{answer}");
    for (arguments, code, words) in [
        (&["explain", "SELECT 1", "-d", "sop", "-c", &config][..], 1, "there is no database \"sop\" here"),
        (&["explain", "-- nothing", "-c", &config], 1, "there is no statement to explain"),
        (&["explain", "SELEC 1", "-c", &config], 1, "could not parse"),
        (&["explain", "SELECT 1"], 2, "required"),
        (&["explain", "SELECT 1", "-c", "/nonexistent.toml"], 1, "cannot be read"),
        (&["explain", "SELECT 1", "--connect", "host=h sslmode=on", "-d", "x"], 1, "expected disable, prefer"),
        (&["top", "--interval", "1ms", "-c", &config], 2, "100ms to 60s"),
    ] {
        let (found, _, err) = parts(&run(arguments).await);
        assert!(found == code && err.contains(words), "{arguments:?}: {found} {err}");
    }
}

/// `pgsluice top` in a terminal; see `tests/cli/terminal.py`.
struct Terminal {
    child: tokio::process::Child,
    answers: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Terminal {
    fn open(url: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/terminal.py");
        let mut child = Command::new("python3")
            .args([script, env!("CARGO_BIN_EXE_pgsluice"), "top", "--interval", "200ms", "--connect", url])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 runs");
        let answers = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, answers }
    }

    async fn order(&mut self, order: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin");
        stdin.write_all(format!("{order}\n").as_bytes()).await.expect("it takes orders");
        if self.answers.next_line().await.expect("its answer").as_deref() != Some("ok") {
            let mut error = String::new();
            let _ = self.child.stderr.take().expect("stderr").read_to_string(&mut error).await;
            panic!("{order}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_drawn_and_left_as_it_was() {
    let Stand { cluster, proxy } = Stand::start_with(ClusterOptions::with_replicas(1), CALM).await;
    let options = cluster.options();
    let url = format!("postgresql://{}:{}@{}/app", options.app.user, options.app.password, proxy.address);
    let mut terminal = Terminal::open(&url);
    // In the order in which it paints, from above; it leaves out blanks that are there already.
    for part in ["statements", &cluster.primary().address(), &cluster.replicas()[0].address(), "STATEMENT"] {
        terminal.order(&format!("wait {part}")).await;
    }
    terminal.order("press  ").await;
    terminal.order("wait frozen").await;
    terminal.order("press  ").await;
    terminal.order("resize 20 100").await;
    terminal.order("wait LAG OF THE LAST MINUTE").await;

    // It waits for another process on the same address, and goes on.
    let text = std::fs::read_to_string(&proxy.config).expect("the config");
    let text = text.replacen("address = \"127.0.0.1:0\"", &format!("address = \"{}\"", proxy.address), 1);
    proxy.stop().await;
    terminal.order("wait reconnecting").await;
    let proxy = ProxyProcess::start_with_config(&text).await;
    proxy.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;
    let client = support::connect(&url).await;
    client.batch_execute("SELECT 'somebody is back'").await.expect("it answers");
    terminal.order("wait $1").await;
    terminal.order("press q").await;
    terminal.order("end 0").await;

    let mut terminal = Terminal::open(&url);
    terminal.order("wait statements").await;
    terminal.order("signal TERM").await;
    terminal.order("end 0").await;
    drop(client);
    proxy.stop().await;
    cluster.shutdown().await.expect("the cluster stops");
}

//! The bucket map is changed while several proxies write: no row ever lands where it does not belong, whether a proxy has
//! heard of the change, or not, or stands still; and a change that is not finished is finished, or taken back.

mod support;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use nix::sys::signal::Signal;
use rand::Rng as _;
use serde_json::{Value, json};
use support::raw::{bind, close_statement, execute, parse, sync};
use support::shards::Shards;
use support::{DEADLINE, ProxyProcess, connect, raw};
use tokio::process::Command;
use tokio_postgres::{Client, Error};

const SECTIONS: &str = "
[pool]
checkout_timeout = \"2s\"
[[databases]]
name = \"app\"
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"entries\"
shard_key = \"account\"
";

/// Two shards, and two proxies in front of them.
struct Fence {
    stand: Shards,
    other: ProxyProcess,
}

impl Fence {
    async fn start() -> Self {
        let stand = Shards::start(2, SECTIONS).await;
        let other = ProxyProcess::start_with_config(&std::fs::read_to_string(&stand.proxy.config).unwrap()).await;
        let fence = Self { stand, other };
        let client = fence.client().await;
        for sql in ["CREATE TABLE accounts (id bigint, note text)", "CREATE TABLE entries (account int, note text)"] {
            client.batch_execute(sql).await.expect(sql);
        }
        for client in [client, fence.other_client().await] {
            let start = Instant::now();
            while let Err(error) =
                client.batch_execute("DELETE FROM accounts WHERE id = 1; DELETE FROM entries WHERE account = 1").await
            {
                assert!(start.elapsed() < DEADLINE, "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        fence
    }

    async fn client(&self) -> Client {
        self.stand.client().await
    }

    /// Through the other proxy.
    async fn other_client(&self) -> Client {
        connect(&self.stand.url().replace(&self.stand.proxy.address, &self.other.address)).await
    }

    /// Through the other proxy, too.
    async fn raw(&self) -> raw::Raw {
        let options = self.stand.clusters[0].options();
        let (user, password, address) = (&*options.app.user, &*options.app.password, &*self.other.address);
        raw::Raw::connect(&raw::Login { address, user, password, database: &options.database, minor: 0, settings: &[] })
            .await
    }

    /// `pgsluice shards …`, as a superuser.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        let account = &self.stand.clusters[0].options().superuser;
        command.arg("shards").args(&arguments[..1]).arg("-c").arg(&self.stand.proxy.config).args(["-U", &account.user]);
        command.args(&arguments[1..]).env("PGPASSWORD", &account.password).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Exit code, stdout, stderr.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = tokio::time::timeout(DEADLINE, self.command(arguments).output()).await.expect("in time").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
    }

    /// It succeeds; the object that it prints.
    async fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, error) = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}: {out}");
        serde_json::from_str::<Value>(&out).expect("JSON")[0].take()
    }

    /// Where a key's rows are: shards and their numbers of rows.
    async fn rows(&self, id: i64) -> Vec<String> {
        self.stand.on_each(&format!("SELECT count(*) FROM accounts WHERE id = {id}")).await
    }

    /// The number of the shard that an account belongs to, and the other's.
    async fn home(&self, id: i64) -> (usize, usize) {
        let found = self.json(&["where", "-t", "accounts", &id.to_string()]).await;
        if found["shards"] == json!(["a"]) { (0, 1) } else { (1, 0) }
    }

    /// Accounts that belong to the shard with this number, by the map in force.
    async fn accounts_of(&self, shard: usize, count: usize) -> Vec<i64> {
        let sql = format!(
            "SELECT id FROM generate_series(1000::bigint, 3000) AS id \
             WHERE pgsluice.shard_of_key(pgsluice.shard_key(id)) = '{}' LIMIT {count}",
            support::shards::NAMES[shard]
        );
        self.stand.direct(0).await.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Every row is where the map in force says, and that is the same everywhere.
    async fn assert_right(&self) {
        let told = self.json(&["verify"]).await;
        assert_eq!(told["problems"], json!([]));
    }

    /// Waits until a version is announced on both shards.
    async fn wait_announced(&self) {
        let start = Instant::now();
        let announced = "SELECT count(*) FROM pgsluice.bucket_map WHERE state = 'announced'";
        while self.stand.on_each(announced).await != ["1", "1"] {
            assert!(start.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Tries to write the key 42 until that is refused.
    async fn refused(&self, client: &Client) -> Error {
        let start = Instant::now();
        loop {
            // Not to be seen by whoever looks whether the key has rows.
            let insert = "BEGIN; INSERT INTO accounts VALUES (42, 'refused'); ROLLBACK";
            if let Err(error) = client.batch_execute(insert).await {
                return error;
            }
            assert!(start.elapsed() < DEADLINE);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        self.other.stop().await;
        self.stand.stop().await;
    }
}

const NAMES: [&str; 2] = ["a", "b"];

fn code(error: &Error) -> Option<&str> {
    error.code().map(|code| code.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_pinned_and_unpinned() {
    let fence = Fence::start().await;
    let client = fence.client().await;
    let (home, away) = fence.home(42).await;
    let to = NAMES[away];
    let told = fence.json(&["pin", "-t", "accounts", "42", "--to", to]).await;
    assert_eq!(
        told,
        json!({ "database": "app", "table": "accounts", "key": ["42"], "shard": to, "pinned": true, "changed": true,
                "version": 2, "ended": 0 })
    );
    // The same key of a table with another type of the same class.
    client.batch_execute("INSERT INTO accounts VALUES (42, ''); INSERT INTO entries VALUES (42, '')").await.unwrap();
    let mut expected = ["0", "0"];
    expected[away] = "1";
    assert_eq!(fence.rows(42).await, expected);
    assert_eq!(fence.stand.on_each("SELECT count(*) FROM entries WHERE account = 42").await, expected);
    let shown = fence.json(&["show"]).await;
    assert_eq!((&shown["pinned_keys"][0]["shard"], &shown["pinned_keys"][0]["label"]), (&json!(to), &json!("42")));

    let (code, out, _) = fence.run(&["pin", "-t", "accounts", "42", "--to", to]).await;
    assert_eq!((code, out), (0, format!("app: accounts (42) is pinned to shard \"{to}\" already\n")));
    // Rows are not moved; the map is as it was, and the key can be written.
    let (code, _, error) = fence.run(&["unpin", "-t", "entries", "42"]).await;
    let expected = format!("entries (42) has 1 row in public.accounts on shard \"{to}\"");
    assert!(code == 1 && error.contains(&expected), "{error}");
    client.batch_execute("DELETE FROM accounts WHERE id = 42").await.unwrap();
    let (code, _, error) = fence.run(&["unpin", "-t", "entries", "42"]).await;
    assert!(code == 1 && error.contains("in public.entries"), "{error}");
    client.batch_execute("DELETE FROM entries WHERE account = 42").await.unwrap();
    let told = fence.json(&["unpin", "-t", "entries", "42"]).await;
    assert_eq!((&told["shard"], &told["pinned"], &told["version"]), (&json!(NAMES[home]), &json!(false), &json!(3)));
    for (arguments, words) in [
        (vec!["unpin", "-t", "accounts", "42"], "accounts (42) is not pinned"),
        (vec!["pin", "-t", "accounts", "x", "--to", "a"], "column \"id\" of accounts"),
        (vec!["pin", "-t", "accounts", "1", "--to", "z"], "there is no shard \"z\" in the bucket map"),
        (vec!["pin", "-t", "nowhere", "1", "--to", "a"], "nowhere is not in [[tables]]"),
    ] {
        let (code, _, error) = fence.run(&arguments).await;
        assert!(code == 1 && error.contains(words), "{arguments:?}: {error}");
    }
    fence.assert_right().await;
    fence.stop().await;
}

/// All ways in which a proxy may come to write the row, each the first that it does after a change that it has not heard of.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_proxy_finds_out_before_it_writes() {
    let fence = Fence::start().await;
    let (client, stale) = (fence.client().await, fence.other_client().await);
    let (mut here, mut there) = fence.home(7).await;
    let (on_a, on_b) = (fence.accounts_of(0, 1).await[0], fence.accounts_of(1, 1).await[0]);
    let mut raw = fence.raw().await;
    let insert = stale.prepare("INSERT INTO accounts VALUES ($1, $2)").await.unwrap();
    for way in 0..8 {
        // It uses connections to both shards.
        stale.batch_execute("UPDATE accounts SET note = 'seen'").await.unwrap();
        client.batch_execute("DELETE FROM accounts").await.unwrap();
        let told = match way % 2 {
            0 => fence.json(&["pin", "-t", "accounts", "7", "--to", NAMES[there], "--wait", "0"]).await,
            _ => fence.json(&["unpin", "-t", "accounts", "7", "--wait", "0"]).await,
        };
        assert_eq!(told["shard"], json!(NAMES[there]));
        (here, there) = (there, here);
        let result = match way {
            0 => stale.batch_execute("INSERT INTO accounts VALUES (7, '')").await,
            1 => stale.execute(&insert, &[&7i64, &"text"]).await.map(drop),
            2 => {
                let rows = format!("INSERT INTO accounts VALUES ({on_a}, ''), ({on_b}, ''), (7, '')");
                stale.batch_execute(&rows).await
            }
            3 => {
                let mut sink = Box::pin(stale.copy_in("COPY accounts FROM STDIN").await.unwrap());
                let data = format!("{on_a}\t\n7\t\n{on_b}\t\n");
                sink.send(bytes::Bytes::from(data)).await.unwrap();
                sink.as_mut().finish().await.map(drop)
            }
            4 => {
                let mut result = Ok(());
                for statement in ["BEGIN", "INSERT INTO accounts VALUES (7, '')", "COMMIT"] {
                    result = result.and(stale.batch_execute(statement).await);
                }
                result
            }
            5 => {
                // It comes to the row's shard only in the end.
                let other = format!("INSERT INTO accounts VALUES ({}, '')", if here == 0 { on_b } else { on_a });
                let mut result = Ok(());
                for statement in ["BEGIN", &other, "INSERT INTO accounts VALUES (7, '')", "COMMIT"] {
                    result = result.and(stale.batch_execute(statement).await);
                }
                result
            }
            6 => {
                // A pipeline for both shards.
                let mut pipeline = vec![parse("s", "INSERT INTO accounts VALUES ($1, '')")];
                for id in [on_a, on_b, 7] {
                    pipeline.extend([bind("", "s", &[&id.to_string()]), execute("", 0)]);
                }
                pipeline.extend([close_statement("s"), sync()]);
                let answer = raw.exchange(&pipeline.concat()).await;
                assert_eq!(raw::tags(&answer), "12C2C2C3Z", "{answer:?}");
                Ok(())
            }
            _ => stale.batch_execute("BEGIN; INSERT INTO accounts VALUES (7, ''); COMMIT").await,
        };
        result.unwrap_or_else(|error| panic!("way {way}: {error:?}"));
        let mut expected = ["0", "0"];
        expected[here] = "1";
        assert_eq!(fence.rows(7).await, expected, "way {way}");
        let all = stale.query_one("SELECT count(*) FROM accounts WHERE id = 7", &[]).await.unwrap();
        assert_eq!(all.get::<_, i64>(0), 1, "way {way}");
    }
    client.batch_execute("DELETE FROM accounts").await.unwrap();
    fence.assert_right().await;
    fence.stop().await;
}

/// Writes until it is to stop. Whatever fails is counted, and the client goes on.
async fn write_on(
    url: String,
    ids: Vec<i64>,
    stop: Arc<AtomicBool>,
    failures: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(client) = support::try_connect(&url).await else { continue };
        while !stop.load(Ordering::Relaxed) && !client.is_closed() {
            let pick = || ids[rand::rng().random_range(0..ids.len())];
            let (one, other) = (pick(), pick());
            let way = rand::rng().random_range(0..4);
            let result = match way {
                0 => client.batch_execute(&format!("INSERT INTO accounts VALUES ({one}, 'simple')")).await,
                1 => client.execute("INSERT INTO accounts VALUES ($1, 'extended')", &[&one]).await.map(drop),
                2 => {
                    client
                        .batch_execute(&format!("INSERT INTO accounts VALUES ({one}, 'rows'), ({other}, 'rows')"))
                        .await
                }
                _ => {
                    let statements = [
                        "BEGIN".to_owned(),
                        format!("INSERT INTO accounts VALUES ({one}, 'block')"),
                        format!("INSERT INTO accounts VALUES ({other}, 'block')"),
                        "COMMIT".to_owned(),
                    ];
                    let mut result = Ok(());
                    for statement in statements {
                        if result.is_ok() {
                            result = client.batch_execute(&statement).await;
                        }
                    }
                    if result.is_err() {
                        let _ = client.batch_execute("ROLLBACK").await;
                    }
                    result
                }
            };
            let counter = if result.is_ok() { &written } else { &failures };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    failures: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Several writers on each of the proxies.
    fn start(fence: &Fence, ids: &[i64]) -> Self {
        let load =
            Self { stop: Arc::default(), failures: Arc::default(), written: Arc::default(), writers: Vec::new() };
        let url = fence.stand.url();
        let urls = [url.replace(&fence.stand.proxy.address, &fence.other.address), url];
        let write = |url: &String| {
            let (stop, failures, written) =
                (Arc::clone(&load.stop), Arc::clone(&load.failures), Arc::clone(&load.written));
            tokio::spawn(write_on(url.clone(), ids.to_vec(), stop, failures, written))
        };
        let writers = urls.iter().cycle().take(8).map(write).collect();
        Self { writers, ..load }
    }

    async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        (self.written.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_lands_on_a_wrong_shard_under_load() {
    let fence = Fence::start().await;
    let ids: Vec<i64> = (0..400).collect();
    let load = Load::start(&fence, &ids);
    let client = fence.client().await;
    let (start, mut changes, mut refused, mut pinned) = (Instant::now(), 0, 0, Vec::new());
    while start.elapsed() < Duration::from_secs(20) || changes < 6 {
        assert!(start.elapsed() < DEADLINE, "{changes} changes, {refused} refused");
        let id = rand::rng().random_range(0..400i64);
        let _ = client.batch_execute(&format!("DELETE FROM accounts WHERE id = {id}")).await;
        let text = id.to_string();
        // At once, after a moment, and as long as it takes for everybody to hear of it.
        let wait = ["0", "0", "1", "10"][changes % 4];
        let (code, _, error) = if pinned.contains(&id) {
            fence.run(&["unpin", "-t", "accounts", &text, "--wait", wait]).await
        } else {
            let (_, away) = fence.home(id).await;
            fence.run(&["pin", "-t", "accounts", &text, "--to", NAMES[away], "--wait", wait]).await
        };
        match code {
            0 => {
                changes += 1;
                if pinned.contains(&id) { pinned.retain(|known| *known != id) } else { pinned.push(id) }
            }
            // It was put in once more in the meantime.
            _ => {
                assert!(error.contains("in public.accounts on shard"), "{error}");
                refused += 1;
            }
        }
    }
    let (written, failures) = load.stop().await;
    println!("{changes} changes, {refused} refused; {written} written, {failures} failures");
    assert!(written > 100);
    fence.assert_right().await;
    fence.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_placed_alike_is_not_disturbed() {
    let fence = Fence::start().await;
    let ids: Vec<i64> = (0..400).filter(|id| *id != 42).collect();
    // Sessions that keep their connection, and do nothing, are not ended either.
    let (keeping, listening) = (fence.other_client().await, fence.client().await);
    keeping.batch_execute("/* pgsluice: shard=a */ CREATE TEMP TABLE mine (id int)").await.unwrap();
    listening.batch_execute("LISTEN news").await.unwrap();
    let load = Load::start(&fence, &ids);
    let (_, away) = fence.home(42).await;
    let mut told = vec![fence.json(&["pin", "-t", "accounts", "42", "--to", NAMES[away]]).await];
    told.push(fence.json(&["unpin", "-t", "accounts", "42"]).await);
    let (written, failures) = load.stop().await;
    assert_eq!((failures, &told[0]["ended"], &told[1]["ended"]), (0, &json!(0), &json!(0)), "{written} written");
    assert!(written > 100);
    keeping.batch_execute("/* pgsluice: shard=a */ INSERT INTO mine VALUES (1)").await.unwrap();
    listening.batch_execute("UNLISTEN news").await.unwrap();
    fence.assert_right().await;
    fence.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_stopped_finds_out_when_it_goes_on() {
    let fence = Fence::start().await;
    let (busy, idle) = (fence.other_client().await, fence.other_client().await);
    let (home, away) = fence.home(42).await;
    busy.batch_execute("BEGIN").await.unwrap();
    busy.batch_execute("INSERT INTO accounts VALUES (42, 'by the old map')").await.unwrap();
    idle.batch_execute("INSERT INTO accounts VALUES (42, ''); DELETE FROM accounts WHERE id = 42").await.unwrap();
    fence.other.signal(Signal::SIGSTOP);
    let told = fence.json(&["pin", "-t", "accounts", "42", "--to", NAMES[away], "--wait", "1"]).await;
    assert!(told["ended"].as_u64() >= Some(1), "{told}");
    fence.client().await.batch_execute("INSERT INTO accounts VALUES (42, 'first')").await.unwrap();
    fence.other.signal(Signal::SIGCONT);
    idle.batch_execute("INSERT INTO accounts VALUES (42, 'second')").await.unwrap();
    let lost = busy.batch_execute("COMMIT").await.unwrap_err();
    assert!(matches!(code(&lost), Some("57P01" | "08006" | "08007")) || busy.is_closed(), "{lost:?}");
    let mut expected = ["0", "0"];
    expected[away] = "2";
    assert_eq!(fence.rows(42).await, expected, "home is {home}");
    fence.assert_right().await;
    fence.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_goes_on_and_is_waited_for() {
    let fence = Fence::start().await;
    let client = fence.client().await;
    let (home, away) = fence.home(42).await;
    let (here, there) = (fence.accounts_of(home, 1).await[0], fence.accounts_of(away, 1).await[0]);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute(&format!("INSERT INTO accounts VALUES ({here}, '')")).await.unwrap();
    let pin = fence.command(&["pin", "-t", "accounts", "42", "--to", NAMES[away], "--wait", "60"]).spawn().unwrap();
    fence.wait_announced().await;
    // By the map that it has begun with, also when its proxy has heard of the new one.
    client.batch_execute("INSERT INTO accounts VALUES (42, 'still')").await.unwrap();
    assert_eq!(code(&fence.refused(&fence.client().await).await), Some("40001"));
    client.batch_execute("INSERT INTO accounts VALUES (42, 'still')").await.unwrap();
    // On another shard it hears of it itself.
    client.batch_execute(&format!("INSERT INTO accounts VALUES ({there}, '')")).await.unwrap();
    // It would wait for itself.
    client.batch_execute("SAVEPOINT here").await.unwrap();
    let refused = client.batch_execute("INSERT INTO accounts VALUES (42, 'too late')").await.unwrap_err();
    assert_eq!(code(&refused), Some("40001"), "{refused:?}");
    client.batch_execute("ROLLBACK TO SAVEPOINT here").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let output = tokio::time::timeout(DEADLINE, pin.wait_with_output()).await.unwrap().unwrap();
    // It has written a row of the key before: the change is taken back.
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.contains("accounts (42) has 2 rows in public.accounts"),
        "{error}"
    );
    client.batch_execute("INSERT INTO accounts VALUES (42, 'again')").await.unwrap();
    let mut expected = ["0", "0"];
    expected[home] = "3";
    assert_eq!(fence.rows(42).await, expected);
    fence.assert_right().await;
    fence.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_changer_has_left_is_taken_back_or_finished() {
    let fence = Fence::start().await;
    let (client, open) = (fence.client().await, fence.other_client().await);
    let (home, away) = fence.home(42).await;
    let other = fence.accounts_of(home, 1).await[0];
    let pin = ["pin", "-t", "accounts", "42", "--to", NAMES[away], "--wait", "60"];
    let abandon = async || {
        open.batch_execute("BEGIN").await.unwrap();
        open.batch_execute(&format!("INSERT INTO accounts VALUES ({other}, '')")).await.unwrap();
        let mut changer = fence.command(&pin).spawn().unwrap();
        fence.wait_announced().await;
        let (code, _, error) = fence.run(&pin).await;
        assert!(code == 1 && error.contains("somebody else is changing the bucket map"), "{error}");
        changer.kill().await.unwrap();
        open.batch_execute("COMMIT").await.unwrap();
    };
    abandon().await;
    // Whoever has heard of it does not write the key by either map; everything else goes on.
    let refused = fence.refused(&client).await;
    assert_eq!(code(&refused), Some("40001"), "{refused:?}");
    client.batch_execute(&format!("INSERT INTO accounts VALUES ({other}, '')")).await.unwrap();
    let (code, out, _) = fence.run(&["verify"]).await;
    assert!(code == 1 && out.contains("version 2 of the bucket map is announced, and not in force"), "{out}");
    // The next one takes it back, and makes its own.
    let sweep = fence.stand.on_each("SELECT count(*) FROM accounts WHERE id = 42").await;
    assert_eq!(sweep, ["0", "0"]);
    let told = fence.json(&["pin", "-t", "accounts", "42", "--to", NAMES[away]]).await;
    assert_eq!(told["version"], json!(3));
    client.batch_execute("INSERT INTO accounts VALUES (42, '')").await.unwrap();
    client.batch_execute("DELETE FROM accounts WHERE id = 42").await.unwrap();
    let told = fence.json(&["unpin", "-t", "accounts", "42"]).await;
    assert_eq!(told["version"], json!(4));

    // One that has died when the first shard had it in force: so has everybody, in the end.
    abandon().await;
    let account = &fence.stand.clusters[0].options().superuser;
    let address = fence.stand.primary(0).address();
    let first = connect(&format!("postgresql://{}:{}@{address}/app", account.user, account.password)).await;
    let forced = "UPDATE pgsluice.bucket_map SET state = 'in force' WHERE version = 5 AND state = 'announced'";
    assert_eq!(first.execute(forced, &[]).await.unwrap(), 1);
    let (code, out, error) = fence.run(&["init"]).await;
    let expected =
        "app: shard \"a\" has version 5 of the bucket map\napp: shard \"b\" was given version 5 of the bucket map\n";
    assert_eq!((code, out.as_str()), (0, expected), "{error}");
    client.batch_execute("INSERT INTO accounts VALUES (42, '')").await.unwrap();
    let mut expected = ["0", "0"];
    expected[away] = "1";
    assert_eq!(fence.rows(42).await, expected);
    fence.assert_right().await;
    fence.stop().await;
}

/// As an older release has left it.
const OLDER: &str = "DROP FUNCTION pgsluice.register(bigint); DROP TABLE pgsluice.connection; \
    DROP FUNCTION pgsluice.shard_of_key(bytea[]); DROP FUNCTION pgsluice.shard_of(int); \
    ALTER TABLE pgsluice.bucket_map DROP COLUMN state";

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_of_an_older_release_is_told_of_and_upgraded() {
    let fence = Fence::start().await;
    for shard in 0..2 {
        let account = &fence.stand.clusters[shard].options().superuser;
        let address = fence.stand.primary(shard).address();
        let owner = connect(&format!("postgresql://{}:{}@{address}/app", account.user, account.password)).await;
        owner.batch_execute(OLDER).await.unwrap();
    }
    let late = ProxyProcess::start_with_config(&std::fs::read_to_string(&fence.stand.proxy.config).unwrap()).await;
    for shard in 0..2 {
        let node = format!("node=\"{}\"", fence.stand.primary(shard).address());
        late.wait_for_metric("pgsluice_node_up", &[&node, "role=\"primary\""], |value| value == 1.0).await;
    }
    let client = connect(&fence.stand.url().replace(&fence.stand.proxy.address, &late.address)).await;
    client.batch_execute("INSERT INTO accounts VALUES (42, '')").await.unwrap();
    let log = late.log_text();
    assert!(log.contains("prepared by an older release") && log.contains("run pgsluice shards init"), "{log}");
    let (code, _, error) = fence.run(&["pin", "-t", "accounts", "42", "--to", "a"]).await;
    assert!(code == 1 && error.contains("run pgsluice shards init"), "{error}");
    assert_eq!(fence.run(&["init"]).await.0, 0);
    // Those who have come before count as having heard of nothing.
    let (home, _) = fence.home(42).await;
    let told = fence.json(&["pin", "-t", "accounts", "42", "--to", NAMES[home], "--wait", "0"]).await;
    assert!(told["ended"].as_u64() >= Some(1), "{told}");
    assert_eq!(fence.json(&["unpin", "-t", "accounts", "42"]).await["ended"], json!(0));
    client.batch_execute("INSERT INTO accounts VALUES (42, '')").await.unwrap();
    fence.assert_right().await;
    late.stop().await;
    fence.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_before_is_settled_before() {
    let fence = Fence::start().await;
    let (home, away) = fence.home(42).await;
    // As a proxy leaves it that is killed before it has decided.
    let gid = format!("pgsluice:1:{}:{}:0", "0123456789abcdef".repeat(2), NAMES[away]);
    let prepare = format!("BEGIN; INSERT INTO accounts VALUES (42, 'by the old map'); PREPARE TRANSACTION '{gid}'");
    fence.stand.direct(home).await.batch_execute(&prepare).await.unwrap();
    fence.json(&["pin", "-t", "accounts", "42", "--to", NAMES[away], "--wait", "0"]).await;
    assert_eq!(fence.stand.on_each("SELECT count(*) FROM pg_prepared_xacts").await, ["0", "0"]);
    assert_eq!(fence.rows(42).await, ["0", "0"]);
    fence.assert_right().await;
    fence.stop().await;
}

//! `pgsluice shards` and `pgsluice demo --shards`, as somebody at a shell uses them.

mod support;

use std::process::Stdio;

use pgsluice::demo::ClusterOptions;
use serde_json::{Value, json};
use support::shards::Shards;
use support::{DEADLINE, connect};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_postgres::Client;

const SECTIONS: &str = "
[[databases]]
name = \"app\"
[[tables]]
name = \"accounts\"
shard_key = \"id\"
[[tables]]
name = \"visits\"
shard_key = [\"site\", \"day\"]
[[tables]]
name = \"currencies\"
reference = true
[[tables]]
name = \"logs\"
shard = \"b\"
[[tables]]
name = \"later\"
reference = true
";

const SCHEMA: [&str; 4] = [
    "CREATE TABLE accounts (id bigint, note text)",
    "CREATE TABLE visits (site text, day date, count int)",
    "CREATE TABLE currencies (code char(3), since timestamptz)",
    "CREATE TABLE logs (line text)",
];

fn pgsluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
    command.args(arguments).env_remove("PGPASSWORD").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Exit code, stdout, stderr.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = tokio::time::timeout(DEADLINE, pgsluice(arguments).output()).await.expect("in time").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

async fn stand() -> Shards {
    let stand = Shards::start(2, SECTIONS).await;
    for shard in 0..2 {
        let client = stand.direct(shard).await;
        for statement in SCHEMA {
            client.batch_execute(statement).await.expect(statement);
        }
    }
    stand
}

/// A superuser in the application's database, on a shard's primary.
async fn superuser(stand: &Shards, shard: usize) -> Client {
    let options: &ClusterOptions = stand.clusters[shard].options();
    let (user, password) = (&options.superuser.user, &options.superuser.password);
    let address = stand.primary(shard).address();
    connect(&format!("postgresql://{user}:{password}@{address}/{}", options.database)).await
}

/// `pgsluice shards NAME -c CONFIG …`
async fn shards(stand: &Shards, name: &str, more: &[&str]) -> (i32, String, String) {
    let config = stand.proxy.config.to_str().expect("text");
    run(&[&["shards", name, "-c", config], more].concat()).await
}

/// The object of the only database.
async fn shards_json(stand: &Shards, name: &str, more: &[&str]) -> (i32, Value) {
    let (code, out, err) = shards(stand, name, &[more, &["--json"]].concat()).await;
    let mut all: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!(all.len(), 1, "{out}");
    (code, all.remove(0))
}

/// What PostgreSQL's own functions say.
async fn asked(client: &Client, bucket: &str) -> (i32, String) {
    let row = client.query_one(&format!("SELECT {bucket}, pgsluice.shard_of({bucket})"), &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_row_lies_is_said() {
    let stand = stand().await;
    let client = stand.direct(1).await;
    for (arguments, bucket) in [
        (vec!["--table", "accounts", "42"], "pgsluice.bucket(42)"),
        (vec!["-t", "public.Accounts", "-7"], "pgsluice.bucket(-7)"),
        (
            vec!["-t", "visits", "Zoë's", "2024-01-31"],
            "pgsluice.key_bucket(pgsluice.shard_key('Zoë''s'::text), pgsluice.shard_key(DATE '2024-01-31'))",
        ),
    ] {
        let (bucket, shard) = asked(&client, bucket).await;
        let (code, found) = shards_json(&stand, "where", &arguments).await;
        assert_eq!(code, 0);
        assert_eq!((&found["bucket"], &found["shards"]), (&json!(bucket), &json!([shard])), "{arguments:?}: {found}");
        assert_eq!((&found["pinned"], &found["placement"]), (&json!(false), &json!("key")));
        let (code, out, _) = shards(&stand, "where", &arguments).await;
        assert_eq!(code, 0);
        assert!(out.ends_with(&format!("bucket {bucket}, shard \"{shard}\"\n")), "{out}");
    }
    assert_eq!(shards_json(&stand, "where", &["-t", "currencies"]).await.1["shards"], json!(["a", "b"]));
    assert_eq!(shards_json(&stand, "where", &["-t", "logs"]).await.1["shards"], json!(["b"]));
    for (arguments, expected, words) in [
        (vec!["-t", "accounts"], 1, "the shard key of accounts is (id)"),
        (vec!["-t", "accounts", "1", "2"], 1, "the shard key of accounts is (id)"),
        (vec!["-t", "accounts", "one"], 1, "column \"id\" of accounts"),
        (vec!["-t", "visits", "x", "31.1.2024"], 1, "column \"day\" of visits"),
        (vec!["-t", "elsewhere", "1"], 1, "elsewhere is not in [[tables]]"),
        (vec!["-t", "a.b.c", "1"], 2, "not a table's name"),
        (vec!["1"], 2, "--table"),
    ] {
        let (code, _, err) = shards(&stand, "where", &arguments).await;
        assert!(code == expected && err.contains(words), "{arguments:?}: {code} {err}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_is_shown_and_planned_with() {
    let stand = stand().await;
    let (code, shown) = shards_json(&stand, "show", &[]).await;
    assert_eq!((code, &shown["version"], &shown["buckets"]), (0, &json!(1), &json!(16384)));
    let expected =
        ["a", "b"].map(|name| json!({ "name": name, "weight": 1, "buckets": 8192, "pinned_keys": 0, "version": 1 }));
    assert_eq!(shown["shards"], json!(expected));

    let (code, plan) = shards_json(&stand, "plan", &["--add", "c", "--weight", "2"]).await;
    assert_eq!((code, &plan["moves"], &plan["share"]), (0, &json!(8192), &json!(0.5)));
    let half = |from: &str, to: &str| json!({ "from": from, "to": to, "buckets": 4096 });
    assert_eq!(plan["transfers"], json!([half("a", "c"), half("b", "c")]));
    let (code, out, _) = shards(&stand, "plan", &["--remove", "b"]).await;
    assert!(code == 0 && out.contains("without shard \"b\": 8192 of 16384 buckets would move (50.0 %)"), "{out}");

    // A key that is pinned, by whoever owns the schema.
    let owner = asked(&stand.direct(0).await, "pgsluice.bucket(42)").await.1;
    let other = if owner == "a" { "b" } else { "a" };
    for shard in 0..2 {
        superuser(&stand, shard).await.batch_execute(&format!(
            "INSERT INTO pgsluice.bucket_map (version, hash_version, shards, weights, owners) \
                 SELECT 2, hash_version, shards, weights, owners FROM pgsluice.bucket_map; \
             INSERT INTO pgsluice.pinned_key VALUES (2, pgsluice.key_digest(pgsluice.shard_key(42)), '{other}', 'the large one')"
        )).await.unwrap();
    }
    let (_, found) = shards_json(&stand, "where", &["-t", "accounts", "42"]).await;
    assert_eq!((&found["pinned"], &found["shards"]), (&json!(true), &json!([other])));
    let (_, shown) = shards_json(&stand, "show", &[]).await;
    assert_eq!((&shown["version"], &shown["pinned_keys"][0]["shard"]), (&json!(2), &json!(other)));
    // The label is the owner's alone.
    assert_eq!(shown["pinned_keys"][0]["label"], Value::Null);
    let password = stand.clusters[0].options().superuser.password.clone();
    let config = stand.proxy.config.to_str().unwrap();
    let output = pgsluice(&["shards", "show", "-c", config, "-U", "postgres"])
        .env("PGPASSWORD", password)
        .output()
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("the large one"), "{output:?}");

    for (arguments, expected, words) in [
        (vec!["--remove", other], 1, "1 keys are pinned"),
        (vec!["--remove", "x"], 1, "there is no shard \"x\""),
        (vec!["--add", "a"], 1, "in the bucket map already"),
        (vec![], 2, "--remove <NAME>"),
        (vec!["--add", "c", "--remove", "a"], 2, "cannot be used"),
        (vec!["--remove", "a", "--weight", "2"], 2, "cannot be used"),
        (vec!["--add", "c", "--weight", "0"], 2, "--weight"),
    ] {
        let (code, _, err) = shards(&stand, "plan", &arguments).await;
        assert!(code == expected && err.contains(words), "{arguments:?}: {code} {err}");
    }
    stand.stop().await;
}

/// The problems that `verify` tells.
async fn problems(stand: &Shards) -> Vec<String> {
    let (code, found) = shards_json(stand, "verify", &[]).await;
    let told: Vec<String> = serde_json::from_value(found["problems"].clone()).expect("a list");
    assert_eq!((code, found["right"] == json!(true)), (i32::from(!told.is_empty()), told.is_empty()), "{found}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_out_of_place_are_found() {
    let stand = stand().await;
    let (a, b) = (stand.direct(0).await, stand.direct(1).await);
    for (client, shard) in [(&a, 0), (&b, 1)] {
        let name = ["a", "b"][shard];
        client
            .batch_execute(&format!(
                "INSERT INTO accounts SELECT id FROM generate_series(1, 1000) AS id \
                     WHERE pgsluice.shard_of(pgsluice.bucket(id)) = '{name}'; \
                 INSERT INTO visits SELECT 's' || n, day, n FROM generate_series(1, 500) AS n, (VALUES (DATE '2024-01-31')) AS d (day) \
                     WHERE pgsluice.shard_of_key(pgsluice.shard_key('s' || n), pgsluice.shard_key(day)) = '{name}'"
            ))
            .await
            .unwrap();
    }
    // The same rows in another order, and a moment that is written in another zone.
    a.batch_execute("INSERT INTO currencies VALUES ('EUR', '1999-01-01 00:00+00'), ('USD', NULL), ('USD', NULL)")
        .await
        .unwrap();
    b.batch_execute("INSERT INTO currencies VALUES ('USD', NULL), ('EUR', '1999-01-01 02:00+02'), ('USD', NULL)")
        .await
        .unwrap();
    b.batch_execute("INSERT INTO logs VALUES ('x')").await.unwrap();
    assert_eq!(problems(&stand).await, Vec::<String>::new());
    let (code, out, _) = shards(&stand, "verify", &[]).await;
    assert!(code == 0 && out.ends_with("app: all is right\n") && !out.contains("later"), "{out}");

    // Rows that PostgreSQL was given behind pgsluice's back.
    a.batch_execute(
        "INSERT INTO accounts SELECT id FROM generate_series(1, 1000) AS id \
             WHERE pgsluice.shard_of(pgsluice.bucket(id)) = 'b' ORDER BY id LIMIT 7; \
         INSERT INTO accounts VALUES (NULL); INSERT INTO logs VALUES ('y'); INSERT INTO currencies VALUES ('EUR')",
    )
    .await
    .unwrap();
    let (_, found) = shards_json(&stand, "verify", &[]).await;
    let on_a = &found["tables"][0]["shards"][0];
    assert_eq!((&on_a["shard"], &on_a["misplaced"]), (&json!("a"), &json!(8)), "{found}");
    let keys = on_a["keys"].as_array().expect("keys");
    assert_eq!(keys.len(), 5);
    for key in keys {
        let id = key["key"][0].as_str().expect("an id");
        assert_eq!(
            (asked(&a, &format!("pgsluice.bucket({id})")).await.1.as_str(), &key["belongs_to"]),
            ("b", &json!("b"))
        );
    }
    let told = problems(&stand).await;
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("public.accounts on shard \"a\": 8 of "), "{told:?}");
    assert_eq!(
        told[1],
        "public.currencies is a reference table, and not the same everywhere: rows: 4 on \"a\", 3 on \"b\""
    );
    assert_eq!(told[2], "public.logs on shard \"a\": 1 rows belong on shard \"b\"");
    // As many rows, and others.
    b.batch_execute("INSERT INTO currencies VALUES ('JPY')").await.unwrap();
    assert!(problems(&stand).await[1].ends_with("rows: 4 on \"a\", 4 on \"b\""));
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_disagree_are_found() {
    let stand = stand().await;
    let (a, b) = (superuser(&stand, 0).await, superuser(&stand, 1).await);
    a.batch_execute("INSERT INTO accounts VALUES (42)").await.unwrap();
    let home = asked(&a, "pgsluice.bucket(42)").await.1;
    let pinned = "INSERT INTO pgsluice.pinned_key VALUES (1, pgsluice.key_digest(pgsluice.shard_key(42)), 'a')";
    a.batch_execute(pinned).await.unwrap();
    // A row lies right where its key is pinned.
    assert_eq!(problems(&stand).await, ["shard \"b\" has another bucket map of version 1 than others"], "{home}");
    b.batch_execute(pinned).await.unwrap();
    assert_eq!(problems(&stand).await, Vec::<String>::new());

    b.batch_execute(
        "INSERT INTO pgsluice.bucket_map (version, hash_version, shards, weights, owners) \
             SELECT 2, hash_version, shards, weights, owners FROM pgsluice.bucket_map; \
         INSERT INTO pgsluice.pinned_key SELECT 2, digest, shard FROM pgsluice.pinned_key",
    )
    .await
    .unwrap();
    a.batch_execute("DROP TABLE visits; ALTER TABLE accounts ENABLE ROW LEVEL SECURITY; ALTER TABLE accounts FORCE ROW LEVEL SECURITY").await.unwrap();
    let told = problems(&stand).await;
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], "shard \"a\" has version 1 of the bucket map, and 2 is in force");
    // Rows that are hidden from whoever looks are not taken for rows that are not there.
    assert!(
        told[1].starts_with("shard \"a\": public.accounts: ") && told[1].contains("row-level security"),
        "{told:?}"
    );
    assert_eq!(told[2], "public.visits is not on shard \"a\"");
    let (code, shown) = shards_json(&stand, "show", &[]).await;
    let versions: Vec<_> = (0..2).map(|shard| shown["shards"][shard]["version"].clone()).collect();
    assert_eq!((code, versions), (0, vec![json!(1), json!(2)]));

    // One shard is away: it is named, and the other one still says where a row lies.
    stand.primary(0).stop(pgsluice::demo::StopMode::Immediate).await.unwrap();
    let (code, _, err) = shards(&stand, "verify", &[]).await;
    assert!(code == 1 && err.contains("shard \"a\": no primary can be reached"), "{err}");
    let (code, out, _) = shards(&stand, "where", &["-t", "accounts", "42"]).await;
    assert!(code == 0 && out.ends_with("shard \"a\", where this key is pinned\n"), "{out}");
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_has_shards() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_pgsluice"))
        .args(["demo", "--json", "--shards", "2", "--replicas", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the demo starts");
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("in time").unwrap().expect("JSON");
    let shown: Value = serde_json::from_str(&line).expect("JSON");
    let text = |pointer: &str| {
        shown.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}")).to_owned()
    };
    assert_eq!((text("/shards/0/name"), text("/shards/1/name")), ("a".into(), "b".into()));
    let (user, password) = (text("/shards/0/app/user"), text("/shards/0/app/password"));
    let client = connect(&format!("postgresql://{user}:{password}@{}/app", text("/pgsluice/address"))).await;
    let sum = "SELECT count(*), sum(balance)::int FROM accounts";
    let row = client.query_one(sum, &[]).await.expect("the coordinator answers");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1)), (20, 2000));
    for statement in
        ["BEGIN", "UPDATE accounts SET balance = 0 WHERE id < 3", "UPDATE accounts SET balance = 1 WHERE id = 1"]
    {
        client.batch_execute(statement).await.expect(statement);
    }
    client.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(client.query_one(sum, &[]).await.expect("a sum").get::<_, i32>(1), 1801);
    let config = text("/pgsluice/config");
    let (code, out, err) = run(&["shards", "verify", "-c", &config]).await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = run(&["coordinator", "check", "-c", &config]).await;
    assert_eq!(code, 0, "{out}{err}");
    stop(demo, &[text("/pgsluice/config"), text("/shards/0/servers/0/data_dir"), text("/shards/1/servers/0/data_dir")])
        .await;
}

/// As Ctrl-C does; nothing is left.
async fn stop(mut demo: tokio::process::Child, files: &[String]) {
    let pid = nix::unistd::Pid::from_raw(demo.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = tokio::time::timeout(DEADLINE, demo.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(files.iter().all(|path| !std::path::Path::new(path).exists()), "{files:?}");
}

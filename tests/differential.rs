//! The same statements on one plain PostgreSQL and on three shards behind pgsluice: the same answers, or pgsluice's own
//! refusal; never another answer. `scripts/differential` runs more of them.

mod support;

use std::time::Instant;

use pgsluice::demo::ClusterOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::DEADLINE;
use support::raw::{self, Message, Raw};
use support::shards::Shards;

const COORDINATOR: &str = "[coordinator]\nshard = \"a\"\n";

const TABLES: &str = "
[[tables]]
name = \"ints\"
shard_key = \"id\"
[[tables]]
name = \"notes\"
shard_key = \"int_id\"
[[tables]]
name = \"marks\"
shard_key = \"int_id\"
[[tables]]
name = \"bigs\"
shard_key = \"id\"
[[tables]]
name = \"texts\"
shard_key = \"name\"
[[tables]]
name = \"uuids\"
shard_key = \"id\"
[[tables]]
name = \"dates\"
shard_key = \"day\"
[[tables]]
name = \"numbers\"
shard_key = \"n\"
[[tables]]
name = \"pairs\"
shard_key = [\"a\", \"b\"]
[[tables]]
name = \"kinds\"
reference = true
[[tables]]
name = \"places\"
reference = true
[[tables]]
name = \"singles\"
shard = \"c\"
";

const SCHEMA: &[&str] = &[
    "CREATE TABLE ints (id int PRIMARY KEY, v int, w numeric(12,3), t text, j jsonb, a int[], at timestamptz)",
    "CREATE TABLE notes (int_id int, n int, body text COLLATE \"C\", PRIMARY KEY (int_id, n))",
    "CREATE TABLE marks (int_id int, mark numeric, kind text)",
    "CREATE TABLE bigs (id bigint PRIMARY KEY, v int, f boolean)",
    "CREATE TABLE texts (name text PRIMARY KEY, v int, u text)",
    "CREATE TABLE uuids (id uuid PRIMARY KEY, v int, at timestamptz)",
    "CREATE TABLE dates (day date, v int, t text, PRIMARY KEY (day, v))",
    "CREATE TABLE numbers (n numeric(20,0) PRIMARY KEY, v int)",
    "CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (a, b))",
    "CREATE TABLE kinds (code text PRIMARY KEY, weight int)",
    "CREATE TABLE places (id int PRIMARY KEY, name text)",
    "CREATE TABLE singles (id int PRIMARY KEY, v int)",
];

/// Statements with holes that the generator fills: `{i}` a small number, `{k}` a key, `{x}` a word, `{u}` a UUID, `{d}` a
/// date, `{m}` a number with a fraction or NULL.
const READS: &[&str] = &[
    "SELECT * FROM ints WHERE id = {k}",
    "SELECT id, v FROM ints WHERE id = {k} AND v > {i}",
    "SELECT v FROM ints WHERE id IN ({k})",
    "SELECT * FROM ints WHERE id IN ({k}, {k}, {k}) ORDER BY id",
    "SELECT i.id, n.body FROM ints i JOIN notes n ON n.int_id = i.id WHERE i.id = {k} ORDER BY n.n",
    "SELECT i.id, n.n FROM ints i LEFT JOIN notes n ON n.int_id = i.id AND n.n > {i} WHERE i.id = {k} ORDER BY 2",
    "SELECT i.id, k.weight FROM ints i JOIN kinds k ON k.code = i.t WHERE i.id = {k} ORDER BY 1, 2",
    "SELECT count(*), sum(v), avg(v), min(w), max(w) FROM ints",
    "SELECT sum(v) + 1, count(DISTINCT t), sum(w) FROM ints WHERE v > {i}",
    "SELECT t, count(*), avg(w) FROM ints GROUP BY t HAVING count(*) > 1 ORDER BY t NULLS FIRST",
    "SELECT v + 1 AS n, count(*) FROM ints GROUP BY v + 1 ORDER BY 2 DESC, 1",
    "SELECT id FROM ints ORDER BY w DESC NULLS LAST, id LIMIT 5",
    "SELECT t FROM ints ORDER BY v, id OFFSET 3 LIMIT 4",
    "SELECT DISTINCT t FROM ints ORDER BY t",
    "SELECT id, rank() OVER (ORDER BY v, id) FROM ints ORDER BY 2 LIMIT 6",
    "SELECT id, sum(v) OVER (PARTITION BY t ORDER BY id) FROM ints ORDER BY id",
    "SELECT id FROM ints UNION SELECT id FROM bigs ORDER BY id LIMIT 9",
    "SELECT t FROM ints WHERE v = {i} UNION ALL SELECT u FROM texts ORDER BY 1",
    "SELECT b.id, i.id FROM bigs b JOIN ints i ON i.v = b.v ORDER BY 1, 2",
    "SELECT id FROM ints i WHERE EXISTS (SELECT FROM texts x WHERE x.v = i.v) ORDER BY id",
    "SELECT id FROM ints WHERE v > (SELECT avg(v) FROM bigs) ORDER BY id",
    "WITH c AS (SELECT id, v FROM ints WHERE v > {i}) SELECT max(id), min(v) FROM c",
    "SELECT array_agg(id ORDER BY id) FROM ints WHERE t = '{x}'",
    "SELECT string_agg(t, ',' ORDER BY id) FROM ints",
    "SELECT bool_and(f), bool_or(f), stddev(v), variance(v) FROM bigs",
    "SELECT j->>'a', a[1] FROM ints WHERE id = {k}",
    "SELECT j->>'a', count(*) FROM ints GROUP BY 1 ORDER BY 1",
    "SELECT at AT TIME ZONE 'UTC' FROM ints WHERE id = {k}",
    "SELECT name, u FROM texts WHERE name = '{x}'",
    "SELECT name FROM texts ORDER BY name",
    "SELECT u FROM texts ORDER BY u COLLATE \"C\" DESC NULLS LAST, name COLLATE \"C\"",
    "SELECT * FROM uuids WHERE id = '{u}'",
    "SELECT count(*) FROM uuids WHERE v > {i}",
    "SELECT v, t FROM dates WHERE day = '{d}' ORDER BY v",
    "SELECT day, count(*) FROM dates GROUP BY day ORDER BY day",
    "SELECT v FROM numbers WHERE n = {k}",
    "SELECT sum(n) FROM numbers",
    "SELECT v FROM pairs WHERE a = {i} AND b = '{x}'",
    "SELECT a, count(*) FROM pairs GROUP BY a ORDER BY a",
    "SELECT * FROM kinds ORDER BY code",
    "SELECT p.name, k.weight FROM places p, kinds k ORDER BY 1, 2",
    "SELECT * FROM singles ORDER BY id",
    "SELECT s.id, i.id FROM singles s JOIN ints i ON i.id = s.id ORDER BY 1",
    "SELECT coalesce(max(mark), 0) FROM marks WHERE int_id = {k}",
    "SELECT kind, sum(mark) FROM marks GROUP BY kind ORDER BY kind NULLS LAST",
    "SELECT count(*) FROM ints i JOIN notes n ON n.int_id = i.id JOIN marks m ON m.int_id = n.int_id WHERE i.id = {k}",
    "SELECT 1 + {i}, '{x}'",
    "SELECT nothing FROM ints WHERE id = {k}",
    "SELECT v / ({i} - {i}) FROM ints WHERE id = {k}",
];

const WRITES: &[&str] = &[
    "INSERT INTO ints (id, v, w, t) VALUES ({k}, {i}, {m}, '{x}') ON CONFLICT (id) DO UPDATE SET v = ints.v + excluded.v",
    "INSERT INTO ints (id, v, t, j, a) VALUES ({k}, {i}, '{x}', '{{\"a\": {i}}}', ARRAY[{i}, {i}]) ON CONFLICT DO NOTHING",
    "INSERT INTO ints (id, v) VALUES ({k}, {i}), ({k}, {i}), ({k}, {i}) ON CONFLICT DO NOTHING",
    "INSERT INTO ints (id, v) VALUES ({k}, {i})",
    "INSERT INTO notes VALUES ({k}, {i}, '{x}') ON CONFLICT DO NOTHING",
    "INSERT INTO notes SELECT id, {i}, t FROM ints WHERE id = {k} ON CONFLICT DO NOTHING",
    "INSERT INTO marks VALUES ({k}, {m}, '{x}'), ({k}, {m}, NULL)",
    "INSERT INTO bigs VALUES ({k}, {i}, true), ({k}00000000000, {i}, false) ON CONFLICT DO NOTHING",
    "INSERT INTO texts VALUES ('{x}', {i}, '{x}') ON CONFLICT (name) DO UPDATE SET v = {i} RETURNING name, v",
    "INSERT INTO texts VALUES ('{x}{i}', {i}), ('{x}', {i}) ON CONFLICT DO NOTHING",
    "INSERT INTO uuids VALUES ('{u}', {i}, '2020-01-01 10:00+02') ON CONFLICT DO NOTHING",
    "INSERT INTO dates VALUES ('{d}', {i}, '{x}') ON CONFLICT DO NOTHING",
    "INSERT INTO numbers VALUES ({k}, {i}) ON CONFLICT (n) DO UPDATE SET v = excluded.v",
    "INSERT INTO pairs VALUES ({i}, '{x}', {i}) ON CONFLICT DO NOTHING",
    "INSERT INTO kinds VALUES ('{x}', {i}) ON CONFLICT (code) DO UPDATE SET weight = {i}",
    "INSERT INTO places VALUES ({i}, '{x}') ON CONFLICT DO NOTHING",
    "INSERT INTO singles VALUES ({k}, {i}) ON CONFLICT DO NOTHING",
    "UPDATE ints SET v = v + 1 WHERE id = {k}",
    "UPDATE ints SET v = {i}, t = '{x}' WHERE id = {k} RETURNING *",
    "UPDATE ints SET w = coalesce(w, 0) + 1 WHERE v > {i}",
    "UPDATE ints SET v = (SELECT max(weight) FROM kinds) WHERE id = {k}",
    "UPDATE ints SET v = (SELECT max(v) FROM bigs)",
    "UPDATE ints SET id = {k} WHERE id = {k}",
    "UPDATE notes SET body = '{x}' WHERE n = {i}",
    "UPDATE kinds SET weight = weight + 1",
    "UPDATE marks SET mark = mark * 2 WHERE int_id = {k} AND kind = '{x}'",
    "DELETE FROM ints WHERE id = {k}",
    "DELETE FROM notes WHERE int_id = {k} AND n < {i}",
    "DELETE FROM marks WHERE mark IS NULL",
    "DELETE FROM dates WHERE day = '{d}'",
    "DELETE FROM texts WHERE name = '{x}' RETURNING v",
    "DELETE FROM kinds WHERE weight > 30",
    "DELETE FROM notes USING ints WHERE notes.int_id = ints.id AND ints.id = {k}",
    "INSERT INTO ints (v) VALUES ({i})",
    "INSERT INTO ints (id, v) VALUES (NULL, {i})",
    "INSERT INTO kinds VALUES (NULL, 1)",
];

fn fill(template: &str, random: &mut StdRng) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            text.push('{');
            rest = after;
            continue;
        }
        let (hole, after) = after.split_once('}').expect("a hole ends");
        text.push_str(&match hole {
            "i" => random.random_range(0..8).to_string(),
            "k" => random.random_range(1..40).to_string(),
            "x" => ["a", "B", "é", "zeta", "x y", "it''s", "Ärger", ""][random.random_range(0..8)].to_owned(),
            "u" => format!("00000000-0000-4000-8000-0000000000{:02x}", random.random_range(0..30)),
            "d" => format!("2024-02-{:02}", random.random_range(1..29)),
            "m" => ["NULL", "1.500", "-2.25", "1000000.001"][random.random_range(0..4)].to_owned(),
            other => panic!("{{{other}}}"),
        });
        rest = after;
    }
    text.push_str(&rest.replace("}}", "}"));
    text
}

/// What a client sees of an answer: rows (in any order, where the statement asks for none), tags, errors by SQLSTATE.
fn seen(messages: &[Message], is_ordered: bool) -> (Vec<Vec<String>>, Vec<String>, Vec<String>) {
    let mut rows = raw::rows(messages);
    if !is_ordered {
        rows.sort();
    }
    let tags = messages.iter().filter(|message| message.tag == b'C');
    let tags = tags.map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
    (rows, tags, raw::sqlstates(messages))
}

/// By the simple protocol, or by the extended one.
async fn answer(client: &mut Raw, sql: &str, is_extended: bool) -> Vec<Message> {
    if is_extended {
        client.exchange(&[raw::run(sql, &[]), raw::sync()].concat()).await
    } else {
        client.query(sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_one_server() {
    let told = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, count) = (told("PGSLUICE_SEED").unwrap_or(1), told("PGSLUICE_STATEMENTS").unwrap_or(600));
    // Without one, what pgsluice does not merge itself is refused.
    let has_coordinator = told("PGSLUICE_COORDINATOR") != Some(0);
    let sections = format!("{}{TABLES}", if has_coordinator { COORDINATOR } else { "" });
    let stand = Shards::start_with(3, ClusterOptions::with_replicas(0), &sections).await;
    let app = stand.clusters[0].options().app.user.clone();
    stand.primary(2).sql(&format!("CREATE DATABASE plain OWNER {app}")).await.expect("created");
    let options = stand.clusters[0].options();
    let address = stand.primary(2).address();
    let login = raw::Login {
        address: &address,
        user: &app,
        password: &options.app.password,
        database: "plain",
        minor: 0,
        settings: &[],
    };
    let (mut plain, mut shards) = (Raw::connect(&login).await, stand.raw().await);
    for sql in SCHEMA {
        for client in [&mut plain, &mut shards] {
            let messages = client.query(sql).await;
            assert_eq!(raw::sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
        }
    }
    if has_coordinator {
        stand.coordinate().await;
    }
    let start = Instant::now();
    while !raw::sqlstates(&shards.query("SELECT * FROM ints WHERE id = 0").await).is_empty() {
        assert!(start.elapsed() < DEADLINE, "the tables are not read");
    }
    let mut random = StdRng::seed_from_u64(seed);
    let (mut same, mut refused) = (0, std::collections::BTreeMap::<String, usize>::new());
    for number in 0..count {
        let templates = if random.random_bool(0.5) { READS } else { WRITES };
        let template = templates[random.random_range(0..templates.len())];
        let sql = fill(template, &mut random);
        let is_extended = random.random_bool(0.5);
        let is_ordered = template.contains("ORDER BY");
        println!("{number} {is_extended} {sql}");
        // What pgsluice refuses must not be done on the plain one either.
        let through = seen(&answer(&mut shards, &sql, is_extended).await, is_ordered);
        if through.2 == ["0A000"] {
            *refused.entry(template.to_owned()).or_default() += 1;
            continue;
        }
        let direct = seen(&answer(&mut plain, &sql, is_extended).await, is_ordered);
        assert_eq!(through, direct, "seed {seed}, statement {number}: {sql}");
        same += 1;
    }
    println!("{same} of {count} statements had the same answer; refused: {refused:#?}");
    assert!(same * 10 > count * if has_coordinator { 7 } else { 5 }, "{refused:#?}");
    for table in
        ["ints", "notes", "marks", "bigs", "texts", "uuids", "dates", "numbers", "pairs", "kinds", "places", "singles"]
    {
        if !has_coordinator {
            let sql = format!("SELECT * FROM {table}");
            assert_eq!(seen(&shards.query(&sql).await, false), seen(&plain.query(&sql).await, false), "{table}");
            continue;
        }
        let sql = format!("SELECT count(*), min({table}::text), max({table}::text) FROM {table}");
        let (through, direct) = (shards.query(&sql).await, plain.query(&sql).await);
        assert_eq!(seen(&through, true), seen(&direct, true), "{table}");
    }
    drop((plain, shards));
    stand.stop().await;
}

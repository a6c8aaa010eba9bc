//! Reads whose rows pgsluice puts together: on three shards the same answers as on one plain PostgreSQL with the same rows.
//! There is no coordinator, so that what is not merged is refused.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test's helpers too")]

mod combined;
mod replicas;
mod stand;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use stand::{FORMS, Stand, answer, is_refused, seen, told};
use support::DEADLINE;
use support::raw::{self, Message};
use support::shards::Shards;

/// Whose rows may come in any order.
const CONCATENATED: &[&str] = &[
    "SELECT * FROM people",
    "SELECT id, name || 'x' AS n, w + 1 FROM people WHERE f > 0 OR b",
    "SELECT p.id, n.body FROM people p JOIN notes n ON n.person = p.id WHERE n.n > 0",
    "SELECT p.id, n.body FROM people p LEFT JOIN notes n ON p.id = n.person AND n.n = 1",
    "SELECT n.n, p.id FROM notes n RIGHT JOIN people p ON (p.id = n.person)",
    "SELECT n.n, p.id FROM notes n FULL JOIN people p ON p.id = n.person",
    "SELECT p.id, k.weight FROM people p JOIN kinds k ON k.code = p.code",
    "SELECT p.id, k.weight FROM people p LEFT JOIN kinds k USING (code)",
    "SELECT p.id, k.weight FROM kinds k, people p, notes n WHERE p.id = n.person AND k.weight = p.id % 7",
    "SELECT a.v FROM pairs a JOIN pairs b ON (a.a, a.b) = (b.a, b.b)",
    "SELECT a.v FROM pairs a JOIN pairs b USING (b, a)",
    "SELECT id, count(*), sum(n.n) FROM people LEFT JOIN notes n ON n.person = id GROUP BY id HAVING count(*) > 1",
    "SELECT person AS p, array_agg(body ORDER BY n) FROM notes GROUP BY 1",
    "SELECT person AS p, string_agg(DISTINCT body, ',' ORDER BY body) FROM notes GROUP BY p",
    "SELECT DISTINCT person, n FROM notes",
    "SELECT DISTINCT * FROM notes",
    "SELECT person, n, row_number() OVER (PARTITION BY person ORDER BY n) FROM notes",
    "SELECT id IS DISTINCT FROM 3 FROM people",
    "SELECT id FROM people WHERE id IN (1, 2, 3, 4, 5, 6)",
    "SELECT unnest(ARRAY[id, small]) FROM people",
    "SELECT v FROM empty",
    "SELECT id FROM people WHERE code = 'x; y' -- and ; here\n;",
    "SELECT id, to_char(at, 'YYYY-MM-DD HH24') FROM people",
    "SELECT nothing FROM people",
    "SELECT id / (id - 7) FROM people",
    "SELECT id FROM people WHERE name = 1",
];

/// What is not certain, or not put together by pgsluice: it needs the coordinator.
const REFUSED: &[&str] = &[
    "SELECT p.id FROM people p JOIN notes n ON n.n = p.id",
    "SELECT k.code, p.id FROM kinds k LEFT JOIN people p ON p.code = k.code",
    "SELECT p.id FROM people p FULL JOIN kinds k ON p.code = k.code",
    "SELECT a.v FROM pairs a JOIN pairs b ON a.a = b.a",
    "SELECT a.v FROM pairs a JOIN pairs b ON a.a = b.a OR a.b = b.b",
    "SELECT a.id FROM people a LEFT JOIN people b ON b.small = a.small WHERE a.id = b.id OR b.id IS NULL",
    "SELECT id, rank() OVER (ORDER BY w) FROM people",
    "SELECT id, sum(id) OVER w FROM people WINDOW w AS (PARTITION BY id)",
    "SELECT id FROM people WHERE id > (SELECT avg(person) FROM notes)",
    "SELECT id FROM people WHERE EXISTS (SELECT FROM notes WHERE n = id)",
    "WITH c AS (SELECT id FROM people) SELECT * FROM c",
    "SELECT * FROM (SELECT id FROM people LIMIT 3) AS x",
    "SELECT id, random() FROM people",
    "SELECT id, now() FROM people",
    "SELECT id FROM people WHERE day < 'today'",
    "SELECT tableoid::int8, id FROM people",
    "SELECT ctid FROM people",
    "SELECT people FROM people",
    "SELECT p.count FROM people p",
    "SELECT id FROM people TABLESAMPLE BERNOULLI (50)",
    "SELECT id FROM people ORDER BY id FOR UPDATE",
    "SELECT m FROM moods",
    "SELECT grouping(id), count(*) FROM people GROUP BY ROLLUP (id)",
    "SELECT id FROM people FETCH FIRST 3 ROWS WITH TIES",
];

/// With columns to sort by that differ in all rows, so that there is one order.
const SORTED: &[&str] = &[
    "SELECT * FROM people ORDER BY id",
    "SELECT id FROM people ORDER BY id DESC LIMIT 7",
    "SELECT id, w FROM people ORDER BY id LIMIT 7 OFFSET 11",
    "SELECT id FROM people ORDER BY id OFFSET 117",
    "SELECT id FROM people ORDER BY id OFFSET 500 LIMIT 3",
    "SELECT id FROM people ORDER BY id LIMIT 0",
    "SELECT id FROM people ORDER BY id LIMIT ALL",
    "SELECT id FROM people ORDER BY id OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY",
    "SELECT name FROM people ORDER BY small, id DESC",
    "SELECT name FROM people ORDER BY name, id",
    "SELECT small AS id, id AS x FROM people ORDER BY id, 2",
    "SELECT id % 5, id FROM people ORDER BY 1 DESC, 2",
    "SELECT p.id, n.n AS k, n.body FROM people p JOIN notes n ON n.person = p.id ORDER BY p.id DESC, k",
    "SELECT *, 1 FROM people ORDER BY id + 0",
    "SELECT DISTINCT n, person FROM notes ORDER BY person, n DESC",
    "SELECT DISTINCT ON (person) person, body FROM notes ORDER BY person, n DESC",
    "SELECT id, count(n.n) FROM people LEFT JOIN notes n ON n.person = id GROUP BY id ORDER BY count(*), id",
    "SELECT person, max(n) AS m FROM notes GROUP BY person ORDER BY m DESC, person LIMIT 5",
    "SELECT name FROM people ORDER BY name COLLATE \"C\" DESC NULLS FIRST, id",
    "SELECT a, b FROM pairs ORDER BY a, b LIMIT 20",
    "SELECT v FROM empty ORDER BY v",
    // An order that only PostgreSQL knows.
    "SELECT id, name FROM people ORDER BY name COLLATE \"de-x-icu\", id",
    "SELECT * FROM people ORDER BY lower(name) || 'x' COLLATE \"de-x-icu\" DESC NULLS LAST, w, id LIMIT 17 OFFSET 5;",
    "SELECT id AS j, j AS k FROM people ORDER BY k, j -- and nothing else\n",
    "SELECT DISTINCT ON (person) person, body FROM notes ORDER BY person, body COLLATE \"de-x-icu\" DESC, n",
    "SELECT id FROM people ORDER BY id + 'x'",
    "SELECT id FROM people ORDER BY nothing",
    "SELECT id FROM people ORDER BY 1 / (id - 7), id",
];

/// Each is sorted by in all four ways.
const COLUMNS: &[&str] = &[
    "w",
    "f",
    "f4",
    "b",
    "day",
    "at",
    "ts",
    "u",
    "bytes",
    "big",
    "small",
    "pad",
    "o",
    "ti",
    "code",
    "w * f::numeric(9, 2)",
    "big - small",
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_one_server() {
    let mut stand = Stand::start().await;
    let mut differing = Vec::new();
    let mut orders = Vec::new();
    for column in COLUMNS.iter().filter(|column| !column.contains('*')) {
        for way in ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"] {
            orders.push(format!("SELECT id, {column} FROM people ORDER BY {column}{way}, id LIMIT 100 OFFSET 3"));
        }
    }
    let sorted = SORTED.iter().map(|sql| (*sql).to_owned()).chain(orders).map(|sql| (sql, true));
    for (sql, is_ordered) in CONCATENATED.iter().map(|sql| ((*sql).to_owned(), false)).chain(sorted) {
        for form in FORMS {
            let merged = answer(&mut stand.merged, &sql, &[], form).await;
            let plain = answer(&mut stand.plain, &sql, &[], form).await;
            let (merged, plain) = (told(&merged, is_ordered), told(&plain, is_ordered));
            if let Some((merged, plain)) = merged.iter().zip(&plain).find(|(merged, plain)| merged != plain) {
                differing.push(format!("{form}: {sql}: {merged} and not {plain}"));
            } else if merged.len() != plain.len() {
                differing.push(format!("{form}: {sql}: {} and not {}", merged.len(), plain.len()));
            }
        }
    }
    for sql in REFUSED {
        for form in FORMS {
            let messages = answer(&mut stand.merged, sql, &[], form).await;
            if !is_refused(&messages) {
                differing.push(format!("not refused, {form}: {sql}: {messages:?}"));
            }
        }
    }
    // Parameters: the numbers of rows too.
    for (sql, parameters) in [
        ("SELECT id FROM people WHERE small > $1 ORDER BY id", &["50"][..]),
        ("SELECT id, $2::text FROM people ORDER BY id LIMIT $1 OFFSET $3", &["5", "x", "7"]),
        ("SELECT id FROM people WHERE id > $2 ORDER BY id DESC OFFSET $1", &["3", "100"]),
        ("SELECT id FROM people WHERE small = $1", &["x"]),
    ] {
        for form in ["text", "binary"] {
            let merged = answer(&mut stand.merged, sql, parameters, form).await;
            let plain = answer(&mut stand.plain, sql, parameters, form).await;
            assert_eq!(told(&merged, true), told(&plain, true), "{form}: {sql}");
        }
    }
    // Where in the text.
    for sql in ["SELECT id FROM people WHERE name = 1 ORDER BY small", "SELECT id FROM people ORDER BY nothing"] {
        let places = [&mut stand.merged, &mut stand.plain].map(|client| client.query(sql));
        let [merged, plain] = places;
        let place = |messages: Vec<Message>| messages.into_iter().find_map(|message| message.field(b'P'));
        let (merged, plain) = (place(merged.await), place(plain.await));
        assert!(merged.is_none() || merged == plain, "{sql}: {merged:?} {plain:?}");
        assert_eq!(merged.is_some(), sql.contains("WHERE"), "{sql}");
    }
    // A portal with a row limit; named statements.
    for limit in [0, 5, 120, 500] {
        let named = [raw::parse("s", "SELECT id FROM people ORDER BY id"), raw::describe_statement("s"), raw::sync()];
        let run = [raw::bind("p", "s", &[]), raw::execute("p", limit), raw::sync()].concat();
        let mut answers = Vec::new();
        for client in [&mut stand.merged, &mut stand.plain] {
            let mut messages = client.exchange(&named.concat()).await;
            messages.extend(client.exchange(&run).await);
            messages.extend(client.exchange(&[raw::close_statement("s"), raw::sync()].concat()).await);
            answers.push(seen(&messages, true));
        }
        assert_eq!(answers[0], answers[1], "{limit}");
    }
    // Columns that are not what the client was told.
    let named = [raw::parse("all", "SELECT * FROM pairs WHERE v >= 0 ORDER BY v"), raw::describe_statement("all")];
    let run = [raw::bind("", "all", &[]), raw::execute("", 0), raw::sync()].concat();
    for client in [&mut stand.merged, &mut stand.plain] {
        client.exchange(&[&named.concat()[..], &raw::sync()].concat()).await;
        assert_eq!(raw::rows(&client.exchange(&run).await).len(), 120);
        client.rows("ALTER TABLE pairs ADD COLUMN w int").await;
        let messages = client.exchange(&run).await;
        assert_eq!(raw::sqlstates(&messages), ["0A000"], "{messages:?}");
        assert!(format!("{messages:?}").contains("cached plan must not change result type"), "{messages:?}");
    }
    let shown = stand.merged.rows("EXPLAIN ROUTE SELECT id FROM people ORDER BY id").await;
    let shards: Vec<(&str, &str)> = shown.iter().map(|row| (&*row[0], &*row[3])).collect();
    assert_eq!(shards, [("a", "merged"), ("b", "merged"), ("c", "merged")], "{shown:?}");
    assert!(stand.shards.proxy.statements(&["reason=\"merged\""]).await > 100.0);
    assert_eq!(differing, Vec::<String>::new());
    stand.stop().await;
}

/// Many rows, of which a statement can be made to take long.
async fn big(stand: &Shards) {
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE big (id int PRIMARY KEY, t text)").await.expect("made");
    for shard in 0..3 {
        let rows = format!(
            "INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series({}, {}) i",
            shard * 40_000,
            shard * 40_000 + 39_999
        );
        stand.direct(shard).await.batch_execute(&rows).await.expect("filled");
    }
    let start = Instant::now();
    while client.batch_execute("SELECT FROM big WHERE id = 0").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "the table is not read");
    }
}

const BIG: &str = "
[pool]
checkout_timeout = \"2s\"
[[tables]]
name = \"big\"
shard_key = \"id\"
";

/// Takes minutes, but for the first row of the first shard.
const SLOW: &str = "SELECT id FROM big WHERE id = 0 OR md5(repeat(t, 1000)) = 'x'";

async fn wait_until_idle(stand: &Shards) {
    let start = Instant::now();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%md5(repeat%' AND state = 'active' AND pid <> pg_backend_pid()";
    while stand.on_each(busy).await.iter().any(|count| count != "0") {
        assert!(start.elapsed() < Duration::from_secs(10), "a shard still runs it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_streamed_and_what_nobody_wants_is_stopped() {
    let stand = Shards::start(3, BIG).await;
    big(&stand).await;
    // Memory: more than 120 MB, to a client that does not read for a while.
    let mut client = stand.raw().await;
    client.rows("SELECT id FROM big ORDER BY id LIMIT 1000").await;
    for sql in ["SELECT id, t FROM big ORDER BY id", "SELECT id, t FROM big"] {
        println!("{sql}");
        stand.proxy.reset_peak_memory();
        let before = stand.proxy.memory();
        client.send(&raw::query(sql)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut rows, mut last, mut is_sorted) = (0u32, -1i64, true);
        loop {
            let message = client.read().await;
            match message.tag {
                b'D' => {
                    let id: i64 = message.columns()[0].parse().unwrap();
                    is_sorted &= id > last;
                    last = id;
                    rows += 1;
                }
                b'Z' => break,
                b'E' => panic!("{message:?}"),
                _ => {}
            }
        }
        assert_eq!(rows, 120_000);
        assert!(is_sorted || !sql.contains("ORDER"));
        let more = stand.proxy.peak_memory().saturating_sub(before);
        assert!(more < 8 << 20, "{more} bytes more for {sql}");
    }
    // LIMIT: the other shards are stopped, and their connections serve others.
    // Otherwise a server may begin in the middle.
    client.rows("SET synchronize_seqscans = off").await;
    let start = Instant::now();
    for turn in 0..5 {
        println!("LIMIT, {turn}");
        assert_eq!(client.rows(&format!("{SLOW} LIMIT 1")).await, [["0"]]);
        assert_eq!(client.rows("SELECT id FROM big ORDER BY id DESC LIMIT 2").await, [["119999"], ["119998"]]);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    wait_until_idle(&stand).await;
    // Cancelled by its client: once told, nowhere running, and the next statement is not hit.
    for turn in 0..2 {
        let other = stand.client().await;
        let token = other.cancel_token();
        let running = tokio::spawn(async move {
            let slow = [format!("{SLOW} ORDER BY id"), SLOW.replace("SELECT id", "SELECT count(*)")];
            let error = other.batch_execute(&slow[turn]).await.expect_err("it is cancelled");
            for _ in 0..10 {
                other.batch_execute("SELECT id FROM big ORDER BY id LIMIT 1").await.expect("nobody cancels it");
            }
            error.code().map(|code| code.code().to_owned())
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        token.cancel_query(tokio_postgres::NoTls).await.expect("cancelled");
        let told = tokio::time::timeout(Duration::from_secs(10), running).await.expect("in time").expect("told");
        assert_eq!(told.as_deref(), Some("57014"));
        wait_until_idle(&stand).await;
    }
    // Aggregates: of a row for each group, or of the rows themselves as far as they are kept.
    let one = client.rows("SELECT id % 3, count(*), count(DISTINCT t) FROM big GROUP BY 1 ORDER BY 1").await;
    assert_eq!(one, [["0", "40000", "1"], ["1", "40000", "1"], ["2", "40000", "1"]]);
    assert_eq!(client.rows("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM big").await, [["59999"]]);
    stand.proxy.reset_peak_memory();
    let before = stand.proxy.memory();
    client.rows("BEGIN").await;
    for is_over in [false, true] {
        let messages = client.query("SELECT length(string_agg(t, ',')) FROM big").await;
        assert_eq!(raw::sqlstates(&messages), [if is_over { "25P02" } else { "54000" }], "{messages:?}");
    }
    client.rows("ROLLBACK").await;
    assert_eq!(raw::sqlstates(&client.query("SELECT max(t), array_agg(t) FROM big").await), ["54000"]);
    assert_eq!(client.rows("SELECT max(id) FROM big").await, [["119999"]]);
    let more = stand.proxy.peak_memory().saturating_sub(before);
    assert!(more < 64 << 20, "{more} bytes more");
    wait_until_idle(&stand).await;
    drop(client);
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_lost_is_named() {
    let sections = format!("[limits]\nstatement_timeout = \"2s\"\n{BIG}");
    let stand = Shards::start(3, &sections).await;
    let client = stand.client().await;
    client.batch_execute("CREATE TABLE big (id int PRIMARY KEY, t text)").await.expect("made");
    let start = Instant::now();
    while client.batch_execute("SELECT id FROM big").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "the table is not read");
    }
    // Frozen: the client's time is over, and what ran is stopped.
    stand.primary(1).signal_all(nix::sys::signal::Signal::SIGSTOP).expect("frozen");
    let start = Instant::now();
    let error = client.batch_execute("SELECT id FROM big ORDER BY id").await.expect_err("not answered");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let said = error.as_db_error().map(|error| error.code().code().to_owned()).expect("an error of the proxy's");
    assert!(["57014", "57P03", "08006", "53300"].contains(&&*said), "{error:?}");
    stand.primary(1).signal_all(nix::sys::signal::Signal::SIGCONT).expect("goes on");
    let start = Instant::now();
    while client.batch_execute("SELECT id FROM big").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "it does not recover");
    }
    // Gone.
    stand.primary(2).kill().await.expect("killed");
    let error = client.batch_execute("SELECT id FROM big").await.expect_err("one is gone");
    let said = error.as_db_error().expect("an error of the proxy's").message().to_owned();
    assert!(said.contains("\"c\"") || said.contains(&stand.primary(2).address()), "{said}");
    for shard in ["a", "b"] {
        client.batch_execute(&format!("/* pgsluice: shard={shard} */ SELECT id FROM big")).await.expect("it goes on");
    }
    drop(client);
    drop(stand);
}

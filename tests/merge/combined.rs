//! Reads whose rows are made of rows of several shards: the same answers as on one plain PostgreSQL.

use crate::stand::{FORMS, Stand, answer, is_refused, told};
use crate::support::raw::{self, Message};

/// Whose rows may come in any order.
const UNORDERED: &[&str] = &[
    "SELECT count(*) FROM people",
    "SELECT count(*), count(name), count(DISTINCT name), sum(small), avg(small), min(day), max(ts) FROM people",
    "SELECT sum(id), sum(big), sum(w), sum(small::bigint * id), avg(id), avg(big), avg(w) FROM people WHERE w <> 'NaN'",
    "SELECT avg(small), avg(id), sum(small), sum(ti::interval), avg(ti::interval) FROM people WHERE id % 3 = 1",
    "SELECT min(id), max(w), min(u::text), max(bytes), min(f), max(f4), min(at), max(o), min(pad), max(code), min(name) FROM people",
    "SELECT bool_and(b), bool_or(b), every(id > 0), bit_and(small), bit_or(id), bit_xor(small) FROM people",
    "SELECT stddev(small), stddev_pop(w), variance(id), var_samp(big), var_pop(w) FROM people WHERE w <> 'NaN'",
    "SELECT stddev_samp(id), var_pop(small), regr_slope(small, id) IS NULL, corr(id, id) FROM people",
    "SELECT count(*) FROM people WHERE id < 0",
    "SELECT sum(id), avg(id), max(name), count(id), count(DISTINCT id), array_agg(id), bool_and(b) FROM people WHERE id < 0",
    "SELECT name, count(*) FROM people WHERE id < 0 GROUP BY name",
    "SELECT name, count(*) FROM people GROUP BY name",
    "SELECT p.name, name AS n, count(*) AS c, sum(w) + 1 AS s, sum(w) / count(*) FROM people p GROUP BY p.name",
    "SELECT a FROM pairs GROUP BY a",
    "SELECT a % 3 AS g, count(*), sum(v) FROM pairs GROUP BY g",
    "SELECT a % 3, (a % 3) * 2 + 1, abs(a % 3), count(*) FROM pairs GROUP BY a % 3",
    "SELECT count(*), v FROM pairs GROUP BY 2 HAVING count(*) > 3 AND sum(a) IS NOT NULL",
    "SELECT v FROM pairs GROUP BY v HAVING max(a) > 5",
    "SELECT small % 4 + 1, sum(n + 1) FROM people JOIN notes ON person = id GROUP BY small % 4 + 1",
    "SELECT date_trunc('month', at), count(*), count(*) FILTER (WHERE b) AS yes FROM people GROUP BY 1",
    "SELECT extract(month FROM day), max(id) FROM people GROUP BY extract(month FROM day)",
    "SELECT day::text, to_char(day, 'MM') || day::text FROM people GROUP BY day, day::text",
    "SELECT CASE WHEN small > 50 THEN 'big' ELSE 'small' END AS size, avg(w) FROM people WHERE w <> 'NaN' GROUP BY size",
    "SELECT k.weight, count(DISTINCT p.id), sum(p.small) FROM people p JOIN kinds k ON k.code = p.code GROUP BY k.weight",
    "SELECT b, count(DISTINCT name), count(DISTINCT small), sum(DISTINCT small), sum(id), avg(DISTINCT id % 7) FROM people GROUP BY b",
    "SELECT pad, code, b, u IS NULL, count(*) FROM people GROUP BY pad, code, b, u IS NULL",
    "SELECT count(*) + sum(id) * 2, max(id) - min(id), -count(*), round(avg(id), 2), coalesce(max(id), 0) FROM people",
    "SELECT count(*) FROM people HAVING count(*) > 1000",
    "SELECT 1 FROM people HAVING true",
    "SELECT 'x' || count(*) || 'y', ARRAY[count(*), sum(id)], (count(*), 1) = (120, 1) FROM people",
    "SELECT n.person FROM people p LEFT JOIN notes n ON n.person = p.id GROUP BY n.person",
    "SELECT array_agg(id ORDER BY id DESC), array_agg(name ORDER BY id) FROM people",
    "SELECT string_agg(name, ',' ORDER BY id), string_agg(DISTINCT name, ';' ORDER BY name) FROM people",
    "SELECT b, string_agg(code, '' ORDER BY code DESC NULLS LAST), count(*) FROM people GROUP BY b",
    "SELECT b, array_agg(DISTINCT small ORDER BY small) FILTER (WHERE id > 3) FROM people WHERE id < 0 GROUP BY b",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id), mode() WITHIN GROUP (ORDER BY small) FROM people WHERE small > 90",
    "SELECT percentile_disc(ARRAY[0.25, 0.75]) WITHIN GROUP (ORDER BY id) FROM people",
    "SELECT json_agg(w ORDER BY id) FROM people",
    "SELECT jsonb_agg(id ORDER BY id) FILTER (WHERE id < 4), jsonb_object_agg(id, small) FROM people WHERE small IS NOT NULL",
    "SELECT j, count(*) FROM people GROUP BY j",
    "SELECT f, count(*), sum(f4) FROM people WHERE f4 <> 'NaN' AND f = 0 GROUP BY f",
    "SELECT DISTINCT name FROM people",
    "SELECT DISTINCT name, b AS x FROM people WHERE id > 3",
    "SELECT DISTINCT v, a % 2 FROM pairs",
    "SELECT DISTINCT * FROM (pairs JOIN kinds ON v = weight)",
    "SELECT DISTINCT count(*) FROM notes GROUP BY person",
    "SELECT DISTINCT count(*) FROM notes GROUP BY n",
    "SELECT id FROM people UNION SELECT person FROM notes",
    "SELECT name FROM people UNION SELECT body FROM notes",
    "SELECT name, 1 FROM people UNION ALL SELECT body, n FROM notes UNION ALL SELECT b, v FROM pairs",
    "(SELECT id FROM people WHERE id < 9) UNION ALL (SELECT person FROM notes)",
    "SELECT id FROM people UNION ALL SELECT person FROM notes UNION SELECT v FROM pairs",
    "SELECT person, count(*) FROM notes GROUP BY person UNION SELECT id, small FROM people",
    "SELECT nothing, count(*) FROM people GROUP BY 1",
    "SELECT name, count(*) FROM people",
    "SELECT count(*) FROM people GROUP BY name HAVING w > 3",
    "SELECT sum(name) FROM people",
    "SELECT sum(9223372036854775807 / 30) FROM people WHERE id < 0",
    "SELECT sum(1 / (id - 7)) FROM people",
    "SELECT name, 1 / (count(*) - count(*)) FROM people GROUP BY name",
    "SELECT count(*) FROM empty",
    "SELECT v, count(*) FROM empty GROUP BY v",
];

/// With one order.
const ORDERED: &[&str] = &[
    "SELECT name, count(*) FROM people GROUP BY name ORDER BY name",
    "SELECT name, count(*) FROM people GROUP BY name ORDER BY 2 DESC, 1 NULLS FIRST",
    "SELECT name, count(*) AS c FROM people GROUP BY name ORDER BY c, name DESC",
    "SELECT code, count(*) FROM people GROUP BY code ORDER BY count, code",
    "SELECT code FROM people GROUP BY code ORDER BY sum(id) LIMIT 3",
    "SELECT code AS name, max(name) FROM people GROUP BY code ORDER BY name",
    "SELECT b, a FROM pairs WHERE a < 3 GROUP BY b, a ORDER BY a + 1, b COLLATE \"C\" DESC LIMIT 5 OFFSET 3",
    "SELECT v AS a, sum(a) FROM pairs GROUP BY v ORDER BY a",
    "SELECT a % 4 AS g, sum(v) FROM pairs GROUP BY 1 ORDER BY g DESC FETCH FIRST 2 ROWS ONLY",
    "SELECT pad, count(*) FROM people GROUP BY pad ORDER BY pad",
    "SELECT lower(name), count(*) FROM people GROUP BY lower(name) ORDER BY lower(name)",
    "SELECT name COLLATE \"de-x-icu\" AS n, count(*) FROM people GROUP BY n ORDER BY n",
    "SELECT DISTINCT name FROM people ORDER BY name DESC",
    "SELECT DISTINCT code, name FROM people ORDER BY code, 2 LIMIT 7",
    "SELECT DISTINCT lower(name) AS l, b FROM people ORDER BY lower(name), b",
    "SELECT DISTINCT p.name FROM people p ORDER BY name OFFSET 2",
    "SELECT id AS x FROM people UNION SELECT person FROM notes ORDER BY x DESC LIMIT 9",
    "SELECT name FROM people UNION SELECT code FROM people ORDER BY 1",
    "SELECT id FROM people UNION ALL SELECT person FROM notes ORDER BY id LIMIT 50",
    "SELECT DISTINCT count(*) FROM people GROUP BY name ORDER BY count(*)",
];

/// What is not certain: it needs the coordinator.
const REFUSED: &[&str] = &[
    "SELECT weight, count(*) FROM people p JOIN kinds k ON p.code = k.code GROUP BY k.code",
    "SELECT count(*) FROM people p JOIN notes n ON n.n = p.id",
    "SELECT m, count(*) FROM moods GROUP BY m",
    "SELECT count(*) FROM people GROUP BY ROLLUP (name)",
    "SELECT count(*) FROM people GROUP BY GROUPING SETS ((name), ())",
    "SELECT name, rank() OVER (ORDER BY count(*)) FROM people GROUP BY name",
    "SELECT array_agg(p) FROM people p",
    "SELECT array_agg(ARRAY[id, small] ORDER BY id) FROM people",
    "SELECT count(*) FROM people WHERE id > (SELECT avg(person) FROM notes)",
    "SELECT sum(random()) FROM people",
    "SELECT sum(count(*)) FROM people",
    "SELECT id FROM people EXCEPT SELECT person FROM notes",
    "SELECT id FROM people INTERSECT SELECT person FROM notes",
    "SELECT id FROM people UNION SELECT person FROM notes UNION ALL SELECT v FROM pairs",
    "SELECT DISTINCT ON (name) name, id FROM people ORDER BY name, id",
    "SELECT id FROM people UNION SELECT weight FROM kinds",
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_made_of_several_shards_are_those_of_one_server() {
    let mut stand = Stand::start().await;
    let mut differing = Vec::new();
    let unordered = UNORDERED.iter().map(|sql| (*sql, false));
    for (sql, is_ordered) in unordered.chain(ORDERED.iter().map(|sql| (*sql, true))) {
        for form in FORMS {
            let combined = answer(&mut stand.merged, sql, &[], form).await;
            let plain = answer(&mut stand.plain, sql, &[], form).await;
            let (combined, plain) = (told(&combined, is_ordered), told(&plain, is_ordered));
            if let Some((combined, plain)) = combined.iter().zip(&plain).find(|(combined, plain)| combined != plain) {
                differing.push(format!("{form}: {sql}: {combined} and not {plain}"));
            } else if combined.len() != plain.len() {
                differing.push(format!("{form}: {sql}: {} and not {}", combined.len(), plain.len()));
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
    assert_eq!(differing, Vec::<String>::new());
    for (sql, parameters) in [
        (
            "SELECT name, sum(id + $1::int) FROM people WHERE small > $2 GROUP BY name HAVING count(*) > $3 ORDER BY name LIMIT $4",
            &["7", "10", "2", "3"][..],
        ),
        ("SELECT left(name, $1::int), count(*) FROM people GROUP BY left(name, $1::int) ORDER BY 1", &["1"]),
        ("SELECT string_agg(name, $1::text ORDER BY id) FROM people WHERE id < $2", &["--", "20"]),
        ("SELECT DISTINCT name FROM people WHERE id < $1 ORDER BY name OFFSET $2", &["50", "1"]),
        ("SELECT $1::text, count(*) FROM people GROUP BY 1", &["x"]),
        ("SELECT count(*) FROM people WHERE small = $1", &["x"]),
    ] {
        for form in ["text", "binary"] {
            let combined = answer(&mut stand.merged, sql, parameters, form).await;
            let plain = answer(&mut stand.plain, sql, parameters, form).await;
            assert_eq!(told(&combined, true), told(&plain, true), "{form}: {sql}");
        }
    }
    // Where in the text.
    for sql in ["SELECT nothing, count(*) FROM people GROUP BY name", "SELECT name, count(*) FROM people ORDER BY 1"] {
        let place = |messages: Vec<Message>| messages.into_iter().find_map(|message| message.field(b'P'));
        let (combined, plain) = (place(stand.merged.query(sql).await), place(stand.plain.query(sql).await));
        assert!(combined.is_some() && combined == plain, "{sql}: {combined:?} {plain:?}");
    }
    // A portal with a row limit, of a named statement.
    let text = "SELECT b, count(*) FROM pairs GROUP BY b ORDER BY b";
    for limit in [0, 5, 120, 500] {
        let named = [raw::parse("s", text), raw::describe_statement("s"), raw::sync()].concat();
        let run = [raw::bind("p", "s", &[]), raw::execute("p", limit), raw::sync()].concat();
        let mut answers = Vec::new();
        for client in [&mut stand.merged, &mut stand.plain] {
            let mut messages = client.exchange(&named).await;
            messages.extend(client.exchange(&run).await);
            messages.extend(client.exchange(&[raw::close_statement("s"), raw::sync()].concat()).await);
            answers.push(told(&messages, true));
        }
        assert_eq!(answers[0], answers[1], "{limit}");
    }
    let shown = stand.merged.rows("EXPLAIN ROUTE SELECT count(*) FROM people").await;
    let shards: Vec<(&str, &str)> = shown.iter().map(|row| (&*row[0], &*row[3])).collect();
    assert_eq!(shards, [("a", "merged"), ("b", "merged"), ("c", "merged")], "{shown:?}");
    stand.stop().await;
}

/// What a client does in transactions, with the reads of several shards between.
const TRANSACTIONS: &[&[&str]] = &[
    &["BEGIN", "SELECT count(*), sum(id) FROM people", "SELECT id FROM people ORDER BY id LIMIT 3", "COMMIT"],
    &[
        "BEGIN",
        "UPDATE people SET small = 7 WHERE id = 3",
        "UPDATE people SET small = 8 WHERE id = 4",
        "SELECT sum(small), count(*) FILTER (WHERE small = 7) FROM people",
        "SELECT id, small FROM people WHERE small IN (7, 8) ORDER BY id",
        "SAVEPOINT one",
        "DELETE FROM people WHERE id = 5",
        "SELECT count(*) FROM people",
        "SELECT id / (id - 7) FROM people",
        "SELECT count(*) FROM people",
        "ROLLBACK TO one",
        "SELECT count(*) FROM people",
        "SELECT sum(1 / (id - 7)) FROM people",
        "ROLLBACK TO one",
        "SELECT DISTINCT small FROM people WHERE id < 9 ORDER BY small",
        "SELECT nothing FROM people",
        "SELECT count(*) FROM people",
        "ROLLBACK",
        "SELECT sum(small) FROM people",
    ],
    &[
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "SELECT min(id) FROM people",
        "SELECT id FROM people UNION SELECT person FROM notes ORDER BY id LIMIT 3",
        "SELECT nothing, count(*) FROM people GROUP BY name",
        "COMMIT",
        "SELECT 1",
    ],
    &[
        "BEGIN",
        "SELECT id FROM people WHERE id = 3",
        "SELECT max(id) FROM people",
        "UPDATE people SET small = 9 WHERE id = 9",
        "COMMIT",
        "SELECT small FROM people WHERE id = 9",
    ],
    &["BEGIN", "DELETE FROM notes", "SELECT count(*) FROM notes", "ROLLBACK", "SELECT count(*) FROM notes"],
];

#[tokio::test(flavor = "multi_thread")]
async fn in_a_transaction_its_own_writes_are_seen() {
    let mut stand = Stand::start().await;
    for form in FORMS {
        for transaction in TRANSACTIONS {
            for sql in *transaction {
                let combined = answer(&mut stand.merged, sql, &[], form).await;
                let plain = answer(&mut stand.plain, sql, &[], form).await;
                assert_eq!(told(&combined, true), told(&plain, true), "{form}: {sql} in {transaction:?}");
            }
        }
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    assert_eq!(stand.shards.on_each(count).await, ["0", "0", "0"]);
    stand.stop().await;
}

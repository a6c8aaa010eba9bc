//! Statements at random: a template, and values of a small stock, so that rows are met again and again.

use rand::Rng;
use rand::rngs::StdRng;

/// Statements with holes that the generator fills: `{i}` a small number, `{k}` a key, `{x}` a word, `{u}` a UUID, `{d}` a
/// date, `{m}` a number with a fraction or NULL.
pub const READS: &[&str] = &[
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

pub const WRITES: &[&str] = &[
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

/// A template with its holes filled.
pub fn fill(template: &str, random: &mut StdRng) -> String {
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

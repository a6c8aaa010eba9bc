use super::super::literals::literal;
use super::super::statement::Kind;
use super::super::text::analyse;
use super::super::uses::{Access, Insert, Operand, Uses};

fn uses(text: &str) -> Uses {
    let analysis = analyse(text);
    let statement = analysis.statements.first().unwrap_or_else(|| panic!("{text}"));
    assert_ne!(statement.kind, Kind::Utility, "{text}");
    *statement.uses.clone().unwrap_or_else(|| panic!("not parsed: {text}"))
}

fn shown(text: &str, operand: &Operand) -> String {
    let cast = |cast: &Option<super::super::uses::CastType>| cast.map_or(String::new(), |to| format!("::{to:?}"));
    match operand {
        Operand::Literal { ordinal, is_negative, cast: to } => {
            let minus = if *is_negative { "-" } else { "" };
            let value = match literal(text.as_bytes(), *ordinal) {
                Some(super::super::literals::Literal::Number(number)) => number.to_owned(),
                Some(super::super::literals::Literal::String(string)) => format!("'{string}'"),
                None => "?".to_owned(),
            };
            format!("{minus}{value}{}", cast(to))
        }
        Operand::Parameter { index, cast: to } => format!("${}{}", index + 1, cast(to)),
        Operand::Elements { index } => format!("any(${})", index + 1),
        Operand::Column { table, column } => format!("{table}.{column}"),
        Operand::Null => "null".to_owned(),
        Operand::Default => "default".to_owned(),
        Operand::Unknown => "?".to_owned(),
    }
}

/// `0.id=5 1.k=0.id`, sorted.
fn facts(text: &str) -> String {
    let uses = uses(text);
    let mut facts: Vec<String> = (uses.facts.iter())
        .map(|fact| {
            let values: Vec<String> = fact.values.iter().map(|value| shown(text, value)).collect();
            format!("{}.{}={}", fact.table, fact.column, values.join("|"))
        })
        .collect();
    facts.sort();
    facts.dedup();
    facts.join(" ")
}

fn tables(text: &str) -> String {
    let letter = |access| match access {
        Access::Read => 'r',
        Access::Change => 'c',
        Access::Insert => 'i',
    };
    let tables = uses(text).tables;
    let shown: Vec<String> =
        tables.iter().map(|table| format!("{}:{}", letter(table.access), table.relation)).collect();
    shown.join(" ")
}

fn inserted(text: &str) -> String {
    let uses = uses(text);
    let shown_row = |row: &[Operand]| row.iter().map(|value| shown(text, value)).collect::<Vec<_>>().join(",");
    let one = |Insert { table, columns, rows, .. }: &Insert| {
        let columns = columns.as_ref().map_or("*".to_owned(), |columns| columns.join(","));
        let rows: Vec<String> = rows.iter().map(|row| format!("({})", shown_row(row))).collect();
        format!("{table}[{columns}]{}", rows.join(""))
    };
    uses.inserts.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_table_has_its_use() {
    for (text, expected) in [
        ("SELECT 1", ""),
        ("SELECT * FROM t", "r:t"),
        ("SELECT * FROM s.t a, t b JOIN u ON true", "r:s.t r:t r:u"),
        ("SELECT * FROM (SELECT * FROM t) x, generate_series(1, 2) g, LATERAL (SELECT * FROM u) y", "r:t r:u"),
        ("WITH c AS (SELECT * FROM t) SELECT * FROM c, public.c", "r:public.c r:t"),
        ("SELECT (SELECT max(a) FROM t) FROM u ORDER BY (SELECT 1 FROM v)", "r:u r:t r:v"),
        ("SELECT * FROM t WHERE a IN (SELECT b FROM u) UNION SELECT * FROM v", "r:t r:u r:v"),
        ("INSERT INTO t SELECT * FROM u", "i:t r:u"),
        ("UPDATE t SET a = (SELECT 1 FROM u) FROM v", "c:t r:v r:u"),
        ("DELETE FROM t USING u WHERE EXISTS (SELECT 1 FROM v)", "c:t r:u r:v"),
        ("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", "i:u c:t"),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "c:t r:u"),
        ("TABLE t", "r:t"),
        ("SELECT * FROM (t JOIN u ON true) j", "r:t r:u"),
        ("VALUES (1), ((SELECT 2 FROM t))", "r:t"),
    ] {
        let mut found: Vec<String> = tables(text).split_whitespace().map(str::to_owned).collect();
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn what_is_said_of_columns() {
    for (text, expected) in [
        ("SELECT * FROM t WHERE id = 5", "0.id=5"),
        ("SELECT * FROM t WHERE 'x' = ID", "0.id='x'"),
        ("SELECT * FROM t WHERE id = $2 AND (a > 3 AND b = -7)", "0.b=-7 0.id=$2"),
        ("SELECT * FROM t WHERE \"Id\" = 5", "0.Id=5"),
        ("SELECT * FROM t WHERE id = '5'::int8 AND a = CAST($1 AS uuid)", "0.a=$1::Uuid 0.id='5'::Number"),
        ("SELECT * FROM t WHERE id = date '2020-01-01'", "0.id='2020-01-01'::Date"),
        ("SELECT * FROM t WHERE id IN (1, $1, NULL)", "0.id=1|$1|null"),
        ("SELECT * FROM t WHERE id = ANY ($1) AND b = ANY (ARRAY[1, 2])", "0.b=1|2 0.id=any($1)"),
        ("SELECT * FROM t WHERE id = ANY ($1::int[])", "0.id=any($1)"),
        ("SELECT * FROM t WHERE (a, b) = (1, 'x')", "0.a=1 0.b='x'"),
        ("SELECT * FROM t WHERE (a, b) IN ((1, 2), (3, 4))", "0.a=1|3 0.b=2|4"),
        ("SELECT * FROM t AS x WHERE x.id = 5", "0.id=5"),
        ("SELECT * FROM s.t WHERE s.t.id = 5 AND t.a = 6", "0.a=6 0.id=5"),
        // Nothing can be concluded.
        ("SELECT * FROM t WHERE id = 5 OR a = 1", ""),
        ("SELECT * FROM t WHERE NOT id = 5", ""),
        ("SELECT * FROM t WHERE id <> 5 AND id > 1", ""),
        ("SELECT * FROM t WHERE id NOT IN (5)", ""),
        ("SELECT * FROM t WHERE id = f(5)", ""),
        ("SELECT * FROM t WHERE id = 5 + 1", ""),
        ("SELECT * FROM t WHERE id IN (5, f(1))", ""),
        ("SELECT * FROM t WHERE id = 5::text", ""),
        ("SELECT * FROM t WHERE id = '5'::varchar(1)", ""),
        ("SELECT * FROM t WHERE id::text = '5'", ""),
        ("SELECT * FROM t WHERE coalesce(id, 1) = 5", ""),
        ("SELECT * FROM t x(id, k) WHERE x.id = 5", ""),
        ("SELECT * FROM t HAVING id = 5", ""),
        ("SELECT * FROM (SELECT * FROM t) x WHERE x.id = 5", ""),
        ("SELECT id = 5 FROM t", ""),
        // Joins.
        ("SELECT * FROM t JOIN u ON t.id = u.tid WHERE t.id = 5", "0.id=1.tid 0.id=5 1.tid=0.id"),
        ("SELECT * FROM t, u WHERE t.id = u.tid", "0.id=1.tid 1.tid=0.id"),
        ("SELECT * FROM t JOIN u USING (id) WHERE t.id = 1", "0.id=1 0.id=1.id 1.id=0.id"),
        ("SELECT * FROM t LEFT JOIN u ON t.id = u.tid AND t.id = 5", "1.tid=0.id"),
        ("SELECT * FROM t LEFT JOIN u ON u.tid = 5", "1.tid=5"),
        ("SELECT * FROM t LEFT JOIN u ON true WHERE u.tid = 5", "1.tid=5"),
        ("SELECT * FROM t RIGHT JOIN u ON t.id = u.tid AND u.tid = 5", "0.id=1.tid"),
        ("SELECT * FROM t FULL JOIN u ON t.id = u.tid AND t.id = 5", ""),
        ("SELECT * FROM t LEFT JOIN u USING (id)", "1.id=0.id"),
        ("SELECT * FROM t NATURAL JOIN u WHERE t.id = 5", "0.id=5"),
        // Sub-queries.
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.tid = t.id)", "1.tid=0.id"),
        ("SELECT * FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.tid = t.id AND u.tid = 5)", "1.tid=0.id 1.tid=5"),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE t.id = 5)", ""),
        ("SELECT * FROM t WHERE id IN (SELECT tid FROM u WHERE tid = 5)", "0.id=1.tid 1.tid=5"),
        ("SELECT * FROM t WHERE id NOT IN (SELECT tid FROM u)", ""),
        ("SELECT * FROM t WHERE id IN (SELECT tid FROM u UNION SELECT 1)", ""),
        ("WITH c AS (SELECT * FROM t WHERE id = 5) SELECT * FROM c WHERE id = 6", "0.id=5"),
        ("SELECT * FROM t WHERE id = 1 UNION ALL SELECT * FROM t WHERE id = 2", "0.id=1 1.id=2"),
        // Changes.
        ("UPDATE t SET a = 1 WHERE id = 5", "0.id=5"),
        ("UPDATE t SET a = u.a FROM u WHERE t.id = u.tid AND u.tid = $1", "0.id=1.tid 1.tid=$1 1.tid=0.id"),
        ("DELETE FROM t USING u WHERE t.id = u.id AND t.id = 5", "0.id=1.id 0.id=5 1.id=0.id"),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", "0.id=1.id"),
        ("MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED BY SOURCE THEN DELETE", ""),
    ] {
        assert_eq!(facts(text), expected, "{text}");
    }
}

#[test]
fn rows_that_are_put_in() {
    for (text, expected) in [
        ("INSERT INTO t (a, id) VALUES (1, 'x'), ($1, DEFAULT)", "0[a,id](1,'x')($1,default)"),
        ("INSERT INTO t VALUES (1, -2)", "0[*](1,-2)"),
        ("INSERT INTO t (id) Overriding System Value VALUES (1)", "0[id](1)"),
        (
            "INSERT INTO t (system, value) SELECT value, system FROM u AS overriding",
            "0[system,value](1.value,1.system)",
        ),
        ("INSERT INTO t DEFAULT VALUES", "0[*]()"),
        ("INSERT INTO t (id) SELECT tid FROM u WHERE tid = 5", "0[id](1.tid)"),
        ("INSERT INTO t (id, a) SELECT 5, x.* FROM u x", "0[id,a](5)"),
        ("INSERT INTO t (a, id) SELECT *, 5 FROM u x", "0[a,id]()"),
        ("INSERT INTO t (id) SELECT 1 UNION SELECT 2", "0[id]()"),
        ("INSERT INTO t (id) (VALUES (3))", "0[id](3)"),
        ("INSERT INTO t (id, a) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET a = 3", "0[id,a](1,2)"),
        (
            "MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED THEN INSERT (id, a) VALUES (u.id, 7)",
            "0[id,a](1.id,7)",
        ),
    ] {
        assert_eq!(inserted(text), expected, "{text}");
    }
}

#[test]
fn columns_that_are_set() {
    for (text, expected) in [
        ("UPDATE t SET a = 1, id = $1 WHERE id = 5", "0.a=1 0.id=$1"),
        ("UPDATE t SET (a, id) = (1, 2)", "0.a=? 0.id=?"),
        ("UPDATE t SET id = id", ""),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = EXCLUDED.id, a = EXCLUDED.id", "0.a=?"),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET id = u.id", "0.id=1.id"),
    ] {
        let uses = uses(text);
        let assigned: Vec<String> = (uses.assignments.iter())
            .map(|set| format!("{}.{}={}", set.table, set.column, shown(text, &set.value)))
            .collect();
        assert_eq!(assigned.join(" "), expected, "{text}");
    }
}

#[test]
fn literals_are_found_where_they_stand() {
    for (text, expected) in [
        ("SELECT 'ä\nö', 1 FROM t WHERE\n  id = 'ü' AND a = 2", "0.a=2 0.id='ü'"),
        ("EXPLAIN (COSTS 0) SELECT 'x' FROM t WHERE id = 5", "0.id=5"),
        ("SELECT * FROM ONLY (t) WHERE id = 5", "0.id=5"),
        ("SELECT * FROM t WHERE id = 5 FOR NO KEY UPDATE", "0.id=5"),
        ("SELECT * FROM t WHERE id = 5 FOR KEY SHARE SKIP LOCKED", "0.id=5"),
        ("SELECT * FROM t WHERE id = $tag$five$tag$", "0.id='five'"),
        ("SELECT * FROM t WHERE id = E'x' AND a = 1", "0.a=1"),
    ] {
        assert_eq!(facts(text), expected, "{text}");
    }
}

#[test]
fn of_a_table_with_a_query_nothing_is_known() {
    for (text, is_known) in [
        ("CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, n int GENERATED ALWAYS AS (1) STORED)", true),
        ("CREATE TABLE t AS SELECT 1", false),
        ("CREATE UNLOGGED TABLE s.t (a, b) WITH (fillfactor = 10) AS VALUES (1, 2)", false),
        ("CREATE TEMP TABLE t ON COMMIT DROP AS TABLE u", false),
        ("CREATE FUNCTION f() RETURNS TABLE (a int) LANGUAGE sql AS 'SELECT 1'", true),
        ("CREATE VIEW v AS SELECT 1", true),
        ("ALTER TABLE t ADD c int", true),
        ("DROP TABLE t", true),
    ] {
        assert_eq!(analyse(text).statements[0].uses.is_some(), is_known, "{text}");
    }
}

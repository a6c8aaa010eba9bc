use super::*;

/// `t` and `u` by `id`, `p` by `(a, b)`, `s` by a text `id`, `r` everywhere; all with the columns `id`, `a`, `b`, `v` and
/// `c`, which is sorted by its bytes.
struct Tiny;

impl Tables for Tiny {
    fn rows(&self, table: &Name) -> Rows {
        let key = |names: &[&str]| Rows::ByKey(names.iter().map(|name| (*name).into()).collect());
        match &*table.name {
            "t" | "u" | "s" => key(&["id"]),
            "p" => key(&["a", "b"]),
            "r" => Rows::Everywhere,
            _ => Rows::Elsewhere,
        }
    }

    fn has_column(&self, _: &Name, column: &str) -> bool {
        matches!(column, "id" | "a" | "b" | "v" | "c")
    }

    fn are_placed_alike(&self, one: (&Name, &str), other: (&Name, &str)) -> bool {
        (&*one.0.name == "s") == (&*other.0.name == "s")
    }

    fn is_bytewise(&self, _: &Name, column: &str) -> bool {
        column == "c"
    }

    fn is_even(&self, function: &Name) -> bool {
        !matches!(&*function.name, "random" | "now" | "mine")
    }
}

fn merged(text: &str) -> Option<Merge> {
    match gathering(text.as_bytes(), &Tiny)? {
        Gathering::Merge(merge) => Some(merge),
        Gathering::Combine(_) => None,
    }
}

#[test]
fn what_each_shard_can_answer() {
    for text in [
        "SELECT * FROM t",
        "SELECT t.*, r.v FROM t, r",
        "SELECT t.id FROM t JOIN u ON t.id = u.id",
        "SELECT t.id FROM t JOIN u ON (u.id = t.id AND u.v > 3) JOIN u x ON x.id = u.id",
        "SELECT t.id FROM t, u, u x WHERE t.id = u.id AND u.id = x.id",
        "SELECT t.id FROM t JOIN r ON true JOIN u ON u.id = t.id",
        "SELECT t.id FROM (t CROSS JOIN u) LEFT JOIN r ON r.v = t.v WHERE t.id = u.id",
        "SELECT t.id FROM t LEFT JOIN u ON u.id = t.id LEFT JOIN u x ON x.id = u.id",
        "SELECT t.id FROM r RIGHT JOIN t ON r.v = t.v",
        "SELECT t.id FROM t FULL JOIN u ON t.id = u.id",
        "SELECT t.id FROM t JOIN (u JOIN r ON r.v = u.v) ON u.id = t.id",
        "SELECT p.a FROM p JOIN p q USING (a, b)",
        "SELECT p.a FROM p JOIN p q ON (p.a, p.b) = (q.a, q.b)",
        "SELECT p.a FROM p JOIN r ON r.id = p.a AND p.b = r.v JOIN p q ON q.a = r.id AND q.b = r.v",
        "SELECT id, count(*) FROM t GROUP BY id",
        "SELECT v + 1, t.id, mode() WITHIN GROUP (ORDER BY v) FROM t GROUP BY 1, 2",
        "SELECT DISTINCT ON (id) id, v FROM t ORDER BY id, v",
        "SELECT DISTINCT id, v FROM t",
        "SELECT DISTINCT t.* FROM t",
        "SELECT sum(v) OVER (PARTITION BY v, id ORDER BY a) FROM t",
        "SELECT id FROM t ORDER BY v LIMIT 3;",
        "SELECT lower(c), coalesce(v, 1), CASE WHEN v > 1 THEN 2 END, a[1] FROM t",
        "SELECT id FROM public.t",
        "SELECT id FROM t UNION ALL (SELECT v FROM u)",
    ] {
        assert!(merged(text).is_some(), "{text}");
    }
}

#[test]
fn what_is_not_certain_is_not_merged() {
    for text in [
        "",
        "SELECT",
        "SELECT 1",
        "SELECT * FROM r",
        "SELECT * FROM other",
        "SELECT * FROM t; SELECT * FROM t",
        "TABLE t",
        "VALUES (1)",
        "(SELECT * FROM t)",
        "EXPLAIN SELECT * FROM t",
        "WITH x AS (SELECT 1) SELECT * FROM t",
        "SELECT * FROM ONLY t",
        "SELECT * INTO x FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM t FOR NO KEY UPDATE",
        "SELECT * FROM t TABLESAMPLE SYSTEM (1)",
        "SELECT * FROM t, generate_series(1, 2)",
        "SELECT * FROM t, LATERAL (SELECT 1) x",
        "SELECT * FROM t AS x (id, b)",
        "SELECT * FROM t NATURAL JOIN u",
        "SELECT * FROM t JOIN u ON t.v = u.v",
        "SELECT * FROM t JOIN u ON t.id = u.id OR t.v = u.v",
        "SELECT * FROM t JOIN u ON NOT t.id = u.id",
        "SELECT * FROM t JOIN u ON t.id = id",
        "SELECT * FROM t JOIN s ON t.id = s.id",
        "SELECT * FROM t JOIN s ON t.v = s.id JOIN u ON u.id = s.id",
        "SELECT * FROM t, u",
        "SELECT * FROM t JOIN u ON true JOIN u x ON x.id = t.id",
        "SELECT * FROM p JOIN p q ON p.a = q.a",
        "SELECT * FROM p JOIN t ON p.a = t.id",
        "SELECT * FROM r LEFT JOIN t ON t.id = r.id",
        "SELECT * FROM t RIGHT JOIN r ON t.id = r.id",
        "SELECT * FROM t FULL JOIN r ON t.id = r.id",
        "SELECT * FROM t FULL JOIN u USING (id)",
        "SELECT * FROM t LEFT JOIN u ON u.v = t.v WHERE t.id = u.id",
        "SELECT * FROM r LEFT JOIN (t CROSS JOIN u) ON true WHERE t.id = u.id",
        "SELECT * FROM t x LEFT JOIN (t CROSS JOIN u) ON x.id = t.id WHERE t.id = u.id",
        "SELECT * FROM t LEFT JOIN u ON u.id = t.id JOIN p ON p.a = u.v",
        "SELECT count(*) FROM t",
        "SELECT id FROM t HAVING true",
        "SELECT v FROM t GROUP BY v",
        "SELECT v AS id FROM t GROUP BY id + 0",
        "SELECT u.id FROM t LEFT JOIN u ON t.id = u.id GROUP BY u.id",
        "SELECT id FROM t GROUP BY CUBE (id)",
        "SELECT id FROM t GROUP BY GROUPING SETS ((id), ())",
        "SELECT DISTINCT v FROM t",
        "SELECT DISTINCT id + 0 FROM t",
        "SELECT DISTINCT a FROM p",
        "SELECT rank() OVER (ORDER BY id) FROM t",
        "SELECT rank() OVER (PARTITION BY v) FROM t",
        "SELECT rank() OVER w FROM t WINDOW w AS (PARTITION BY id)",
        "SELECT id FROM t WHERE v IN (SELECT 1)",
        "SELECT ARRAY(SELECT 1) FROM t",
        "SELECT random() FROM t",
        "SELECT now() FROM t",
        "SELECT current_date FROM t",
        "SELECT mine(v) FROM t",
        "SELECT id FROM t WHERE c = 'now'",
        "SELECT ctid FROM t",
        "SELECT \"xmin\" FROM t",
        "SELECT 't'::regclass FROM t",
        "SELECT t FROM t",
        "SELECT t.count FROM t",
        "SELECT x.id FROM t",
        "SELECT id FROM t LIMIT NULL",
        "SELECT id FROM t LIMIT 1 + 1",
        "SELECT id FROM t LIMIT -1",
        "SELECT id FROM t LIMIT 9223372036854775808",
        "SELECT id FROM t FETCH FIRST 1 ROW WITH TIES",
        "SELECT id FROM t ORDER BY v USING >",
        "SELECT *, v FROM t ORDER BY 2",
        "SELECT id FROM t ORDER BY 2",
        "SELECT id, v AS id FROM t ORDER BY id",
        "SELECT *, v AS id FROM t ORDER BY id",
        "SELECT a + b, '2020-01-01'::date FROM t ORDER BY date",
        "SELECT trim(c) FROM t ORDER BY btrim",
        "SELECT DISTINCT id FROM t ORDER BY v",
        "SELECT DISTINCT id FROM t ORDER BY id + 0",
    ] {
        assert_eq!(merged(text), None, "{text}");
    }
}

#[test]
fn sorted_columns_are_added_behind_the_others() {
    for (text, sent) in [
        ("SELECT id FROM t ORDER BY v", "SELECT id, (v) AS \"pgsluice sort 1\" FROM t ORDER BY v"),
        (
            "select distinct id -- FROM\n , a IS DISTINCT FROM b FROM t ORDER BY 2 desc, id",
            "select distinct id -- FROM\n , a IS DISTINCT FROM b, (a IS DISTINCT FROM b) AS \"pgsluice sort 1\", (id) AS \"pgsluice sort 2\" FROM t ORDER BY 2 desc, id",
        ),
        (
            "SELECT v * 2 AS w, (a) b FROM t WHERE v > 1 ORDER BY w, b NULLS FIRST, extract(day FROM c), a + b;",
            "SELECT v * 2 AS w, (a) b, (v * 2) AS \"pgsluice sort 1\", ((a)) AS \"pgsluice sort 2\", (extract(day FROM c)) AS \"pgsluice sort 3\", (a + b) AS \"pgsluice sort 4\" FROM t WHERE v > 1 ORDER BY w, b NULLS FIRST, extract(day FROM c), a + b;",
        ),
        ("SELECT * FROM t ORDER BY id", "SELECT *, (id) AS \"pgsluice sort 1\" FROM t ORDER BY id"),
        (
            "SELECT lower(c), c FROM t ORDER BY lower",
            "SELECT lower(c), c, (lower(c)) AS \"pgsluice sort 1\" FROM t ORDER BY lower",
        ),
        ("SELECT v::text FROM t ORDER BY v", "SELECT v::text, (v::text) AS \"pgsluice sort 1\" FROM t ORDER BY v"),
        (
            "SELECT $1::text, CASE WHEN a > 1 THEN 2 END, b::mine FROM t ORDER BY v",
            "SELECT $1::text, CASE WHEN a > 1 THEN 2 END, b::mine, (v) AS \"pgsluice sort 1\" FROM t ORDER BY v",
        ),
        (
            "SELECT CASE WHEN a > 1 THEN 2 END, 'x'::mine FROM t ORDER BY mine, \"case\"",
            "SELECT CASE WHEN a > 1 THEN 2 END, 'x'::mine, ('x'::mine) AS \"pgsluice sort 1\", (CASE WHEN a > 1 THEN 2 END) AS \"pgsluice sort 2\" FROM t ORDER BY mine, \"case\"",
        ),
        ("SELECT id FROM t LIMIT 3 OFFSET 4", "SELECT id FROM t LIMIT (3::bigint + 4::bigint)"),
        ("SELECT id FROM t OFFSET $2 LIMIT $1 ;", "SELECT id FROM t LIMIT ($1::bigint + $2::bigint) ;"),
        ("SELECT id FROM t OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", "SELECT id FROM t LIMIT (3::bigint + 2::bigint)"),
        ("SELECT id FROM t OFFSET $1", "SELECT id FROM t OFFSET ($1::bigint * 0)"),
        ("SELECT id FROM t LIMIT 3", "SELECT id FROM t LIMIT 3"),
    ] {
        assert_eq!(merged(text).map(|merge| merge.text.into_string()).as_deref(), Some(sent), "{text}");
    }
}

#[test]
fn keys_and_counts() {
    let merge =
        merged("SELECT id FROM t ORDER BY v DESC, c ASC NULLS FIRST, v COLLATE \"C\" LIMIT $2 OFFSET 7").unwrap();
    let key = |is_descending, nulls_first, is_bytewise| SortKey { is_descending, nulls_first, is_bytewise };
    assert_eq!(*merge.sort, [key(true, true, false), key(false, true, true), key(false, false, true)]);
    assert_eq!((merge.limit, merge.offset), (Count::Parameter(1), Count::Number(7)));
}

#[test]
fn places_of_errors() {
    let text = "SELECT 'é', id FROM t ORDER BY v, a LIMIT 3 OFFSET 1 -- x";
    let merge = merged(text).unwrap();
    let place = |text: &str, word: &str| text[..text.rfind(word).unwrap()].chars().count() + 1;
    for word in ["'é'", "id", "FROM", "ORDER", "a LIMIT", "-- x"] {
        assert_eq!(merge.place_in(text, place(&merge.text, word)), Some(place(text, word)), "{word}");
    }
    assert_eq!(merge.place_in(text, place(&merge.text, "pgsluice")), None);
    assert_eq!(merge.place_in(text, place(&merge.text, "::bigint")), None);
    assert_eq!(merge.place_in(text, 0), None);
}

fn combined(text: &str) -> Option<Combine> {
    match gathering(text.as_bytes(), &Tiny)? {
        Gathering::Merge(_) => None,
        Gathering::Combine(combine) => Some(combine),
    }
}

#[test]
fn what_is_asked_of_each_shard_and_what_is_made_of_it() {
    let source = |types: &str| {
        let arrays = types
            .split(' ')
            .enumerate()
            .map(|(at, name)| format!("pg_catalog.unnest(${}::pg_catalog.\"{name}\"[])", at + 2));
        let (arrays, names): (Vec<_>, Vec<_>) =
            arrays.enumerate().map(|(at, array)| (array, format!("\"pgsluice {}\"", at + 1))).unzip();
        let names = names.join(", ");
        format!(
            " FROM (SELECT {names} FROM ROWS FROM ({}) AS \"pgsluice\" ({names})) AS \"pgsluice\"",
            arrays.join(", ")
        )
    };
    for (text, way, types, partial, last) in [
        (
            "SELECT v, count(*) FROM t WHERE a > 1 GROUP BY v HAVING sum(b) > $1 ORDER BY count(*) DESC LIMIT 3",
            0,
            "int4 int8 int8",
            "SELECT (v), (pg_catalog.count(*)), (pg_catalog.sum(b)) FROM t WHERE a > 1\nGROUP BY 1",
            "SELECT \"pgsluice 1\" AS \"one\", COALESCE(pg_catalog.sum(\"pgsluice 2\"), 0)::pg_catalog.int8 AS \"two\"\
             {source} GROUP BY \"pgsluice 1\" HAVING pg_catalog.sum(\"pgsluice 3\")::pg_catalog.\"int8\" > $1 ORDER BY \
             COALESCE(pg_catalog.sum(\"pgsluice 2\"), 0)::pg_catalog.int8 DESC LIMIT 3",
        ),
        (
            "SELECT lower(c) || t.a::text AS one, avg(v) FROM t GROUP BY lower(c), a ORDER BY one, a",
            0,
            "text int4 int8 int8",
            "SELECT (lower(c)), (a), (pg_catalog.sum(v)), (pg_catalog.count(v)) FROM t\nGROUP BY 1, 2",
            "SELECT \"pgsluice 1\" || \"pgsluice 2\"::text AS \"one\", (pg_catalog.sum(\"pgsluice 3\") \
             OPERATOR(pg_catalog./) pg_catalog.sum(\"pgsluice 4\")) AS \"two\"{source} GROUP BY \"pgsluice 1\", \
             \"pgsluice 2\" ORDER BY \"one\", \"pgsluice 2\"",
        ),
        (
            "SELECT count(DISTINCT a), min(b) FROM t",
            0,
            "int4 int4",
            "SELECT (a), (pg_catalog.min(b)) FROM t\nGROUP BY 1",
            "SELECT count(DISTINCT \"pgsluice 1\") AS \"one\", pg_catalog.min(\"pgsluice 2\") AS \"two\"{source}",
        ),
        (
            "SELECT string_agg(c, ',' ORDER BY a, b DESC), count(*) FILTER (WHERE a > b) FROM t",
            0,
            "text int4 int4 bool",
            "SELECT (c), (a), (b), (a > b) FROM t",
            "SELECT string_agg(\"pgsluice 1\", ',' ORDER BY \"pgsluice 2\", \"pgsluice 3\" DESC) AS \"one\", count(*) \
             FILTER (WHERE \"pgsluice 4\") AS \"two\"{source}",
        ),
        (
            "SELECT DISTINCT v, a + 1 FROM t ORDER BY t.v, a + 1 DESC",
            0,
            "int4 int4",
            "SELECT DISTINCT v, a + 1 FROM t",
            "SELECT DISTINCT \"pgsluice 1\" AS \"one\", \"pgsluice 2\" AS \"two\"{source} ORDER BY \"pgsluice 1\", \
             \"pgsluice 2\" DESC",
        ),
        (
            "SELECT id, v FROM t UNION SELECT a, b FROM u ORDER BY two DESC, 1 LIMIT 2",
            0,
            "int4 int4",
            "SELECT id, v FROM t UNION SELECT a, b FROM u",
            "SELECT DISTINCT \"pgsluice 1\" AS \"one\", \"pgsluice 2\" AS \"two\"{source} ORDER BY \"two\" DESC, 1 LIMIT 2",
        ),
    ] {
        let combine = combined(text).unwrap_or_else(|| panic!("{text}"));
        let steps = &combine.ways[way];
        assert_eq!(&*steps.partial, partial, "{text}");
        let oids: Vec<u32> = types
            .split(' ')
            .map(|name| match name {
                "int4" => 23,
                "int8" => 20,
                "bool" => 16,
                _ => 25,
            })
            .collect();
        let collations = vec![None; oids.len()];
        let shown = Shown { types: &oids, collations: &collations, names: &["one", "two"], parameters: 1 };
        let wanted = last.replace("{source}", &source(types));
        assert_eq!(steps.last(shown).as_deref(), Some(&*wanted), "{text}");
    }
}

#[test]
fn what_is_not_certain_is_not_combined() {
    for text in [
        "SELECT count(*) FROM r",
        "SELECT count(*) FROM t JOIN u ON t.v = u.v",
        "SELECT count(*) OVER () FROM t",
        "SELECT v, rank() OVER (ORDER BY v) FROM t GROUP BY v",
        "SELECT DISTINCT ON (v) v FROM t",
        "SELECT DISTINCT v, rank() OVER (ORDER BY v) FROM t",
        "SELECT count(*) FROM t GROUP BY GROUPING SETS ((v), ())",
        "SELECT count(*) FROM t GROUP BY (v, a)",
        "SELECT *, count(*) FROM t GROUP BY v",
        "SELECT count(DISTINCT v) FILTER (WHERE a > 1) FROM t WHERE a > random()",
        "SELECT id FROM t EXCEPT SELECT id FROM u",
        "SELECT id FROM t UNION SELECT v FROM t UNION ALL SELECT v FROM u",
        "SELECT id FROM t UNION SELECT v FROM r",
        "SELECT id FROM t UNION (SELECT v FROM u LIMIT 3)",
        "SELECT id FROM t UNION SELECT count(*) FROM u",
        "SELECT max(v ORDER BY a) OVER () FROM t",
        "SELECT mine(v) FROM t GROUP BY v",
        "SELECT xmlforest(v), count(*) FROM t GROUP BY v",
    ] {
        assert_eq!(combined(text), None, "{text}");
    }
}

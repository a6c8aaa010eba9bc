use super::*;
use crate::shard::{Bucket, BucketMap, Charset, KeyColumn, SqlType, Versions};
use crate::sql::analyse;

const SHARDS: [(&str, u32); 3] = [("a", 1), ("b", 1), ("c", 1)];

fn column(name: &str, sql_type: Option<SqlType>) -> Column {
    Column {
        name: name.into(),
        key: sql_type.map(KeyColumn::of),
        is_made_up: false,
        draws_keys: false,
        is_bytewise: false,
    }
}

fn table(name: &str, columns: &[(&str, Option<SqlType>)], placement: Placement) -> Table {
    let columns = columns.iter().map(|(name, sql_type)| column(name, *sql_type)).collect();
    Table { schema: None, name: name.into(), columns, placement, is_table: true }
}

/// Its last column has a default that is not a constant.
fn made_up(mut table: Table) -> Table {
    table.columns.last_mut().unwrap().is_made_up = true;
    table
}

/// Its first column's default gives keys.
fn drawn(mut table: Table) -> Table {
    table.columns.first_mut().unwrap().draws_keys = true;
    table
}

fn key(parts: &[(&str, SqlType)]) -> Placement {
    let part =
        |(name, sql_type): &(&str, SqlType)| KeyPart { name: (*name).into(), column: Ok(KeyColumn::of(*sql_type)) };
    Placement::Key(parts.iter().map(part).collect())
}

fn distribution() -> Distribution {
    use SqlType::{Int4, Int8, Text, Uuid};
    let tables = [
        table("t", &[("id", Some(Int8)), ("v", None)], key(&[("id", Int8)])),
        table("u", &[("x", None), ("t_id", Some(Int4))], key(&[("t_id", Int4)])),
        table("n", &[("name", Some(Text))], key(&[("name", Text)])),
        table("w", &[("id", Some(Uuid))], key(&[("id", Uuid)])),
        table("p", &[("a", Some(Int8)), ("b", Some(Text))], key(&[("a", Int8), ("b", Text)])),
        table("r", &[("code", None)], Placement::Reference),
        table("s", &[("x", None)], Placement::Shard("b".into())),
        drawn(table("g", &[("id", Some(Int8)), ("v", None)], key(&[("id", Int8)]))),
        drawn(table("h", &[("a", Some(Int8)), ("b", Some(Text))], key(&[("a", Int8), ("b", Text)]))),
        made_up(table("m", &[("code", None), ("at", None)], Placement::Reference)),
    ];
    Distribution::new(tables, Some(Arc::new(BucketMap::new(SHARDS).unwrap())))
}

fn lot() -> Lot<'static> {
    Lot { here: None, bucket: Bucket::new(7).unwrap() }
}

fn of_key(values: &[KeyValue<'_>]) -> Places {
    let map = BucketMap::new(SHARDS).unwrap();
    Places::One(Arc::clone(&map.placement(&KeyDigest::of(values)).shard))
}

fn number(value: i64) -> Places {
    of_key(&[KeyValue::Integer(value)])
}

fn place_with(sql: &str, parameters: &[Parameter<'_>]) -> Result<Places, Unplaced> {
    let analysis = analyse(sql);
    let uses = analysis.statements[0].uses.as_deref().unwrap_or_else(|| panic!("{sql}"));
    let values = Values { text: sql.as_bytes(), parameters, charset: Charset::Utf8, temporary: None, lot: lot() };
    places(uses, &distribution(), values)
}

fn place(sql: &str) -> Result<Places, Unplaced> {
    place_with(sql, &[])
}

/// What a statement for several shards does; `None` for one that is not.
fn spread(sql: &str) -> Option<Spread> {
    match place(sql) {
        Ok(Places::Several { spread, .. }) => Some(spread),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn one_key_is_one_shard() {
    for sql in [
        "SELECT * FROM t WHERE id = 7",
        "SELECT * FROM t WHERE 7 = id AND v > 3",
        "SELECT * FROM t WHERE id = '7'",
        "SELECT * FROM t WHERE id = 7::int",
        "SELECT * FROM t WHERE id IN (7)",
        "SELECT * FROM t AS x WHERE x.id = 7",
        "SELECT * FROM public.t WHERE id = 7 FOR UPDATE",
        "SELECT * FROM t JOIN u ON u.t_id = t.id WHERE t.id = 7",
        "SELECT * FROM t LEFT JOIN u ON u.t_id = t.id WHERE t.id = 7",
        "SELECT * FROM t, u WHERE u.t_id = 7 AND t.id = u.t_id",
        "WITH c AS (SELECT * FROM t WHERE id = 7) SELECT count(*) FROM c",
        "SELECT * FROM t WHERE id = 7 AND EXISTS (SELECT FROM u WHERE u.t_id = t.id)",
        "SELECT * FROM (SELECT * FROM t WHERE id = 7) AS x, r",
        "INSERT INTO t VALUES (7, 'x')",
        "INSERT INTO t (v, id) VALUES ('x', 7), ('y', 7) ON CONFLICT DO NOTHING RETURNING *",
        "INSERT INTO u SELECT v, id FROM t WHERE id = 7",
        "UPDATE t SET v = 1 WHERE id = 7",
        "UPDATE t SET id = 7, v = 2 WHERE id = 7",
        "DELETE FROM t WHERE id = 7 AND v = ANY (ARRAY[1, 2])",
    ] {
        assert_eq!(place(sql), Ok(number(7)), "{sql}");
    }
    assert_eq!(place("SELECT * FROM t WHERE id = -7"), Ok(number(-7)));
    let text = |text: &'static str| of_key(&[KeyValue::Text(text.into())]);
    assert_eq!(place("SELECT * FROM n WHERE name = 'it''s'"), Ok(text("it's")));
    assert_eq!(place("SELECT * FROM n WHERE name = $$x$$"), Ok(text("x")));
    let both = of_key(&[KeyValue::Integer(1), KeyValue::Text("x".into())]);
    assert_eq!(place("SELECT * FROM p WHERE b = 'x' AND a = 1"), Ok(both));
}

#[test]
fn parameters_in_both_formats() {
    let text = |value| Parameter { oid: 0, is_binary: false, value: Some(value) };
    let binary = |oid, value| Parameter { oid, is_binary: true, value: Some(value) };
    let (eight, four) = (7i64.to_be_bytes(), 7i32.to_be_bytes());
    let sql = "SELECT * FROM t WHERE id = $1";
    for parameter in [text(b"7"), text(b" 7 "), binary(0, &eight), binary(20, &eight), binary(23, &four)] {
        assert_eq!(place_with(sql, &[parameter]), Ok(number(7)), "{parameter:?}");
    }
    let null = Parameter { oid: 0, is_binary: false, value: None };
    assert_eq!(place_with(sql, &[null]), Ok(Places::Any), "no row has NULL for its key");
    assert_eq!(place_with("SELECT * FROM t WHERE id = $1::bigint", &[text(b"7")]), Ok(number(7)));
    assert_eq!(place_with("SELECT * FROM t WHERE id = ANY ($1)", &[text(b"{7,7,NULL}")]), Ok(number(7)));
    let array = [1i32, 0, 20, 1, 1, 8].iter().flat_map(|part| part.to_be_bytes()).chain(eight).collect::<Vec<u8>>();
    assert_eq!(place_with("SELECT * FROM t WHERE id = ANY ($1)", &[binary(0, &array)]), Ok(number(7)));
    let uuid = [7; 16];
    let given = "07070707-0707-0707-0707-070707070707";
    let as_text = Parameter { oid: 25, is_binary: true, value: Some(given.as_bytes()) };
    assert_eq!(place_with("SELECT * FROM w WHERE id = $1::uuid", &[as_text]), Ok(of_key(&[KeyValue::Uuid(uuid)])));
    // The server takes the type of a parameter from where it stands first.
    let twice = "SELECT * FROM t WHERE v = $1 AND id = $1";
    assert!(matches!(place_with(twice, &[binary(0, &eight)]), Err(Unplaced::Value { .. })));
    assert_eq!(place_with(twice, &[text(b"7")]), Ok(number(7)));
    for wrong in [text(b"x"), text(b"7.5"), binary(0, b"\0\0\0\x07"), binary(25, b"7")] {
        assert!(matches!(place_with(sql, &[wrong]), Err(Unplaced::Value { .. })), "{wrong:?}");
    }
    assert!(matches!(place_with(sql, &[]), Err(Unplaced::Value { .. })), "it is not there");
}

#[test]
fn without_a_key_any_or_several() {
    for sql in ["SELECT 1", "SELECT * FROM r", "SELECT * FROM pg_class", "SELECT * FROM information_schema.tables"] {
        assert_eq!(place(sql), Ok(Places::Any), "{sql}");
    }
    assert_eq!(place("SELECT * FROM s, r"), Ok(Places::One("b".into())));
    for (sql, expected) in [
        ("SELECT * FROM t", Spread::Mixed),
        ("SELECT * FROM t WHERE id = 7 OR v = 1", Spread::Mixed),
        ("SELECT * FROM t WHERE NOT id = 7", Spread::Mixed),
        ("SELECT * FROM t WHERE id > 7", Spread::Mixed),
        ("SELECT * FROM t WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8, 9)", Spread::Mixed),
        ("SELECT * FROM t LEFT JOIN u ON u.t_id = t.id AND t.id = 7", Spread::Mixed),
        ("SELECT * FROM t JOIN u ON true WHERE t.id = 7", Spread::Mixed),
        ("SELECT * FROM p WHERE a = 1", Spread::Mixed),
        ("INSERT INTO t VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)", Spread::Rows),
        ("INSERT INTO t VALUES (1, (SELECT max(x) FROM s)), (2, 1), (3, 1), (4, 1), (5, 1)", Spread::Mixed),
        ("INSERT INTO u SELECT v, id FROM t", Spread::Mixed),
        ("UPDATE t SET v = 1", Spread::Own),
        ("UPDATE t SET v = (SELECT max(code) FROM r) WHERE v > 2", Spread::Own),
        ("DELETE FROM t USING u WHERE u.t_id = t.id", Spread::Mixed),
        ("UPDATE t SET v = (SELECT max(v) FROM t)", Spread::Mixed),
        ("UPDATE t SET v = (SELECT max(x) FROM s)", Spread::Mixed),
        ("INSERT INTO r VALUES ('x')", Spread::Same),
        ("UPDATE r SET code = 'x'", Spread::Same),
        ("INSERT INTO m VALUES ('x', '2024-01-01')", Spread::Same),
        ("INSERT INTO r SELECT v FROM t", Spread::Mixed),
        ("INSERT INTO r SELECT x FROM s", Spread::Mixed),
        ("TRUNCATE t", Spread::Own),
        ("COPY t FROM STDIN", Spread::Copied { is_same: false }),
        ("COPY r FROM STDIN", Spread::Copied { is_same: true }),
    ] {
        assert_eq!(spread(sql), Some(expected), "{sql}");
    }
}

#[test]
fn what_cannot_be_said_is_an_error() {
    for (sql, expected) in [
        ("SELECT * FROM unheard", "where the rows of \"unheard\" are is not known"),
        ("INSERT INTO t (v) VALUES (1)", "the value of \"id\", by which the rows of \"t\" are placed, is not in"),
        ("INSERT INTO t VALUES (1 + 1)", "the value of \"id\", by which the rows of \"t\" are placed, is not in"),
        ("INSERT INTO t VALUES (DEFAULT)", "the value of \"id\", by which the rows of \"t\" are placed, is not in"),
        ("INSERT INTO t VALUES (NULL)", "null value in column \"id\""),
        ("INSERT INTO p VALUES (1, NULL)", "null value in column \"b\""),
        ("SELECT * FROM t WHERE id = 1.5", "a value of \"id\", by which the rows of \"t\" are placed, cannot be read"),
        ("SELECT * FROM t WHERE id = 'x'", "a value of \"id\", by which the rows of \"t\" are placed, cannot be read"),
        ("INSERT INTO m VALUES ('x')", "\"at\" of \"m\" would have another value on each shard"),
        ("INSERT INTO m (code) VALUES ('x')", "\"at\" of \"m\" would have another value on each shard"),
        ("INSERT INTO m VALUES ('x', DEFAULT)", "\"at\" of \"m\" would have another value on each shard"),
        ("UPDATE t SET id = 8 WHERE id = 7 OR id = 9", "setting \"id\""),
        ("UPDATE t SET id = id + 1 WHERE id = 7", "setting \"id\""),
        ("UPDATE t SET id = NULL WHERE id = 7", "setting \"id\""),
    ] {
        match place(sql) {
            Err(unplaced) => assert!(unplaced.to_string().starts_with(expected), "{sql}: {unplaced}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
    let without_map = Distribution::new([table("t", &[("id", None)], key(&[("id", SqlType::Int8)]))], None);
    let analysis = analyse("SELECT * FROM t WHERE id = 1");
    let values = Values {
        text: b"SELECT * FROM t WHERE id = 1",
        parameters: &[],
        charset: Charset::Utf8,
        temporary: None,
        lot: lot(),
    };
    assert_eq!(places(analysis.statements[0].uses.as_deref().unwrap(), &without_map, values), Err(Unplaced::NoMap));
}

#[test]
fn a_key_that_is_about_to_move_has_no_place() {
    let map = BucketMap::new(SHARDS).unwrap();
    let seven = KeyDigest::of(&[KeyValue::Integer(7)]);
    let Places::One(home) = number(7) else { panic!("it has a place") };
    let away = if *home == *"a" { "b" } else { "a" };
    let next = map.with_pin(seven, away, None).unwrap();
    let versions = Versions { announced: Some(Arc::new(next)), known: 2, ..Some(Arc::new(map)).into() };
    let mut changing = distribution();
    changing.versions = versions;
    let place = |sql: &str| {
        let analysis = analyse(sql);
        let values =
            Values { text: sql.as_bytes(), parameters: &[], charset: Charset::Utf8, temporary: None, lot: lot() };
        places(analysis.statements[0].uses.as_deref().unwrap(), &changing, values)
    };
    for sql in [
        "SELECT * FROM t WHERE id = 7",
        "UPDATE u SET x = 1 WHERE t_id = 7",
        "INSERT INTO t VALUES (8, 1), (7, 1), (9, 1)",
        "UPDATE t SET id = 7 WHERE id = 8",
        "SELECT * FROM u JOIN t ON t.id = u.t_id WHERE t.id = 7",
    ] {
        assert!(matches!(place(sql), Err(Unplaced::Moving { .. })), "{sql}: {:?}", place(sql));
    }
    assert_eq!(place("SELECT * FROM t WHERE id = 8"), Ok(number(8)));
    assert_eq!(place("INSERT INTO n VALUES ('7')"), Ok(of_key(&[KeyValue::Text("7".into())])));
    // Each shard changes its own rows, wherever they belong.
    assert!(matches!(place("DELETE FROM t"), Ok(Places::Several { spread: Spread::Own, .. })));
}

#[test]
fn a_key_may_be_set_to_what_stays_on_its_shard() {
    let here = number(7);
    let other = (8..100).find(|id| number(*id) == here).unwrap();
    let elsewhere = (8..100).find(|id| number(*id) != here).unwrap();
    assert_eq!(place(&format!("UPDATE t SET id = {other} WHERE id = 7")), Ok(here));
    assert!(matches!(place(&format!("UPDATE t SET id = {elsewhere} WHERE id = 7")), Err(Unplaced::MovesRow { .. })));
    let upsert = "INSERT INTO t VALUES (7, 1) ON CONFLICT (id) DO UPDATE SET id = ";
    assert_eq!(place(&format!("{upsert} excluded.id")), Ok(number(7)));
    assert!(matches!(place(&format!("{upsert} {elsewhere}")), Err(Unplaced::MovesRow { .. })));
}

#[test]
fn the_rows_that_merge_puts_in_have_their_places_too() {
    let merge =
        |on: &str, id: &str| format!("MERGE INTO t USING r ON {on} WHEN NOT MATCHED THEN INSERT (id) VALUES ({id})");
    let elsewhere = (8..100).find(|id| number(*id) != number(7)).unwrap().to_string();
    assert_eq!(place(&merge("t.id = 7", "7")), Ok(number(7)));
    assert_eq!(spread(&merge("t.id = 7", &elsewhere)), Some(Spread::Mixed));
    assert_eq!(spread(&merge("t.v = r.code", "7")), Some(Spread::Mixed), "not once on each shard");
    assert_eq!(spread(&merge("t.id = r.code", "r.code")), Some(Spread::Mixed));
    let values =
        "MERGE INTO t USING (VALUES (1), (2)) AS s (id) ON t.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id)";
    assert!(matches!(place(values), Err(Unplaced::NoKey { .. })));
    let changes = "MERGE INTO t USING r ON t.v = r.code WHEN MATCHED THEN DELETE";
    assert_eq!(spread(changes), Some(Spread::Own));
}

#[test]
fn temporary_tables_are_where_the_session_is() {
    let here: Arc<str> = "b".into();
    let place = |sql: &str| {
        let analysis = analyse(sql);
        let uses = analysis.statements[0].uses.as_deref().unwrap();
        let values = Values {
            text: sql.as_bytes(),
            parameters: &[],
            charset: Charset::Utf8,
            temporary: Some(&here),
            lot: lot(),
        };
        places(uses, &distribution(), values)
    };
    assert_eq!(place("SELECT * FROM mine"), Ok(Places::One("b".into())));
    assert_eq!(place("SELECT * FROM mine, r, s"), Ok(Places::One("b".into())));
    assert!(matches!(place("INSERT INTO mine SELECT * FROM t"), Ok(Places::Several { spread: Spread::Mixed, .. })));
    assert!(matches!(place("DELETE FROM t USING mine"), Ok(Places::Several { spread: Spread::Mixed, .. })));
}

#[test]
fn rows_whose_key_is_made_where_they_are() {
    let map = BucketMap::new(SHARDS).unwrap();
    let of_lot = || Places::One(Arc::clone(&map.shards()[map.owner(lot().bucket)].name));
    for sql in [
        "INSERT INTO g (v) VALUES (1)",
        "INSERT INTO g (v) VALUES (1), (2)",
        "INSERT INTO g VALUES (DEFAULT, 1)",
        "INSERT INTO g (v, id) VALUES (1, default), (2, DEFAULT)",
        "INSERT INTO g DEFAULT VALUES",
        "INSERT INTO g (v) SELECT 1",
        "WITH n AS (INSERT INTO g (v) VALUES (1) RETURNING id) SELECT * FROM n",
    ] {
        assert_eq!(place(sql), Ok(of_lot()), "{sql}");
    }
    for (sql, expected) in [
        ("INSERT INTO g (id, v) VALUES (DEFAULT, 1), (5, 2)", number(5)),
        ("INSERT INTO g (v) SELECT v FROM t WHERE id = 9", number(9)),
    ] {
        assert_eq!(place(sql), Ok(expected), "{sql}");
    }
    for sql in [
        "INSERT INTO g (id, v) VALUES (random(), 1)",
        "INSERT INTO g (id, v) SELECT id, v FROM r UNION SELECT 1, 2",
        "INSERT INTO g SELECT * FROM r",
        "INSERT INTO h (b) VALUES ('x')",
        "INSERT INTO t (v) VALUES (1)",
        "INSERT INTO t VALUES (DEFAULT, 1)",
    ] {
        assert!(matches!(place(sql), Err(Unplaced::NoKey { .. })), "{sql}: {:?}", place(sql));
    }
    let here: Arc<str> = "b".into();
    let sql = "INSERT INTO g (v) VALUES (1)";
    let lot = Lot { here: Some(&here), ..lot() };
    let values = Values { text: sql.as_bytes(), parameters: &[], charset: Charset::Utf8, temporary: None, lot };
    let analysis = analyse(sql);
    let uses = analysis.statements[0].uses.as_deref().unwrap();
    assert_eq!(places(uses, &distribution(), values), Ok(Places::One(Arc::clone(&here))));
    // Of rows for several shards, those without a key go where the lot says.
    let sql = "INSERT INTO g (id, v) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (DEFAULT, 6)";
    let values = Values { text: sql.as_bytes(), ..values };
    let analysis = analyse(sql);
    let uses = analysis.statements[0].uses.as_deref().unwrap();
    assert!(matches!(places(uses, &distribution(), values), Ok(Places::Several { spread: Spread::Rows, .. })));
    let rows = places_of_rows(uses, &distribution(), values).unwrap().unwrap();
    assert_eq!(rows.last(), Some(&here));
}

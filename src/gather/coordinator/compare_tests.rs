use std::path::Path;

use super::*;

fn config(tables: &str) -> Config {
    let text = format!(
        "auth.users = [{{ name = 'u', password = 'p' }}]\n\
         shards = [{{ name = 'a', nodes = ['h:1'] }}, {{ name = 'b', nodes = ['h:2'] }}]\ntables = [{tables}]"
    );
    Config::parse(&text, Path::new("/"), "t").unwrap_or_else(|errors| panic!("{errors}"))
}

fn column(text: &str) -> Column {
    let (name, type_name) = text.split_once(' ').expect("a name and a type");
    let not_null = type_name.ends_with(" NOT NULL");
    let type_name = type_name.trim_end_matches(" NOT NULL").to_owned();
    Column { name: name.to_owned(), type_name, collation: None, collation_is: None, not_null }
}

fn relation(schema: &str, name: &str, columns: &[&str]) -> Relation {
    Relation {
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: 'r',
        row_security: false,
        readable: true,
        columns: columns.iter().map(|text| column(text)).collect(),
        readers: Vec::new(),
    }
}

fn catalog(shard: &str, relations: Vec<Relation>) -> ShardCatalog {
    let locale = vec![("LC_COLLATE".to_owned(), Some("C".to_owned())), ("collation version".to_owned(), None)];
    ShardCatalog { shard: shard.to_owned(), account: "pgsluice".to_owned(), locale, relations }
}

fn said(config: &Config, a: Vec<Relation>, b: Vec<Relation>) -> Vec<String> {
    match tables(config, "a", &[catalog("a", a), catalog("b", b)]) {
        Ok((tables, nowhere)) => {
            let tables = tables.iter().map(|table| format!("{}.{} on {:?}", table.schema, table.name, table.shards));
            tables.chain(nowhere.into_iter().map(|name| format!("{name} nowhere"))).collect()
        }
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

const SHARDED: &str = "{ name = 't', shard_key = 'id' }";

#[test]
fn what_has_all_of_its_rows_on_the_coordinator_needs_nothing() {
    let config = config(
        "{ name = 't', shard_key = 'id' }, { name = 'r', reference = true }, { name = 'own', shard = 'a' }, \
         { name = 'far', shard = 'b' }, { name = 'none', shard_key = 'id' }",
    );
    let here =
        vec![relation("s", "t", &["id int4"]), relation("s", "r", &["id int4"]), relation("s", "own", &["id int4"])];
    let there =
        vec![relation("s", "t", &["id int4"]), relation("s", "r", &["id int4"]), relation("s", "far", &["x int4"])];
    assert_eq!(said(&config, here, there), ["s.far on [\"b\"]", "s.t on [\"a\", \"b\"]", "none nowhere"]);
}

#[test]
fn definitions_that_differ_are_told_by_column() {
    let config = config(SHARDED);
    let here = || vec![relation("s", "t", &["id int4 NOT NULL", "note varchar(10)"])];
    for (columns, expected) in [
        (
            &["id int4 NOT NULL", "note varchar(20)"][..],
            "column 2 differs: \"note\" varchar(10) on shard a, \"note\" varchar(20) on shard b",
        ),
        (&["id int4", "note varchar(10)"], "column 1 differs: \"id\" int4 NOT NULL on shard a, \"id\" int4 on shard b"),
        (
            &["note varchar(10)", "id int4 NOT NULL"],
            "column 1 differs: \"id\" int4 NOT NULL on shard a, \"note\" varchar(10) on shard b",
        ),
        (&["id int4 NOT NULL"], "column 2 differs: \"note\" varchar(10) on shard a, none on shard b"),
    ] {
        assert_eq!(said(&config, here(), vec![relation("s", "t", columns)]), [format!("\"s\".\"t\", {expected}")]);
    }
    assert_eq!(said(&config, here(), Vec::new()), ["\"s\".\"t\" is on shard a and not on shard b"]);
    assert_eq!(said(&config, Vec::new(), here()), ["\"s\".\"t\" is on shard b and not on shard a"]);
}

#[test]
fn a_collation_by_the_same_name_may_be_another() {
    let with = |collation: &str| {
        let mut relation = relation("s", "t", &["x text"]);
        relation.columns[0].collation = Some("public.de".to_owned());
        relation.columns[0].collation_is = Some(collation.to_owned());
        vec![relation]
    };
    let config = config(SHARDED);
    assert_eq!(said(&config, with("version 1"), with("version 1")), ["s.t on [\"a\", \"b\"]"]);
    let expected = "the collation of \"s\".\"t\", column x differs: version 1 on shard a, version 2 on shard b";
    assert_eq!(said(&config, with("version 1"), with("version 2")), [expected]);

    let mut other = catalog("b", with("version 1"));
    other.locale[1].1 = Some("2.36".to_owned());
    let problems = tables(&config, "a", &[catalog("a", with("version 1")), other]).expect_err("they differ");
    let expected = "the databases' collation version differs: none on shard a, 2.36 on shard b; make them alike";
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_name_of_two_tables_is_refused_where_it_would_be_a_views() {
    let two = || vec![relation("s", "t", &["id int4"]), relation("u", "t", &["id int4"])];
    let expected = "the name t is declared in several schemas (s, u), and could mean only one of them in a statement \
                    over several shards; rename one, or declare \"schema.name\" of the one that is used";
    assert_eq!(said(&config(SHARDED), two(), two()), [expected]);
    // Also where the other one is not sharded: its rows must not be taken for the first one's.
    let mixed = config("{ name = 's.t', shard_key = 'id' }, { name = 'u.t', reference = true }");
    assert_eq!(said(&mixed, two(), two()), [expected]);
    assert_eq!(said(&config("{ name = 's.t', shard_key = 'id' }"), two(), two()), ["s.t on [\"a\", \"b\"]"]);
    assert_eq!(said(&config("{ name = 't', reference = true }"), two(), two()), Vec::<String>::new());
}

#[test]
fn what_a_view_would_give_away_is_refused() {
    let config = config(SHARDED);
    let plain = || vec![relation("s", "t", &["id int4"])];
    let changed = |change: fn(&mut Relation)| {
        let mut relation = relation("s", "t", &["id int4"]);
        change(&mut relation);
        vec![relation]
    };
    let found = said(&config, plain(), changed(|it| it.row_security = true));
    assert!(found[0].starts_with("\"s\".\"t\" has row level security on shard b"), "{found:?}");
    let found = said(&config, changed(|it| it.readable = false), plain());
    assert_eq!(found, ["pgsluice may not read \"s\".\"t\" on shard a: GRANT pg_read_all_data TO pgsluice"]);
    let found = said(&config, plain(), changed(|it| it.kind = 'v'));
    assert_eq!(found, ["\"s\".\"t\" is a view on shard b; only tables can be declared"]);
}

#[test]
fn who_may_read_must_be_allowed_to_on_every_shard() {
    let reader = |text: &&str| {
        let (role, column) =
            text.split_once('.').map_or((*text, None), |(role, column)| (role, Some(column.to_owned())));
        Reader { role: (role != "public").then(|| role.to_owned()), column }
    };
    let list = |texts: &[&str]| texts.iter().map(reader).collect::<Vec<_>>();
    for (one, other, both) in [
        (&["x", "y"][..], &["y", "z"][..], &["y"][..]),
        (&["public"], &["x"], &["x"]),
        (&["public"], &["public", "x"], &["public"]),
        (&["x"], &["x.a", "y.a"], &["x.a"]),
        (&["x.a", "x.b"], &["x.b", "public.a"], &["x.a", "x.b"]),
        (&["x"], &[], &[]),
    ] {
        assert_eq!(readers(&[&list(one), &list(other)]), list(both), "{one:?} {other:?}");
    }
}

use std::collections::BTreeMap;
use std::path::Path;

use super::super::compare::Table;
use super::super::names::VIEWS;
use super::super::state::{FoundSchema, Rights, option};
use super::*;
use crate::config::Config;

const CONFIG: &str = "\
    auth.users = [{ name = 'u', password = 'p' }]\ncoordinator.shard = 'a'\n\
    [[shards]]\nname = 'a'\nnodes = ['h1:1']\npassword = 'hunter2'\n[[shards]]\nname = 'b'\nnodes = ['h2:2']\n";

fn reader(role: Option<&str>) -> Reader {
    Reader { role: role.map(str::to_owned), column: None }
}

fn column(name: &str) -> Column {
    let (name, type_name) = (name.to_owned(), "integer".to_owned());
    Column { name, type_name, collation: None, collation_is: None, not_null: true }
}

fn wanted(columns: &[&str], readers: Vec<Reader>) -> Wanted {
    let config = Config::parse(CONFIG, Path::new("/"), "t").unwrap_or_else(|errors| panic!("{errors}"));
    let columns = columns.iter().map(|name| column(name)).collect();
    let (schema, name, shards) = ("public".to_owned(), "t".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    Wanted::new(&config, "pgsluice", "app", &[Table { schema, name, columns, shards, readers }])
}

fn nothing() -> Found {
    let rights = Rights { extension: true, available: true, may_use_wrapper: true, may_create_schemas: true };
    Found { rights, ..Found::default() }
}

/// As it is once the plan for `wanted` has been carried out.
fn carried_out(wanted: &Wanted, columns: &[&str]) -> Found {
    let mut found = nothing();
    for server in &wanted.servers {
        let mut mapping = vec![("user".to_owned(), Secret::new(server.user.clone()))];
        mapping.extend(server.password.clone().map(|password| ("password".to_owned(), password)));
        let mappings = BTreeMap::from([(wanted.account.clone(), mapping)]);
        let comment = Some(format!("{MADE}server"));
        found.servers.insert(server.name.clone(), FoundServer { comment, options: server.options.clone(), mappings });
    }
    for schema in &wanted.schemas {
        let (name, comment) = (schema.name.clone(), Some(schema.mark.clone()));
        found.schemas.insert(name.clone(), FoundSchema { name, comment, is_public: schema.is_public });
    }
    for made in &wanted.relations {
        let is_view = made.kind == Kind::View;
        let columns = columns.iter().map(|name| Column { not_null: !is_view, ..column(name) });
        found.relations.push(FoundRelation {
            schema: made.schema.clone(),
            name: made.name.clone(),
            kind: if is_view { 'v' } else { 'f' },
            comment: Some(made.mark.clone()),
            is_owned: true,
            columns: columns.collect(),
            readers: made.readers.clone(),
        });
    }
    found
}

fn plan(wanted: &Wanted, found: &Found) -> (Vec<String>, Vec<String>) {
    let plan = Plan::new(wanted, found, "app").unwrap_or_else(|error| panic!("{error}"));
    let steps = plan.steps.iter().map(|step| format!("{:?} {}", step.action, step.what));
    (steps.collect(), plan.commands.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_made_is_not_made_again() {
    let wanted = wanted(&["id"], vec![reader(Some("app")), reader(None)]);
    let (steps, commands) = plan(&wanted, &nothing());
    assert_eq!(steps.len(), 2 + 2 + 3 + 3, "servers, mappings, schemas, relations: {steps:?}");
    let text = commands.join("\n");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        text.contains("ALTER USER MAPPING FOR \"pgsluice\" SERVER \"pgsluice_a\" OPTIONS (ADD \"password\" '…');"),
        "{text}"
    );
    assert!(
        text.ends_with(
            "GRANT SELECT ON \"pgsluice_all\".\"t\" TO \"app\";\nGRANT SELECT ON \"pgsluice_all\".\"t\" TO PUBLIC;"
        ),
        "{text}"
    );
    let nothing: (Vec<String>, Vec<String>) = Default::default();
    assert_eq!(plan(&wanted, &carried_out(&wanted, &["id"])), nothing);
}

#[test]
fn a_changed_column_makes_tables_and_view_anew_in_the_right_order() {
    let before = carried_out(&wanted(&["id"], Vec::new()), &["id"]);
    let (steps, commands) = plan(&wanted(&["id", "x"], Vec::new()), &before);
    let expected = ["view pgsluice_all.t", "foreign table pgsluice_shard_a.t", "foreign table pgsluice_shard_b.t"];
    assert_eq!(steps, expected.map(|what| format!("Change {what}")));
    let words: Vec<String> =
        commands.iter().map(|text| text.split('"').next().unwrap_or_default().trim().to_owned()).collect();
    let make = ["CREATE FOREIGN TABLE", "COMMENT ON FOREIGN TABLE"];
    let expected: Vec<&str> = ["DROP VIEW", "DROP FOREIGN TABLE", "DROP FOREIGN TABLE"]
        .into_iter()
        .chain(make)
        .chain(make)
        .chain(["CREATE VIEW", "COMMENT ON VIEW"])
        .collect();
    assert_eq!(words, expected);
    // The same where somebody has altered the foreign table by hand, which leaves its mark.
    let wanted = wanted(&["id"], Vec::new());
    let mut altered = carried_out(&wanted, &["id"]);
    altered.relations[1].columns.push(column("x"));
    assert_eq!(plan(&wanted, &altered).0, ["Change view pgsluice_all.t", "Change foreign table pgsluice_shard_b.t"]);
}

#[test]
fn privileges_follow_without_a_new_view() {
    let before = carried_out(&wanted(&["id"], vec![reader(Some("x"))]), &["id"]);
    let column = Reader { role: Some("y".to_owned()), column: Some("id".to_owned()) };
    let (steps, commands) = plan(&wanted(&["id"], vec![column]), &before);
    assert_eq!(steps, ["Change privileges on view pgsluice_all.t"]);
    assert_eq!(
        commands,
        [
            "REVOKE SELECT ON \"pgsluice_all\".\"t\" FROM \"x\";",
            "GRANT SELECT (\"id\") ON \"pgsluice_all\".\"t\" TO \"y\";"
        ]
    );
}

#[test]
fn what_is_gone_from_the_config_goes() {
    let wanted = wanted(&["id"], Vec::new());
    let mut found = carried_out(&wanted, &["id"]);
    let ours = |text: &str| Some(format!("{MADE}{text}"));
    let mappings = BTreeMap::from([("pgsluice".to_owned(), Vec::new())]);
    found
        .servers
        .insert("pgsluice_c".to_owned(), FoundServer { comment: ours("server"), options: Vec::new(), mappings });
    let name = "pgsluice_shard_c".to_owned();
    found.schemas.insert(name.clone(), FoundSchema { name, comment: ours("schema"), is_public: false });
    for (schema, kind) in [("pgsluice_shard_c", 'f'), (VIEWS, 'v')] {
        let (schema, name, columns, readers) = (schema.to_owned(), "u".to_owned(), Vec::new(), Vec::new());
        found.relations.push(FoundRelation {
            schema,
            name,
            kind,
            comment: ours("x"),
            is_owned: true,
            columns,
            readers,
        });
    }
    let old = vec![("user".to_owned(), Secret::new("old"))];
    found.servers.get_mut("pgsluice_a").expect("it").mappings.insert("old".to_owned(), old);
    assert_eq!(
        plan(&wanted, &found).1,
        [
            "DROP VIEW \"pgsluice_all\".\"u\";",
            "DROP FOREIGN TABLE \"pgsluice_shard_c\".\"u\";",
            "DROP SCHEMA \"pgsluice_shard_c\";",
            "DROP USER MAPPING FOR \"old\" SERVER \"pgsluice_a\";",
            "DROP USER MAPPING FOR \"pgsluice\" SERVER \"pgsluice_c\";",
            "DROP SERVER \"pgsluice_c\";",
        ]
    );
}

#[test]
fn a_new_password_is_set_and_not_shown() {
    let wanted = wanted(&["id"], Vec::new());
    let mut found = carried_out(&wanted, &["id"]);
    let mapping = ["user=other", "password=hunter1"].map(option).map(|(name, value)| (name, Secret::new(value)));
    found.servers.get_mut("pgsluice_a").expect("it").mappings.insert("pgsluice".to_owned(), mapping.to_vec());
    let (steps, commands) = plan(&wanted, &found);
    assert_eq!(steps, ["Change user mapping for pgsluice on server pgsluice_a"]);
    let name = "ALTER USER MAPPING FOR \"pgsluice\" SERVER \"pgsluice_a\" OPTIONS";
    assert_eq!(commands, [format!("{name} (SET \"user\" 'pgsluice');"), format!("{name} (SET \"password\" '…');")]);
}

#[test]
fn what_was_not_made_here_is_left_alone() {
    let wanted = wanted(&["id"], Vec::new());
    let refused = |change: fn(&mut Found)| {
        let mut found = carried_out(&wanted, &["id"]);
        change(&mut found);
        Plan::new(&wanted, &found, "app").expect_err("it is refused").to_string()
    };
    let said = refused(|found| found.schemas.get_mut(VIEWS).expect("it").comment = Some("mine".to_owned()));
    assert_eq!(said, "schema pgsluice_all is there, and was not made by pgsluice coordinator setup; rename it");
    let said = refused(|found| found.servers.get_mut("pgsluice_a").expect("it").comment = None);
    assert!(said.starts_with("server pgsluice_a is there"), "{said}");
    let said = refused(|found| found.relations[2].comment = None);
    assert!(said.starts_with("pgsluice_all.t is there"), "{said}");
}

#[test]
fn rights_that_are_missing_are_named() {
    let wanted = wanted(&["id"], Vec::new());
    let refused = |rights: Rights| {
        let found = Found { rights, ..Found::default() };
        Plan::new(&wanted, &found, "app").expect_err("it is refused").to_string()
    };
    let all = nothing().rights;
    let said = refused(Rights { extension: false, available: false, ..all.clone() });
    assert!(said.starts_with("postgres_fdw is not installed"), "{said}");
    let (wrapper, create) = (
        "GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO \"pgsluice\"",
        "GRANT CREATE ON DATABASE \"app\" TO \"pgsluice\"",
    );
    for (rights, needed) in [
        (Rights { may_use_wrapper: false, ..all.clone() }, wrapper.to_owned()),
        (Rights { may_create_schemas: false, ..all.clone() }, create.to_owned()),
        (Rights { may_create_schemas: false, may_use_wrapper: false, ..all.clone() }, format!("{create}; {wrapper}")),
        (
            Rights { may_create_schemas: false, may_use_wrapper: false, extension: false, ..all },
            format!("{create}; CREATE EXTENSION postgres_fdw; {wrapper}"),
        ),
    ] {
        let said = refused(rights);
        assert!(said.ends_with(&format!("in this database: {needed}")), "{said}");
    }
}

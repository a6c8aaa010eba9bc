//! The config as a whole: the annotated reference, every key's effect, and rules over several keys.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

use super::credentials::Surroundings;
use super::keys::{SECTIONS, SectionKeys};
use super::*;

const REFERENCE: &str = include_str!("../../config/pgsluice.toml");

/// The least that a config must say.
const LEAST: &str = "[[auth.users]]\nname = 'app'\npassword = 'pw'\n[[shards]]\nnodes = ['db:5432']\n";

fn parse(text: &str) -> Result<Config, String> {
    let variable = |name: &str| (name == "APP_PASSWORD").then(|| "from-env".into());
    let around = Surroundings { base: Path::new("/etc/pgsluice"), variable: &variable };
    Config::parse_in(text, around, "test.toml").map_err(|errors| errors.to_string())
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// `pool.size`, `auth.users.name`, … for every key that holds a value and not a section.
fn leaves() -> BTreeSet<String> {
    let path = |section: &SectionKeys, key: &str| match section.name {
        "" => key.to_owned(),
        name => format!("{name}.{key}"),
    };
    let all = SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| path(section, key)));
    all.filter(|path| !SECTIONS.iter().any(|section| section.name == path)).collect()
}

fn collect(path: &str, value: &DeValue<'_>, found: &mut BTreeSet<String>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                collect(&format!("{path}.{}", key.get_ref()), value.get_ref(), found);
            }
        }
        DeValue::Array(array) if !array.is_empty() => {
            array.iter().for_each(|value| collect(path, value.get_ref(), found))
        }
        _ => {
            found.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

#[test]
fn the_reference_has_every_key() {
    let document = DeTable::parse(REFERENCE).expect("TOML");
    let mut found = BTreeSet::new();
    for (key, value) in document.get_ref() {
        collect(key.get_ref(), value.get_ref(), &mut found);
    }
    // Nodes without a weight are plain strings.
    found.remove("shards.nodes");
    assert_eq!(found, leaves());
}

#[test]
fn the_reference_loads_and_shows_the_defaults() {
    let reference = valid(REFERENCE);
    let mut least = valid(LEAST);
    assert!(reference.shards[0].nodes.iter().any(|node| node.weight == 2));
    // Where the reference gives an example, there is no default.
    least.listen.takeover = reference.listen.takeover.clone();
    least.listen.cert = reference.listen.cert.clone();
    least.listen.key = reference.listen.key.clone();
    least.audit.file = reference.audit.file.clone();
    least.listen.client_ca = reference.listen.client_ca.clone();
    least.auth.users = reference.auth.users.clone();
    least.auth.rules = reference.auth.rules.clone();
    least.auth.query = reference.auth.query.clone();
    least.auth.query_database = reference.auth.query_database.clone();
    least.databases = reference.databases.clone();
    least.shards[0].nodes = reference.shards[0].nodes.clone();
    least.shards[0].password = reference.shards[0].password.clone();
    least.shards[0].sslrootcert = reference.shards[0].sslrootcert.clone();
    least.shards[0].sslcert = reference.shards[0].sslcert.clone();
    least.shards[0].sslkey = reference.shards[0].sslkey.clone();
    least.shards.push(reference.shards[1].clone());
    least.tables = reference.tables.clone();
    least.coordinator = reference.coordinator.clone();
    assert_eq!(least, reference);
}

type Probe = fn(&Config) -> bool;

/// A key, a value for it that is not its default, and whether the config has that value.
fn probes() -> Vec<(&'static str, &'static str, Probe)> {
    vec![
        ("listen.address", "'127.0.0.2:7000'", |c| c.listen.address == address("127.0.0.2:7000")),
        ("listen.takeover", "'/run/t.sock'", |c| c.listen.takeover == Some(PathBuf::from("/run/t.sock"))),
        ("listen.tls", "'prefer'", |c| c.listen.tls == TlsMode::Prefer),
        ("listen.cert", "'a.crt'", |c| c.listen.cert == Some(PathBuf::from("/etc/pgsluice/a.crt"))),
        ("listen.key", "'/b.key'", |c| c.listen.key == Some(PathBuf::from("/b.key"))),
        ("listen.client_ca", "'c.crt'", |c| c.listen.client_ca == Some(PathBuf::from("/etc/pgsluice/c.crt"))),
        ("listen.max_clients", "7", |c| c.listen.max_clients == 7),
        ("listen.max_logins", "7", |c| c.listen.max_logins == 7),
        ("listen.workers", "7", |c| c.listen.workers == 7),
        ("listen.replication", "'pass'", |c| c.listen.replication == ReplicationMode::Pass),
        ("http.address", "'[::1]:7001'", |c| c.http.address == address("[::1]:7001")),
        ("log.format", "'json'", |c| c.log.format == LogFormat::Json),
        ("log.level", "'warn,pgsluice::pool=trace'", |c| c.log.level == "warn,pgsluice::pool=trace"),
        ("audit.file", "'audit.log'", |c| c.audit.file == Some(PathBuf::from("/etc/pgsluice/audit.log"))),
        ("audit.events", "['logins', 'config']", |c| c.audit.events == [AuditEvents::Logins, AuditEvents::Config]),
        ("audit.statements", "['write', 'ddl']", |c| {
            c.audit.statements == [AuditStatements::Write, AuditStatements::Ddl]
        }),
        ("audit.tables", "['Public.accounts', '\"Odd.Name\"']", |c| {
            let names: Vec<String> = c.audit.tables.iter().map(ToString::to_string).collect();
            names == ["public.accounts", "\"Odd.Name\""]
        }),
        ("audit.text", "'full'", |c| c.audit.text == AuditText::Full),
        ("audit.rotate_size", "'8KiB'", |c| c.audit.rotate_size == 8192),
        ("audit.rotate_keep", "3", |c| c.audit.rotate_keep == 3),
        ("audit.queue", "'2MiB'", |c| c.audit.queue == 2 << 20),
        ("statements.max", "50", |c| c.statements.max == 50),
        ("auth.method", "'trust'", |c| c.auth.method == AuthMethod::Trust),
        ("auth.query", "'SELECT f($1)'", |c| c.auth.query.as_deref() == Some("SELECT f($1)")),
        ("auth.query_database", "'shop'", |c| c.auth.query_database.as_deref() == Some("shop")),
        ("auth.query_cache", "'7s'", |c| c.auth.query_cache == Duration::from_secs(7)),
        ("auth.failure_delay", "'0s'", |c| c.auth.failure_delay == Duration::ZERO),
        ("auth.max_failures", "0", |c| c.auth.max_failures == 0),
        ("auth.rules.databases", "['shop', '/^a']", |c| c.auth.rules.first().is_some_and(|r| r.databases.len() == 2)),
        ("auth.rules.users", "['ann']", |c| {
            c.auth.rules.first().is_some_and(|r| r.users == [NamePattern::Name("ann".to_owned())])
        }),
        ("auth.rules.addresses", "['loopback']", |c| {
            c.auth.rules.first().is_some_and(|r| r.addresses == [AddressPattern::Loopback])
        }),
        ("auth.rules.tls", "'required'", |c| c.auth.rules.first().is_some_and(|r| r.tls == RuleTls::Required)),
        ("auth.rules.method", "'reject'", |c| c.auth.rules.first().is_some_and(|r| r.method == AuthMethod::Reject)),
        ("auth.users.name", "'report'", |c| c.auth.users[0].name == "report"),
        ("auth.users.password", "'env:APP_PASSWORD'", |c| {
            c.auth.users[0].password == Password::Plain(Secret::new("from-env"))
        }),
        ("auth.users.server_password", "'other'", |c| c.auth.users[0].server_password == Some(Secret::new("other"))),
        ("auth.users.max_clients", "7", |c| c.auth.users[0].max_clients == Some(7)),
        ("auth.users.statements_per_second", "7", |c| c.auth.users[0].statements_per_second == Some(7)),
        ("auth.users.statement_timeout", "'7s'", |c| c.auth.users[0].statement_timeout == Some(Duration::from_secs(7))),
        ("pool.mode", "'session'", |c| c.pool.mode == PoolMode::Session),
        ("pool.size", "7", |c| c.pool.size == 7),
        ("pool.max_pinned", "7", |c| c.pool.max_pinned == 7),
        ("pool.checkout_timeout", "'7s'", |c| c.pool.checkout_timeout == Duration::from_secs(7)),
        ("pool.connect_timeout", "'7s'", |c| c.pool.connect_timeout == Duration::from_secs(7)),
        ("admin.admins", "['a', 'b']", |c| c.admin.admins == ["a", "b"]),
        ("admin.stats", "['a']", |c| c.admin.stats == ["a"]),
        ("pool.max_lifetime", "'1h 30m'", |c| c.pool.max_lifetime == Duration::from_secs(5400)),
        ("pool.idle_timeout", "'7m'", |c| c.pool.idle_timeout == Duration::from_secs(420)),
        ("consistency.level", "'eventual'", |c| c.consistency.level == ConsistencyLevel::Eventual),
        ("consistency.max_staleness", "'7s'", |c| c.consistency.max_staleness == Duration::from_secs(7)),
        ("consistency.allow_hints", "['route']", |c| c.consistency.allow_hints == ["route"]),
        ("consistency.wait", "'7ms'", |c| c.consistency.wait == Duration::from_millis(7)),
        ("lag.poll_interval", "'7ms'", |c| c.lag.poll_interval == Duration::from_millis(7)),
        ("lag.poll_timeout", "'700ms'", |c| c.lag.poll_timeout == Duration::from_millis(700)),
        ("lag.eject_above", "'700ms'", |c| c.lag.eject_above == Duration::from_millis(700)),
        ("lag.readmit_below", "'7ms'", |c| c.lag.readmit_below == Duration::from_millis(7)),
        ("lag.readmit_after", "'0s'", |c| c.lag.readmit_after == Duration::ZERO),
        ("lag.probation_reads", "0", |c| c.lag.probation_reads == 0),
        ("lag.connection_errors", "7", |c| c.lag.connection_errors == 7),
        ("lag.when_none", "'error'", |c| c.lag.when_none == WhenNone::Error),
        ("limits.login_timeout", "'7s'", |c| c.limits.login_timeout == Duration::from_secs(7)),
        ("limits.drain_timeout", "'0s'", |c| c.limits.drain_timeout == Duration::ZERO),
        ("limits.takeover_timeout", "'1h'", |c| c.limits.takeover_timeout == Duration::from_secs(3600)),
        ("limits.max_statement_bytes", "'64KiB'", |c| c.limits.max_statement_bytes == 65536),
        ("limits.statement_cache_bytes", "7654321", |c| c.limits.statement_cache_bytes == 7_654_321),
        ("limits.clients_per_user", "7", |c| c.limits.clients_per_user == 7),
        ("limits.clients_per_database", "7", |c| c.limits.clients_per_database == 7),
        ("limits.statements_per_second", "7", |c| c.limits.statements_per_second == 7),
        ("limits.statement_timeout", "'7s'", |c| c.limits.statement_timeout == Duration::from_secs(7)),
        ("limits.idle_in_transaction_session_timeout", "'7s'", |c| {
            c.limits.idle_in_transaction_session_timeout == Duration::from_secs(7)
        }),
        ("limits.idle_session_timeout", "'7s'", |c| c.limits.idle_session_timeout == Duration::from_secs(7)),
        ("databases.name", "'shop'", |c| c.databases.first().is_some_and(|database| database.name == "shop")),
        ("databases.max_clients", "7", |c| c.databases.first().is_some_and(|of| of.max_clients == Some(7))),
        ("shards.name", "'b-1'", |c| c.shards[0].name == "b-1"),
        ("shards.nodes.address", "'[fd00::1]:7'", |c| {
            c.shards[0].nodes == [Node { host: "fd00::1".to_owned(), port: 7, weight: 1 }]
        }),
        ("shards.nodes.weight", "1000", |c| c.shards[0].nodes[0].weight == 1000),
        ("shards.user", "'watcher'", |c| c.shards[0].user == "watcher"),
        ("shards.password", "'seven'", |c| c.shards[0].password == Some(Secret::new("seven"))),
        ("shards.database", "'template1'", |c| c.shards[0].database == "template1"),
        ("shards.sslmode", "'disable'", |c| c.shards[0].sslmode == SslMode::Disable),
        ("shards.sslrootcert", "'r.crt'", |c| c.shards[0].sslrootcert == Some(PathBuf::from("/etc/pgsluice/r.crt"))),
        ("shards.sslcert", "'c.crt'\nsslkey = 'x'", |c| {
            c.shards[0].sslcert == Some(PathBuf::from("/etc/pgsluice/c.crt"))
        }),
        ("shards.weight", "7", |c| c.shards[0].weight == 7),
        ("tables.name", "'s.t'\nreference = true", |c| c.tables.iter().any(|t| t.name.to_string() == "s.t")),
        ("tables.shard_key", "['A', '\"B\"']\nname = 't'", |c| {
            c.tables.iter().any(|t| t.placement == Placement::Key(vec!["a".to_owned(), "B".to_owned()]))
        }),
        ("tables.reference", "true\nname = 't'", |c| c.tables.iter().any(|t| t.placement == Placement::Reference)),
        ("tables.shard", "'main'\nname = 't'", |c| {
            c.tables.iter().any(|t| t.placement == Placement::Shard("main".to_owned()))
        }),
        ("coordinator.shard", "'main'", |c| c.coordinator.as_ref().is_some_and(|c| c.shard == "main")),
        ("shards.sslkey", "'c.key'\nsslcert = 'x'", |c| {
            c.shards[0].sslkey == Some(PathBuf::from("/etc/pgsluice/c.key"))
        }),
    ]
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

/// The least config with one key set. `overrides` maps key paths to TOML values.
fn document(key: &str, value: &str) -> String {
    let mut tables: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("auth.users", vec![("name", "'app'"), ("password", "'pw'")]),
        ("shards.nodes", vec![("address", "'db:5432'")]),
    ];
    if key.starts_with("databases.") {
        tables.insert(0, ("databases", vec![("name", "'app'")]));
    }
    if key.starts_with("coordinator.") {
        tables.insert(0, ("shards", vec![("name", "'other'"), ("nodes", "['other:5432']")]));
        tables.insert(2, ("shards", Vec::new()));
    }
    let (section, name) = key.rsplit_once('.').expect("a section");
    let index = tables.iter().position(|(table, _)| *table == section).unwrap_or_else(|| {
        // `[[shards]]` comes before what is inside it.
        tables.insert(0, (section, Vec::new()));
        0
    });
    let keys = &mut tables[index].1;
    keys.retain(|(other, _)| *other != name);
    keys.push((name, value));
    let mut text = String::new();
    if !tables.iter().any(|(table, _)| *table == "shards") {
        tables.insert(0, ("shards", Vec::new()));
    }
    for (table, keys) in tables {
        let header = match table {
            "auth.users" | "auth.rules" | "databases" | "shards" | "shards.nodes" | "tables" => format!("[[{table}]]"),
            _ => format!("[{table}]"),
        };
        text.push_str(&format!("{header}\n"));
        keys.iter().for_each(|(key, value)| text.push_str(&format!("{key} = {value}\n")));
    }
    text
}

#[test]
fn every_key_has_its_effect() {
    let default = valid(LEAST);
    let mut probed = BTreeSet::new();
    for (key, value, probe) in probes() {
        assert!(!probe(&default), "{key} = {value} is the default, or its probe sees nothing");
        let mut text = document(key, value);
        if key == "listen.tls" {
            let dir = tempfile::tempdir().expect("dir");
            let file = dir.path().join("pem");
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            std::fs::write(&file, made.cert.pem() + &made.signing_key.serialize_pem()).expect("write");
            let pem = format!("[listen]\ncert = '{0}'\nkey = '{0}'\n", file.display());
            text = text.replace("[listen]\n", &pem);
            assert!(probe(&valid(&text)), "{key} = {value}");
        } else {
            assert!(probe(&valid(&text)), "{key} = {value}");
        }
        probed.insert(key.to_owned());
    }
    assert_eq!(probed, leaves(), "keys with a probe, keys of the schema");
}

#[test]
fn unset_tls_files_are_not_looked_for() {
    assert!(parse(&document("listen.cert", "'none.crt'")).is_ok());
    assert!(parse(&document("shards.sslrootcert", "'none.crt'")).is_ok());
}

#[test]
fn rules_over_several_keys() {
    // What is put before the least config, and how many mistakes that makes.
    let cases = [
        ("lag = { readmit_below = '100ms' }", 0),
        ("lag = { readmit_below = '101ms' }", 1),
        ("lag = { eject_above = '20ms' }", 1),
        ("lag = { eject_above = '20ms', readmit_below = '20ms' }", 0),
        ("lag = { poll_interval = '1s' }", 1),
        ("lag = { poll_interval = '1s', poll_timeout = '1s' }", 0),
        // One mistake makes no second one.
        ("lag = { poll_interval = '1s', poll_timeout = 'x' }", 1),
        ("auth.method = 'trust'", 0),
        ("auth.method = 'trust'\nlisten.address = '[::1]:6432'", 0),
        ("auth.method = 'trust'\nlisten.address = '[::ffff:127.0.0.1]:6432'", 0),
        ("auth.method = 'trust'\nlisten.address = '0.0.0.0:6432'", 1),
        ("listen.address = '127.0.0.1:9630'", 1),
        ("http.address = '0.0.0.0:6432'", 1),
        ("listen.address = '127.0.0.1:0'\nhttp.address = '127.0.0.1:0'", 0),
        ("listen.tls = 'require'", 2),
    ];
    for (text, mistakes) in cases {
        let found = Config::parse(&format!("{text}\n{LEAST}"), Path::new("/"), "t")
            .map_or_else(|errors| errors.mistakes().iter().map(ToString::to_string).collect(), |_| Vec::new());
        assert_eq!(found.len(), mistakes, "{text}: {found:?}");
    }
}

#[test]
fn secrets_are_not_in_messages_nor_in_debug_output() {
    let verifier = "SCRAM-SHA-256$4096:c2FsdA==$hunter2:hunter2";
    let texts = [
        "password = hunter2\n".to_owned(),
        "password = \"hunter2\n".to_owned(),
        "password = 'hunter2' 'hunter2'\n".to_owned(),
        "password = [\"hunter2\"]\n".to_owned(),
        "password = \"hunter2\\q\"\n".to_owned(),
        format!("password = '{verifier}'\n"),
        "password = { hunter2 = 'hunter2' }\n".to_owned(),
        "password = 'env:hunter2 or so'\n".to_owned(),
        "pasword = 'hunter2'\n".to_owned(),
        "server_password = 'SCRAM-SHA-256$hunter2'\n".to_owned(),
    ];
    for text in texts {
        let whole =
            format!("[[shards]]\nnodes = ['postgres://app:hunter2@db:5432/x']\n[[auth.users]]\nname = 'a'\n{text}");
        let errors = Config::parse(&whole, Path::new("/"), "t").expect_err(&whole);
        assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}\n{whole}");
    }
    let config = valid(&LEAST.replace("'pw'", "'hunter2'"));
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn a_file_that_is_no_text_says_where() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, b"[pool]\nsize = \xff").expect("write");
    let errors = Config::load(&path).expect_err("not UTF-8");
    assert_eq!(errors.mistakes()[0].place, Some(Place { line: 2, column: 8 }), "{errors}");
}

#[test]
fn relative_paths_start_at_the_file() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join("secret"), "pw\n").expect("write");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, LEAST.replace("'pw'", "'file:secret'")).expect("write");
    let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.auth.users[0].password, Password::Plain(Secret::new("pw")));
}

/// A line such as a person might write, right or wrong.
fn line() -> impl Strategy<Value = String> {
    let sections = SECTIONS.iter().flat_map(|section| [format!("[{}]", section.name), format!("[[{}]]", section.name)]);
    let headers = prop::sample::select(sections.collect::<Vec<_>>());
    let keys = SECTIONS.iter().flat_map(|section| section.keys).map(|key| (*key).to_owned());
    let keys = prop::sample::select(keys.collect::<Vec<_>>());
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        "\"[^\"\\\\\n]{0,20}\"",
        "\"[0-9]{1,20} ?(ms|s|h|KiB|GiB|[a-z]{1,3})?\"",
        "\"[0-9a-f:.\\[\\]]{0,20}:[0-9]{0,6}\"",
        "\"SCRAM-SHA-256\\$[0-9:$A-Za-z+/=]{0,60}\"",
        Just("[\"a:1\", { address = \"b:2\", weight = 3 }]".to_owned()),
        Just("{ name = 1 }".to_owned()),
        Just("true".to_owned()),
        "\\PC{0,12}",
    ];
    prop_oneof![1 => headers, 3 => (keys, value).prop_map(|(key, value)| format!("{key} = {value}"))]
}

/// Whatever the text: a config or mistakes, each in the text, in order, on a line of its own.
fn never_panics(text: &str) -> Result<(), TestCaseError> {
    let around = Surroundings { base: Path::new("/nonexistent"), variable: &|_| None };
    if let Err(errors) = Config::parse_in(text, around, "f") {
        prop_assert!(!errors.mistakes().is_empty());
        prop_assert!(errors.mistakes().windows(2).all(|pair| pair[0].place <= pair[1].place));
        prop_assert_eq!(errors.to_string().lines().count(), errors.mistakes().len());
        let lines = text.matches('\n').count() + 1;
        prop_assert!(errors.mistakes().iter().all(|mistake| mistake.place.is_some_and(|place| place.line <= lines)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_a_config_or_mistakes(text in "\\PC{0,200}") {
        never_panics(&text)?;
    }

    #[test]
    fn any_lines_are_a_config_or_mistakes(lines in prop::collection::vec(line(), 0..12)) {
        never_panics(&lines.join("\n"))?;
    }
}

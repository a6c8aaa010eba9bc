//! What differs between two configs: for the log of a reload, and for the few keys that need a restart.
//!
//! A secret that changed is said to have changed, and no more.

use std::path::Path;
use std::time::Duration;

use super::choices::{
    AUDIT_EVENTS, AUDIT_STATEMENTS, AUDIT_TEXT, AUTH_METHOD, CONSISTENCY_LEVEL, LOG_FORMAT, POOL_MODE,
    REPLICATION_MODE, RULE_METHOD, RULE_TLS, SSL_MODE, TLS_MODE, WHEN_NONE,
};
use super::rules::Rule;
use super::schema::{Config, Database, Listen, Password, Placement, Shard, Table, User};
use super::secret::Secret;
use super::values::format_size;

/// Keys that take effect only when the process starts: sockets, the log's format, and a table's size.
const NEED_RESTART: [&str; 6] =
    ["listen.address", "listen.takeover", "listen.workers", "http.address", "log.format", "statements.max"];

impl Config {
    /// The keys whose new value will not take effect before a restart.
    pub fn restart_needed(&self, new: &Config) -> Vec<&'static str> {
        let changed: Vec<String> = changes(self, new).into_iter().map(|change| change.key).collect();
        NEED_RESTART.into_iter().filter(|key| changed.iter().any(|changed| changed == key)).collect()
    }

    /// What a reload from `old` to `new` changes, one entry a key: `pool.size: 20 -> 40`,
    /// `auth.users[app].password: changed`, `shards[a].nodes[10.0.0.4:5432]: added`.
    pub fn diff(old: &Config, new: &Config) -> Vec<String> {
        changes(old, new).into_iter().map(|Change { key, what }| format!("{key}: {what}")).collect()
    }
}

impl Config {
    /// Every key with its value as it is in force, and whether a change of it needs a restart. Of a secret only that
    /// there is one.
    pub fn shown(&self) -> Vec<(String, String, bool)> {
        let shown = |(key, value): (String, Shown<'_>)| {
            let value = match value {
                Shown::Text(text) => text,
                Shown::Secret(_) => "(secret)".to_owned(),
                Shown::Absent => return None,
                Shown::Entry => String::new(),
            };
            let needs_restart = NEED_RESTART.contains(&&*key);
            Some((key, value, needs_restart))
        };
        flatten(self).into_iter().filter_map(shown).collect()
    }
}

struct Change {
    key: String,
    what: String,
}

/// A key's value as it can be compared and shown.
#[derive(PartialEq)]
enum Shown<'c> {
    Text(String),
    Secret(&'c Secret),
    Absent,
    /// An entry of a list: there, or not.
    Entry,
}

/// Both are in the schema's order, so that a change is told under the key's place in the file.
fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (before, after) = (flatten(old), flatten(new));
    let find = |settings: &[(String, Shown<'_>)], key: &str| settings.iter().position(|(other, _)| other == key);
    let mut changes = Vec::new();
    for (key, value) in &after {
        let was = find(&before, key).and_then(|index| before.get(index)).map(|(_, value)| value);
        if was == Some(value) || was.is_none() && *value != Shown::Entry {
            continue; // The keys of a new entry go without saying.
        }
        changes.push(Change { key: key.clone(), what: transition(was, value) });
    }
    changes.extend(changed_files(old, new));
    let removed = before.iter().filter(|(key, value)| *value == Shown::Entry && find(&after, key).is_none());
    changes.extend(removed.map(|(key, _)| Change { key: key.clone(), what: "removed".to_owned() }));
    changes
}

/// Certificates that are others, in files whose names are the same.
fn changed_files(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut note = |key: String| changes.push(Change { key, what: "changed".to_owned() });
    let names = |listen: &Listen| [listen.cert.clone(), listen.key.clone(), listen.client_ca.clone()];
    if let (Some(was), Some(is)) = (&old.listen.inbound, &new.listen.inbound)
        && was != is
        && names(&old.listen) == names(&new.listen)
    {
        note("listen: what the certificate files hold".to_owned());
    }
    let names =
        |shard: &Shard| (shard.sslmode, [shard.sslrootcert.clone(), shard.sslcert.clone(), shard.sslkey.clone()]);
    for is in &new.shards {
        let was = old.shards.iter().find(|was| was.name == is.name);
        if was.is_some_and(|was| was.outbound != is.outbound && names(was) == names(is)) {
            note(format!("shards[{}]: what the certificate files hold", is.name));
        }
    }
    changes
}

fn transition(was: Option<&Shown<'_>>, is: &Shown<'_>) -> String {
    match (was, is) {
        (None, _) => "added".to_owned(),
        (Some(Shown::Text(was)), Shown::Text(is)) => format!("{was} -> {is}"),
        (Some(Shown::Text(was)), Shown::Absent) => format!("{was} -> not set"),
        (Some(Shown::Absent), Shown::Text(is)) => format!("not set -> {is}"),
        (Some(Shown::Absent), Shown::Secret(_)) => "set".to_owned(),
        (Some(_), Shown::Absent) => "no longer set".to_owned(),
        (Some(_), _) => "changed".to_owned(),
    }
}

/// Every key with its value. Entries of lists go by name, not by index: inserting one moves no other.
fn flatten(config: &Config) -> Vec<(String, Shown<'_>)> {
    let Config {
        listen,
        http,
        log,
        audit,
        statements,
        auth,
        admin,
        pool,
        consistency,
        lag,
        limits,
        databases,
        shards,
        tables,
        coordinator,
    } = config;
    let mut settings: Vec<(String, Shown<'_>)> = [
        ("listen.address", text(listen.address)),
        ("listen.takeover", path(listen.takeover.as_deref())),
        ("listen.tls", text(TLS_MODE.name(listen.tls))),
        ("listen.cert", path(listen.cert.as_deref())),
        ("listen.key", path(listen.key.as_deref())),
        ("listen.client_ca", path(listen.client_ca.as_deref())),
        ("listen.max_clients", text(listen.max_clients)),
        ("listen.max_logins", text(listen.max_logins)),
        ("listen.workers", text(listen.workers)),
        ("listen.replication", text(REPLICATION_MODE.name(listen.replication))),
        ("http.address", text(http.address)),
        ("log.format", text(LOG_FORMAT.name(log.format))),
        ("log.level", text(&log.level)),
        ("audit.file", path(audit.file.as_deref())),
        ("audit.events", list(audit.events.iter().map(|event| AUDIT_EVENTS.name(*event)))),
        ("audit.statements", list(audit.statements.iter().map(|kind| AUDIT_STATEMENTS.name(*kind)))),
        ("audit.tables", list(audit.tables.iter().map(ToString::to_string))),
        ("audit.text", text(AUDIT_TEXT.name(audit.text))),
        ("audit.rotate_size", bytes(audit.rotate_size)),
        ("audit.rotate_keep", text(audit.rotate_keep)),
        ("audit.queue", bytes(audit.queue)),
        ("statements.max", text(statements.max)),
        ("auth.method", text(AUTH_METHOD.name(auth.method))),
        ("auth.query", optional(auth.query.as_ref())),
        ("auth.query_database", optional(auth.query_database.as_ref())),
        ("auth.query_cache", time(auth.query_cache)),
        ("auth.failure_delay", time(auth.failure_delay)),
        ("auth.max_failures", text(auth.max_failures)),
        ("admin.admins", list(&admin.admins)),
        ("admin.stats", list(&admin.stats)),
        ("pool.mode", text(POOL_MODE.name(pool.mode))),
        ("pool.size", text(pool.size)),
        ("pool.max_pinned", text(pool.max_pinned)),
        ("pool.checkout_timeout", time(pool.checkout_timeout)),
        ("pool.connect_timeout", time(pool.connect_timeout)),
        ("pool.max_lifetime", time(pool.max_lifetime)),
        ("pool.idle_timeout", time(pool.idle_timeout)),
        ("consistency.level", text(CONSISTENCY_LEVEL.name(consistency.level))),
        ("consistency.max_staleness", time(consistency.max_staleness)),
        ("consistency.wait", time(consistency.wait)),
        ("consistency.allow_hints", list(&consistency.allow_hints)),
        ("lag.poll_interval", time(lag.poll_interval)),
        ("lag.poll_timeout", time(lag.poll_timeout)),
        ("lag.eject_above", time(lag.eject_above)),
        ("lag.readmit_below", time(lag.readmit_below)),
        ("lag.readmit_after", time(lag.readmit_after)),
        ("lag.probation_reads", text(lag.probation_reads)),
        ("lag.connection_errors", text(lag.connection_errors)),
        ("lag.when_none", text(WHEN_NONE.name(lag.when_none))),
        ("limits.login_timeout", time(limits.login_timeout)),
        ("limits.drain_timeout", time(limits.drain_timeout)),
        ("limits.takeover_timeout", time(limits.takeover_timeout)),
        ("limits.max_statement_bytes", bytes(limits.max_statement_bytes)),
        ("limits.statement_cache_bytes", bytes(limits.statement_cache_bytes)),
        ("limits.clients_per_user", text(limits.clients_per_user)),
        ("limits.clients_per_database", text(limits.clients_per_database)),
        ("limits.statements_per_second", text(limits.statements_per_second)),
        ("limits.statement_timeout", time(limits.statement_timeout)),
        ("limits.idle_in_transaction_session_timeout", time(limits.idle_in_transaction_session_timeout)),
        ("limits.idle_session_timeout", time(limits.idle_session_timeout)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    settings.extend(auth.rules.iter().enumerate().flat_map(|(index, rule)| flatten_rule(index, rule)));
    settings.extend(auth.users.iter().flat_map(flatten_user));
    settings.extend(databases.iter().flat_map(flatten_database));
    settings.extend(shards.iter().flat_map(flatten_shard));
    settings.extend(tables.iter().flat_map(flatten_table));
    let coordinator = coordinator.as_ref().map(|coordinator| &coordinator.shard);
    settings.push(("coordinator.shard".to_owned(), optional(coordinator)));
    settings
}

fn flatten_database<'c>(database: &Database) -> [(String, Shown<'c>); 2] {
    let entry = format!("databases[{}]", database.name);
    [(format!("{entry}.max_clients"), optional(database.max_clients.as_ref())), (entry, Shown::Entry)]
}

fn flatten_user(user: &User) -> [(String, Shown<'_>); 6] {
    let entry = format!("auth.users[{}]", user.name);
    let (Password::Plain(password) | Password::Verifier(password)) = &user.password;
    [
        (format!("{entry}.password"), Shown::Secret(password)),
        (format!("{entry}.server_password"), secret(user.server_password.as_ref())),
        (format!("{entry}.max_clients"), optional(user.max_clients.as_ref())),
        (format!("{entry}.statements_per_second"), optional(user.statements_per_second.as_ref())),
        (format!("{entry}.statement_timeout"), user.statement_timeout.map_or(Shown::Absent, time)),
        (entry, Shown::Entry),
    ]
}

/// Rules have no names: they go by their place, which is what their order means.
fn flatten_rule<'c>(index: usize, rule: &Rule) -> [(String, Shown<'c>); 6] {
    let entry = format!("auth.rules[{index}]");
    [
        (format!("{entry}.databases"), list(&rule.databases)),
        (format!("{entry}.users"), list(&rule.users)),
        (format!("{entry}.addresses"), list(&rule.addresses)),
        (format!("{entry}.tls"), text(RULE_TLS.name(rule.tls))),
        (format!("{entry}.method"), text(RULE_METHOD.name(rule.method))),
        (entry, Shown::Entry),
    ]
}

fn flatten_shard(shard: &Shard) -> Vec<(String, Shown<'_>)> {
    let entry = format!("shards[{}]", shard.name);
    let mut settings = vec![
        (format!("{entry}.weight"), text(shard.weight)),
        (format!("{entry}.user"), text(&shard.user)),
        (format!("{entry}.password"), secret(shard.password.as_ref())),
        (format!("{entry}.database"), text(&shard.database)),
        (format!("{entry}.sslmode"), text(SSL_MODE.name(shard.sslmode))),
        (format!("{entry}.sslrootcert"), path(shard.sslrootcert.as_deref())),
        (format!("{entry}.sslcert"), path(shard.sslcert.as_deref())),
        (format!("{entry}.sslkey"), path(shard.sslkey.as_deref())),
    ];
    for node in &shard.nodes {
        let host = if node.host.contains(':') { format!("[{}]", node.host) } else { node.host.clone() };
        let node_entry = format!("{entry}.nodes[{host}:{}]", node.port);
        settings.push((format!("{node_entry}.weight"), text(node.weight)));
        settings.push((node_entry, Shown::Entry));
    }
    settings.push((entry, Shown::Entry));
    settings
}

fn flatten_table<'c>(table: &Table) -> [(String, Shown<'c>); 4] {
    let entry = format!("tables[{}]", table.name);
    let (key, reference, shard) = match &table.placement {
        Placement::Key(columns) => (list(columns), false, Shown::Absent),
        Placement::Reference => (Shown::Absent, true, Shown::Absent),
        Placement::Shard(name) => (Shown::Absent, false, text(name)),
    };
    [
        (format!("{entry}.shard_key"), key),
        (format!("{entry}.reference"), text(reference)),
        (format!("{entry}.shard"), shard),
        (entry, Shown::Entry),
    ]
}

fn text<'c>(value: impl ToString) -> Shown<'c> {
    Shown::Text(value.to_string())
}

fn time<'c>(value: Duration) -> Shown<'c> {
    Shown::Text(humantime::format_duration(value).to_string())
}

fn bytes<'c>(value: usize) -> Shown<'c> {
    Shown::Text(format_size(value as u64))
}

fn list<'c>(values: impl IntoIterator<Item = impl ToString>) -> Shown<'c> {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    Shown::Text(format!("[{}]", values.join(", ")))
}

fn path<'c>(value: Option<&Path>) -> Shown<'c> {
    value.map_or(Shown::Absent, |path| Shown::Text(path.display().to_string()))
}

fn optional<'c>(value: Option<&impl ToString>) -> Shown<'c> {
    value.map_or(Shown::Absent, |value| Shown::Text(value.to_string()))
}

fn secret(value: Option<&Secret>) -> Shown<'_> {
    value.map_or(Shown::Absent, Shown::Secret)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::keys::SECTIONS;
    use super::*;

    const OLD: &str = r#"
        [[auth.users]]
        name = "app"
        password = "hunter2"
        [[shards]]
        name = "a"
        nodes = ["10.0.0.1:5432", "[fd00::1]:5432"]
        "#;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc"), "test.toml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn equal_configs_have_no_difference() {
        assert_eq!(Config::diff(&parse(OLD), &parse(OLD)), Vec::<String>::new());
        assert!(parse(OLD).restart_needed(&parse(OLD)).is_empty());
    }

    #[test]
    fn changes_are_named_and_secrets_are_not_shown() {
        let new = r#"
            listen = { address = "127.0.0.1:7000", cert = "new.crt" }
            log.format = "json"
            pool.size = 40
            lag.eject_above = "200ms"
            [[auth.users]]
            name = "app"
            password = "hunter3"
            server_password = "hunter4"
            [[auth.users]]
            name = "report"
            password = "hunter5"
            [[databases]]
            name = "app"
            [[shards]]
            name = "a"
            nodes = [{ address = "[fd00::1]:5432", weight = 2 }, "10.0.0.3:5432"]
            password = "hunter6"
            "#;
        let diff = Config::diff(&parse(OLD), &parse(new));
        let expected = [
            "listen.address: 127.0.0.1:6432 -> 127.0.0.1:7000",
            "listen.cert: not set -> /etc/new.crt",
            "log.format: text -> json",
            "pool.size: 20 -> 40",
            "lag.eject_above: 100ms -> 200ms",
            "auth.users[app].password: changed",
            "auth.users[app].server_password: set",
            "auth.users[report]: added",
            "databases[app]: added",
            "shards[a].password: set",
            "shards[a].nodes[[fd00::1]:5432].weight: 1 -> 2",
            "shards[a].nodes[10.0.0.3:5432]: added",
            "shards[a].nodes[10.0.0.1:5432]: removed",
        ];
        assert_eq!(diff, expected);
        assert_eq!(parse(OLD).restart_needed(&parse(new)), ["listen.address", "log.format"]);

        let back = Config::diff(&parse(new), &parse(OLD));
        for line in ["auth.users[report]: removed", "shards[a].password: no longer set", "databases[app]: removed"] {
            assert!(back.iter().any(|found| found == line), "{line} in {back:?}");
        }
        assert!(diff.iter().chain(&back).all(|line| !line.contains("hunter")), "{diff:?} {back:?}");
    }

    #[test]
    fn every_key_of_the_schema_is_compared() {
        let config = parse(
            "auth.users = [{ name = 'u', password = 'p' }]\nauth.rules = [{ method = 'reject' }]\ndatabases = [{ name = 'd' }]\n\
             shards = [{ name = 's', nodes = ['h:1'] }]\ntables = [{ name = 't', reference = true }]",
        );
        let flat: Vec<String> = flatten(&config).into_iter().map(|(key, _)| key).collect();
        for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
            for key in section.keys {
                let path = match (section.name, *key) {
                    ("auth", "users") => "auth.users[u]".to_owned(),
                    ("auth", "rules") => "auth.rules[0]".to_owned(),
                    ("auth.rules", key) => format!("auth.rules[0].{key}"),
                    ("auth.users", "name") => "auth.users[u]".to_owned(),
                    ("auth.users", key) => format!("auth.users[u].{key}"),
                    ("databases", "name") => "databases[d]".to_owned(),
                    ("databases", key) => format!("databases[d].{key}"),
                    ("shards", "name") => "shards[s]".to_owned(),
                    ("shards", "nodes") | ("shards.nodes", "address") => "shards[s].nodes[h:1]".to_owned(),
                    ("shards.nodes", key) => format!("shards[s].nodes[h:1].{key}"),
                    ("shards", key) => format!("shards[s].{key}"),
                    ("tables", "name") => "tables[t]".to_owned(),
                    ("tables", key) => format!("tables[t].{key}"),
                    (section, key) => format!("{section}.{key}"),
                };
                assert!(flat.contains(&path), "{path} is not compared");
            }
        }
    }
}

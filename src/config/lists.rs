//! The sections that are lists: users, databases, shards and their nodes. What must be unique is unique.

use std::collections::HashMap;
use std::net::SocketAddr;

use toml::de::DeValue;

use super::address::node_address;
use super::choices::{RULE_METHOD, RULE_TLS};
use super::credentials::Surroundings;
use super::document::{Item, Mistakes, Section, Setting};
use super::encryption;
use super::error::{Complaint, quoted};
use super::keys::{DATABASES, NODES, RULES, SHARDS, USERS};
use super::rules::{
    AddressPattern, DatabasePattern, NamePattern, Rule, RuleTls, address_pattern, database_pattern, user_pattern,
};
use super::schema::{AuthMethod, Database, Node, Shard, User};
use super::sections::statement_time;
use super::values::{count_u32, count_usize, identifier, label, text};

/// Where each name was first seen: key path by name.
/// Of `[[shards]]`: a bucket map has 16,384 buckets, and each shard is watched by connections of its own.
const MAX_SHARDS: usize = 256;

type Seen = HashMap<String, String>;

pub(super) fn users(
    mistakes: &mut Mistakes<'_>,
    auth: &Section<'_>,
    is_needed: bool,
    around: Surroundings<'_>,
) -> Option<Vec<User>> {
    let sections = auth.tables(mistakes, "users", &USERS)?;
    if sections.is_empty() && is_needed {
        let complaint = Complaint::new("there are no users, so nobody could log in")
            .expected("at least one [[auth.users]] with name and password, or auth.query");
        auth.complain::<()>(mistakes, "users", &Setting::default(), complaint);
    }
    let mut seen = Seen::new();
    let users: Vec<_> = sections.iter().map(|section| user(mistakes, section, around, &mut seen)).collect();
    users.into_iter().collect()
}

fn user(mistakes: &mut Mistakes<'_>, section: &Section<'_>, around: Surroundings<'_>, seen: &mut Seen) -> Option<User> {
    let name = section.required(mistakes, "name", "name = \"…\", the role's name in PostgreSQL", identifier);
    unique(mistakes, section, &name, "user", seen);
    let password = section.required(
        mistakes,
        "password",
        "password = \"…\": a password, \"env:NAME\", \"file:PATH\" or a SCRAM-SHA-256 verifier",
        |value| around.password(value),
    );
    let server_password = section.optional(mistakes, "server_password", |value| around.login_password(value));
    let max_clients = section.optional(mistakes, "max_clients", |value| count_usize(value, 0, 1_000_000));
    let per_second = section.optional(mistakes, "statements_per_second", |value| count_u32(value, 0, 1_000_000));
    let statement_timeout = section.optional(mistakes, "statement_timeout", statement_time);
    Some(User {
        name: name.take()?,
        password: password.take()?,
        server_password: server_password.take()?,
        max_clients: max_clients.take()?,
        statements_per_second: per_second.take()?,
        statement_timeout: statement_timeout.take()?,
    })
}

/// `auth.rules`, in their order.
pub(super) fn rules(
    mistakes: &mut Mistakes<'_>,
    auth: &Section<'_>,
    method: &Setting<AuthMethod>,
    listen: &Setting<SocketAddr>,
) -> Option<Vec<Rule>> {
    let sections = auth.tables(mistakes, "rules", &RULES)?;
    let default = method.sound().copied();
    let rules: Vec<_> = sections.iter().map(|section| rule(mistakes, section, default, listen)).collect();
    rules.into_iter().collect()
}

fn rule(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    default: Option<AuthMethod>,
    listen: &Setting<SocketAddr>,
) -> Option<Rule> {
    let all = || DatabasePattern::Named(NamePattern::All);
    let databases = patterns(mistakes, section, "databases", all, database_pattern);
    let users = patterns(mistakes, section, "users", || NamePattern::All, user_pattern);
    let addresses = patterns(mistakes, section, "addresses", || AddressPattern::All, address_pattern);
    let tls = section.read(mistakes, "tls", RuleTls::Any, |value| RULE_TLS.parse(value));
    let method = section.optional(mistakes, "method", |value| RULE_METHOD.parse(value));
    let chosen = method.sound().and_then(|method| method.or(default));
    let rule = Rule { databases: databases?, users: users?, addresses: addresses?, tls: tls.take()?, method: chosen? };
    if let Some(address) = listen.sound()
        && rule.method == AuthMethod::Trust
        && !address.ip().to_canonical().is_loopback()
        && !rule.is_loopback_only()
    {
        let problem = "\"trust\" would let anybody in who comes from one of these addresses";
        let complaint = Complaint::new(problem).expected("addresses = [\"loopback\"], or another method");
        section.complain(mistakes, "method", &method, complaint);
        return None;
    }
    Some(rule)
}

/// A list of patterns, each with its own mistakes; left out, it is one that matches everything.
fn patterns<T>(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    key: &'static str,
    all: impl FnOnce() -> T,
    parse: impl Fn(&DeValue<'_>) -> Result<T, Complaint>,
) -> Option<Vec<T>> {
    let form = format!("a list, such as {key} = [\"all\"]");
    let Some(item) = section.item(key) else { return Some(vec![all()]) };
    let elements = item.elements(mistakes, &form)?;
    if elements.is_empty() {
        mistakes.add(item.offset, item.path, Complaint::new("is empty, so the rule is for nobody").expected(form));
        return None;
    }
    let parsed: Vec<_> = (elements.into_iter())
        .map(|element| {
            parse(element.value).map_err(|complaint| mistakes.add(element.offset, element.path, complaint)).ok()
        })
        .collect();
    parsed.into_iter().collect()
}

pub(super) fn databases(mistakes: &mut Mistakes<'_>, file: &Section<'_>) -> Option<Vec<Database>> {
    let mut seen = Seen::new();
    let sections = file.tables(mistakes, "databases", &DATABASES)?;
    let databases: Vec<_> = sections
        .iter()
        .map(|section| {
            let name = section.required(mistakes, "name", "name = \"…\", the database's name", identifier);
            unique(mistakes, section, &name, "database", &mut seen);
            let max_clients = section.optional(mistakes, "max_clients", |value| count_usize(value, 0, 1_000_000));
            Some(Database { name: name.take()?, max_clients: max_clients.take()? })
        })
        .collect();
    databases.into_iter().collect()
}

pub(super) fn shards(mistakes: &mut Mistakes<'_>, file: &Section<'_>, around: Surroundings<'_>) -> Option<Vec<Shard>> {
    let sections = file.tables(mistakes, "shards", &SHARDS)?;
    if sections.is_empty() {
        let complaint = Complaint::new("there is none, so there are no servers to send anything to")
            .expected("one [[shards]] with nodes = [\"host:port\", …]");
        file.complain::<()>(mistakes, "shards", &Setting::default(), complaint);
        return None;
    }
    if let Some(section) = sections.get(MAX_SHARDS) {
        section.complain_whole(mistakes, Complaint::new(format!("is one shard too many: there can be {MAX_SHARDS}")));
    }
    let (mut names, mut addresses) = (Seen::new(), Seen::new());
    let shards: Vec<_> =
        sections.iter().map(|section| shard(mistakes, section, around, &mut names, &mut addresses)).collect();
    shards.into_iter().collect()
}

fn shard(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    around: Surroundings<'_>,
    names: &mut Seen,
    addresses: &mut Seen,
) -> Option<Shard> {
    let name = section.read(mistakes, "name", "main".to_owned(), label);
    unique(mistakes, section, &name, "shard", names);
    let weight = section.read(mistakes, "weight", 1, |value| count_u32(value, 1, 1000));
    let nodes = nodes(mistakes, section, addresses);
    let user = section.read(mistakes, "user", "pgsluice".to_owned(), identifier);
    let password = section.optional(mistakes, "password", |value| around.login_password(value));
    let database = section.read(mistakes, "database", "postgres".to_owned(), identifier);
    let encryption = encryption::shard(mistakes, section, around)?;
    Some(Shard {
        name: name.take()?,
        weight: weight.take()?,
        nodes: nodes?,
        user: user.take()?,
        password: password.take()?,
        database: database.take()?,
        sslmode: encryption.sslmode,
        sslrootcert: encryption.sslrootcert,
        sslcert: encryption.sslcert,
        sslkey: encryption.sslkey,
        outbound: encryption.outbound,
    })
}

fn nodes(mistakes: &mut Mistakes<'_>, section: &Section<'_>, seen: &mut Seen) -> Option<Vec<Node>> {
    const FORM: &str = "nodes = [\"host:port\", …], with the primary and every replica in any order";
    let Some(item) = section.item("nodes") else {
        let missing: Setting<()> = Setting::default();
        section.complain(mistakes, "nodes", &missing, Complaint::new("is missing").expected(FORM));
        return None;
    };
    let items = item.elements(mistakes, FORM)?;
    if items.is_empty() {
        mistakes.add(item.offset, item.path, Complaint::new("is empty").expected(FORM));
        return None;
    }
    let nodes: Vec<_> = items.into_iter().map(|item| node(mistakes, item, seen)).collect();
    nodes.into_iter().collect()
}

/// `"host:port"`, or `{ address = "host:port", weight = 2 }`.
fn node(mistakes: &mut Mistakes<'_>, item: Item<'_>, seen: &mut Seen) -> Option<Node> {
    const FORM: &str = "\"host:port\" or { address = \"host:port\", weight = 2 }";
    let parse = |value: &DeValue<'_>| node_address(text(value, FORM)?);
    if !item.value.is_table() {
        return match parse(item.value) {
            Ok((host, port)) => {
                unique_address(mistakes, item.offset, &item.path, &host, port, seen);
                Some(Node { host, port, weight: 1 })
            }
            Err(complaint) => {
                mistakes.add(item.offset, item.path, complaint);
                None
            }
        };
    }
    let section = item.section(mistakes, &NODES)?;
    let address = section.required(mistakes, "address", "address = \"host:port\"", parse);
    let weight = section.read(mistakes, "weight", 1, |value| count_u32(value, 1, 1000));
    if let (Some((host, port)), Some(offset)) = (address.sound(), address.offset()) {
        unique_address(mistakes, offset, &item.path, host, *port, seen);
    }
    let (host, port) = address.take()?;
    Some(Node { host, port, weight: weight.take()? })
}

fn unique_address(mistakes: &mut Mistakes<'_>, offset: usize, path: &str, host: &str, port: u16, seen: &mut Seen) {
    // Host names know no case.
    let identity = format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase());
    match seen.get(&identity) {
        Some(first) => {
            let complaint = Complaint::new(format!("{} is {first} already", quoted(&identity)));
            mistakes.add(offset, path, complaint.expected("each server once"));
        }
        None => {
            seen.insert(identity, path.to_owned());
        }
    }
}

fn unique(mistakes: &mut Mistakes<'_>, section: &Section<'_>, name: &Setting<String>, what: &str, seen: &mut Seen) {
    let Some(text) = name.sound() else { return };
    match seen.get(text) {
        Some(first) => {
            let complaint = Complaint::new(format!("{} is the name of {first} already", quoted(text)));
            section.complain(mistakes, "name", name, complaint.expected(format!("each {what} once")));
        }
        None => {
            seen.insert(text.clone(), section.path().to_owned());
        }
    }
}

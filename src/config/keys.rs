//! Every section of the file and every key in it, once.
//!
//! The readers may ask only for keys that stand here, whatever else stands in a file is unknown, and
//! the tests hold `config/pgsluice.toml` to this list.

use super::error::{Complaint, nearest, one_of};

/// The keys that one table of the file may have.
#[derive(Debug)]
pub(super) struct SectionKeys {
    /// How the section is written in messages and in key paths without indexes: `pool`, `auth.users`.
    /// Empty for the file itself.
    pub(super) name: &'static str,
    /// In the order of the annotated reference.
    pub(super) keys: &'static [&'static str],
    /// Keys that a later version has; they get their own message.
    pub(super) later: &'static [&'static str],
}

pub(super) const FILE: SectionKeys = SectionKeys {
    name: "",
    keys: &[
        "listen",
        "http",
        "log",
        "audit",
        "statements",
        "auth",
        "admin",
        "pool",
        "consistency",
        "lag",
        "limits",
        "databases",
        "shards",
        "tables",
        "coordinator",
    ],
    later: &["failover"],
};
pub(super) const LISTEN: SectionKeys = SectionKeys {
    name: "listen",
    keys: &[
        "address",
        "takeover",
        "tls",
        "cert",
        "key",
        "client_ca",
        "max_clients",
        "max_logins",
        "replication",
        "workers",
    ],
    later: &[],
};
pub(super) const HTTP: SectionKeys = SectionKeys { name: "http", keys: &["address"], later: &[] };
pub(super) const LOG: SectionKeys = SectionKeys { name: "log", keys: &["format", "level"], later: &[] };
pub(super) const AUDIT: SectionKeys = SectionKeys {
    name: "audit",
    keys: &["file", "events", "statements", "tables", "text", "rotate_size", "rotate_keep", "queue"],
    later: &[],
};
pub(super) const STATEMENTS: SectionKeys = SectionKeys { name: "statements", keys: &["max"], later: &[] };
pub(super) const AUTH: SectionKeys = SectionKeys {
    name: "auth",
    keys: &["method", "query", "query_database", "query_cache", "failure_delay", "max_failures", "rules", "users"],
    later: &[],
};
pub(super) const RULES: SectionKeys =
    SectionKeys { name: "auth.rules", keys: &["databases", "users", "addresses", "tls", "method"], later: &[] };
pub(super) const USERS: SectionKeys = SectionKeys {
    name: "auth.users",
    keys: &["name", "password", "server_password", "max_clients", "statements_per_second", "statement_timeout"],
    later: &[],
};
pub(super) const ADMIN: SectionKeys = SectionKeys { name: "admin", keys: &["admins", "stats"], later: &[] };
pub(super) const POOL: SectionKeys = SectionKeys {
    name: "pool",
    keys: &["mode", "size", "max_pinned", "checkout_timeout", "connect_timeout", "max_lifetime", "idle_timeout"],
    later: &[],
};
pub(super) const CONSISTENCY: SectionKeys =
    SectionKeys { name: "consistency", keys: &["level", "max_staleness", "wait", "allow_hints"], later: &[] };
pub(super) const LAG: SectionKeys = SectionKeys {
    name: "lag",
    keys: &[
        "poll_interval",
        "poll_timeout",
        "eject_above",
        "readmit_below",
        "readmit_after",
        "probation_reads",
        "connection_errors",
        "when_none",
    ],
    later: &[],
};
pub(super) const LIMITS: SectionKeys = SectionKeys {
    name: "limits",
    keys: &[
        "login_timeout",
        "drain_timeout",
        "takeover_timeout",
        "max_statement_bytes",
        "statement_cache_bytes",
        "clients_per_user",
        "clients_per_database",
        "statements_per_second",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
    ],
    later: &[],
};
pub(super) const DATABASES: SectionKeys = SectionKeys { name: "databases", keys: &["name", "max_clients"], later: &[] };
pub(super) const SHARDS: SectionKeys = SectionKeys {
    name: "shards",
    keys: &["name", "weight", "nodes", "user", "password", "database", "sslmode", "sslrootcert", "sslcert", "sslkey"],
    later: &[],
};
pub(super) const NODES: SectionKeys = SectionKeys { name: "shards.nodes", keys: &["address", "weight"], later: &[] };
pub(super) const TABLES: SectionKeys =
    SectionKeys { name: "tables", keys: &["name", "shard_key", "reference", "shard"], later: &[] };
pub(super) const COORDINATOR: SectionKeys = SectionKeys { name: "coordinator", keys: &["shard"], later: &[] };

/// All of them.
pub(super) const SECTIONS: [&SectionKeys; 19] = [
    &FILE,
    &LISTEN,
    &HTTP,
    &LOG,
    &AUDIT,
    &STATEMENTS,
    &AUTH,
    &RULES,
    &USERS,
    &ADMIN,
    &POOL,
    &CONSISTENCY,
    &LAG,
    &LIMITS,
    &DATABASES,
    &SHARDS,
    &NODES,
    &TABLES,
    &COORDINATOR,
];

/// Sections that are written `[[name]]`.
const ARRAYS: [&str; 5] = ["databases", "shards", "tables", "auth.users", "auth.rules"];

impl SectionKeys {
    /// The section as its header is written.
    pub(super) fn header(&self) -> String {
        match self.name {
            "" => "the file".to_owned(),
            "shards.nodes" => "a node".to_owned(),
            name if ARRAYS.contains(&name) => format!("[[{name}]]"),
            name => format!("[{name}]"),
        }
    }

    /// What to say of a key that this section does not have.
    pub(super) fn unknown(&self, key: &str) -> Complaint {
        if self.later.contains(&key) {
            return Complaint::new("is not available in this version; leave it out");
        }
        let kind = if self.name.is_empty() { "there is no such section" } else { "there is no such key" };
        let keys = one_of(self.keys.iter().copied());
        let expected = if self.name.is_empty() { keys } else { format!("{keys} in {}", self.header()) };
        let near = nearest(key, self.keys.iter().copied()).map(str::to_owned);
        Complaint::new(kind).expected(expected).suggest(near.or_else(|| self.elsewhere(key)))
    }

    /// `section.key` if exactly one other section has a key of this very name. Between entries of lists
    /// nobody mixes up sections: a `user` among `[[auth.users]]` is no `shards.user`.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let entry = |section: &SectionKeys| section.name == NODES.name || ARRAYS.contains(&section.name);
        // What a rule's conditions are called is called so elsewhere too, and there it is what was meant.
        let named = SECTIONS.iter().filter(|section| section.name != RULES.name);
        let mut homes = named.filter(|section| section.keys.contains(&key));
        match (homes.next(), homes.next()) {
            (Some(home), None) if entry(home) && entry(self) => None,
            (Some(home), None) if home.name.is_empty() => Some(key.to_owned()),
            (Some(home), None) => Some(format!("{}.{key}", home.name)),
            _ => None,
        }
    }
}

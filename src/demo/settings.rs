//! The servers' configuration files.

use std::fmt::Write;
use std::path::Path;

/// Settings that every server of a cluster gets, before the caller's own.
const SETTINGS: [(&str, &str); 17] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "300"),
    ("shared_buffers", "32MB"),
    // The data lives for minutes: what a crash of the whole machine would lose does not matter.
    ("fsync", "off"),
    // In files of the data directory, so that a killed server leaves nothing in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("wal_level", "replica"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    // Transactions over several shards need it; PostgreSQL's own default is none.
    ("max_prepared_transactions", "64"),
    ("hot_standby", "on"),
    ("hot_standby_feedback", "off"),
    // A replica that lost its primary asks for it again soon (default 5 s) …
    ("wal_retrieve_retry_interval", "200ms"),
    // … and notices a silent one sooner (default 60 s), yet not on every stall of a busy machine.
    ("wal_receiver_timeout", "5s"),
    ("logging_collector", "off"),
    // Whatever the machine's own zone is, or lacks.
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %a "),
];

/// Who may connect: anyone of this machine's account through the socket, with a password otherwise.
pub(super) const PG_HBA: &str = "\
# TYPE  DATABASE     USER  ADDRESS       METHOD
local   all          all                 trust
local   replication  all                 trust
host    all          all   127.0.0.1/32  scram-sha-256
host    replication  all   127.0.0.1/32  scram-sha-256
";

/// `postgresql.conf`: the common settings, then `extra`. The last of a name wins.
pub(super) fn postgresql_conf(socket_dir: &Path, extra: &[(String, String)]) -> String {
    let socket_dir = socket_dir.to_string_lossy();
    let common = SETTINGS.into_iter().chain([("unix_socket_directories", socket_dir.as_ref())]);
    let extra = extra.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    common.chain(extra).fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name} = {}", conf_value(value));
        text
    })
}

/// A value in `postgresql.conf`.
pub(super) fn conf_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

/// A string as an SQL literal, under `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as an SQL identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value in a libpq connection string.
pub(super) fn conninfo_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_settings_come_last_and_are_quoted() {
        let extra = [("fsync".to_owned(), "on".to_owned()), ("a.b".to_owned(), r"it's \ this".to_owned())];
        let text = postgresql_conf(Path::new("/tmp/x"), &extra);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[lines.len() - 2..], ["fsync = 'on'", r"a.b = 'it''s \\ this'"]);
        assert!(lines.contains(&"unix_socket_directories = '/tmp/x'"));
    }

    #[test]
    fn quoting() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(conninfo_value(r"a'b\c"), r"'a\'b\\c'");
        let parsed: tokio_postgres::Config = format!("password={}", conninfo_value(r"a'b\ c")).parse().unwrap();
        assert_eq!(parsed.get_password(), Some(br"a'b\ c".as_slice()));
    }
}

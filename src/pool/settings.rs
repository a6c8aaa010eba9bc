//! The settings (GUCs) that a session has changed, and how to bring a server connection to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::quality::FixedState;

/// Settings whose acceptance can change from one moment to the next (a role is dropped, a
/// membership revoked), so that it is awaited each time before anything runs under them.
const AWAITED: &[&str] = &["session_authorization", "role", "default_tablespace", "temp_tablespaces"];

static EMPTY_DIGEST: LazyLock<u64> =
    LazyLock::new(|| FixedState::default().hash_one(BTreeMap::<Box<str>, SettingValue>::new()));

/// A value, in one of two forms.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SettingValue {
    /// What a client wrote after `SET name TO`, as SQL.
    Sql(Box<str>),
    /// What `current_setting()` gives and `set_config()` takes.
    Text(Box<str>),
}

/// Names and values that differ from what the server connection had after login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<Box<str>, SettingValue>,
    digest: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { values: BTreeMap::new(), digest: *EMPTY_DIGEST }
    }
}

/// One statement's worth of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// SET
    Set(Box<str>, SettingValue),
    /// RESET, or SET … TO DEFAULT
    Reset(Box<str>),
    /// RESET ALL
    ResetAll,
}

impl Settings {
    /// From names (lower case) and values; later ones win.
    pub fn new(values: impl IntoIterator<Item = (Box<str>, SettingValue)>) -> Self {
        let values: BTreeMap<_, _> = values.into_iter().collect();
        let digest = FixedState::default().hash_one(&values);
        Self { values, digest }
    }

    /// With a change made.
    #[must_use]
    pub fn with(&self, change: &Change) -> Self {
        let mut values = self.values.clone();
        match change {
            Change::Set(name, value) => {
                values.insert(name.clone(), value.clone());
            }
            Change::Reset(name) => {
                values.remove(name);
            }
            Change::ResetAll => values.retain(|name, _| AWAITED[..2].contains(&&**name)),
        }
        Self::new(values)
    }

    /// All of `self`, and what `defaults` adds to it.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        let mut values = defaults.values.clone();
        values.extend(self.values.clone());
        Self::new(values)
    }

    /// A value, where there is one.
    pub fn get(&self, name: &str) -> Option<&SettingValue> {
        self.values.get(name)
    }

    /// Names and values, in the names' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SettingValue)> {
        self.values.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether two are the same; as quick as comparing two numbers where they are not.
    pub fn same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.values == other.values
    }

    /// The SQL that turns a connection at `from` into one at `self`, as one `Query`'s text; `None` when there is nothing to do.
    pub fn sql_from(&self, from: &Self) -> Option<String> {
        let mut sql = String::new();
        // Out of another client's role first: what follows may need the rights of the user behind it.
        let gone = |name: &str| from.get(name).is_some() && self.get(name).is_none();
        for name in AWAITED[..2].iter().filter(|name| gone(name)) {
            let _ = write!(sql, "RESET {};", quote_setting_name(name));
        }
        for (name, _) in from.iter().filter(|(name, _)| gone(name) && !AWAITED[..2].contains(name)) {
            let _ = write!(sql, "RESET {};", quote_setting_name(name));
        }
        // The user first: what follows is then judged by the rights that it will be used with.
        let (users, others): (Vec<_>, Vec<_>) = self
            .iter()
            .filter(|(name, value)| from.get(name) != Some(value))
            .partition(|(name, _)| AWAITED[..2].contains(name));
        for (name, value) in users.into_iter().rev().chain(others) {
            let _ = match value {
                SettingValue::Sql(value) => write!(sql, "SET {} TO {value};", quote_setting_name(name)),
                SettingValue::Text(value) => {
                    write!(
                        sql,
                        "SELECT pg_catalog.set_config({}, {}, false);",
                        quote_literal(name),
                        quote_literal(value)
                    )
                }
            };
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// Whether whatever differs from `from` may be set without waiting for the server's word.
    /// `is_proven` tells of a name and value, by their digest, whether this server took them before.
    pub fn may_be_pipelined(&self, from: &Self, is_proven: impl Fn(u64) -> bool) -> bool {
        let awaited = |name: &str| AWAITED.contains(&name);
        from.iter().all(|(name, _)| self.get(name).is_some() || !awaited(name))
            && self
                .iter()
                .filter(|(name, value)| from.get(name) != Some(value))
                .all(|(name, value)| !awaited(name) && is_proven(digest_of(name, value)))
    }

    /// The digests of all names with their values.
    pub fn digests(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|(name, value)| digest_of(name, value))
    }
}

fn digest_of(name: &str, value: &SettingValue) -> u64 {
    FixedState::default().hash_one((name, value))
}

/// A setting's name as SQL: each part of a two-part name in double quotes.
fn quote_setting_name(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}

/// A string as an SQL constant, whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str)]) -> Settings {
        Settings::new(values.iter().map(|(name, value)| ((*name).into(), SettingValue::Text((*value).into()))))
    }

    #[test]
    fn only_the_difference_is_sent() {
        let none = Settings::default();
        let one = settings(&[("timezone", "UTC"), ("app.tenant", "o'neill\\")]);
        assert_eq!(one.sql_from(&one), None);
        assert_eq!(
            one.sql_from(&none).unwrap(),
            "SELECT pg_catalog.set_config('app.tenant', E'o''neill\\\\', false);SELECT pg_catalog.set_config('timezone', 'UTC', false);"
        );
        assert_eq!(none.sql_from(&one).unwrap(), "RESET \"app\".\"tenant\";RESET \"timezone\";");
        let sql = none.with(&Change::Set("search_path".into(), SettingValue::Sql("a, b".into())));
        assert_eq!(sql.sql_from(&none).unwrap(), "SET \"search_path\" TO a, b;");
    }

    #[test]
    fn the_user_comes_first_and_is_awaited() {
        let none = Settings::default();
        let wanted = settings(&[("role", "r"), ("session_authorization", "s"), ("a", "1")]);
        assert_eq!(
            wanted.sql_from(&none).unwrap(),
            "SELECT pg_catalog.set_config('session_authorization', 's', false);\
             SELECT pg_catalog.set_config('role', 'r', false);SELECT pg_catalog.set_config('a', '1', false);"
        );
        assert!(!wanted.may_be_pipelined(&none, |_| true));
        assert!(!none.may_be_pipelined(&wanted, |_| true));
    }

    #[test]
    fn what_a_server_took_before_is_not_awaited() {
        let none = Settings::default();
        let wanted = settings(&[("a", "1"), ("b", "2")]);
        let proven: Vec<u64> = wanted.digests().collect();
        assert!(wanted.may_be_pipelined(&none, |digest| proven.contains(&digest)));
        assert!(!wanted.may_be_pipelined(&none, |digest| proven[0] == digest));
        assert!(none.may_be_pipelined(&wanted, |_| false));
    }

    #[test]
    fn changes_and_defaults() {
        let start = settings(&[("a", "1"), ("role", "r")]);
        assert!(start.with(&Change::ResetAll).same(&settings(&[("role", "r")])));
        assert!(start.with(&Change::Reset("a".into())).same(&settings(&[("role", "r")])));
        let defaults = settings(&[("a", "0"), ("b", "0")]);
        assert!(start.over(&defaults).same(&settings(&[("a", "1"), ("b", "0"), ("role", "r")])));
    }
}

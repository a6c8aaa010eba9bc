//! The settings (GUCs) that a session has changed, and how to bring a server connection to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::quality::FixedState;

/// Settings whose acceptance can change from one moment to the next (a role is dropped, a
/// membership revoked), so that it is awaited each time before anything runs under them.
const AWAITED: &[&str] = &["default_tablespace", "temp_tablespaces"];

/// What the names of pgsluice's own settings begin with.
pub const OWN_PREFIX: &str = "pgsluice.";

/// Who the session is, in the order of setting. Awaited likewise.
const USER: [&str; 2] = ["session_authorization", "role"];

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
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<Box<str>, SettingValue>,
    /// Those that were set under the present role: perhaps by its rights, and not by those of the user behind it.
    by_role: BTreeSet<Box<str>>,
    has_own: bool,
    has_transaction_defaults: bool,
    digest: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            by_role: BTreeSet::new(),
            has_own: false,
            has_transaction_defaults: false,
            digest: *EMPTY_DIGEST,
        }
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

fn is_user(name: &str) -> bool {
    USER.contains(&name)
}

impl Settings {
    /// From names (lower case) and values; later ones win.
    pub fn new(values: impl IntoIterator<Item = (Box<str>, SettingValue)>) -> Self {
        let values: BTreeMap<_, _> = values.into_iter().collect();
        let digest = FixedState::default().hash_one(&values);
        let has_own = values.keys().any(|name| name.starts_with(OWN_PREFIX));
        let has_transaction_defaults = values.keys().any(|name| name.starts_with("default_transaction_"));
        Self { values, by_role: BTreeSet::new(), has_own, has_transaction_defaults, digest }
    }

    /// With a change made.
    #[must_use]
    pub fn with(&self, change: &Change) -> Self {
        let (mut values, mut by_role) = (self.values.clone(), self.by_role.clone());
        match change {
            Change::Set(name, value) => {
                values.insert(name.clone(), value.clone());
                if is_user(name) {
                    by_role.clear();
                } else if self.has_user() {
                    by_role.insert(name.clone());
                }
            }
            Change::Reset(name) => {
                values.remove(name);
                by_role.remove(name);
                if is_user(name) {
                    by_role.clear();
                }
            }
            Change::ResetAll => {
                values.retain(|name, _| is_user(name));
                by_role.clear();
            }
        }
        Self { by_role, ..Self::new(values) }
    }

    /// All of `self`, and what `defaults` adds to it.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        let mut values = defaults.values.clone();
        values.extend(self.values.clone());
        Self { by_role: self.by_role.clone(), ..Self::new(values) }
    }

    /// What the server says of itself, with what is known of how it came to that.
    #[must_use]
    pub fn as_told(&self, told: Self) -> Self {
        let is_new = |name: &str| self.by_role.contains(name) || !self.values.contains_key(name);
        let by_role = told.values.keys().filter(|name| told.has_user() && !is_user(name) && is_new(name));
        Self { by_role: by_role.cloned().collect(), ..told }
    }

    fn has_user(&self) -> bool {
        USER.iter().any(|name| self.values.contains_key(*name))
    }

    /// A value, where there is one.
    pub fn get(&self, name: &str) -> Option<&SettingValue> {
        self.values.get(name)
    }

    /// Whether one of them is pgsluice's own.
    pub fn has_own(&self) -> bool {
        self.has_own
    }

    /// Whether one of them says how transactions begin.
    pub fn has_transaction_defaults(&self) -> bool {
        self.has_transaction_defaults
    }

    /// Names and values, in the names' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SettingValue)> {
        self.values.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether two are the same; quick where they are one, or differ.
    pub fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.digest == other.digest && self.values == other.values
    }

    /// The SQL that turns a connection at `from` into one at `self`, as one `Query`'s text; `None` when there is nothing to do.
    ///
    /// Each value is set under the role that it was set under first, or else under the user's own.
    pub fn sql_from(&self, from: &Self) -> Option<String> {
        if self.same(from) {
            return None;
        }
        let mut sql = String::new();
        let leaves = self.leaves_user(from);
        if leaves {
            for name in USER.iter().rev().filter(|name| from.get(name).is_some()) {
                let _ = write!(sql, "RESET {};", quote_setting_name(name));
            }
        }
        for (name, _) in self.gone(from) {
            let _ = write!(sql, "RESET {};", quote_setting_name(name));
        }
        let (later, first): (Vec<_>, Vec<_>) = self.changed(from).partition(|(name, _)| self.by_role.contains(*name));
        let users = USER.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let users = users.filter(|(name, value)| leaves || from.get(name) != Some(value));
        for (name, value) in first.into_iter().chain(users).chain(later) {
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

    /// Whether a connection at `from` has a role that is another one, or has too few rights for what is to change.
    fn leaves_user(&self, from: &Self) -> bool {
        let differs = USER.iter().any(|name| from.get(name) != self.get(name));
        let by_user =
            || self.gone(from).next().is_some() || self.changed(from).any(|(name, _)| !self.by_role.contains(name));
        from.has_user() && (differs || by_user())
    }

    /// What has to go, besides the user.
    fn gone<'a>(&'a self, from: &'a Self) -> impl Iterator<Item = (&'a str, &'a SettingValue)> {
        from.iter().filter(|(name, _)| !is_user(name) && self.get(name).is_none())
    }

    /// What has to be set, besides the user.
    fn changed<'a>(&'a self, from: &'a Self) -> impl Iterator<Item = (&'a str, &'a SettingValue)> {
        self.iter().filter(|(name, value)| !is_user(name) && from.get(name) != Some(value))
    }

    /// Whether whatever differs from `from` may be set without waiting for the server's word.
    /// `is_proven` tells of a name and value, by their digest, whether this server took them before.
    pub fn may_be_pipelined(&self, from: &Self, is_proven: impl Fn(u64) -> bool) -> bool {
        let is_user_kept = USER.iter().all(|name| from.get(name) == self.get(name)) && !self.leaves_user(from);
        is_user_kept
            && self.gone(from).all(|(name, _)| !AWAITED.contains(&name))
            && self.changed(from).all(|(name, value)| !AWAITED.contains(&name) && is_proven(digest_of(name, value)))
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
    let parts: Vec<String> = name.split('.').map(quote_identifier).collect();
    parts.join(".")
}

/// A name as SQL, always in quotes: no list of key words is needed, and none can be out of date.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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
        let set = |settings: &Settings, name: &str, value: &str| {
            settings.with(&Change::Set(name.into(), SettingValue::Sql(value.into())))
        };
        let before = set(&set(&set(&none, "a", "1"), "role", "r"), "session_authorization", "s");
        let wanted = set(&before, "b", "2");
        let all = "SET \"a\" TO 1;SET \"session_authorization\" TO s;SET \"role\" TO r;SET \"b\" TO 2;";
        assert_eq!(wanted.sql_from(&none).unwrap(), all);
        assert!(!wanted.may_be_pipelined(&none, |_| true));
        assert!(!none.may_be_pipelined(&wanted, |_| true));
        assert_eq!(
            none.sql_from(&wanted).unwrap(),
            "RESET \"role\";RESET \"session_authorization\";RESET \"a\";RESET \"b\";"
        );
        // What the role itself has set needs nobody else.
        assert_eq!(wanted.sql_from(&before).unwrap(), "SET \"b\" TO 2;");
        assert!(wanted.may_be_pipelined(&before, |_| true));
        // The user's own needs the user.
        let other = set(&set(&set(&none, "a", "0"), "role", "r"), "session_authorization", "s");
        assert_eq!(wanted.sql_from(&other).unwrap(), format!("RESET \"role\";RESET \"session_authorization\";{all}"));
        assert!(!wanted.may_be_pipelined(&other, |_| true));
        // As the server tells it, where one was set by a function.
        let told = settings(&[("a", "1"), ("b", "3"), ("role", "r")]);
        let known = set(&settings(&[("a", "1")]), "role", "r");
        assert!(known.as_told(told).sql_from(&known).unwrap().ends_with("set_config('b', '3', false);"));
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

//! What a client has asked for of its own statements' way: its `pgsluice.*` settings, and the hints in
//! front of a statement. Their names and values are checked here, since PostgreSQL knows none of them.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use super::token::{Token, tokens};
use super::understand::Understood;
use crate::config::{Config, ConsistencyLevel, HINTS};
use crate::pool::{OWN_PREFIX, SettingValue, Settings};
use crate::route::RouteSetting;
use crate::sql::{Analysis, Setting};
use crate::wire::ErrorReply;

/// Bytes of a session key.
const MAX_KEY: usize = 1024;

/// How statements are to be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) level: ConsistencyLevel,
    pub(super) max_staleness: Duration,
    pub(super) route: RouteSetting,
}

/// A value that one of the parameters takes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Level(ConsistencyLevel),
    Staleness(Duration),
    Route(RouteSetting),
    Key(Box<str>),
    Token(Box<[Token]>),
    /// Empty: by the shard key.
    Shard(Box<str>),
}

impl Wish {
    /// What the config says, with what the client has set.
    pub(super) fn of(settings: &Settings, config: &Config) -> Self {
        let consistency = &config.consistency;
        let mut wish =
            Self { level: consistency.level, max_staleness: consistency.max_staleness, route: RouteSetting::Auto };
        if !settings.has_own() {
            return wish;
        }
        for name in ["consistency", "max_staleness", "route"] {
            match own(settings, name) {
                Some(Value::Level(level)) => wish.level = level,
                Some(Value::Staleness(age)) => wish.max_staleness = age,
                Some(Value::Route(route)) => wish.route = route,
                _ => {}
            }
        }
        wish
    }

    /// With the hints of statements that go together: where they differ, the strictest.
    pub(super) fn with_hints(self, analyses: &[Arc<Analysis>]) -> Self {
        let (mut level, mut age, mut route) = (None, None, None);
        for hint in analyses.iter().flat_map(|analysis| &analysis.hints) {
            match read(&hint.key, &hint.value) {
                Ok(Value::Level(new)) => level = Some(level.map_or(new, |old| stricter(old, new))),
                Ok(Value::Staleness(new)) => age = Some(age.map_or(new, |old: Duration| old.min(new))),
                Ok(Value::Route(new)) => route = Some(route.map_or(new, |old| nearer_to_primary(old, new))),
                _ => {}
            }
        }
        Self {
            level: level.unwrap_or(self.level),
            max_staleness: age.unwrap_or(self.max_staleness),
            route: route.unwrap_or(self.route),
        }
    }
}

fn stricter(one: ConsistencyLevel, other: ConsistencyLevel) -> ConsistencyLevel {
    ConsistencyLevel::ALL.into_iter().find(|level| [one, other].contains(level)).unwrap_or(one)
}

fn nearer_to_primary(one: RouteSetting, other: RouteSetting) -> RouteSetting {
    [RouteSetting::Primary, RouteSetting::Auto].into_iter().find(|route| [one, other].contains(route)).unwrap_or(one)
}

impl Session {
    /// What this client has set.
    pub(super) fn wish(&self) -> Wish {
        Wish::of(self.tracked.current(), &self.config)
    }

    /// Takes over what of the client's settings is no wish but a fact: whose reads it shares, and what
    /// others have seen.
    pub(super) fn adopt_own_settings(&mut self) {
        if Arc::ptr_eq(&self.adopted, self.tracked.current()) {
            return;
        }
        let settings = Arc::clone(self.tracked.current());
        if std::mem::replace(&mut self.adopted, Arc::clone(&settings)).same(&settings) {
            return;
        }
        self.shared = match own(&settings, "session_key") {
            Some(Value::Key(key)) => Some(self.proxy.session_keys.of(&self.identity, &key)),
            _ => None,
        };
        if let Some(Value::Token(tokens)) = own(&settings, "session_token") {
            self.see_tokens(&tokens);
        }
    }

    /// The same of what stands in front of a statement: once seen it stays seen.
    pub(super) fn adopt_hints(&mut self, understood: &Understood) {
        if not_allowed("session_token", &self.config).is_some() {
            return;
        }
        for hint in understood.analyses.iter().flat_map(|analysis| &analysis.hints) {
            if let ("session_token", Ok(Value::Token(tokens))) = (&*hint.key, read(&hint.key, &hint.value)) {
                self.see_tokens(&tokens);
            }
        }
    }

    /// The value of one of pgsluice's own parameters, as SQL for a server that is to say it.
    pub(super) fn show_own(&self, name: &str) -> String {
        let wish = self.wish();
        let plain = |name| own_text(self.tracked.current(), name).unwrap_or_default();
        let value = match name {
            "consistency" => quote(wish.level.name()),
            "max_staleness" => quote(&format!("{}ms", wish.max_staleness.as_millis())),
            "route" => quote(wish.route.name()),
            "session_token" if self.is_sharded => quote(&self.across.token),
            "session_token" => {
                let topology = self.proxy.topology.load();
                let shard = topology.shards.first();
                let timeline = shard.and_then(|shard| Some(shard.primary()?.sample()?.position.timeline));
                let start = format!("{}:{}:", shard.map_or("", |shard| &shard.name), timeline.unwrap_or(1));
                format!("{} || pg_catalog.pg_current_wal_insert_lsn()", quote(&start))
            }
            _ => quote(&plain(name)),
        };
        format!("SELECT {value} AS \"{OWN_PREFIX}{name}\"")
    }

    /// Why a text's hints cannot be followed.
    pub(super) fn object_to_hints(&self, analysis: &Analysis) -> Option<ErrorReply> {
        if analysis.hints.is_empty() {
            return None;
        }
        let config = self.proxy.config.load();
        analysis.hints.iter().find_map(|hint| match (&*hint.key, read(&hint.key, &hint.value)) {
            (_, Err(reply)) => Some(reply.detail("It stands in the comment in front of the statement.")),
            ("session_key", Ok(_)) => Some(
                ErrorReply::error("22023", format!("\"{}\" cannot be set for one statement", hint.key))
                    .hint(format!("SET {OWN_PREFIX}{} in the session.", hint.key)),
            ),
            (_, Ok(Value::Shard(shard))) if is_no_shard(&shard, &config) => {
                Some(no_such_shard(&shard, &config).detail("It stands in the comment in front of the statement."))
            }
            (_, Ok(Value::Token(tokens))) if of_no_shard(&tokens, &config).is_some() => {
                let stranger = of_no_shard(&tokens, &config).map(|token| &*token.shard).unwrap_or_default();
                Some(unknown_shard(&hint.value, stranger))
            }
            (key, Ok(_)) => not_allowed(key, &config),
        })
    }

    /// The shard that the client has named, for this text or in its session. Of several hints the first counts: texts
    /// that go together are for one shard.
    pub(super) fn wished_shard(&self, analysis: &Analysis) -> Option<Arc<str>> {
        let hinted = analysis.hints.iter().find_map(|hint| read(&hint.key, &hint.value).ok().and_then(Value::shard));
        let named = || self.across.named_shard.clone();
        let set = || own(self.tracked.current(), "shard").and_then(Value::shard);
        let wished = hinted.or_else(named).or_else(set)?;
        (!wished.is_empty()).then(|| wished.into())
    }
}

impl Value {
    fn shard(self) -> Option<Box<str>> {
        match self {
            Self::Shard(shard) => Some(shard),
            _ => None,
        }
    }
}

fn is_no_shard(name: &str, config: &Config) -> bool {
    !name.is_empty() && config.shards.iter().all(|shard| shard.name != *name)
}

fn no_such_shard(name: &str, config: &Config) -> ErrorReply {
    let names: Vec<_> = config.shards.iter().map(|shard| &*shard.name).collect();
    invalid("shard", name).hint(format!("The shards are: {}.", names.join(", ")))
}

/// A part of the token that is about no shard that there is.
fn of_no_shard<'t>(tokens: &'t [Token], config: &Config) -> Option<&'t Token> {
    tokens.iter().find(|token| is_no_shard(&token.shard, config))
}

fn unknown_shard(token: &str, shard: &str) -> ErrorReply {
    invalid("session_token", token).detail(format!("There is no shard \"{shard}\" here."))
}

/// Whether a client may not set this: only of `pgsluice.*`.
pub(super) fn object_to_setting(name: &str, value: &str, config: &Config) -> Option<ErrorReply> {
    let own = name.strip_prefix(OWN_PREFIX)?;
    let constant = Setting::constant_value(value).unwrap_or_else(|| value.to_owned());
    match read(own, &constant) {
        Err(reply) => Some(reply),
        Ok(Value::Shard(shard)) if is_no_shard(&shard, config) => Some(no_such_shard(&shard, config)),
        Ok(Value::Token(tokens)) if of_no_shard(&tokens, config).is_some() => {
            let stranger = of_no_shard(&tokens, config).map(|token| &*token.shard).unwrap_or_default();
            Some(unknown_shard(&constant, stranger))
        }
        Ok(_) => not_allowed(own, config),
    }
}

/// Whether there is no such parameter to show.
pub(super) fn object_to_show(name: &str) -> Option<ErrorReply> {
    (!HINTS.contains(&name)).then(|| unknown(name))
}

fn not_allowed(name: &str, config: &Config) -> Option<ErrorReply> {
    let is_allowed = config.consistency.allow_hints.iter().any(|allowed| allowed == name);
    (!is_allowed).then(|| {
        ErrorReply::error("42501", format!("permission denied to set parameter \"{OWN_PREFIX}{name}\""))
            .detail("consistency.allow_hints in pgsluice's config does not name it.")
    })
}

fn unknown(name: &str) -> ErrorReply {
    let all = HINTS.map(|known| format!("{OWN_PREFIX}{known}")).join(", ");
    ErrorReply::error("42704", format!("unrecognized configuration parameter \"{OWN_PREFIX}{name}\""))
        .hint(format!("Parameters of pgsluice: {all}."))
}

fn invalid(name: &str, value: &str) -> ErrorReply {
    ErrorReply::error("22023", format!("invalid value for parameter \"{OWN_PREFIX}{name}\": \"{value}\""))
}

/// A value of the parameter `name`, without its prefix.
fn read(name: &str, value: &str) -> Result<Value, ErrorReply> {
    let available = |hint: &str| invalid(name, value).hint(hint);
    match name {
        "consistency" => level_named(value)
            .map(Value::Level)
            .ok_or_else(|| available("Available values: strong, bounded, session, eventual, primary.")),
        "max_staleness" => staleness(value)
            .map(Value::Staleness)
            .ok_or_else(|| available("It takes a time such as '500ms' or '5s'; a bare number is milliseconds.")),
        "route" => {
            route_named(value).map(Value::Route).ok_or_else(|| available("Available values: auto, primary, replica."))
        }
        "shard" => Ok(Value::Shard(value.into())),
        "session_key" if value.len() <= MAX_KEY => Ok(Value::Key(value.into())),
        "session_key" => {
            Err(ErrorReply::error("22023", format!("\"{OWN_PREFIX}{name}\" takes at most {MAX_KEY} bytes")))
        }
        "session_token" => tokens(value)
            .map(Value::Token)
            .ok_or_else(|| available("It takes what SHOW pgsluice.session_token has given elsewhere.")),
        _ => Err(unknown(name)),
    }
}

/// The value of a parameter of pgsluice's that the client has changed.
fn own(settings: &Settings, name: &str) -> Option<Value> {
    if !settings.has_own() {
        return None;
    }
    read(name, &own_text(settings, name)?).ok()
}

fn own_text(settings: &Settings, name: &str) -> Option<String> {
    constant(settings, &format!("{OWN_PREFIX}{name}"))
}

/// The value of a setting that the client has changed, where it is one plain constant.
pub(super) fn constant(settings: &Settings, name: &str) -> Option<String> {
    match settings.get(name)? {
        SettingValue::Text(value) => Some(value.to_string()),
        SettingValue::Sql(value) => Setting::constant_value(value),
    }
}

fn level_named(name: &str) -> Option<ConsistencyLevel> {
    ConsistencyLevel::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
}

fn route_named(name: &str) -> Option<RouteSetting> {
    RouteSetting::ALL.into_iter().find(|route| route.name().eq_ignore_ascii_case(name))
}

fn staleness(value: &str) -> Option<Duration> {
    let bare = value.trim().parse().ok().map(Duration::from_millis);
    bare.or_else(|| humantime::parse_duration(value.trim()).ok()).filter(|age| !age.is_zero())
}

fn quote(text: &str) -> String {
    format!("{}::pg_catalog.text", crate::pool::quote_literal(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyse;
    use crate::topology::{Lsn, Position};

    #[test]
    fn values() {
        let good = [
            ("consistency", "Strong", Value::Level(ConsistencyLevel::Strong)),
            ("max_staleness", "250", Value::Staleness(Duration::from_millis(250))),
            ("max_staleness", "5s", Value::Staleness(Duration::from_secs(5))),
            ("route", "REPLICA", Value::Route(RouteSetting::Replica)),
            ("session_key", "user 42", Value::Key("user 42".into())),
            (
                "session_token",
                "a:b:3:16/B374D848",
                Value::Token(
                    [Token { shard: "a:b".into(), position: Position { timeline: 3, lsn: Lsn(0x16_B374_D848) } }]
                        .into(),
                ),
            ),
        ];
        for (name, value, expected) in good {
            assert_eq!(read(name, value).unwrap(), expected, "{name}={value}");
        }
        for (name, value) in [
            ("consistency", "eventually"),
            ("max_staleness", "-1"),
            ("max_staleness", "0"),
            ("max_staleness", "soon"),
            ("route", ""),
            ("session_token", "main:0/1"),
            ("session_token", "main:x:0/1"),
        ] {
            assert_eq!(read(name, value).unwrap_err().sqlstate, "22023", "{name}={value}");
        }
        assert_eq!(read("unheard", "").unwrap_err().sqlstate, "42704");
    }

    #[test]
    fn the_strictest_hint_counts() {
        let wish =
            Wish { level: ConsistencyLevel::Session, max_staleness: Duration::from_secs(5), route: RouteSetting::Auto };
        let hinted = |texts: &[&str]| {
            let analyses: Vec<_> = texts.iter().map(|text| Arc::new(analyse(text))).collect();
            wish.with_hints(&analyses)
        };
        assert_eq!(hinted(&["SELECT 1"]), wish);
        let eventual = "/* pgsluice: consistency=eventual, route=replica, max_staleness=1s */ SELECT 1";
        assert_eq!(
            hinted(&[eventual, "SELECT 2"]),
            Wish {
                level: ConsistencyLevel::Eventual,
                max_staleness: Duration::from_secs(1),
                route: RouteSetting::Replica
            }
        );
        let bounded = "/* pgsluice: consistency=bounded, route=auto, max_staleness=2s */ SELECT 1";
        assert_eq!(
            hinted(&[eventual, bounded]),
            Wish { level: ConsistencyLevel::Bounded, max_staleness: Duration::from_secs(1), route: RouteSetting::Auto }
        );
    }
}

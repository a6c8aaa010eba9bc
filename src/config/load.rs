//! From a file's text to a [`Config`], or to all of its mistakes.

use std::path::Path;

use toml::de::DeTable;

use super::credentials::{Surroundings, reason};
use super::document::{Mistakes, Section, Setting, place};
use super::error::{Complaint, ConfigErrors};
use super::keys::{ADMIN, AUDIT, AUTH, CONSISTENCY, FILE, HTTP, LAG, LIMITS, LISTEN, LOG, POOL, STATEMENTS};
use super::rules::Rule;
use super::schema::{Auth, AuthMethod, Config, PoolMode};
use super::{audit, coordinator, lists, sections, tables};

impl Config {
    /// Reads, checks and resolves a config file. Secrets that it refers to are read now.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| ConfigErrors::unreadable(&name, None, format!("cannot be read: {}", reason(&error))))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let place = place(&valid, valid.len());
            ConfigErrors::unreadable(&name, Some(place), "is not UTF-8 text from here on".to_owned())
        })?;
        Self::parse(text, path.parent().unwrap_or(Path::new("")), &name)
    }

    /// Checks and resolves a config's text. `base` is where relative paths in it start, `file_name` what
    /// messages call it.
    pub fn parse(text: &str, base: &Path, file_name: &str) -> Result<Self, ConfigErrors> {
        Self::parse_in(text, Surroundings { base, variable: &|name| std::env::var_os(name) }, file_name)
    }

    pub(super) fn parse_in(text: &str, around: Surroundings<'_>, file_name: &str) -> Result<Self, ConfigErrors> {
        let mut mistakes = Mistakes::of(text);
        let config = match DeTable::parse(text) {
            Ok(document) => read(&mut mistakes, document.get_ref(), around),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                mistakes.add(span.start, "TOML", syntax(error.message(), span.is_empty()));
                None
            }
        };
        let mistakes = mistakes.into_vec();
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(ConfigErrors::new(file_name, mistakes)),
        }
    }
}

/// Reads every section, so that every mistake is found; `None` if any section has one.
fn read(mistakes: &mut Mistakes<'_>, document: &DeTable<'_>, around: Surroundings<'_>) -> Option<Config> {
    let file = Section::file(mistakes, document, &FILE);
    let mut table = |key, keys| file.table(mistakes, key, keys);
    let (listen, http, log, auth) =
        (table("listen", &LISTEN), table("http", &HTTP), table("log", &LOG), table("auth", &AUTH));
    let (audit_log, statements) = (table("audit", &AUDIT), table("statements", &STATEMENTS));
    let (pool, consistency) = (table("pool", &POOL), table("consistency", &CONSISTENCY));
    let (lag, limits, admin) = (table("lag", &LAG), table("limits", &LIMITS), table("admin", &ADMIN));

    let (listen, address) = sections::listen(mistakes, &listen, around);
    let http = sections::http(mistakes, &http, &address);
    let log = sections::log(mistakes, &log);
    let audit_log = audit::audit(mistakes, &audit_log, around);
    let statements = audit::statements(mistakes, &statements);
    let query = sections::auth_query(mistakes, &auth);
    let failures = sections::auth_failures(mistakes, &auth);
    let client_ca = listen.as_ref().map(|listen| listen.inbound.is_some() && listen.client_ca.is_some());
    let method = sections::auth_method(mistakes, &auth, &address, client_ca);
    let rules = lists::rules(mistakes, &auth, &method, &address);
    let users = lists::users(mistakes, &auth, asks_for_passwords(&method, &query.text, rules.as_deref()), around);
    let admin = sections::admin(mistakes, &admin);
    let pool_section = pool;
    let pool = sections::pool(mistakes, &pool_section);
    let consistency = sections::consistency(mistakes, &consistency);
    let lag = sections::lag(mistakes, &lag);
    let limits = sections::limits(mistakes, &limits);
    let databases = lists::databases(mistakes, &file);
    let shards = lists::shards(mistakes, &file, around);
    let tables = tables::tables(mistakes, &file, shards.as_deref());
    let coordinator = coordinator::coordinator(mistakes, &file, shards.as_deref());
    if let (Some(pool), Some([_, _, ..])) = (&pool, shards.as_deref())
        && pool.mode == PoolMode::Session
    {
        let complaint =
            Complaint::new("is \"session\", where a client keeps one server connection, and there are several shards");
        pool_section.complain::<()>(
            mistakes,
            "mode",
            &pool_section.place("mode"),
            complaint.expected("\"transaction\""),
        );
    }
    Some(Config {
        listen: listen?,
        http: http?,
        log: log?,
        audit: audit_log?,
        statements: statements?,
        auth: Auth {
            method: method.take()?,
            query: query.text.take()?,
            query_database: query.database.take()?,
            query_cache: query.cache.take()?,
            failure_delay: failures.0.take()?,
            max_failures: failures.1.take()?,
            rules: rules?,
            users: users?,
        },
        admin: admin?,
        pool: pool?,
        consistency: consistency?,
        lag: lag?,
        limits: limits?,
        databases: databases?,
        shards: shards?,
        tables: tables?,
        coordinator: coordinator?,
    })
}

/// Whether passwords are asked for that only the file's users can have.
fn asks_for_passwords(method: &Setting<AuthMethod>, query: &Setting<Option<String>>, rules: Option<&[Rule]>) -> bool {
    let is_scram = |method: &AuthMethod| *method == AuthMethod::ScramSha256;
    let is_asked = match rules {
        None => false,
        Some([]) => method.sound().is_some_and(is_scram),
        Some(rules) => rules.iter().any(|rule| is_scram(&rule.method)),
    };
    is_asked && query.sound().is_some_and(Option::is_none)
}

/// The TOML parser's message in this program's words where its own would puzzle. Only `message()` is
/// used: the parser's `Display` shows the source line, and there may be a password in it.
fn syntax(message: &str, nothing_there: bool) -> Complaint {
    let (problem, expected) = match message.split_once(", expected ") {
        Some((problem, expected)) => (problem, Some(expected)),
        None => (message, None),
    };
    match problem {
        "string values must be quoted" if nothing_there => {
            Complaint::new("there is no value after the `=`").expected("a value")
        }
        "string values must be quoted" => {
            Complaint::new("this is neither a number nor a boolean nor a string in quotes")
                .expected("quotes around it, as in level = \"info\"")
        }
        "duplicate key" => Complaint::new("this key or section is in the file already").expected("each one once"),
        "invalid basic string"
        | "invalid literal string"
        | "invalid multi-line basic string"
        | "invalid multi-line literal string" => {
            Complaint::new("this string is not closed, or holds a character that it may not hold")
                .expected(expected.map_or_else(|| "a closing quote".to_owned(), str::to_owned))
        }
        "missing escaped value" => Complaint::new("this `\\` in a string begins no escape that TOML knows")
            .expected("`\\\\` for a backslash, or single quotes around a string that holds some"),
        "key with no value" => Complaint::new("there is no `=` after this key").expected("key = value"),
        "unclosed table" | "unclosed array table" => {
            Complaint::new("this section's header is not closed").expected(expected.unwrap_or("its closing bracket"))
        }
        "unclosed array" => Complaint::new("this list is not closed").expected(expected.unwrap_or("`]`")),
        "unclosed inline table" => Complaint::new("this table is not closed").expected(expected.unwrap_or("`}`")),
        _ => {
            let complaint = Complaint::new(problem);
            match expected {
                Some(expected) => complaint.expected(expected),
                None => complaint,
            }
        }
    }
}

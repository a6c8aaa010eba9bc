//! The admin database's language: one command a statement, words and one argument.

use std::fmt;
use std::str::FromStr;

/// What an operator may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SHOW name`
    Show(String),
    /// `EXPLAIN ROUTE ON database statement`
    ExplainRoute {
        /// The database that it would be run in.
        database: String,
        /// The statement.
        sql: String,
    },
    /// `RELOAD`: read the config file again.
    Reload,
    /// `PAUSE`: hold new transactions when the running ones have ended.
    Pause,
    /// `RESUME`
    Resume,
    /// `DRAIN node`
    Drain(String),
    /// `UNDRAIN node`
    Undrain(String),
    /// `KILL client`
    Kill(i32),
    /// What drivers send of themselves (`SET …`, `BEGIN`): taken note of, and answered with this tag.
    Ignored(&'static str),
    /// `SELECT version()` and `SELECT 1`: what drivers and monitoring ask to see whether somebody is there.
    Select(Select),
}

/// The two queries that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// `SELECT version()`
    Version,
    /// `SELECT 1`
    One,
}

/// Why a text is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It begins with no known word.
    #[error("the admin database does not know \"{0}\"")]
    Unknown(String),
    /// SQL, which is for databases.
    #[error("the admin database holds no tables: it takes pgsluice's own commands only")]
    Sql,
    /// The word takes an argument of this kind.
    #[error("{0} takes {1}")]
    Argument(&'static str, &'static str),
}

impl Command {
    /// Whether it changes something: for admins alone.
    pub fn is_an_action(&self) -> bool {
        !matches!(self, Self::Show(_) | Self::ExplainRoute { .. } | Self::Ignored(_) | Self::Select(_))
    }

    /// Its word, for tags, logs and the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::ExplainRoute { .. } => "EXPLAIN ROUTE",
            Self::Reload => "RELOAD",
            Self::Pause => "PAUSE",
            Self::Resume => "RESUME",
            Self::Drain(_) => "DRAIN",
            Self::Undrain(_) => "UNDRAIN",
            Self::Kill(_) => "KILL",
            Self::Ignored(tag) => tag,
            Self::Select(_) => "SELECT",
        }
    }
}

impl fmt::Display for Command {
    /// As it would be said again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Show(name) | Self::Drain(name) | Self::Undrain(name) => write!(f, " {name}"),
            Self::ExplainRoute { database, sql } => write!(f, " ON \"{database}\" {sql}"),
            Self::Kill(pid) => write!(f, " {pid}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        let text = without_comments(text).trim_end_matches([';', ' ', '\t', '\r', '\n']);
        let (word, rest) = split_word(text);
        let alone = |command| match rest {
            "" => Ok(command),
            _ => Err(CommandError::Unknown(shortened(text))),
        };
        match word.to_ascii_uppercase().as_str() {
            "SHOW" => Ok(Self::Show(rest.to_ascii_lowercase())),
            "EXPLAIN" => explain(rest).ok_or(CommandError::Argument("EXPLAIN ROUTE", "ON database statement")),
            "RELOAD" => alone(Self::Reload),
            "PAUSE" => alone(Self::Pause),
            "RESUME" => alone(Self::Resume),
            "DRAIN" => argument("DRAIN", rest, "a node, as SHOW NODES has it").map(Self::Drain),
            "UNDRAIN" => argument("UNDRAIN", rest, "a node, as SHOW NODES has it").map(Self::Undrain),
            "KILL" => match argument("KILL", rest, "a client's pid, as SHOW CLIENTS has it")?.parse() {
                Ok(pid) => Ok(Self::Kill(pid)),
                Err(_) => Err(CommandError::Argument("KILL", "a client's pid, as SHOW CLIENTS has it")),
            },
            "SET" => Ok(Self::Ignored("SET")),
            "RESET" => Ok(Self::Ignored("RESET")),
            "DISCARD" => Ok(Self::Ignored("DISCARD ALL")),
            "BEGIN" | "START" => Ok(Self::Ignored("BEGIN")),
            "COMMIT" | "END" => Ok(Self::Ignored("COMMIT")),
            "ROLLBACK" | "ABORT" => Ok(Self::Ignored("ROLLBACK")),
            "SELECT" => select(rest),
            "WITH" | "INSERT" | "UPDATE" | "DELETE" | "VALUES" | "TABLE" | "COPY" | "CREATE" | "ALTER" | "DROP" => {
                Err(CommandError::Sql)
            }
            _ => Err(CommandError::Unknown(shortened(text))),
        }
    }
}

fn explain(rest: &str) -> Option<Command> {
    let is = |word: &str, expected: &str| word.eq_ignore_ascii_case(expected).then_some(());
    let (route, rest) = split_word(rest);
    is(route, "route")?;
    let (on, rest) = split_word(rest);
    is(on, "on")?;
    let (database, sql) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => rest.split_once(char::is_whitespace)?,
    };
    let sql = sql.trim_start();
    (!database.is_empty() && !sql.is_empty())
        .then(|| Command::ExplainRoute { database: database.to_owned(), sql: sql.to_owned() })
}

fn select(rest: &str) -> Result<Command, CommandError> {
    let bare: String = rest.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    match bare.as_str() {
        "version()" | "pg_catalog.version()" => Ok(Command::Select(Select::Version)),
        "1" => Ok(Command::Select(Select::One)),
        _ => Err(CommandError::Sql),
    }
}

fn argument(command: &'static str, rest: &str, kind: &'static str) -> Result<String, CommandError> {
    let quoted = |mark| rest.strip_prefix(mark).and_then(|rest: &str| rest.strip_suffix(mark));
    let bare = quoted('\'').or_else(|| quoted('"')).unwrap_or(rest);
    if bare.is_empty() || bare.contains(char::is_whitespace) {
        return Err(CommandError::Argument(command, kind));
    }
    Ok(bare.to_owned())
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Without the comments and the white space in front of it.
fn without_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        text = if let Some(comment) = text.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else if let Some(comment) = text.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            return text;
        };
    }
}

fn shortened(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let good = [
            ("SHOW NODES;", Command::Show("nodes".into())),
            (" /* x */ -- y\n show  clients ; ", Command::Show("clients".into())),
            (
                "explain route on \"my app\" SELECT 1",
                Command::ExplainRoute { database: "my app".into(), sql: "SELECT 1".into() },
            ),
            ("DRAIN 10.0.0.1:5432", Command::Drain("10.0.0.1:5432".into())),
            ("UNDRAIN '[::1]:5432';", Command::Undrain("[::1]:5432".into())),
            ("kill 42", Command::Kill(42)),
            ("PAUSE", Command::Pause),
            ("set application_name = 'x'", Command::Ignored("SET")),
            ("start transaction", Command::Ignored("BEGIN")),
            ("select pg_catalog.version()", Command::Select(Select::Version)),
        ];
        for (text, expected) in good {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, message) in [
            ("DRAIN", "DRAIN takes a node, as SHOW NODES has it"),
            ("KILL x", "KILL takes a client's pid, as SHOW CLIENTS has it"),
            ("PAUSE all", "the admin database does not know \"PAUSE all\""),
            ("EXPLAIN ROUTE SELECT 1", "EXPLAIN ROUTE takes ON database statement"),
            ("SELECT * FROM t", "the admin database holds no tables: it takes pgsluice's own commands only"),
            ("frob", "the admin database does not know \"frob\""),
        ] {
            assert_eq!(text.parse::<Command>().unwrap_err().to_string(), message, "{text}");
        }
    }
}

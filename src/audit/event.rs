//! What can be told, as it is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::choice::StatementKind;
use crate::config::AuditEvents;

/// A name or a text that is shared with whoever knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&Arc<str>> for Name {
    fn from(name: &Arc<str>) -> Self {
        Self(Arc::clone(name))
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// A client, logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    /// The role that it logged in as.
    pub user: Name,
    /// The database that it asked for.
    pub database: Name,
    /// Where it connected from; none for the proxy's own doings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
}

/// What came of an operator's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not.
    Refused {
        /// Why.
        message: String,
    },
}

/// How a statement is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StatementText {
    /// 16 hexadecimal digits, as in `SHOW STATEMENTS`; none where the text was not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// By `audit.text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Name>,
}

/// One thing that has happened. Each variant is the value of `event` in its line, in lower case.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The process serves from now on.
    Started {
        /// Of pgsluice.
        version: &'static str,
        /// Where clients connect.
        address: SocketAddr,
        /// The process that it took over from.
        #[serde(skip_serializing_if = "Option::is_none")]
        took_over_from: Option<i32>,
    },
    /// Another process takes new clients from now on.
    HandedOver {
        /// That process.
        to: i32,
        /// Clients that stay with this one until they leave.
        clients: usize,
    },
    /// The process ends.
    Ended {},
    /// A client has proved who it is.
    Login {
        /// It.
        #[serde(flatten)]
        who: Who,
        /// How it proved it: `auth.method`.
        method: &'static str,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A client was not let in.
    LoginRefused {
        /// Who it claimed to be, where it came to say so.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<Name>,
        /// What it asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        database: Option<Name>,
        /// Where it connected from.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<SocketAddr>,
        /// What it was told.
        sqlstate: &'static str,
        /// What it was told.
        message: String,
    },
    /// pgsluice itself refused a statement, or could not find a server for it.
    StatementRefused {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// What it was told.
        sqlstate: &'static str,
        /// What it was told.
        message: String,
    },
    /// A statement took longer than `limits.statement_timeout`, or its user's own, and was cancelled.
    StatementTimedOut {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// Where it ran.
        node: Name,
        /// The limit.
        limit_seconds: f64,
        /// The statement.
        #[serde(flatten)]
        text: StatementText,
    },
    /// A client was sent away.
    ClientCut {
        /// It.
        #[serde(flatten)]
        who: Who,
        /// As in `pgsluice_clients_cut_total`.
        cause: &'static str,
        /// What it was told, where there was a place for it.
        sqlstate: &'static str,
        /// Likewise.
        message: String,
    },
    /// A client wanted to keep a server connection for itself, and too many do already.
    PinLimit {
        /// It.
        #[serde(flatten)]
        who: Who,
        /// What for.
        pin: &'static str,
        /// What it was told.
        sqlstate: &'static str,
    },
    /// Another config is in force.
    ConfigChanged {
        /// `key: old -> new`, one for each key; of secrets only that they have changed.
        changes: Vec<String>,
        /// Keys whose new value takes effect after a restart.
        restart_needed: Vec<&'static str>,
    },
    /// A changed config was refused; the old one stays.
    ConfigRefused {
        /// What was wrong with it.
        mistakes: Vec<String>,
    },
    /// A replica gets no more reads.
    ReplicaEjected {
        /// Its shard.
        shard: Name,
        /// It.
        node: Name,
        /// As in `pgsluice_replica_ejected`.
        reason: &'static str,
        /// Its lag, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        lag_seconds: Option<f64>,
    },
    /// A replica gets reads: a few on probation, or its full share.
    ReplicaReturned {
        /// Its shard.
        shard: Name,
        /// It.
        node: Name,
        /// `probation` or `admitted`.
        state: &'static str,
    },
    /// A node plays another part.
    RoleChanged {
        /// Its shard.
        shard: Name,
        /// It.
        node: Name,
        /// `primary`, `replica` or `unknown`.
        from: &'static str,
        /// Likewise.
        to: &'static str,
    },
    /// An operator has given an order.
    OperatorAction {
        /// Who.
        user: Name,
        /// From where; none for a signal.
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<SocketAddr>,
        /// What, as it was given.
        command: String,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A replica refused a statement as a write; the primary runs it.
    Heal {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// The replica.
        node: Name,
        /// What the replica said.
        sqlstate: String,
        /// The statement.
        #[serde(flatten)]
        text: StatementText,
    },
    /// A statement was run.
    Statement {
        /// Whose.
        #[serde(flatten)]
        who: Who,
        /// Where.
        shard: Name,
        /// Where.
        node: Name,
        /// What that was.
        role: &'static str,
        /// Why there: as in `pgsluice_statements_total`.
        reason: &'static str,
        /// `read`, `write`, `ddl` or `other`.
        kind: StatementKind,
        /// The statement.
        #[serde(flatten)]
        text: StatementText,
        /// From its arrival to the end of its answer.
        duration_seconds: f64,
        /// Returned or changed, as the server said.
        rows: u64,
        /// Where it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        sqlstate: Option<String>,
    },
    /// Events before this line were lost: they came faster than they could be written.
    Lost {
        /// How many.
        count: u64,
    },
}

impl Event {
    /// How many variants there are; [`Event::number`] keeps it true.
    pub const COUNT: usize = 18;

    /// Of this variant, from 0: a variant that is new is missed here by the compiler, and then in the tests.
    pub fn number(&self) -> usize {
        match self {
            Self::Started { .. } => 0,
            Self::HandedOver { .. } => 1,
            Self::Ended {} => 2,
            Self::Login { .. } => 3,
            Self::LoginRefused { .. } => 4,
            Self::StatementRefused { .. } => 5,
            Self::StatementTimedOut { .. } => 6,
            Self::ClientCut { .. } => 7,
            Self::PinLimit { .. } => 8,
            Self::ConfigChanged { .. } => 9,
            Self::ConfigRefused { .. } => 10,
            Self::ReplicaEjected { .. } => 11,
            Self::ReplicaReturned { .. } => 12,
            Self::RoleChanged { .. } => 13,
            Self::OperatorAction { .. } => 14,
            Self::Heal { .. } => 15,
            Self::Statement { .. } => 16,
            Self::Lost { .. } => Self::COUNT - 1,
        }
    }

    /// By which word of `audit.events` it is chosen; `None`: otherwise.
    pub fn group(&self) -> Option<AuditEvents> {
        Some(match self {
            Self::Started { .. } | Self::HandedOver { .. } | Self::Ended {} => AuditEvents::Process,
            Self::Login { .. } | Self::LoginRefused { .. } => AuditEvents::Logins,
            Self::StatementRefused { .. }
            | Self::StatementTimedOut { .. }
            | Self::ClientCut { .. }
            | Self::PinLimit { .. } => AuditEvents::Refusals,
            Self::ConfigChanged { .. } | Self::ConfigRefused { .. } => AuditEvents::Config,
            Self::ReplicaEjected { .. } | Self::ReplicaReturned { .. } | Self::RoleChanged { .. } => AuditEvents::Nodes,
            Self::OperatorAction { .. } => AuditEvents::Operators,
            Self::Heal { .. } => AuditEvents::Heals,
            Self::Statement { .. } | Self::Lost { .. } => return None,
        })
    }

    /// About how much memory it takes beyond its own size, in bytes.
    pub(super) fn weight(&self) -> usize {
        let of = |text: &StatementText| text.text.as_ref().map_or(0, |text| text.len());
        let all = |texts: &[String]| texts.iter().map(String::len).sum();
        match self {
            Self::Statement { text, .. } | Self::Heal { text, .. } | Self::StatementTimedOut { text, .. } => of(text),
            Self::LoginRefused { message, user, database, .. } => {
                message.len() + [user, database].into_iter().flatten().map(|name| name.len()).sum::<usize>()
            }
            Self::StatementRefused { message, .. } | Self::ClientCut { message, .. } => message.len(),
            Self::OperatorAction { command, .. } => command.len(),
            Self::ConfigChanged { changes, .. } => all(changes),
            Self::ConfigRefused { mistakes } => all(mistakes),
            _ => 0,
        }
    }

    /// One of each, with every field that it can have: for tests, and for the reference.
    pub fn examples() -> Vec<Self> {
        let who = || Who { user: "app".into(), database: "shop".into(), client: Some(([10, 0, 0, 7], 51234).into()) };
        let client = who().client;
        let text = || StatementText {
            fingerprint: Some("9c1b1f0f3a7d2e44".to_owned()),
            text: Some("UPDATE accounts SET balance = $1 WHERE id = $2".into()),
        };
        let pair = || -> (Name, Name) { ("main".into(), "10.0.0.2:5432".into()) };
        let mut events = vec![
            Self::Started {
                version: env!("CARGO_PKG_VERSION"),
                address: ([127, 0, 0, 1], 6432).into(),
                took_over_from: Some(4711),
            },
            Self::HandedOver { to: 4712, clients: 40 },
            Self::Ended {},
            Self::Login { who: who(), method: "scram-sha-256", tls: true },
            Self::LoginRefused {
                user: Some("app".into()),
                database: Some("shop".into()),
                client,
                sqlstate: "28P01",
                message: "password authentication failed for user \"app\"".to_owned(),
            },
            Self::StatementRefused {
                who: who(),
                sqlstate: "57P03",
                message: "no primary is known for this shard".to_owned(),
            },
            Self::StatementTimedOut { who: who(), node: "10.0.0.2:5432".into(), limit_seconds: 30.0, text: text() },
            Self::ClientCut {
                who: who(),
                cause: "idle_in_transaction_session_timeout",
                sqlstate: "25P03",
                message: "terminating connection due to idle-in-transaction timeout".to_owned(),
            },
            Self::PinLimit { who: who(), pin: "listen", sqlstate: "57P05" },
            Self::ConfigChanged {
                changes: vec!["pool.size: 20 -> 40".to_owned(), "auth.users[app].password: changed".to_owned()],
                restart_needed: vec!["log.format"],
            },
            Self::ConfigRefused { mistakes: vec!["3:8: pool.size: 0 is too small".to_owned()] },
        ];
        let (shard_of, node_of) = pair();
        events.push(Self::ReplicaEjected { shard: shard_of, node: node_of, reason: "lag", lag_seconds: Some(0.25) });
        let (shard_of, node_of) = pair();
        events.push(Self::ReplicaReturned { shard: shard_of, node: node_of, state: "probation" });
        let (shard_of, node_of) = pair();
        events.push(Self::RoleChanged { shard: shard_of, node: node_of, from: "replica", to: "primary" });
        events.push(Self::OperatorAction {
            user: "dba".into(),
            client,
            command: "DRAIN \"10.0.0.2:5432\"".to_owned(),
            outcome: Outcome::Refused { message: "no such node".to_owned() },
        });
        let (shard_of, node_of) = pair();
        events.push(Self::Heal { who: who(), node: node_of.clone(), sqlstate: "25006".to_owned(), text: text() });
        events.push(Self::Statement {
            who: who(),
            shard: shard_of,
            node: node_of,
            role: "primary",
            reason: "write",
            kind: StatementKind::Write,
            text: text(),
            duration_seconds: 0.001_25,
            rows: 1,
            sqlstate: Some("40001".to_owned()),
        });
        events.push(Self::Lost { count: 17 });
        events
    }
}

/// A line of the log.
#[derive(Debug, Serialize)]
pub struct Line<'e> {
    /// RFC 3339, UTC, with microseconds.
    time: String,
    /// Of the process that writes; two write during a hand-over.
    pid: u32,
    #[serde(flatten)]
    event: &'e Event,
}

impl<'e> Line<'e> {
    /// For something that happened at `time`.
    pub fn new(time: SystemTime, event: &'e Event) -> Self {
        Self { time: humantime::format_rfc3339_micros(time).to_string(), pid: std::process::id(), event }
    }
}

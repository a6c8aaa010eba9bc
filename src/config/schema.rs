//! What a config file can say, once it has been read, checked and its secrets resolved.
//!
//! Every field here is a key of `config/pgsluice.toml`, under the same name, but for `inbound` and `outbound`, which
//! are what the files of certificates held when the config was read. The structs hold values only: reading, defaults, positions and messages are in the files beside this one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::choices::SSL_MODE;
use super::rules::Rule;
use super::secret::Secret;
use super::table_name::TableName;
pub use crate::tls::SslMode;
use crate::tls::{Inbound, Outbound};

/// A whole, valid configuration. Immutable: a reload makes a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[audit]`
    pub audit: Audit,
    /// `[statements]`
    pub statements: Statements,
    /// `[auth]`
    pub auth: Auth,
    /// `[admin]`
    pub admin: Admin,
    /// `[pool]`
    pub pool: Pool,
    /// `[consistency]`
    pub consistency: Consistency,
    /// `[lag]`
    pub lag: Lag,
    /// `[limits]`
    pub limits: Limits,
    /// `[[databases]]`; empty means that any name is passed through.
    pub databases: Vec<Database>,
    /// `[[shards]]`; at least one.
    pub shards: Vec<Shard>,
    /// `[[tables]]`; asked only where there are several shards.
    pub tables: Vec<Table>,
    /// `[coordinator]`; without it statements that need several shards at once are refused.
    pub coordinator: Option<Coordinator>,
}

/// `[listen]`: where clients connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// Where the PostgreSQL protocol is served. Default `127.0.0.1:6432`. Needs a restart.
    pub address: SocketAddr,
    /// Unix socket on which this process offers its listening sockets to the next one; without it there is no
    /// `--takeover`. Default: none. Needs a restart.
    pub takeover: Option<PathBuf>,
    /// Whether clients may or must use TLS. Default `off`.
    pub tls: TlsMode,
    /// PEM file with the server's certificate chain; needed unless `tls` is `off`.
    pub cert: Option<PathBuf>,
    /// PEM file with the certificate's private key; needed unless `tls` is `off`.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities whose clients' certificates are taken; needed for `verify-client` and `cert`.
    pub client_ca: Option<PathBuf>,
    /// What the three files hold; `None` where `tls` is `off`, which leaves them unread.
    pub inbound: Option<Arc<Inbound>>,
    /// Clients logged in at one time; more are refused with 53300. Default 10000.
    pub max_clients: usize,
    /// Connections that have not logged in yet; when there is one more the oldest is refused with 53300. Default 5000.
    pub max_logins: usize,
    /// Threads that serve clients; 0 is as many as the machine has processors for this process. Default 0. Needs a restart.
    pub workers: u16,
    /// What becomes of replication connections. Default `off`.
    pub replication: ReplicationMode,
}

/// What `listen.replication` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicationMode {
    /// They are refused.
    Off,
    /// They are passed on to the server that the client names by `pgsluice.node`.
    Pass,
}

/// What `listen.tls` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// An `SSLRequest` is answered with `N`.
    Off,
    /// TLS for clients that ask for it.
    Prefer,
    /// Clients without TLS are refused.
    Require,
    /// And clients without a certificate of `client_ca`.
    VerifyClient,
}

/// `[http]`: metrics and health.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Where `/metrics`, `/healthz` and `/readyz` are served. Default `127.0.0.1:9630`. Needs a restart.
    pub address: SocketAddr,
}

/// `[log]`: what is logged to stderr, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Default `text`. Needs a restart.
    pub format: LogFormat,
    /// A `tracing` filter: a level (`info`), or a list such as `info,pgsluice::monitor=debug`. Default `info`.
    pub level: String,
}

/// What `log.format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line an event, for people.
    Text,
    /// One JSON object an event.
    Json,
}

/// `[audit]`: the audit log, see `docs/audit.md`.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// Where it is written; without one there is none. Default: none.
    pub file: Option<PathBuf>,
    /// What is written, but for statements. Default: all of it.
    pub events: Vec<AuditEvents>,
    /// Which kinds of statements are written as well. Default: none.
    pub statements: Vec<AuditStatements>,
    /// Statements of any kind that name one of these tables are written as well. Default: none.
    pub tables: Vec<TableName>,
    /// How much of a statement's text is written. Default `normalised`.
    pub text: AuditText,
    /// A file that has grown beyond this, in bytes, is put aside and a new one begun. Default 64 MiB.
    pub rotate_size: usize,
    /// So many old files are kept. Default 8.
    pub rotate_keep: usize,
    /// Memory for events that are not written yet, in bytes; what does not fit is lost, and counted. Default 16 MiB.
    pub queue: usize,
}

/// What `audit.events` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditEvents {
    /// Everything.
    All,
    /// Logins, granted and refused.
    Logins,
    /// Statements that pgsluice refuses itself, and clients cut off by a limit.
    Refusals,
    /// Changes of the config, applied and refused.
    Config,
    /// Replicas that are left out and come back, and changes of roles.
    Nodes,
    /// What operators do.
    Operators,
    /// Statements that a replica refused as writes and the primary then ran.
    Heals,
    /// Start, end and hand-over of the process.
    Process,
}

/// What `audit.statements` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStatements {
    /// What changes rows, or may.
    Write,
    /// What changes a catalog.
    Ddl,
    /// What reads, and cannot change anything.
    Read,
    /// Everything, also BEGIN, SET and the like.
    All,
}

/// What `audit.text` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditText {
    /// With `$1` in place of each literal.
    Normalised,
    /// As the client sent it.
    Full,
    /// None of it; the fingerprint alone.
    None,
}

/// `[statements]`: the statistics that `SHOW STATEMENTS` shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Statements {
    /// How many different statements are kept apart. Default 1000. Needs a restart.
    pub max: usize,
}

/// `[auth]`: who may log in, and how that is checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Default `scram-sha-256`.
    pub method: AuthMethod,
    /// Asks the servers for users that are not in `users`: `$1` is the name; returns the name, the verifier, and if
    /// it likes until when that is valid. Not set: only `users` can log in.
    pub query: Option<String>,
    /// Where `query` runs. Not set: `shards.database`.
    pub query_database: Option<String>,
    /// How long a verifier that `query` returned is used before it is looked up again. Default 30 s.
    pub query_cache: Duration,
    /// How long a client waits to hear that its login has failed. Default 500 ms.
    pub failure_delay: Duration,
    /// Failed logins a minute from one address, beyond which it is refused unheard; 0 is no limit. Default 200.
    pub max_failures: u32,
    /// `[[auth.rules]]`, in order; none means that `method` is for everybody.
    pub rules: Vec<Rule>,
    /// `[[auth.users]]`; names are unique.
    pub users: Vec<User>,
}

/// What `auth.method` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// The client proves that it knows the password (RFC 7677).
    ScramSha256,
    /// The client shows a certificate of `listen.client_ca` that is made out to the user.
    Cert,
    /// Nobody is asked for anything. Refused unless only clients of this machine's loopback addresses can get there.
    Trust,
    /// Nobody gets in. Only in `auth.rules`.
    Reject,
}

/// One of `[[auth.users]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The role's name, in PostgreSQL and for clients alike.
    pub name: String,
    /// What clients are checked against; servers are sent it too, unless `server_password` is there.
    pub password: Password,
    /// What the servers are sent, where it is not `password`. With a verifier, and without this, they are shown what the client has proved.
    pub server_password: Option<Secret>,
    /// In place of `limits.clients_per_user`.
    pub max_clients: Option<usize>,
    /// In place of `limits.statements_per_second`.
    pub statements_per_second: Option<u32>,
    /// In place of `limits.statement_timeout`.
    pub statement_timeout: Option<Duration>,
}

/// A password as the config gives it: literal, `env:NAME`, `file:PATH` (these two already read), or a verifier.
#[derive(Debug, Clone, PartialEq)]
pub enum Password {
    /// The password itself.
    Plain(Secret),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`.
    Verifier(Secret),
}

/// `[pool]`: server connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Default `transaction`.
    pub mode: PoolMode,
    /// Server connections per node, database and user. Default 20.
    pub size: usize,
    /// How many of them clients may keep for themselves. 0, the default, is all but one.
    pub max_pinned: usize,
    /// How long a client waits for one before 53300. Default 5 s.
    pub checkout_timeout: Duration,
    /// How long connecting and logging in to a server may take. Default 5 s.
    pub connect_timeout: Duration,
    /// A connection older than this is closed when it is next idle. Default 1 h.
    pub max_lifetime: Duration,
    /// A connection idle for longer than this is closed. Default 10 min.
    pub idle_timeout: Duration,
}

/// What `pool.mode` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A client holds a server connection for a transaction.
    Transaction,
    /// A client holds one for as long as it is connected; everything goes to the primary unless it sets `pgsluice.route`.
    Session,
}

/// `[admin]`: who may use the database `pgsluice`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Admin {
    /// Users who may look and act. Default none.
    pub admins: Vec<String>,
    /// Users who may look. Default none.
    pub stats: Vec<String>,
}

/// `[consistency]`: what reads may see.
#[derive(Debug, Clone, PartialEq)]
pub struct Consistency {
    /// Default `session`.
    pub level: ConsistencyLevel,
    /// At `bounded`: how old what a read shows may be. Default 5 s.
    pub max_staleness: Duration,
    /// How long a read may wait for a replica to catch up before it goes to the primary. Default 0.
    pub wait: Duration,
    /// Which of `pgsluice.*` clients may set, by SET or in a comment: names without the prefix. Default all.
    pub allow_hints: Vec<String>,
}

/// What `consistency.level` and `SET pgsluice.consistency` take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsistencyLevel {
    /// Reads see whatever was acknowledged, to whomever, before they began: they go to the primary.
    Strong,
    /// Reads show nothing that is older than `consistency.max_staleness`.
    Bounded,
    /// Reads see this session's writes, and never go back.
    Session,
    /// Any replica that the lag breaker lets through.
    Eventual,
    /// Reads go to the primary.
    Primary,
}

impl ConsistencyLevel {
    /// From the strictest on.
    pub const ALL: [Self; 5] = [Self::Strong, Self::Primary, Self::Session, Self::Bounded, Self::Eventual];

    /// As in the config and in `SET pgsluice.consistency`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Bounded => "bounded",
            Self::Session => "session",
            Self::Eventual => "eventual",
            Self::Primary => "primary",
        }
    }
}

/// `[lag]`: how replicas are watched, and when one is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    /// Default 50 ms.
    pub poll_interval: Duration,
    /// A poll unanswered for this long has failed. Default 500 ms.
    pub poll_timeout: Duration,
    /// A replica whose lag exceeds this is ejected. Default 100 ms.
    pub eject_above: Duration,
    /// It may return once its lag stays below this. Default 50 ms; at most `eject_above`.
    pub readmit_below: Duration,
    /// For this long. Default 1 s.
    pub readmit_after: Duration,
    /// Reads that a returning replica is given, and has to answer, before it is trusted again. Default 5.
    pub probation_reads: u32,
    /// Failures in a row to connect or to stay connected after which a node is left out. Default 3.
    pub connection_errors: u32,
    /// Default `primary`.
    pub when_none: WhenNone,
}

/// What `lag.when_none` takes: where reads go when no replica is eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenNone {
    /// To the primary.
    Primary,
    /// To the replica that was furthest ahead when last heard of, if it answers, and only where the session's level allows it.
    Stalest,
    /// Refused with 57P03.
    Error,
}

/// `[limits]`: bounds on time and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// From accept to the end of authentication. Default 15 s.
    pub login_timeout: Duration,
    /// How long SIGTERM lets running transactions go on. Default 30 s.
    pub drain_timeout: Duration,
    /// How long clients may stay with a process that another one has taken over from. Default 1 day.
    pub takeover_timeout: Duration,
    /// The longest statement text that is held whole to be understood, in bytes; a longer one goes
    /// to the primary unread. Default 1 MiB.
    pub max_statement_bytes: usize,
    /// Bound on the memory of the statement cache, in bytes. Default 64 MiB.
    pub statement_cache_bytes: usize,
    /// Clients of one user at one time, where `[[auth.users]]` says nothing else; 0, the default, is no limit.
    pub clients_per_user: usize,
    /// Clients of one database at one time, where `[[databases]]` says nothing else; 0, the default, is no limit.
    pub clients_per_database: usize,
    /// Statements a second of one user, where `[[auth.users]]` says nothing else; 0, the default, is no limit.
    pub statements_per_second: u32,
    /// How long a server may take for a statement before it is cancelled with 57014; zero, the default, is no limit.
    pub statement_timeout: Duration,
    /// How long a client may be idle in a transaction before 25P03; zero, the default, is no limit.
    pub idle_in_transaction_session_timeout: Duration,
    /// How long a client may be idle outside of one before 57P05; zero, the default, is no limit.
    pub idle_session_timeout: Duration,
}

/// One of `[[databases]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// The name, for clients and servers alike.
    pub name: String,
    /// In place of `limits.clients_per_database`.
    pub max_clients: Option<usize>,
}

/// One of `[[shards]]`: a primary and its replicas. Which is which is discovered.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Unique; a label in metrics: letters, digits, `-`, `_`, `.`. Default `main`.
    pub name: String,
    /// Its share of the keys beside the other shards', when buckets are given out. Default 1; 1 to 1000.
    pub weight: u32,
    /// At least one; addresses are unique over the whole file.
    pub nodes: Vec<Node>,
    /// The monitor's own account; needs `pg_monitor`. Default `pgsluice`.
    pub user: String,
    /// Its password; none where the servers trust it.
    pub password: Option<Secret>,
    /// The database that the monitor connects to for positions. Default `postgres`.
    pub database: String,
    /// Of all connections to the shard's servers, as in libpq. Default `prefer`.
    pub sslmode: SslMode,
    /// PEM file with the authorities whose servers are believed; needed for `verify-ca` and `verify-full`.
    pub sslrootcert: Option<PathBuf>,
    /// PEM file with the certificate (and its chain) that servers are shown where they ask for one.
    pub sslcert: Option<PathBuf>,
    /// PEM file with its private key.
    pub sslkey: Option<PathBuf>,
    /// What the three files hold, as far as `sslmode` uses them.
    pub outbound: Arc<Outbound>,
}

impl Shard {
    /// `sslmode` in libpq's word.
    pub fn sslmode_name(&self) -> &'static str {
        SSL_MODE.name(self.sslmode)
    }
}

/// One of a shard's `nodes`: `"host:port"`, or `{ address = "host:port", weight = 2 }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Host name or IP address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Share of the reads beside the other replicas'. Default 1; 1 to 1000.
    pub weight: u32,
}

/// One of `[[tables]]`: on which shards a table's rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Unique.
    pub name: TableName,
    /// Where its rows are.
    pub placement: Placement,
}

/// Where a table's rows are: one of `tables.shard_key`, `tables.reference` and `tables.shard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Each row on the shard that the values of these columns hash to; names as PostgreSQL keeps them.
    Key(Vec<String>),
    /// All of them on every shard.
    Reference,
    /// All of them on this shard.
    Shard(String),
}

/// `[coordinator]`: where a statement runs that needs several shards and cannot be merged of their answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    /// The shard whose primary runs it, on foreign tables over all shards; one of several.
    pub shard: String,
}

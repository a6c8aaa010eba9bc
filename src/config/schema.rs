//! What a config file can say, once it has been read, checked and its secrets resolved.
//!
//! Every field here is a key of `config/pgsluice.toml`, under the same name, but for `inbound` and `outbound`, which
//! are what the files of certificates held when the config was read. The structs hold values only: reading, defaults, positions and messages are in the files beside this one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;
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
    /// `[[shards]]`; exactly one in this version.
    pub shards: Vec<Shard>,
}

/// `[listen]`: where clients connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// Where the PostgreSQL protocol is served. Default `127.0.0.1:6432`. Needs a restart.
    pub address: SocketAddr,
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
    /// Clients connected at one time; more are refused with 53300. Default 10000.
    pub max_clients: usize,
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

/// `[auth]`: who may log in, and how that is checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// Default `scram-sha-256`.
    pub method: AuthMethod,
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
    /// Nobody is asked for anything. Refused unless `listen.address` is a loopback address.
    Trust,
}

/// One of `[[auth.users]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The role's name, in PostgreSQL and for clients alike.
    pub name: String,
    /// What clients are checked against; servers are sent it too, unless `server_password` is there.
    pub password: Password,
    /// What the servers are sent; needed where `password` is a verifier and the servers ask for one.
    pub server_password: Option<Secret>,
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
    /// The longest statement text that is held whole to be understood, in bytes; a longer one goes
    /// to the primary unread. Default 1 MiB.
    pub max_statement_bytes: usize,
    /// Bound on the memory of the statement cache, in bytes. Default 64 MiB.
    pub statement_cache_bytes: usize,
}

/// One of `[[databases]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// The name, for clients and servers alike.
    pub name: String,
}

/// One of `[[shards]]`: a primary and its replicas. Which is which is discovered.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Unique; a label in metrics: letters, digits, `-`, `_`, `.`. Default `main`.
    pub name: String,
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

//! The sections with fixed keys: `[listen]` to `[limits]`. Defaults, bounds, and rules inside one section.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeValue;

use super::address::{clash, listen_address};
use super::choices::{AUTH_METHOD, CONSISTENCY_LEVEL, LOG_FORMAT, POOL_MODE, REPLICATION_MODE, TLS_MODE, WHEN_NONE};
use super::credentials::Surroundings;
use super::document::{Mistakes, Section, Setting};
use super::encryption;
use super::error::Complaint;
use super::schema::{
    Admin, AuthMethod, Consistency, ConsistencyLevel, Http, Lag, Limits, Listen, Log, LogFormat, Pool, PoolMode,
    ReplicationMode, TlsMode, WhenNone,
};
use super::values::{
    Span, count_u16, count_u32, count_usize, duration, identifier, identifiers, log_filter, names, size, text,
};

/// The parameters that clients may set, without `pgsluice.`.
pub const HINTS: [&str; 6] = ["consistency", "max_staleness", "route", "session_key", "session_token", "shard"];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A duration of at least one millisecond.
const fn up_to(most: Duration, unit: &'static str) -> Span {
    Span { least: Duration::from_millis(1), most, unit }
}

/// A duration for which zero has a meaning of its own.
const fn zero_up_to(most: Duration, unit: &'static str) -> Span {
    Span { least: Duration::ZERO, most, unit }
}

pub(super) fn listen(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    around: Surroundings<'_>,
) -> (Option<Listen>, Setting<SocketAddr>) {
    let address = section.read(mistakes, "address", SocketAddr::from(([127, 0, 0, 1], 6432)), listen_address);
    let takeover = section.optional(mistakes, "takeover", |value| around.path(value));
    let tls = section.read(mistakes, "tls", TlsMode::Off, |value| TLS_MODE.parse(value));
    let cert = section.optional(mistakes, "cert", |value| around.path(value));
    let key = section.optional(mistakes, "key", |value| around.path(value));
    let client_ca = section.optional(mistakes, "client_ca", |value| around.path(value));
    let max_clients = section.read(mistakes, "max_clients", 10_000, |value| count_usize(value, 1, 1_000_000));
    let max_logins = section.read(mistakes, "max_logins", 5000, |value| count_usize(value, 1, 1_000_000));
    let workers = section.read(mistakes, "workers", 0, |value| count_u16(value, 0, 1024));
    let replication =
        section.read(mistakes, "replication", ReplicationMode::Off, |value| REPLICATION_MODE.parse(value));
    let inbound = encryption::inbound(
        mistakes,
        section,
        encryption::ListenFiles { tls, cert: &cert, key: &key, client_ca: &client_ca },
    );
    let listen = || {
        Some(Listen {
            address: *address.sound()?,
            takeover: takeover.take()?,
            tls: tls.take()?,
            cert: cert.take()?,
            key: key.take()?,
            client_ca: client_ca.take()?,
            inbound: inbound?,
            max_clients: max_clients.take()?,
            max_logins: max_logins.take()?,
            workers: workers.take()?,
            replication: replication.take()?,
        })
    };
    (listen(), address)
}

pub(super) fn http(mistakes: &mut Mistakes<'_>, section: &Section<'_>, listen: &Setting<SocketAddr>) -> Option<Http> {
    let address = section.read(mistakes, "address", SocketAddr::from(([127, 0, 0, 1], 9630)), listen_address);
    if let (Some(http), Some(other)) = (address.sound(), listen.sound())
        && clash(*http, *other)
    {
        let complaint = Complaint::new(format!("{http} is taken by listen.address ({other})")).expected("another port");
        // Where only `listen.address` is in the file, that is where the mistake stands.
        let place = if address.offset().is_some() { &address } else { listen };
        section.complain(mistakes, "address", place, complaint);
    }
    Some(Http { address: address.take()? })
}

pub(super) fn log(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Log> {
    let format = section.read(mistakes, "format", LogFormat::Text, |value| LOG_FORMAT.parse(value));
    let level = section.read(mistakes, "level", "info".to_owned(), log_filter);
    Some(Log { format: format.take()?, level: level.take()? })
}

pub(super) fn auth_method(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    listen: &Setting<SocketAddr>,
    client_ca: Option<bool>,
) -> Setting<AuthMethod> {
    let method = section.read(mistakes, "method", AuthMethod::ScramSha256, |value| AUTH_METHOD.parse(value));
    if let (Some(AuthMethod::Trust), Some(address)) = (method.sound(), listen.sound())
        && !address.ip().to_canonical().is_loopback()
    {
        let problem = format!("\"trust\" would let anybody in who can reach {address} (listen.address)");
        let complaint = Complaint::new(problem).expected("\"scram-sha-256\", or a loopback listen.address");
        section.complain(mistakes, "method", &method, complaint);
    }
    if (method.sound(), client_ca) == (Some(&AuthMethod::Cert), Some(false)) {
        let complaint = Complaint::new("\"cert\" needs certificates of clients, which nobody is asked for");
        let expected = "listen.tls = \"verify-client\" with listen.client_ca, or another method";
        section.complain(mistakes, "method", &method, complaint.expected(expected));
    }
    method
}

/// `auth.query` and what belongs to it.
pub(super) struct AuthQuery {
    pub(super) text: Setting<Option<String>>,
    pub(super) database: Setting<Option<String>>,
    pub(super) cache: Setting<Duration>,
}

pub(super) fn auth_query(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> AuthQuery {
    AuthQuery {
        text: section.optional(mistakes, "query", user_query),
        database: section.optional(mistakes, "query_database", identifier),
        cache: section.read(mistakes, "query_cache", seconds(30), |value| duration(value, zero_up_to(DAY, "s"))),
    }
}

/// `auth.failure_delay` and `auth.max_failures`.
pub(super) fn auth_failures(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> (Setting<Duration>, Setting<u32>) {
    let span = zero_up_to(MINUTE, "ms");
    let delay = section.read(mistakes, "failure_delay", millis(500), |value| duration(value, span));
    let most = section.read(mistakes, "max_failures", 200, |value| count_u32(value, 0, 1_000_000));
    (delay, most)
}

/// SQL with the user's name as `$1`. Whether it works, only the servers can say.
fn user_query(value: &DeValue<'_>) -> Result<String, Complaint> {
    const FORM: &str = "SQL that returns name and verifier of the user $1, such as \
                        \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin\"";
    let text = text(value, FORM)?;
    match text.contains("$1") {
        true if !text.contains('\0') => Ok(text.to_owned()),
        true => Err(Complaint::new("holds a zero byte").expected(FORM)),
        false => Err(Complaint::new("does not ask for one user: there is no $1 in it").expected(FORM)),
    }
}

pub(super) fn pool(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Pool> {
    let mode = section.read(mistakes, "mode", PoolMode::Transaction, |value| POOL_MODE.parse(value));
    let size = section.read(mistakes, "size", 20, |value| count_usize(value, 1, 10_000));
    let max_pinned = section.read(mistakes, "max_pinned", 0, |value| count_usize(value, 0, 10_000));
    let mut time = |key, default, span| section.read(mistakes, key, default, |value| duration(value, span));
    let checkout_timeout = time("checkout_timeout", seconds(5), up_to(HOUR, "s"));
    let connect_timeout = time("connect_timeout", seconds(5), up_to(10 * MINUTE, "s"));
    let max_lifetime = time("max_lifetime", HOUR, Span { least: SECOND, most: 30 * DAY, unit: "s" });
    let idle_timeout = time("idle_timeout", 10 * MINUTE, Span { least: SECOND, most: 30 * DAY, unit: "s" });
    Some(Pool {
        mode: mode.take()?,
        size: size.take()?,
        max_pinned: max_pinned.take()?,
        checkout_timeout: checkout_timeout.take()?,
        connect_timeout: connect_timeout.take()?,
        max_lifetime: max_lifetime.take()?,
        idle_timeout: idle_timeout.take()?,
    })
}

pub(super) fn admin(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Admin> {
    let admins = section.read(mistakes, "admins", Vec::new(), identifiers);
    let stats = section.read(mistakes, "stats", Vec::new(), identifiers);
    Some(Admin { admins: admins.take()?, stats: stats.take()? })
}

pub(super) fn consistency(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Consistency> {
    let level = section.read(mistakes, "level", ConsistencyLevel::Session, |value| CONSISTENCY_LEVEL.parse(value));
    let max_staleness = section.read(mistakes, "max_staleness", seconds(5), |value| duration(value, up_to(DAY, "s")));
    let wait = section.read(mistakes, "wait", Duration::ZERO, |value| duration(value, zero_up_to(MINUTE, "ms")));
    let all = HINTS.map(str::to_owned).to_vec();
    let allow_hints = section.read(mistakes, "allow_hints", all, |value| names(value, &HINTS));
    Some(Consistency {
        level: level.take()?,
        max_staleness: max_staleness.take()?,
        wait: wait.take()?,
        allow_hints: allow_hints.take()?,
    })
}

pub(super) fn lag(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Lag> {
    let mut time = |key, default, span| section.read(mistakes, key, default, |value| duration(value, span));
    let poll_interval = time("poll_interval", millis(50), up_to(MINUTE, "ms"));
    let poll_timeout = time("poll_timeout", millis(500), up_to(5 * MINUTE, "ms"));
    let eject_above = time("eject_above", millis(100), up_to(DAY, "ms"));
    let readmit_below = time("readmit_below", millis(50), up_to(DAY, "ms"));
    let readmit_after = time("readmit_after", SECOND, zero_up_to(HOUR, "s"));
    let probation_reads = section.read(mistakes, "probation_reads", 5, |value| count_u32(value, 0, 1000));
    let connection_errors = section.read(mistakes, "connection_errors", 3, |value| count_u32(value, 1, 1000));
    let when_none = section.read(mistakes, "when_none", WhenNone::Primary, |value| WHEN_NONE.parse(value));

    at_most(mistakes, section, ("poll_interval", &poll_interval), ("poll_timeout", &poll_timeout));
    at_most(mistakes, section, ("readmit_below", &readmit_below), ("eject_above", &eject_above));
    Some(Lag {
        poll_interval: poll_interval.take()?,
        poll_timeout: poll_timeout.take()?,
        eject_above: eject_above.take()?,
        readmit_below: readmit_below.take()?,
        readmit_after: readmit_after.take()?,
        probation_reads: probation_reads.take()?,
        connection_errors: connection_errors.take()?,
        when_none: when_none.take()?,
    })
}

/// One duration of a section must not exceed another. The mistake stands at whichever of the two is in the file.
fn at_most(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    (low_key, low): (&'static str, &Setting<Duration>),
    (high_key, high): (&'static str, &Setting<Duration>),
) {
    let (Some(low_value), Some(high_value)) = (low.sound(), high.sound()) else { return };
    if low_value <= high_value {
        return;
    }
    let said = |setting: &Setting<Duration>, value: &Duration| match setting.offset() {
        Some(_) => humantime::format_duration(*value).to_string(),
        None => format!("{}, its default", humantime::format_duration(*value)),
    };
    let (key, place, problem, expected) = if low.offset().is_some() {
        let problem =
            format!("{} is more than {high_key} ({})", humantime::format_duration(*low_value), said(high, high_value));
        (low_key, low, problem, format!("at most {high_key}"))
    } else {
        let problem =
            format!("{} is less than {low_key} ({})", humantime::format_duration(*high_value), said(low, low_value));
        (high_key, high, problem, format!("at least {low_key}, so set both"))
    };
    section.complain(mistakes, key, place, Complaint::new(problem).expected(expected));
}

/// A statement's time limit; zero is none.
pub(super) fn statement_time(value: &DeValue<'_>) -> Result<Duration, Complaint> {
    duration(value, zero_up_to(DAY, "s"))
}

pub(super) fn limits(mistakes: &mut Mistakes<'_>, section: &Section<'_>) -> Option<Limits> {
    let mut time = |key, default, span| section.read(mistakes, key, default, |value| duration(value, span));
    let login_timeout = time("login_timeout", seconds(15), up_to(10 * MINUTE, "s"));
    let drain_timeout = time("drain_timeout", seconds(30), zero_up_to(DAY, "s"));
    let takeover_timeout = time("takeover_timeout", DAY, zero_up_to(30 * DAY, "s"));
    let zero = Duration::ZERO;
    let statement_timeout = section.read(mistakes, "statement_timeout", zero, statement_time);
    let mut time = |key, default, span| section.read(mistakes, key, default, |value| duration(value, span));
    let idle_in_transaction = time("idle_in_transaction_session_timeout", zero, zero_up_to(DAY, "s"));
    let idle_session = time("idle_session_timeout", zero, zero_up_to(30 * DAY, "s"));
    let mut clients = |key| section.read(mistakes, key, 0, |value| count_usize(value, 0, 1_000_000));
    let (per_user, per_database) = (clients("clients_per_user"), clients("clients_per_database"));
    let per_second = section.read(mistakes, "statements_per_second", 0, |value| count_u32(value, 0, 1_000_000));
    let mut bytes = |key, default, least, most| section.read(mistakes, key, default, |value| size(value, least, most));
    let max_statement_bytes = bytes("max_statement_bytes", 1 << 20, KIB, GIB);
    let statement_cache_bytes = bytes("statement_cache_bytes", 64 << 20, MIB, 64 * GIB);
    Some(Limits {
        login_timeout: login_timeout.take()?,
        drain_timeout: drain_timeout.take()?,
        takeover_timeout: takeover_timeout.take()?,
        max_statement_bytes: max_statement_bytes.take()?,
        statement_cache_bytes: statement_cache_bytes.take()?,
        clients_per_user: per_user.take()?,
        clients_per_database: per_database.take()?,
        statements_per_second: per_second.take()?,
        statement_timeout: statement_timeout.take()?,
        idle_in_transaction_session_timeout: idle_in_transaction.take()?,
        idle_session_timeout: idle_session.take()?,
    })
}

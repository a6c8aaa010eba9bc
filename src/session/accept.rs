//! From a new connection to a session: TLS, the startup packet, who it is, and the greeting.
//!
//! Nothing is taken from anybody here but small messages, within `limits.login_timeout`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey};
use tokio::net::TcpStream;

use super::auth::{self, Rejection};
use super::overhead::Overhead;
use super::prepared::ClientStatements;
use super::relay::Tally;
use super::serve::GOODBYE_LIMIT;
use super::tracked::Tracked;
use super::understand::object_to_setting;
use super::{Fault, Session};
use crate::config::{AuthMethod, PoolMode, TlsMode};
use crate::pool::{Identity, Reported, SettingValue, Settings};
use crate::proxy::{ClientSlot, Proxy};
use crate::route::{Demand, Horizon, Reason};
use crate::topology::Role;
use crate::wire::backend::{TransactionStatus, put_parameter_status, put_ready_for_query};
use crate::wire::startup::{self, Packet, PacketError, Request};
use crate::wire::{ErrorReply, Link, Stream};

const MAJOR: i32 = 3;

/// The newest minor version of protocol 3 that is spoken.
const NEWEST_MINOR: u16 = 2;

/// TLS and GSSAPI may each be asked for once before the startup packet.
const MAX_PACKETS: usize = 3;

/// Serves one connection from its first byte to its last.
pub async fn accept(proxy: Arc<Proxy>, stream: TcpStream) {
    let mut link = Link::new(Stream::Plain(stream), BytesMut::new());
    let limit = proxy.config.load().limits.login_timeout;
    let counted = LoggingIn::new(&proxy);
    let outcome = tokio::time::timeout(limit, log_in(&proxy, &mut link)).await;
    drop(counted);
    let session = match outcome {
        Ok(Ok(session)) => session.map(|session| Session { client: link, ..session }),
        Ok(Err(Rejection::Gone)) => None,
        Ok(Err(Rejection::Told(reply))) => {
            tracing::info!(sqlstate = reply.sqlstate, message = %reply.message, "login refused");
            say_goodbye(link, &reply).await;
            None
        }
        Err(_) => {
            let reply = ErrorReply::fatal("57014", "canceling authentication due to timeout")
                .detail(format!("The login was not complete after {limit:?} (limits.login_timeout)."));
            say_goodbye(link, &reply).await;
            None
        }
    };
    if let Some(session) = session {
        session.run().await;
    }
}

/// One of the clients that have not logged in yet, in `proxy.clients.login`.
struct LoggingIn(Arc<Proxy>);

impl LoggingIn {
    fn new(proxy: &Arc<Proxy>) -> Self {
        proxy.clients.login.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(proxy))
    }
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.clients.login.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn say_goodbye(mut link: Link, reply: &ErrorReply) {
    reply.clone().into_fatal().put(&mut link.output);
    let _ = tokio::time::timeout(GOODBYE_LIMIT, link.close()).await;
}

/// A session for a client that has proved who it is. It has no client yet: `link` is still the caller's.
async fn log_in(proxy: &Arc<Proxy>, link: &mut Link) -> Result<Option<Session>, Rejection> {
    let mut is_encrypted = false;
    for _ in 0..MAX_PACKETS {
        match receive_packet(link).await? {
            Packet::Ssl => is_encrypted = answer_ssl(proxy, link, is_encrypted).await?,
            Packet::Gss => {
                link.output.extend_from_slice(b"N");
                link.flush().await.map_err(|_| Rejection::Gone)?;
            }
            Packet::Cancel(key) => {
                proxy.cancels.cancel(&key).await;
                return Ok(None);
            }
            Packet::Startup(request) => return greet(proxy, link, request, is_encrypted).await.map(Some),
        }
    }
    Err(told("08P01", "too many requests before the startup packet"))
}

fn told(sqlstate: &'static str, message: impl Into<String>) -> Rejection {
    Rejection::Told(ErrorReply::fatal(sqlstate, message))
}

async fn receive_packet(link: &mut Link) -> Result<Packet, Rejection> {
    let malformed = |error: PacketError| {
        let sqlstate = match error {
            PacketError::NoUser => "28000",
            PacketError::Version(..) => "0A000",
            PacketError::Options(_) => "42601",
            PacketError::Length | PacketError::Layout => "08P01",
        };
        let reply = ErrorReply::fatal(sqlstate, error.to_string());
        Rejection::Told(match error {
            PacketError::Options(_) => reply.hint("Try \"postgres --help\" for more information."),
            _ => reply,
        })
    };
    loop {
        let size = startup::size(&link.input).map_err(malformed)?;
        if let Some(size) = size.filter(|size| link.input.len() >= *size) {
            let packet = startup::read(&link.input[..size]).map_err(malformed);
            link.input.advance(size);
            return packet;
        }
        if !link.fill(startup::MAX_SIZE + 1).await.map_err(|_| Rejection::Gone)? {
            return Err(Rejection::Gone);
        }
    }
}

/// Answers an `SSLRequest`; true when the connection is encrypted from now on.
async fn answer_ssl(proxy: &Proxy, link: &mut Link, is_encrypted: bool) -> Result<bool, Rejection> {
    // What came before the handshake was not protected by it (CVE-2021-23214).
    if !link.input.is_empty() {
        return Err(told("08P01", "received unencrypted data after SSL request"));
    }
    let Some(acceptor) = proxy.tls.load_full().filter(|_| !is_encrypted) else {
        link.output.extend_from_slice(b"N");
        link.flush().await.map_err(|_| Rejection::Gone)?;
        return Ok(is_encrypted);
    };
    link.output.extend_from_slice(b"S");
    link.flush().await.map_err(|_| Rejection::Gone)?;
    link.encrypt(&acceptor).await.map_err(|error| {
        tracing::info!(%error, "TLS handshake failed");
        Rejection::Gone
    })?;
    Ok(true)
}

async fn greet(
    proxy: &Arc<Proxy>,
    link: &mut Link,
    request: Request,
    is_encrypted: bool,
) -> Result<Session, Rejection> {
    let config = proxy.config.load_full();
    negotiate_version(link, &request)?;
    if config.listen.tls == TlsMode::Require && !is_encrypted {
        let reply = ErrorReply::fatal("28000", "this server takes only encrypted connections");
        return Err(Rejection::Told(reply.hint("Connect with sslmode=require.")));
    }
    if request.replication.as_deref().is_some_and(|value| !["false", "off", "no", "0"].contains(&value)) {
        let reply = ErrorReply::fatal("0A000", "replication connections are not passed on");
        return Err(Rejection::Told(reply.hint("Connect to the PostgreSQL server itself.")));
    }
    if !config.databases.is_empty() && config.databases.iter().all(|database| database.name != request.database) {
        return Err(told("3D000", format!("database \"{}\" does not exist", request.database)));
    }
    let Some(slot) = ClientSlot::take(proxy, config.listen.max_clients) else {
        return Err(told("53300", "sorry, too many clients already"));
    };
    match config.auth.method {
        AuthMethod::ScramSha256 => auth::scram(link, &proxy.verifiers, &config, &request.user).await?,
        AuthMethod::Trust => {}
    }
    let mut session = Session::new(
        Arc::clone(proxy),
        Identity { user: request.user.as_str().into(), database: request.database.as_str().into() },
        proxy.cancels.register(request.minor_version >= 2),
        Arc::new(startup_settings(&request)?),
        slot,
    );
    session.learn_greeting().await.map_err(Rejection::Told)?;
    session.tell_greeting(link).await?;
    Ok(session)
}

fn negotiate_version(link: &mut Link, request: &Request) -> Result<(), Rejection> {
    if request.minor_version <= NEWEST_MINOR && request.protocol_options.is_empty() {
        return Ok(());
    }
    // The whole number, major version and all: the documentation speaks of the minor version, but this is
    // what PostgreSQL sends and what libpq compares with (`pqGetNegotiateProtocolVersion3`).
    let newest = MAJOR << 16 | i32::from(request.minor_version.min(NEWEST_MINOR));
    let message = NegotiateProtocolVersion::new(newest, request.protocol_options.clone());
    message.encode(&mut link.output).map_err(|_| Rejection::Gone)
}

/// The settings of the startup packet.
fn startup_settings(request: &Request) -> Result<Settings, Rejection> {
    let mut values = BTreeMap::new();
    for (name, value) in &request.settings {
        if let Some(reply) = object_to_setting(name, &crate::pool::quote_literal(value)) {
            return Err(Rejection::Told(reply));
        }
        values.insert(name.as_str().into(), SettingValue::Text(value.as_str().into()));
    }
    Ok(Settings::new(values))
}

impl Session {
    /// Learns what a server's settings are for such a client. They are a server's own words: the first client of its
    /// kind is shown what a server connection reports when it has been brought to the same settings, the next ones the same.
    /// In session pooling each asks the connection that is its own from now on.
    async fn learn_greeting(&mut self) -> Result<(), ErrorReply> {
        if self.proxy.config.load().pool.mode == PoolMode::Session {
            self.reported = self.ask_a_server().await?;
            if let Some(server) = &self.server {
                self.registration.take_pid(server.checkout.cancel_key.pid);
            }
            return Ok(());
        }
        let startup = Arc::clone(self.tracked.current());
        if let Some(reported) = self.database.greeting(&self.identity.user, &startup) {
            self.reported = reported;
            return Ok(());
        }
        self.reported = self.ask_a_server().await?;
        self.release().await;
        self.database.note_greeting(&self.identity.user, &startup, self.reported.clone());
        Ok(())
    }

    /// Tells the client that it is in.
    async fn tell_greeting(&self, link: &mut Link) -> Result<(), Rejection> {
        let encoded = Authentication::Ok.encode(&mut link.output);
        encoded.map_err(|_| Rejection::Gone)?;
        for (name, value) in &self.reported {
            put_parameter_status(&mut link.output, name, value);
        }
        let key = self.registration.key();
        let secret = match key.secret.first_chunk::<4>() {
            Some(short) if key.secret.len() == 4 => SecretKey::I32(i32::from_be_bytes(*short)),
            _ => SecretKey::Bytes(key.secret.to_vec().into()),
        };
        BackendKeyData::new(key.pid, secret).encode(&mut link.output).map_err(|_| Rejection::Gone)?;
        put_ready_for_query(&mut link.output, TransactionStatus::Idle);
        link.flush().await.map_err(|_| Rejection::Gone)
    }

    /// Takes a server connection, brings it to this session's settings, and returns what it reports then.
    async fn ask_a_server(&mut self) -> Result<Reported, ErrorReply> {
        let lost = || ErrorReply::fatal("08006", "the server connection was lost during login");
        let is_pooled = self.proxy.config.load().pool.mode == PoolMode::Transaction;
        if !is_pooled || self.reach(Demand::Replica(Reason::FreshReplica)).await.is_err() {
            let reason = if is_pooled { Reason::Transaction } else { Reason::SessionPooling };
            self.reach(Demand::Primary(reason)).await.map_err(|fault| match fault {
                Fault::Fatal(reply) => reply,
                _ => lost(),
            })?;
        }
        let server = self.server.as_ref().ok_or_else(lost)?;
        let mut reported = server.checkout.reported.clone();
        if server.role == Role::Replica || reported.contains_key("in_hot_standby") {
            // Of the whole that the client speaks to, not of one node.
            reported.insert("in_hot_standby".into(), b"off".as_slice().into());
        }
        Ok(reported)
    }

    fn new(
        proxy: Arc<Proxy>,
        identity: Identity,
        registration: super::cancel::Registration,
        startup: Arc<Settings>,
        slot: ClientSlot,
    ) -> Self {
        Self {
            database: proxy.database(&identity.database),
            proxy,
            identity,
            client: Link::new(Stream::Nobody, BytesMut::new()),
            registration,
            statements: ClientStatements::default(),
            tracked: Tracked::new(startup),
            reported: Reported::new(),
            horizon: Horizon::default(),
            server: None,
            parked: None,
            may_have_sequences: false,
            pins: Vec::new(),
            unsure_of_pins: false,
            prepared_by_sql: Vec::new(),
            status: TransactionStatus::Idle,
            status_before: TransactionStatus::Idle,
            in_batch: false,
            skipping: false,
            named_here: Vec::new(),
            portals: Vec::new(),
            executed: Vec::new(),
            tally: Tally::default(),
            overhead: Overhead::default(),
            tail: Settings::default(),
            tail_sent: Settings::default(),
            opening: super::relocate::Opening::default(),
            saw_rows: false,
            changed_catalog: false,
            _slot: slot,
        }
    }
}

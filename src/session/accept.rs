//! From a new connection to a session: TLS, the startup packet, who it is, and the greeting.
//!
//! Nothing is taken from anybody here but small messages, within `limits.login_timeout`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey};
use tokio::net::TcpStream;

use super::across::MaybeAcross;
use super::attempt::Attempt;
use super::auth::{self, Rejection};
use super::clients::Who;
use super::crowd::CrowdedOut;
use super::encrypt::{self, Encryption};
use super::ledger::Ledger;
use super::limits::SessionLimits;
use super::operator::{greet_operator, operator};
use super::overhead::Overhead;
use super::pins::PinAccount;
use super::place::Place;
use super::prepared::ClientStatements;
use super::relay::Tally;
use super::replication::{self, Passage};
use super::serve::GOODBYE_LIMIT;
use super::told::Told;
use super::tracked::Tracked;
use super::wish::object_to_setting;
use super::{Fault, Membership, Session};
use crate::admin::console::{self, Operator};
use crate::audit::Event;
use crate::config::{AuthMethod, Config, PoolMode};
use crate::pool::{Identity, Reported, SettingValue, Settings};
use crate::proxy::{ClientSlot, Greeting, Proxy};
use crate::route::{Demand, Horizons, Reason};
use crate::shard::Bucket;
use crate::telemetry::metrics::LoginOutcome;
use crate::topology::Role;
use crate::wire::backend::{TransactionStatus, put_parameter_status, put_ready_for_query};
use crate::wire::startup::{self, Packet, PacketError, Request};
use crate::wire::{ErrorReply, Link, Stream};
use crate::workers::Seat;

const MAJOR: i32 = 3;

/// The newest minor version of protocol 3 that is spoken.
const NEWEST_MINOR: u16 = 2;

/// TLS and GSSAPI may each be asked for once before the startup packet.
const MAX_PACKETS: usize = 3;

/// Room for a first packet of the usual size, in bytes.
const FIRST_READ: usize = 512;

/// Serves one connection from its first byte to its last, on the runtime of the thread that has the seat for it.
pub async fn accept(proxy: Arc<Proxy>, _seat: Seat, stream: std::net::TcpStream, peer: SocketAddr) {
    // In boxes, one after the other: who has logged in does not keep the memory that a login needs, and who has not yet
    // takes no more than that.
    let Some((admitted, link)) = Box::pin(let_in(&proxy, stream, peer)).await else { return };
    match admitted {
        Admitted::Session(mut session) => {
            session.client = link;
            Box::pin(session.run()).await;
        }
        Admitted::Replication(passage) => Box::pin(passage.run(&proxy, link)).await,
        Admitted::Operator(operator) => Box::pin(console::serve(proxy, link, operator)).await,
    }
}

/// Has the client log in; `None` where it goes away, or is sent away.
async fn let_in(proxy: &Arc<Proxy>, stream: std::net::TcpStream, peer: SocketAddr) -> Option<(Admitted, Link)> {
    let stream = TcpStream::from_std(stream)
        .inspect_err(|error| tracing::warn!(%peer, %error, "a connection cannot be served"))
        .ok()?;
    let config = proxy.config.load_full();
    let mut place = proxy.logins.enter(config.listen.max_logins);
    let mut attempt = Attempt::from(peer);
    let mut link = Link::new(Stream::Plain(stream.into()), BytesMut::new());
    let limit = config.limits.login_timeout;
    let counted = LoggingIn::new(proxy);
    let outcome = {
        // Pinned here, and lent: to move a future into another one is to keep room for it in both.
        let mut login = std::pin::pin!(tokio::time::timeout(limit, log_in(proxy, &mut link, &mut attempt)));
        place.unless_crowded_out(login.as_mut()).await
    };
    let (outcome, reply) = match outcome {
        Ok(Ok(Ok(admitted))) => {
            drop((counted, place, config));
            let admitted = admitted?;
            proxy.metrics.logins(LoginOutcome::Ok).increment(1);
            return Some((admitted, link));
        }
        Ok(Ok(Err(Rejection::Gone))) => {
            proxy.metrics.logins(LoginOutcome::Gone).increment(1);
            return None;
        }
        Ok(Ok(Err(Rejection::Told(reply)))) => (attempt.outcome(&reply), reply),
        Ok(Err(_)) => {
            let reply = ErrorReply::fatal("57014", "canceling authentication due to timeout")
                .detail(format!("The login was not complete after {limit:?} (limits.login_timeout)."));
            (LoginOutcome::Timeout, reply)
        }
        Err(CrowdedOut) => {
            let most = config.listen.max_logins;
            let reply = ErrorReply::fatal("53300", "too many connections are logging in")
                .detail(format!("There may be {most} (listen.max_logins), and this one was the oldest."))
                .hint("Try again.");
            (LoginOutcome::CrowdedOut, reply)
        }
    };
    let delay = attempt.refused(proxy, outcome, &reply);
    if !delay.is_zero() {
        // It keeps its place among those that log in, and holds nothing else.
        let _ = place.unless_crowded_out(tokio::time::sleep(delay)).await;
    }
    say_goodbye(link, &reply).await;
    None
}

/// One of the clients that have not logged in yet, in `proxy.client_counts.login`.
struct LoggingIn(Arc<Proxy>);

impl LoggingIn {
    fn new(proxy: &Arc<Proxy>) -> Self {
        proxy.client_counts.login.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(proxy))
    }
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.client_counts.login.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn say_goodbye(mut link: Link, reply: &ErrorReply) {
    reply.clone().into_fatal().put(&mut link.output);
    let _ = tokio::time::timeout(GOODBYE_LIMIT, link.close()).await;
}

/// Tells a client that it is in, what the server's settings are, and how it can cancel.
async fn put_greeting(
    link: &mut Link,
    reported: &Reported,
    registration: &super::clients::Registration,
) -> Result<(), Rejection> {
    Authentication::Ok.encode(&mut link.output).map_err(|_| Rejection::Gone)?;
    for (name, value) in reported {
        put_parameter_status(&mut link.output, name, value);
    }
    let key = registration.key();
    let secret = match key.secret.first_chunk::<4>() {
        Some(short) if key.secret.len() == 4 => SecretKey::I32(i32::from_be_bytes(*short)),
        _ => SecretKey::Bytes(key.secret.to_vec().into()),
    };
    BackendKeyData::new(key.pid, secret).encode(&mut link.output).map_err(|_| Rejection::Gone)?;
    put_ready_for_query(&mut link.output, TransactionStatus::Idle);
    link.flush().await.map_err(|_| Rejection::Gone)
}

/// What became of a login.
enum Admitted {
    /// A session for a client that has proved who it is. It has no client yet: the link is still the caller's.
    Session(Box<Session>),
    Replication(Box<Passage>),
    /// Somebody at the admin database.
    Operator(Operator),
}

async fn log_in(proxy: &Arc<Proxy>, link: &mut Link, attempt: &mut Attempt) -> Result<Option<Admitted>, Rejection> {
    let mut encryption = encrypt::negotiate_directly(proxy, link).await?;
    for _ in 0..MAX_PACKETS {
        match receive_packet(link).await? {
            Packet::Ssl => encryption = encrypt::answer_request(proxy, link, encryption).await?,
            Packet::Gss => {
                if !link.input.is_empty() {
                    return Err(told("08P01", "received unencrypted data after GSSAPI encryption request"));
                }
                link.output.extend_from_slice(b"N");
                link.flush().await.map_err(|_| Rejection::Gone)?;
            }
            Packet::Cancel(key) => {
                Box::pin(proxy.clients.cancel(&key)).await;
                return Ok(None);
            }
            Packet::Startup(request) => {
                return Box::pin(greet(proxy, link, attempt, request, encryption)).await.map(Some);
            }
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
        // A stranger is given room for what it has announced, and no more.
        if !link.fill(size.unwrap_or_default().max(FIRST_READ)).await.map_err(|_| Rejection::Gone)? {
            return Err(Rejection::Gone);
        }
    }
}

async fn greet(
    proxy: &Arc<Proxy>,
    link: &mut Link,
    attempt: &mut Attempt,
    request: Request,
    encryption: Option<Encryption>,
) -> Result<Admitted, Rejection> {
    let config = proxy.config.load_full();
    let is_encrypted = encryption.is_some();
    negotiate_version(link, &request)?;
    encrypt::check_mode(config.listen.tls, encryption.as_ref())?;
    let method = attempt.method(proxy, &config, &request, is_encrypted)?;
    if request.is_replication() {
        replication::check(&config)?;
    }
    let is_admin = request.database == console::DATABASE;
    let names_database = !is_admin && !request.is_physical_replication() && !config.databases.is_empty();
    if names_database && config.databases.iter().all(|database| database.name != request.database) {
        return Err(told("3D000", format!("database \"{}\" does not exist", request.database)));
    }
    match method {
        AuthMethod::ScramSha256 => {
            let end_point = encryption.as_ref().and_then(Encryption::end_point);
            auth::scram(link, proxy, &config, &request.user, end_point).await?;
        }
        AuthMethod::Cert => encrypt::check_common_name(encryption.as_ref(), &request.user)?,
        AuthMethod::Trust => {}
        // Refused already.
        AuthMethod::Reject => return Err(Rejection::Gone),
    }
    // However many clients there are: this is who can do something about it.
    if is_admin {
        let operator = operator(&config, request.user)?;
        greet_operator(link).await?;
        return Ok(Admitted::Operator(operator));
    }
    // Only now: strangers take no place from those who may log in.
    let Some(slot) = ClientSlot::take(proxy, config.listen.max_clients) else {
        return Err(told("53300", "sorry, too many clients already"));
    };
    let identity = Identity { user: request.user.as_str().into(), database: request.database.as_str().into() };
    let membership = proxy.quotas.enter(&identity, &config).map_err(Rejection::Told)?;
    let who = Who { identity: identity.clone(), address: link.peer_address(), is_encrypted };
    if request.is_replication() {
        let passage = Passage::open(proxy, &request, who, (slot, membership)).await?;
        put_greeting(link, &passage.server.reported, &passage.registration).await?;
        return Ok(Admitted::Replication(Box::new(passage)));
    }
    let registration = proxy.clients.register(request.minor_version >= 2, Some(who));
    let startup = Arc::new(startup_settings(&request, &config)?);
    let mut session = Session::new(Arc::clone(proxy), identity, registration, startup, Some((slot, membership)));
    session.peer = link.peer_address();
    if let Err(reply) = session.learn_greeting().await {
        // A server may have seen a newer verifier than the one that is remembered.
        proxy.users.doubt(&request.user);
        return Err(Rejection::Told(reply));
    }
    put_greeting(link, session.told.values(), &session.registration).await?;
    proxy.audit.tell(Event::Login { who: session.who(), method: method.name(), tls: is_encrypted });
    session.adopt_own_settings();
    Ok(Admitted::Session(Box::new(session)))
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
fn startup_settings(request: &Request, config: &Config) -> Result<Settings, Rejection> {
    let mut values = BTreeMap::new();
    for (name, value) in &request.settings {
        if let Some(reply) = object_to_setting(name, &crate::pool::quote_literal(value), config) {
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
            self.told = Arc::new(self.ask_a_server().await?).into();
            if let Some(server) = &self.server {
                self.registration.take_pid(server.checkout.cancel_key.pid);
            }
            return Ok(());
        }
        let startup = Arc::clone(self.tracked.current());
        if let Some(Greeting { startup, reported }) = self.database.greeting(&self.identity.user, &startup) {
            // One for all: then it is seen at once that a server connection has the same.
            self.tracked = Tracked::new(startup);
            self.told = reported.into();
            return Ok(());
        }
        self.told = Arc::new(self.ask_a_server().await?).into();
        self.release().await;
        let reported = Arc::clone(self.told.values());
        self.database.note_greeting(&self.identity.user, Greeting { startup, reported });
        Ok(())
    }

    /// Takes a server connection, brings it to this session's settings, and returns what it reports then.
    async fn ask_a_server(&mut self) -> Result<Reported, ErrorReply> {
        let lost = || ErrorReply::fatal("08006", "the server connection was lost during login");
        let is_pooled = self.proxy.config.load().pool.mode == PoolMode::Transaction;
        if !is_pooled || self.reach(Demand::Replica(Reason::FreshReplica), Place::Any).await.is_err() {
            let reason = if is_pooled { Reason::Transaction } else { Reason::SessionPooling };
            self.reach(Demand::Primary(reason), Place::Any).await.map_err(|fault| match fault {
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

    /// One with nobody behind it, to go the same way as any other.
    pub(super) fn of_nobody(proxy: &Arc<Proxy>, identity: Identity, startup: Arc<Settings>) -> Self {
        Self::new(Arc::clone(proxy), identity, proxy.clients.register(false, None), startup, None)
    }

    fn new(
        proxy: Arc<Proxy>,
        identity: Identity,
        registration: super::clients::Registration,
        startup: Arc<Settings>,
        places: Option<(ClientSlot, Membership)>,
    ) -> Self {
        let (slot, membership) = places.unzip();
        let config = proxy.config.load_full();
        Self {
            is_sharded: config.shards.len() > 1,
            lot: Bucket::random(),
            config,
            pin_account: PinAccount::new(Arc::clone(&proxy)),
            limits: SessionLimits::default(),
            deadline: None,
            membership,
            database: proxy.database(&identity.database),
            proxy,
            identity,
            client: Link::of_nobody(),
            peer: None,
            registration,
            statements: ClientStatements::default(),
            inside: None,
            adopted: Arc::default(),
            shared: None,
            tracked: Tracked::new(startup),
            told: Told::default(),
            horizons: Horizons::default(),
            server: None,
            rows: None,
            outdated: None,
            across: MaybeAcross::default(),
            last_pools: Vec::new(),
            parked: None,
            may_have_sequences: false,
            pins: Vec::new(),
            unsure_of_pins: false,
            prepared_by_sql: Vec::new(),
            status: TransactionStatus::Idle,
            status_before: TransactionStatus::Idle,
            in_batch: false,
            skipping: false,
            misplaced: None,
            part: None,
            foreseen: Vec::new(),
            bound: Vec::new(),
            named_here: Vec::new(),
            portals: Vec::new(),
            executed: Vec::new(),
            ledger: Ledger::default(),
            tally: Tally::default(),
            overhead: Overhead::default(),
            tail: None,
            tail_sent: None,
            opening: super::relocate::Opening::default(),
            saw_rows: false,
            changed_catalog: false,
            _slot: slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F: Future>(_: fn(Arc<Proxy>, Seat, std::net::TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    /// It is what a stranger takes, and every client keeps it for as long as it stays: docs/users.md.
    #[test]
    fn a_connection_takes_little() {
        let size = size_of_future(accept);
        assert!(size <= 160, "{size}");
    }
}

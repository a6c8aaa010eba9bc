//! Connecting and logging in to a server.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};

use super::connection::{Canceller, Existence, Reported, ServerConnection};
use super::settings::Settings;
use super::transport::{TransportError, open, open_plain};
use crate::config::Secret;
use crate::tls::{Outbound, SslMode, end_point_hash};
use crate::topology::Node;
use crate::wire::scram::{Binding, ClientKey, KeyExchange, ScramError};
use crate::wire::startup::CancelKey;
use crate::wire::{Frames, Link, Stream, backend, frontend};
use crate::workers::WorkerId;

/// No server sends more than this before a session is ready, in bytes.
const MAX_GREETING: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No connection, or it was lost.
    #[error("cannot reach {node}: {error}")]
    Unreachable {
        /// `host:port`
        node: Arc<str>,
        /// What the system said.
        error: io::Error,
    },
    /// `pool.connect_timeout`
    #[error("{node} did not let us in within {limit:?} (pool.connect_timeout)")]
    Timeout {
        /// `host:port`
        node: Arc<str>,
        /// How long it was given.
        limit: Duration,
    },
    /// The server said no: the body of its `ErrorResponse`.
    #[error("{node} refused the login")]
    Refused {
        /// `host:port`
        node: Arc<str>,
        /// The fields of the error.
        body: Bytes,
    },
    /// The server asks for a password, and none that it takes is known.
    #[error("{node} asks for a password for user \"{user}\", and the config has none that can be sent")]
    NoPassword {
        /// `host:port`
        node: Arc<str>,
        /// Whose.
        user: Arc<str>,
    },
    /// The server's verifier is not the one that the client was checked against.
    #[error("{node} has another SCRAM verifier for user \"{user}\" than the one that the client was checked against")]
    OtherVerifier {
        /// `host:port`
        node: Arc<str>,
        /// Whose.
        user: Arc<str>,
    },
    /// The connection is not encrypted as `shards.sslmode` wants it.
    #[error("{node}: {what}")]
    Tls {
        /// `host:port`
        node: Arc<str>,
        /// What is wrong.
        what: String,
    },
    /// The server asks for something that is not supported, or does not speak the protocol.
    #[error("{node}: {what}")]
    Protocol {
        /// `host:port`
        node: Arc<str>,
        /// What is wrong.
        what: String,
    },
}

impl LoginError {
    /// Whether the server answered at all.
    pub fn was_answered(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }
}

/// Who logs in, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The role.
    pub user: &'a Arc<str>,
    /// The database.
    pub database: &'a str,
    /// Its password, where one is known.
    pub password: Option<&'a Secret>,
    /// The key that its client has logged in with: for SCRAM where no password is known.
    pub key: Option<&'a ClientKey>,
    /// Further parameters of the startup packet, such as `options`.
    pub parameters: &'a [(&'a str, &'a str)],
    /// How the connection is encrypted.
    pub tls: &'a Arc<Outbound>,
}

/// Connects and logs in, within `limit`, and for no longer than the monitor gets answers from the node:
/// the kernel of a server that is frozen still accepts connections, and nobody answers them.
pub async fn login(
    node: &Arc<Node>,
    credentials: Credentials<'_>,
    limit: Duration,
) -> Result<ServerConnection, LoginError> {
    tokio::select! {
        result = tokio::time::timeout(limit, Login::start(node, credentials)) => {
            result.unwrap_or_else(|_| Err(LoginError::Timeout { node: node.name.clone(), limit }))
        }
        () = lost(node) => {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it stopped answering the monitor");
            Err(LoginError::Unreachable { node: node.name.clone(), error })
        }
    }
}

/// Returns when the monitor loses the node.
async fn lost(node: &Node) {
    let mut life = node.watch_incarnation();
    while life.changed().await.is_ok() {
        if !node.is_reachable() {
            return;
        }
    }
    std::future::pending().await
}

/// Why one try failed, and how it was made.
struct Failure {
    error: LoginError,
    was_encrypted: bool,
}

struct Login<'a> {
    node: &'a Arc<Node>,
    credentials: Credentials<'a>,
    link: Link,
}

impl<'a> Login<'a> {
    async fn start(node: &'a Arc<Node>, credentials: Credentials<'a>) -> Result<ServerConnection, LoginError> {
        let incarnation = node.incarnation();
        match Self::try_over(node, credentials, incarnation, open(node, credentials.tls).await).await {
            // As libpq: what a server refuses over TLS may be let in without, where nobody asked for more.
            Err(Failure { error: LoginError::Refused { body, .. }, was_encrypted: true })
                if credentials.tls.mode() == SslMode::Prefer && backend::sqlstate(&body) == b"28000" =>
            {
                Self::try_over(node, credentials, incarnation, open_plain(node).await)
                    .await
                    .map_err(|failure| failure.error)
            }
            outcome => outcome.map_err(|failure| failure.error),
        }
    }

    async fn try_over(
        node: &'a Arc<Node>,
        credentials: Credentials<'a>,
        incarnation: u64,
        transport: Result<Stream, TransportError>,
    ) -> Result<ServerConnection, Failure> {
        let stream = transport.map_err(|error| Failure {
            error: match error {
                TransportError::Unreachable(error) => LoginError::Unreachable { node: node.name.clone(), error },
                TransportError::Tls(what) => LoginError::Tls { node: node.name.clone(), what },
            },
            was_encrypted: false,
        })?;
        let mut login = Login { node, credentials, link: Link::new(stream, BytesMut::new()) };
        let was_encrypted = login.link.tls().is_some();
        login.put_startup();
        let outcome = match login.authenticate().await {
            Ok(()) => login.receive_greeting(incarnation).await,
            Err(error) => Err(error),
        };
        outcome.map_err(|error| Failure { error, was_encrypted })
    }

    fn put_startup(&mut self) {
        let mut body = BytesMut::new();
        body.put_i32(3 << 16);
        let Credentials { user, database, parameters, .. } = self.credentials;
        for (name, value) in [("user", &**user), ("database", database)].iter().chain(parameters) {
            body.put_slice(name.as_bytes());
            body.put_u8(0);
            body.put_slice(value.as_bytes());
            body.put_u8(0);
        }
        body.put_u8(0);
        // Names that fit into a client's startup packet.
        self.link.output.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        self.link.output.put_slice(&body);
    }

    async fn authenticate(&mut self) -> Result<(), LoginError> {
        loop {
            let (tag, mut body) = self.receive().await?;
            if tag != backend::tag::AUTHENTICATION || body.len() < 4 {
                return Err(
                    self.protocol(format!("message {:?} instead of an authentication request", char::from(tag)))
                );
            }
            // <https://www.postgresql.org/docs/current/protocol-message-formats.html>, Authentication*
            match body.get_i32() {
                0 => return Ok(()),
                3 => {
                    let password = self.password()?.expose().to_owned();
                    self.put_password(&[password.as_bytes(), b"\0"]);
                }
                5 if body.len() == 4 => {
                    let salt = [body[0], body[1], body[2], body[3]];
                    let hash = md5_hash(self.credentials.user.as_bytes(), self.password()?.expose().as_bytes(), salt);
                    self.put_password(&[hash.as_bytes(), b"\0"]);
                }
                10 => self.sasl(&body).await?,
                code => {
                    return Err(
                        self.protocol(format!("authentication method {code} is not supported; use scram-sha-256"))
                    );
                }
            }
        }
    }

    async fn sasl(&mut self, mechanisms: &[u8]) -> Result<(), LoginError> {
        let offers = |name: &str| mechanisms.split(|byte| *byte == 0).any(|offered| offered == name.as_bytes());
        let hash = self.link.tls().and_then(|stream| end_point_hash(stream.get_ref().1));
        let (mechanism, binding) = match hash {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, Binding::EndPoint(hash)),
            // We could bind, and believe that the server cannot: if it can, somebody has changed its offer on the
            // way, and this tells it so.
            Some(_) => (SCRAM_SHA_256, Binding::Unrequested),
            None => (SCRAM_SHA_256, Binding::Unsupported),
        };
        if !offers(mechanism) {
            return Err(self.protocol("offers no SASL mechanism that is supported; use scram-sha-256".into()));
        }
        if let (None, Some(key)) = (self.credentials.password, self.credentials.key) {
            return self.sasl_with_key(key, mechanism, binding).await;
        }
        let binding = match binding {
            Binding::EndPoint(hash) => ChannelBinding::tls_server_end_point(hash),
            Binding::Unrequested => ChannelBinding::unrequested(),
            Binding::Unsupported => ChannelBinding::unsupported(),
        };
        let mut scram = ScramSha256::new(self.password()?.expose().as_bytes(), binding);
        self.put_first(mechanism, scram.message());
        let challenge = self.receive_sasl(11).await?;
        scram.update(&challenge).map_err(|error| self.protocol(format!("SCRAM: {error}")))?;
        let last = scram.message().to_vec();
        self.put_password(&[&last]);
        let outcome = self.receive_sasl(12).await?;
        scram.finish(&outcome).map_err(|error| self.protocol(format!("SCRAM: {error}")))
    }

    async fn sasl_with_key(&mut self, key: &ClientKey, mechanism: &str, binding: Binding) -> Result<(), LoginError> {
        let mut exchange = KeyExchange::new(key, binding);
        self.put_first(mechanism, exchange.first().as_bytes());
        let challenge = self.receive_sasl(11).await?;
        let last = exchange.answer(&challenge).map_err(|error| self.scram(error))?;
        self.put_password(&[last.as_bytes()]);
        let outcome = self.receive_sasl(12).await?;
        exchange.finish(&outcome).map_err(|error| self.scram(error))
    }

    fn scram(&self, error: ScramError) -> LoginError {
        let (node, user) = (self.node.name.clone(), Arc::clone(self.credentials.user));
        match error {
            ScramError::OtherVerifier => LoginError::OtherVerifier { node, user },
            _ => self.protocol(error.to_string()),
        }
    }

    fn put_first(&mut self, mechanism: &str, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.put_password(&[mechanism.as_bytes(), b"\0", &length, message]);
    }

    async fn receive_sasl(&mut self, code: i32) -> Result<Bytes, LoginError> {
        let (tag, mut body) = self.receive().await?;
        if tag != backend::tag::AUTHENTICATION || body.len() < 4 || body.get_i32() != code {
            return Err(self.protocol("does not follow the SASL exchange".into()));
        }
        Ok(body)
    }

    async fn receive_greeting(mut self, incarnation: u64) -> Result<ServerConnection, LoginError> {
        let mut reported = Reported::new();
        let mut cancel_key = None;
        loop {
            let (tag, mut body) = self.receive().await?;
            match tag {
                backend::tag::PARAMETER_STATUS => {
                    if let Some((name, value)) = backend::parameter_status(&body) {
                        reported.insert(name.into(), value.into());
                    }
                }
                backend::tag::BACKEND_KEY_DATA if body.len() > 4 => {
                    cancel_key = Some(CancelKey { pid: body.get_i32(), secret: body[..].into() });
                }
                backend::tag::READY_FOR_QUERY => break,
                backend::tag::NOTICE_RESPONSE | backend::tag::NEGOTIATE_PROTOCOL_VERSION => {}
                tag => return Err(self.protocol(format!("message {:?} before it is ready", char::from(tag)))),
            }
        }
        let Some(cancel_key) = cancel_key else {
            return Err(self.protocol("gave no key to cancel statements with".into()));
        };
        let created = Instant::now();
        Ok(ServerConnection {
            canceller: Canceller::new(self.node, &self.link, self.credentials.tls, cancel_key.clone()),
            existence: Arc::new(Existence { pid: cancel_key.pid, created }),
            link: self.link,
            node: Arc::clone(self.node),
            tls: Arc::clone(self.credentials.tls),
            incarnation,
            cancel_key,
            reported,
            settings: Arc::new(Settings::default()),
            prepared: HashMap::default(),
            unnamed: None,
            touched_by: None,
            registered: 0,
            created,
            home: WorkerId::here(),
            vacated: 0,
        })
    }

    fn password(&self) -> Result<&'a Secret, LoginError> {
        self.credentials.password.ok_or_else(|| LoginError::NoPassword {
            node: self.node.name.clone(),
            user: Arc::clone(self.credentials.user),
        })
    }

    fn put_password(&mut self, parts: &[&[u8]]) {
        frontend::put(&mut self.link.output, frontend::tag::PASSWORD, parts);
    }

    fn protocol(&self, what: String) -> LoginError {
        LoginError::Protocol { node: self.node.name.clone(), what }
    }

    /// The next message, after sending what is to be sent. An `ErrorResponse` is an error.
    async fn receive(&mut self) -> Result<(u8, Bytes), LoginError> {
        let unreachable = |error| LoginError::Unreachable { node: self.node.name.clone(), error };
        self.link.flush().await.map_err(unreachable)?;
        loop {
            match Frames::new(&self.link.input).next() {
                Some(Ok(frame)) => {
                    let (tag, body) = (frame.tag, Bytes::copy_from_slice(frame.body));
                    let size = frame.bytes.len();
                    self.link.input.advance(size);
                    if tag == backend::tag::ERROR_RESPONSE {
                        return Err(LoginError::Refused { node: self.node.name.clone(), body });
                    }
                    return Ok((tag, body));
                }
                Some(Err(error)) => return Err(self.protocol(error.to_string())),
                None if self.link.input.len() >= MAX_GREETING => return Err(self.protocol("says too much".into())),
                None => {}
            }
            if !self.link.fill(MAX_GREETING).await.map_err(unreachable)? {
                return Err(unreachable(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

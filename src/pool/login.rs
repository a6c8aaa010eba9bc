//! Connecting and logging in to a server.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::net::TcpStream;

use super::connection::{Reported, ServerConnection};
use super::settings::Settings;
use crate::config::Secret;
use crate::topology::Node;
use crate::wire::startup::CancelKey;
use crate::wire::{Frames, Link, Stream, backend, frontend};

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
    /// `options` of the startup packet.
    pub options: &'a str,
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

struct Login<'a> {
    node: &'a Arc<Node>,
    credentials: Credentials<'a>,
    link: Link,
}

impl<'a> Login<'a> {
    async fn start(node: &'a Arc<Node>, credentials: Credentials<'a>) -> Result<ServerConnection, LoginError> {
        let incarnation = node.incarnation();
        let unreachable = |error| LoginError::Unreachable { node: node.name.clone(), error };
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(unreachable)?;
        let mut login = Login { node, credentials, link: Link::new(Stream::Plain(stream), BytesMut::new()) };
        login.put_startup();
        login.authenticate().await?;
        login.receive_greeting(incarnation).await
    }

    fn put_startup(&mut self) {
        let mut body = BytesMut::new();
        body.put_i32(3 << 16);
        let Credentials { user, database, options, .. } = self.credentials;
        for (name, value) in [("user", &**user), ("database", database), ("options", options)] {
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
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(self.protocol("offers no SASL mechanism that is supported; use scram-sha-256".into()));
        }
        let mut scram = ScramSha256::new(self.password()?.expose().as_bytes(), ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.put_password(&[SCRAM_SHA_256.as_bytes(), b"\0", &length, &first]);
        let challenge = self.receive_sasl(11).await?;
        scram.update(&challenge).map_err(|error| self.protocol(format!("SCRAM: {error}")))?;
        let last = scram.message().to_vec();
        self.put_password(&[&last]);
        let outcome = self.receive_sasl(12).await?;
        scram.finish(&outcome).map_err(|error| self.protocol(format!("SCRAM: {error}")))
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
        Ok(ServerConnection {
            link: self.link,
            node: Arc::clone(self.node),
            incarnation,
            cancel_key,
            reported,
            settings: Arc::new(Settings::default()),
            prepared: HashMap::new(),
            unnamed: None,
            touched_by: None,
            created: Instant::now(),
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

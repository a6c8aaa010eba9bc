//! One connection to a server, and what is known of the server's session.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Buf;

use super::Settings;
use super::transport::{TransportError, open};
use crate::tls::Outbound;
use crate::topology::Node;
use crate::wire::startup::CancelKey;
use crate::wire::{BUFFER_SIZE, Frames, Link, backend};
use crate::workers::WorkerId;

/// The last value that a server reported of each of its reported settings.
pub type Reported = BTreeMap<Box<str>, Box<[u8]>>;

/// A digest of the parameters and columns that a prepared statement was described with; 0 is not described.
pub type Shape = u64;

/// A logged-in connection.
#[derive(Debug)]
pub struct ServerConnection {
    /// The transport.
    pub link: Link,
    /// Where it goes.
    pub node: Arc<Node>,
    /// What its shard's `sslmode` and files were when it was made.
    pub tls: Arc<Outbound>,
    /// The node's life that it was made in.
    pub incarnation: u64,
    /// Its process on the server, and its secret.
    pub cancel_key: CancelKey,
    /// How to cancel what it runs, for whoever does not hold the connection.
    pub canceller: Arc<Canceller>,
    /// What the server reported.
    pub reported: Reported,
    /// What has been set since login.
    pub settings: Arc<Settings>,
    /// The client (its cancel key's process ID) whose functions may have set what is not in `settings`.
    pub touched_by: Option<i32>,
    /// Prepared statements that the server holds, by the IDs that the sessions give them.
    pub prepared: HashMap<u64, Shape, foldhash::fast::FixedState>,
    /// The ID of the text that is the server's unnamed statement, where one of ours is.
    pub unnamed: Option<u64>,
    /// The version of the bucket map that it is registered under on its server; 0 where it is not.
    pub registered: i64,
    /// The thread whose runtime tells of what comes.
    pub home: WorkerId,
    /// When it was logged in.
    pub created: Instant,
    /// What its pool's count of [`super::Pools::vacate`] was then.
    pub vacated: u64,
    /// For whoever lists connections: dropped with this one.
    pub(super) existence: Arc<Existence>,
}

/// That a connection exists.
#[derive(Debug)]
pub(super) struct Existence {
    pub(super) pid: i32,
    pub(super) created: Instant,
}

/// Notes the body of a `ParameterStatus`; whether it says anything new.
pub fn note_parameter(reported: &mut Reported, body: &[u8]) -> bool {
    let Some((name, value)) = backend::parameter_status(body) else { return false };
    match reported.get_mut(name) {
        Some(known) if **known == *value => false,
        Some(known) => {
            *known = value.into();
            true
        }
        None => {
            reported.insert(name.into(), value.into());
            true
        }
    }
}

/// Why a connection cannot be used again.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Closed, reset or otherwise gone.
    #[error("the server closed it")]
    Gone,
    /// The server said something that an idle connection should not hear.
    #[error("the server said something unasked for")]
    Unasked,
    /// `pool.max_lifetime`
    #[error("it is older than pool.max_lifetime")]
    Old,
    /// Its database was to be left by everybody.
    #[error("its database is wanted by somebody alone")]
    Vacated,
    /// The server was lost, restarted, or changed its role since.
    #[error("the server is not what it was")]
    Stale,
    /// `shards.sslmode`, or what its files hold.
    #[error("connections to the server are encrypted otherwise by now")]
    Encryption,
}

impl ServerConnection {
    /// Has this thread's runtime tell of what comes. To be called there, of an idle connection.
    pub(super) fn come_to(&mut self, here: WorkerId) -> Result<(), Unusable> {
        if self.home != here {
            self.link.register_here().map_err(|_| Unusable::Gone)?;
            self.home = here;
            // What came before is told of only when the runtime has looked.
            if !self.link.is_silent() {
                return Err(Unusable::Unasked);
            }
        }
        Ok(())
    }

    /// Looks at what an idle connection has heard: nothing, or news of settings, is fine.
    pub async fn examine(&mut self) -> Result<(), Unusable> {
        while self.link.may_have_heard() {
            match poll_fn(|cx| Poll::Ready(self.link.poll_fill(cx, BUFFER_SIZE))).await {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Err(Unusable::Gone),
                Poll::Ready(Ok(_)) => self.take_news()?,
            }
        }
        self.link.input.is_empty().then_some(()).ok_or(Unusable::Unasked)
    }

    fn take_news(&mut self) -> Result<(), Unusable> {
        let input = self.link.input.split();
        let mut size = 0;
        for frame in Frames::new(&input) {
            let frame = frame.map_err(|_| Unusable::Unasked)?;
            match frame.tag {
                backend::tag::PARAMETER_STATUS => {
                    note_parameter(&mut self.reported, frame.body);
                }
                backend::tag::NOTICE_RESPONSE => {}
                _ => return Err(Unusable::Unasked),
            }
            size += frame.bytes.len();
        }
        self.link.input = input;
        self.link.input.advance(size);
        Ok(())
    }

    /// Tells the server that the session is over, without waiting for anything.
    pub async fn terminate(mut self) {
        crate::wire::frontend::put(&mut self.link.output, crate::wire::frontend::tag::TERMINATE, &[]);
        self.link.close().await;
    }
}

/// What a `CancelRequest` for one connection needs.
#[derive(Debug, Clone)]
pub struct Canceller {
    /// Where the connection goes.
    pub node: Arc<Node>,
    tls: Arc<Outbound>,
    key: CancelKey,
}

impl Canceller {
    pub(super) fn new(node: &Arc<Node>, link: &Link, tls: &Arc<Outbound>, key: CancelKey) -> Arc<Self> {
        // Where the connection is in plain text, so is the key: whoever listens has read it already.
        let tls = if link.tls().is_some() { Arc::clone(tls) } else { Arc::new(Outbound::disabled()) };
        Arc::new(Self { node: Arc::clone(node), tls, key })
    }

    /// The connection's node, and its process there.
    pub fn place(&self) -> (Arc<str>, i32) {
        (Arc::clone(&self.node.name), self.key.pid)
    }

    /// Sends the request, encrypted where the connection is, and waits until the server has dealt with it.
    pub async fn cancel(&self) -> io::Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = open(&self.node, &self.tls).await.map_err(|error| match error {
            TransportError::Unreachable(error) => error,
            TransportError::Tls(_) => io::Error::other(error.to_string()),
        })?;
        let length = 12 + self.key.secret.len();
        let mut packet = Vec::with_capacity(length);
        packet.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        packet.extend_from_slice(&crate::wire::startup::CANCEL_REQUEST_CODE.to_be_bytes());
        packet.extend_from_slice(&self.key.pid.to_be_bytes());
        packet.extend_from_slice(&self.key.secret);
        stream.write_all(&packet).await?;
        stream.flush().await?;
        // The server sends the signal, and then closes without a word; over TLS without a goodbye, too.
        match stream.read(&mut [0; 1]).await {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(()),
        }
    }
}

//! The running process's part: it gives its listening sockets to whoever may have them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::elsewhere::answer_all;
use super::message::{Line, Message};
use crate::session::Clients;

/// How long the other process may take to get ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// After an `accept` that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nothing can be offered.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Another process offers there already.
    #[error("listen.takeover: another process listens on {} already; start with --takeover to take over from it", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("listen.takeover: cannot listen on {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Another process serves. To be answered when this one accepts nobody any more.
#[derive(Debug)]
pub struct HandOver {
    /// That process.
    pub to: i32,
    /// The answer.
    pub done: oneshot::Sender<()>,
}

/// What is given, and to whom it is told.
#[derive(Debug)]
pub struct Offer {
    listener: OwnedFd,
    http: OwnedFd,
    addresses: (SocketAddr, SocketAddr),
    clients: Arc<Clients>,
    orders: mpsc::Sender<HandOver>,
}

impl Offer {
    /// Of these listeners. What comes of it is told by the receiver.
    ///
    /// # Errors
    /// The system gives no further descriptors.
    pub fn new(
        listener: &TcpListener,
        http: &TcpListener,
        clients: Arc<Clients>,
    ) -> io::Result<(Self, mpsc::Receiver<HandOver>)> {
        let (orders, receiver) = mpsc::channel(1);
        let offer = Self {
            addresses: (listener.local_addr()?, http.local_addr()?),
            listener: listener.as_fd().try_clone_to_owned()?,
            http: http.as_fd().try_clone_to_owned()?,
            clients,
            orders,
        };
        Ok((offer, receiver))
    }

    /// Listens for a successor, in the background, until there is one.
    ///
    /// # Errors
    /// Another process does so, or the socket cannot be made.
    pub async fn publish(self, path: &Path) -> Result<(), OfferError> {
        let failed = |source| OfferError::Socket { path: path.to_owned(), source };
        if super::connect(path).await.map_err(failed)?.is_some() {
            return Err(OfferError::Taken(path.to_owned()));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        tokio::spawn(self.wait(socket));
        Ok(())
    }

    /// One at a time: who hangs up before it serves leaves all as it was.
    async fn wait(self, socket: UnixListener) {
        loop {
            let stream = match socket.accept().await {
                Ok((stream, _)) if super::is_trusted(&stream) => stream,
                Ok(_) => {
                    tracing::warn!("a process of another user asked for the listening sockets, and was refused");
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "listen.takeover: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match tokio::time::timeout(PATIENCE, self.converse(stream)).await {
                Ok(Ok((line, to))) => return self.hand_over(socket, line, to).await,
                Ok(Err(error)) => tracing::warn!(%error, "a takeover was begun and not gone through with"),
                Err(_) => tracing::warn!("a process that was to take over did not get ready"),
            }
        }
    }

    /// Gives the sockets, and waits until the other process serves.
    async fn converse(&self, stream: UnixStream) -> io::Result<(Line, i32)> {
        let mut line = Line::new(stream);
        let (Message::Take { pid }, _) = line.receive().await? else { return Err(unexpected()) };
        tracing::info!(pid, "a process asks to take over");
        let (address, http) = self.addresses;
        let give = Message::Give { pid: own_pid(), address, http };
        line.send(&give, &[self.listener.as_fd(), self.http.as_fd()]).await?;
        match line.receive().await? {
            (Message::Serving, _) => Ok((line, pid)),
            _ => Err(unexpected()),
        }
    }

    async fn hand_over(self, socket: UnixListener, line: Line, to: i32) {
        let Self { clients, orders, listener, http, .. } = self;
        let (done, stopped) = oneshot::channel();
        // Where nobody hears this the process ends, and accepts nobody any more either.
        let _ = orders.send(HandOver { to, done }).await;
        let _ = stopped.await;
        // Sockets of which a copy stayed open here would go on to queue clients if the other process ended.
        drop((listener, http, socket));
        if line.send(&Message::Done, &[]).await.is_ok() {
            answer_all(line, &clients).await;
        }
    }
}

pub(super) fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}

pub(super) fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other process speaks of something else")
}

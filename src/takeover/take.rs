//! The new process's part: it asks for the listening sockets, and serves.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;

use super::elsewhere::Predecessor;
use super::message::{Line, Message};
use super::offer::{own_pid, unexpected};

/// How long the other process may take for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The conversation failed.
    #[error("the process that listens on {} did not hand over: {source}", path.display())]
    Conversation {
        /// `listen.takeover`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is another user's.
    #[error("the process that listens on {} is another user's", .0.display())]
    Stranger(PathBuf),
}

/// The sockets, and the process that still serves on them.
#[derive(Debug)]
pub struct Given {
    /// Where clients connect.
    pub listener: TcpListener,
    /// Where metrics are.
    pub http: TcpListener,
    /// Who gave them.
    pub from: i32,
    line: Line,
    path: PathBuf,
}

impl Given {
    /// Asks the process that listens at `path`; `None`: there is none.
    ///
    /// # Errors
    /// It does not give them.
    pub async fn ask(path: &Path) -> Result<Option<Self>, TakeError> {
        let failed = |source| TakeError::Conversation { path: path.to_owned(), source };
        let Some(stream) = super::connect(path).await.map_err(failed)? else { return Ok(None) };
        if !super::is_trusted(&stream) {
            return Err(TakeError::Stranger(path.to_owned()));
        }
        let mut line = Line::new(stream);
        let asked = async {
            line.send(&Message::Take { pid: own_pid() }, &[]).await?;
            let (Message::Give { pid, .. }, descriptors) = line.receive().await? else { return Err(unexpected()) };
            let [listener, http] = <[_; 2]>::try_from(descriptors).map_err(|_| unexpected())?;
            Ok((pid, as_listener(listener.into())?, as_listener(http.into())?))
        };
        let (from, listener, http) = in_time(asked).await.map_err(failed)?;
        Ok(Some(Self { listener, http, from, line, path: path.to_owned() }))
    }

    /// The sockets, to be served, and what is left to say when that is so.
    pub fn split(self) -> (TcpListener, TcpListener, Serving) {
        (self.listener, self.http, Serving { line: self.line, path: self.path, from: self.from })
    }
}

/// To tell the old process that this one serves.
#[derive(Debug)]
pub struct Serving {
    line: Line,
    path: PathBuf,
    /// The old process.
    pub from: i32,
}

impl Serving {
    /// Clients are served here: the other process is to stop accepting. Returns when it has.
    ///
    /// # Errors
    /// It is gone, or does not answer.
    pub async fn tell(mut self) -> Result<Predecessor, TakeError> {
        let told = async {
            self.line.send(&Message::Serving, &[]).await?;
            match self.line.receive().await? {
                (Message::Done, _) => Ok(()),
                _ => Err(unexpected()),
            }
        };
        in_time(told).await.map_err(|source| TakeError::Conversation { path: self.path, source })?;
        Ok(Predecessor::new(self.from, self.line))
    }
}

async fn in_time<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(LIMIT, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn as_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Whether a socket that was given is the one that the config asks for. A port of 0 takes any.
pub fn fits(wanted: SocketAddr, given: &TcpListener) -> bool {
    let given = given.local_addr().ok();
    given.is_some_and(|given| given == wanted || wanted.port() == 0 && given.ip() == wanted.ip())
}

//! What the protocol asks of a server connection.

use std::fmt;
use std::future::Future;

use bytes::Bytes;

use super::name::ShardName;
use crate::wire::backend::{error_field, sqlstate};

/// One shard's part of a transaction: a connection on which it is open.
pub trait Participant: Send {
    /// The shard.
    fn shard(&self) -> &ShardName;

    /// Sends one simple query, of one statement or several, and waits for `ReadyForQuery`. Rows are dropped, warnings
    /// are the implementor's. The future may be dropped halfway; then the connection is of no more use.
    ///
    /// # Errors
    /// [`RunError::Refused`] only where the connection is still there: an ERROR, and `ReadyForQuery` after it. A FATAL, a
    /// PANIC or the end of the stream is [`RunError::Lost`], with or without words: it says nothing of whether the
    /// statement has run.
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), RunError>> + Send;
}

impl<P: Participant> Participant for &mut P {
    fn shard(&self) -> &ShardName {
        (**self).shard()
    }

    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), RunError>> + Send {
        (**self).run(sql)
    }
}

/// Why a statement has not been answered well.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// The server has refused it, and goes on.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection is gone. Whether the statement has run is not known. With the server's last words, if it had any.
    #[error("the connection was lost{}", .0.as_ref().map(|words| format!(": {words}")).unwrap_or_default())]
    Lost(Option<Refusal>),
}

/// A server's error: the body of its `ErrorResponse`, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal(pub Bytes);

impl Refusal {
    /// Its SQLSTATE; `XX000` where it has none.
    pub fn sqlstate(&self) -> &[u8] {
        sqlstate(&self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = error_field(&self.0, b'M').unwrap_or_default();
        write!(f, "{} ({})", String::from_utf8_lossy(message), String::from_utf8_lossy(self.sqlstate()))
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

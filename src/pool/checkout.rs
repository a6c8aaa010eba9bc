//! A connection on loan.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::connection::ServerConnection;
use super::login::LoginError;
use super::pools::NodePool;

/// Why there is no connection to be had.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// All of the pool's connections were in use for as long as a client may wait.
    #[error("no connection to {node} was free within {limit:?}")]
    Busy {
        /// `host:port`
        node: Arc<str>,
        /// `pool.checkout_timeout`
        limit: Duration,
        /// `pool.size`
        size: usize,
    },
    /// A new one could not be made.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The node was taken out of the config.
    #[error("{node} is no longer part of the config")]
    Closed {
        /// `host:port`
        node: Arc<str>,
    },
}

/// What a connection that is not in use keeps of each buffer, in bytes.
const KEPT_BUFFER: usize = 4096;

/// A server connection on loan. When it goes without [`Checkout::give_back`] having been called,
/// the connection is closed: nobody knows what state it is in.
#[derive(Debug)]
pub struct Checkout {
    connection: Option<Box<ServerConnection>>,
    pool: Arc<NodePool>,
}

impl Checkout {
    pub(super) fn new(connection: Box<ServerConnection>, pool: Arc<NodePool>) -> Self {
        Self { connection: Some(connection), pool }
    }

    /// The pool that it comes from.
    pub fn pool(&self) -> &Arc<NodePool> {
        &self.pool
    }

    /// Hands it back, clean: no transaction, nothing unread, no state but its settings and prepared statements.
    pub fn give_back(mut self) {
        if self.pool.is_vacated(&self) || self.pool.is_behind(&self) {
            return;
        }
        self.link.shrink(KEPT_BUFFER, KEPT_BUFFER);
        if let Some(connection) = self.connection.take() {
            self.pool.take_back(connection);
        }
    }
}

impl Deref for Checkout {
    type Target = ServerConnection;

    #[expect(
        clippy::expect_used,
        reason = "the connection is taken only by `give_back` and `drop`, which end this value"
    )]
    fn deref(&self) -> &ServerConnection {
        self.connection.as_ref().expect("on loan")
    }
}

impl DerefMut for Checkout {
    #[expect(clippy::expect_used, reason = "as in `deref`")]
    fn deref_mut(&mut self) -> &mut ServerConnection {
        self.connection.as_mut().expect("on loan")
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.let_go();
            // Says goodbye where there is still something to say it to, without holding up the session.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(tokio::time::timeout(Duration::from_secs(5), connection.terminate()));
            }
        }
    }
}

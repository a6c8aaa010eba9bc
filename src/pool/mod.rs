//! Server connections: logging in, keeping them, lending them to sessions.
//!
//! There is one pool for each node, database and user, bounded by `pool.size`: waiters are served in
//! order, and a pool that is full holds up nobody else's.
//! A connection is handed on only by a session that says that it is clean; any other end closes it.
//! This room knows nothing of SQL but the few statements that carry a session's settings over.

mod checkout;
mod connection;
mod keys;
mod lending;
mod login;
mod pools;
mod settings;
mod transport;

pub use checkout::{Checkout, CheckoutError};
pub use connection::{Canceller, Reported, ServerConnection, Shape, note_parameter};
pub use keys::ClientKeys;
pub use login::LoginError;
pub use pools::{Identity, NodePool, PinPlace, PoolView, Pools, ServerView};
pub use settings::{Change, OWN_PREFIX, SettingValue, Settings, quote_identifier, quote_literal};

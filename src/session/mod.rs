//! One client: the state machine that joins the other rooms.
//!
//! A [`Session`] is one task. It gathers what the client wants next ([`gather`]), understands it
//! ([`understand`]), attaches a server connection where it has none ([`attach`]), brings it to its
//! own state ([`bring`]), puts the messages into that connection's terms ([`translate`]), relays until
//! all is answered ([`relay`]), takes note of what has changed ([`conclude`]), and parts with the
//! connection ([`part`]). Where a statement goes is decided in `route/` alone.

mod accept;
mod attach;
mod auth;
mod bring;
mod cancel;
mod conclude;
mod exchange;
mod gather;
mod overhead;
mod part;
mod prepared;
mod relay;
mod relocate;
mod serve;
mod tracked;
mod translate;
mod understand;

pub use accept::accept;
pub use auth::Verifiers;
pub use cancel::CancelRegistry;
pub use prepared::Statements;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use exchange::{Audience, Exchange};
use gather::ClientFault;
use overhead::Overhead;
use prepared::ClientStatements;
use relay::Tally;
use tracked::Tracked;

use crate::pool::{Checkout, Identity, Reported, Settings};
use crate::proxy::{ClientSlot, Database, Proxy};
use crate::route::{Horizon, Reason};
use crate::sql::{Analysis, Pin};
use crate::topology::{Outstanding, Position, Role};
use crate::wire::backend::TransactionStatus;
use crate::wire::{ErrorReply, FrameError, Link};

/// One client, logged in.
#[derive(Debug)]
pub struct Session {
    proxy: Arc<Proxy>,
    identity: Identity,
    database: Arc<Database>,
    client: Link,
    registration: cancel::Registration,
    statements: ClientStatements,
    tracked: Tracked,
    /// What the client was told of the server's settings.
    reported: Reported,
    horizon: Horizon,
    server: Option<Attached>,
    /// A connection that is not in use, and kept for as long as nobody else wants it.
    parked: Option<Parked>,
    /// The open transaction may have called `nextval`.
    may_have_sequences: bool,
    pins: Vec<Pin>,
    /// Some of them may be for nothing: what they are for was given up, or rolled back.
    unsure_of_pins: bool,
    /// What SQL's PREPARE has made, or a `Parse` that was too long to be read.
    prepared_by_sql: Vec<Box<str>>,
    status: TransactionStatus,
    /// What it was before what is under way.
    status_before: TransactionStatus,
    /// Messages of the extended protocol are under way, and the `Sync` that ends them is still to come.
    in_batch: bool,
    /// An error was told without a server's help: the client's messages are ignored up to its next `Sync`.
    skipping: bool,
    /// Names that the messages under way have given to statements.
    named_here: Vec<Box<[u8]>>,
    /// Portals of the messages under way, and of the transaction.
    portals: Vec<(Box<[u8]>, Arc<Analysis>)>,
    /// What has been executed since the last `ReadyForQuery`.
    executed: Vec<Arc<Analysis>>,
    tally: Tally,
    overhead: Overhead,
    /// What has to be set again when the messages under way are done; see [`Tracked::tail`].
    tail: Settings,
    /// What was sent of it.
    tail_sent: Settings,
    /// How the open transaction was begun.
    opening: relocate::Opening,
    /// The open transaction has read or written rows.
    saw_rows: bool,
    /// The open transaction has changed a catalog.
    changed_catalog: bool,
    _slot: ClientSlot,
}

/// See [`Session::parked`].
#[derive(Debug)]
struct Parked {
    checkout: Checkout,
    /// When its pool would close it.
    until: Instant,
}

/// A server connection in a session's hands.
#[derive(Debug)]
struct Attached {
    checkout: Checkout,
    exchange: Exchange,
    role: Role,
    reason: Reason,
    /// The answer is held back: nothing of it has been shown to the client.
    holding: bool,
    /// What it has to say that it has replayed, before its answer counts.
    proof: Option<Position>,
    /// Nothing has been run on it yet.
    is_fresh: bool,
    eof: bool,
    last_words: Option<Box<[u8]>>,
    input_limit: usize,
    _outstanding: Outstanding,
    _counted: Counted,
}

/// One of the clients that are doing something, in `proxy.clients.active`.
#[derive(Debug)]
struct Counted(Arc<Proxy>);

impl Counted {
    fn active(proxy: &Arc<Proxy>) -> Self {
        proxy.clients.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(proxy))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a session ends before its client says goodbye.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the client is gone")]
    ClientGone,
    #[error(transparent)]
    Client(#[from] ClientFault),
    #[error(transparent)]
    Malformed(#[from] crate::wire::frontend::Malformed),
    #[error("the server does not speak the protocol: {0}")]
    ServerFrame(FrameError),
    #[error("the server connection was lost")]
    ServerLost(Option<Box<[u8]>>),
    #[error("{}", .0.message)]
    Fatal(ErrorReply),
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Client(error.into())
    }
}

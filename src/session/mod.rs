//! One client: the state machine that joins the other rooms.
//!
//! A [`Session`] is one task. It gathers what the client wants next ([`gather`]), understands it
//! ([`understand`]), attaches a server connection where it has none ([`attach`]), brings it to its
//! own state ([`bring`]), puts the messages into that connection's terms ([`translate`]), relays until
//! all is answered ([`relay`]), takes note of what has changed ([`conclude`]), and parts with the
//! connection ([`part`]). Where a statement goes is decided in `route/` alone.

mod accept;
mod across;
mod agree;
mod alone;
mod attach;
mod attempt;
mod auth;
mod binding;
mod bring;
mod cancel;
mod clients;
mod conclude;
mod constraints;
mod coordinate;
mod copy;
mod crowd;
mod cut;
mod encrypt;
mod everywhere;
mod exchange;
mod fence;
mod foresee;
mod gate;
mod gather;
mod hand;
mod ledger;
mod limits;
mod made;
mod merge;
mod operator;
mod overhead;
mod own;
mod part;
mod pins;
mod place;
mod prepared;
mod quota;
mod relay;
mod relocate;
mod replication;
mod reshard;
mod returned;
mod scatter;
mod seldom;
mod serve;
mod shortage;
mod standing;
mod throttle;
mod token;
mod told;
mod tracked;
mod translate;
mod turns;
mod understand;
mod wish;

pub use accept::accept;
pub use auth::Verifiers;
pub use clients::{ClientView, Clients};
pub use crowd::Crowd;
pub use gate::Gate;
pub use own::explain_new_session;
pub use prepared::Statements;
pub use quota::{Membership, Quotas};
pub use shortage::Shortage;
pub use throttle::Throttle;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use exchange::{Audience, Exchange};
use gather::ClientFault;
use ledger::Ledger;
use overhead::Overhead;
use prepared::{ClientStatements, Prepared};
use relay::Tally;
use told::Told;
use tracked::Tracked;

use crate::audit::Who;
use crate::config::Config;
use crate::monitor::Rows;
use crate::pool::{Checkout, Identity, NodePool, Settings};
use crate::proxy::{ClientSlot, Database, Proxy};
use crate::route::{Horizons, Reason, SessionKey};
use crate::shard::Bucket;
use crate::shard::type_oids::TypeOids;
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
    /// Where it connected from; none where nobody is behind the session.
    peer: Option<SocketAddr>,
    registration: clients::Registration,
    /// While it is doing something, or a transaction is open.
    inside: Option<gate::Inside>,
    statements: ClientStatements,
    tracked: Tracked,
    /// The settings that [`Session::adopt_own_settings`] has seen last.
    adopted: Arc<Settings>,
    /// Under which key it shares what it has seen: `pgsluice.session_key`.
    shared: Option<SessionKey>,
    /// What the client was told of the server's settings.
    told: Told,
    /// What it has seen, on each shard.
    horizons: Horizons,
    server: Option<Attached>,
    /// Where its last connections were from.
    last_pools: Vec<Arc<NodePool>>,
    /// There is more than one shard to choose from.
    is_sharded: bool,
    /// What is known of the database's rows, while messages are served.
    rows: Option<Arc<Rows>>,
    /// Where rows go next that could go to any shard: some bucket's.
    lot: Bucket,
    /// Why the messages under way are to be routed anew, or refused.
    outdated: Option<fence::Outdated>,
    /// The open transaction, on its other shards.
    across: across::MaybeAcross,
    /// A connection that is not in use, and kept for as long as nobody else wants it.
    parked: Option<Parked>,
    /// The open transaction may have called `nextval`.
    may_have_sequences: bool,
    pins: Vec<Pin>,
    pin_account: pins::PinAccount,
    /// As it was when the last messages came.
    config: Arc<Config>,
    limits: limits::SessionLimits,
    /// When the time of the statement under way is over.
    deadline: Option<Instant>,
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
    /// What the messages under way are refused with, in their place, where they are for another shard than can be had.
    misplaced: Option<Box<ErrorReply>>,
    /// Where the portals of the open transaction are for.
    bound: Vec<(Box<[u8]>, place::Place)>,
    /// What the long texts of the messages under way say.
    foreseen: foresee::Foreseen,
    /// What stands for the text under way on this shard.
    part: Option<Box<scatter::Part>>,
    /// Names that the messages under way have given to statements.
    named_here: Vec<Box<[u8]>>,
    /// Portals of the messages under way, and of the transaction.
    portals: Vec<(Box<[u8]>, Arc<Prepared>)>,
    /// What has been executed since the last `ReadyForQuery`.
    executed: Vec<Arc<Analysis>>,
    ledger: Ledger,
    tally: Tally,
    overhead: Overhead,
    /// What has to be set again when the messages under way are done; see [`Tracked::tail`].
    tail: Option<Box<Settings>>,
    /// What was sent of it.
    tail_sent: Option<Box<Settings>>,
    /// How the open transaction was begun.
    opening: relocate::Opening,
    /// The open transaction has read or written rows.
    saw_rows: bool,
    /// The open transaction has changed a catalog.
    changed_catalog: bool,
    membership: Option<Membership>,
    _slot: Option<ClientSlot>,
}

impl Session {
    /// Who it is, for the audit log.
    fn who(&self) -> Who {
        who(&self.identity, self.peer)
    }
}

/// A client, for the audit log.
fn who(identity: &Identity, client: Option<SocketAddr>) -> Who {
    Who { user: (&identity.user).into(), database: (&identity.database).into(), client }
}

/// See [`Session::parked`].
#[derive(Debug)]
struct Parked {
    checkout: Checkout,
    /// When its pool would close it.
    until: Instant,
}

impl Parked {
    /// By which its pool tells that it is to be given back; see [`NodePool::wanted`].
    fn place(&self) -> (Arc<NodePool>, u64) {
        (Arc::clone(self.checkout.pool()), self.checkout.vacated)
    }
}

/// A server connection in a session's hands.
#[derive(Debug)]
struct Attached {
    /// Its shard's name.
    shard: Arc<str>,
    checkout: Checkout,
    exchange: Box<Exchange>,
    role: Role,
    reason: Reason,
    /// The answer is held back: nothing of it has been shown to the client.
    holding: bool,
    /// How much of it is, in bytes.
    hold_limit: usize,
    /// What its shard calls users' types; none where that is what clients call them.
    types: Option<Arc<TypeOids>>,
    /// While names mean the coordinator's views there: the `search_path` without them.
    views_over: Option<Box<str>>,
    /// What it has to say that it has replayed, before its answer counts.
    proof: Option<Position>,
    /// What an error of the client's statement is told with.
    postscript: Option<Box<alone::Postscript>>,
    /// Waits for locks are over after a time, in the transaction over several shards that is open.
    waits_are_bounded: bool,
    /// It was asked to cancel what took too long.
    is_timed_out: bool,
    /// Nothing has been run on it yet.
    is_fresh: bool,
    eof: bool,
    last_words: Option<Box<[u8]>>,
    input_limit: usize,
    _outstanding: Outstanding,
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
    /// Its server connection cannot serve it any longer.
    #[error("{}", .0.message)]
    Fatal(ErrorReply),
    /// It was sent away; see [`Session::cut`].
    #[error("{}", .0.message)]
    Cut(ErrorReply),
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Client(error.into())
    }
}

#[cfg(test)]
mod memory_tests;

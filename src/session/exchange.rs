//! What a server still owes: one expectation for each message that it has been sent.
//!
//! A server answers in order, so a queue tells for each message that comes what it answers, to whom
//! it belongs (the client, or the proxy's own doings), and when all is said. Pure: frames in,
//! verdicts and events out.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use super::relay::Failure;
use super::returned::{MAX_RETURNED, Returned};
use crate::gather::merge::RowShape;
use crate::pool::Shape;
use crate::wire::backend::{self, TransactionStatus, tag};
use crate::wire::{ErrorReply, Frame};

/// A message that is not a row is held whole up to this size, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// A message that was sent, and will be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// `Query`; answered up to a `ReadyForQuery`.
    Query,
    /// `FunctionCall`; likewise.
    FunctionCall,
    /// `Parse` of the statement with this ID.
    Parse(u64),
    /// `Parse` of something that is not kept track of.
    ParseOther,
    /// `Bind`
    Bind,
    /// `Describe` of the statement with this ID.
    Describe(u64),
    /// `Describe` of a portal, or of a statement that is not kept track of.
    DescribeOther,
    /// `Execute`
    Execute,
    /// `Close`
    Close,
    /// `Sync`
    Sync,
}

/// Who is told of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The client.
    Client,
    /// Nobody but the proxy. An error of a `Prepare` is the client's, though: its own message fails by it.
    Proxy(Purpose),
    /// The message was made to fail: the client is told this in place of the server's error.
    Refusal(Box<ErrorReply>),
}

/// What the proxy has sent something for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To bring the connection to the session's settings.
    Settings,
    /// To ask which settings there are.
    Probe,
    /// To ask whether a replica has replayed what the client must see. Whatever fails, it has not.
    Proof,
    /// To ask which position covers what the client was just shown. What comes of it is not missed when it fails.
    Position,
    /// To complete what the client has just sent: its `ReadyForQuery` stands for that of the client's message before it.
    Tail,
    /// To prepare a statement that the client prepared elsewhere.
    Prepare,
    /// To end a part of a pipeline that goes on on another shard.
    Turn,
    /// The client's own messages, on another shard than the one whose answer it gets.
    Elsewhere,
    /// Likewise, but in no transaction: the client is told what the server has to tell meanwhile.
    Alone,
    /// To move a transaction, or to clean up after a client.
    Housekeeping,
}

/// What is to become of a message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets it.
    Pass,
    /// Nobody gets it.
    Drop,
    /// The client gets this message instead.
    Rewrite(Vec<u8>),
    /// The client gets this error instead.
    Replace(Box<ErrorReply>),
}

/// What a message from the server has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server has this statement now.
    Prepared(u64),
    /// It could not be prepared, or it was not tried.
    NotPrepared(u64),
    /// What this statement looks like.
    Described {
        /// The statement.
        id: u64,
        /// A digest of its parameters and columns.
        shape: Shape,
        /// One of its columns alone, wherever they come from; 0 where it has none.
        columns: u64,
        /// The client has been told.
        for_client: bool,
    },
    /// An error for the client.
    Failed(Failure),
    /// The proxy's own message failed: the body of the error.
    OwnFailed(Box<[u8]>),
    /// A row of the proxy's own query.
    OwnRow(Box<[u8]>),
    /// The row that tells a position.
    Position(Box<[u8]>),
    /// The row that tells how far a replica is.
    Replayed(Box<[u8]>),
    /// All that a replica has to say of it.
    ProofEnds,
    /// `CommandComplete` for the client.
    Completed {
        /// As its tag says.
        rows: u64,
    },
    /// `EmptyQueryResponse` or `PortalSuspended` for the client.
    Answered,
    /// What was executed before could not be committed: [`Event::Failed`] follows.
    Undone,
    /// The client is told this in place of the server's error; [`Event::Failed`] follows.
    Refused(Box<ErrorReply>),
    /// `ReadyForQuery` for the client.
    Ready(TransactionStatus),
    /// The same behind a part of a pipeline that goes on elsewhere.
    Turned(TransactionStatus),
}

/// The expectations of one server connection.
#[derive(Default)]
pub struct Exchange {
    expected: VecDeque<(Sent, Audience)>,
    events: Vec<Event>,
    /// After an error in the extended protocol, until the next `Sync` is sent, the server ignores everything.
    skipping: bool,
    copying_in: bool,
    /// Data has been copied in by the extended protocol, and the `Sync` behind it is still to come.
    awaiting_sync: bool,
    description: Option<FoldingDigest>,
    /// Where the rows are kept that the client's statements return, here and on other shards.
    returned: Option<Box<Returned>>,
}

/// What a long pipeline has needed is not kept: messages, and what they have brought.
const LARGE: usize = 128;

/// Exchanges that a thread keeps for the next statements: more are not under way at once, mostly.
const MOST_SPARE: usize = 64;

thread_local! {
    /// Empty ones. Whoever is silent keeps none for himself.
    #[expect(clippy::vec_box, reason = "they come and go as they are")]
    static SPARE: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

type FoldingDigest = foldhash::fast::FoldHasher<'static>;

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Exchange {
    /// A message is sent.
    pub fn expect(&mut self, sent: Sent, audience: Audience) {
        if self.skipping {
            if sent != Sent::Sync {
                if let Sent::Parse(id) = sent {
                    self.events.push(Event::NotPrepared(id));
                }
                return;
            }
            self.skipping = false;
        }
        if sent == Sent::Sync {
            self.awaiting_sync = false;
        }
        self.expected.push_back((sent, audience));
    }

    /// Whether everything that was asked has been answered.
    pub fn is_answered(&self) -> bool {
        self.expected.is_empty()
    }

    /// Whether the server ignores whatever comes before the next `Sync`.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the server waits for `CopyData` from the client.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// Whether what the client sends now belongs to the COPY that is under way.
    pub fn takes_copy_data(&self) -> bool {
        self.copying_in || self.awaiting_sync
    }

    /// The client has sent `CopyDone` or `CopyFail`.
    pub fn end_copy_in(&mut self) {
        self.copying_in = false;
        self.awaiting_sync = self.expected.front().is_some_and(|(sent, _)| *sent == Sent::Execute);
    }

    /// Whether the last that was sent ends in a `ReadyForQuery`.
    pub fn ends_ready(&self) -> bool {
        self.expected.back().is_some_and(|(sent, _)| matches!(sent, Sent::Query | Sent::FunctionCall | Sent::Sync))
    }

    /// Whether a `ReadyForQuery` is to come.
    pub fn awaits_ready(&self) -> bool {
        self.expected.iter().any(|(sent, _)| matches!(sent, Sent::Query | Sent::FunctionCall | Sent::Sync))
    }

    /// Whatever is still to come is for nobody.
    pub fn disown(&mut self) {
        self.disown_for(Purpose::Housekeeping);
    }

    /// Whatever is still to come is for the proxy alone.
    pub fn disown_for(&mut self, purpose: Purpose) {
        for (_, audience) in &mut self.expected {
            *audience = Audience::Proxy(purpose);
        }
        self.events.clear();
    }

    /// Rows that the client's statements return are kept from now on.
    pub fn keep_rows(&mut self, returned: Box<Returned>) {
        self.returned = Some(returned);
    }

    /// Whether they are.
    pub fn keeps_rows(&self) -> bool {
        self.returned.is_some()
    }

    /// What was kept, and no more is.
    pub fn take_returned(&mut self) -> Option<Box<Returned>> {
        self.returned.take()
    }

    /// Whether something has happened since the last call of [`Exchange::take_events`].
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Takes back the empty list that [`Exchange::take_events`] has given, for the memory of it.
    pub fn give_back(&mut self, events: Vec<Event>) {
        if self.events.is_empty() {
            self.events = events;
        }
    }

    /// An empty one.
    pub fn at_hand() -> Box<Self> {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// For the thread's next statement: as if it were new, but for the memory that it keeps.
    pub fn lay_aside(mut self: Box<Self>) {
        let Self { expected, events, skipping, copying_in, awaiting_sync, description, returned } = &mut *self;
        expected.clear();
        events.clear();
        (*skipping, *copying_in, *awaiting_sync) = (false, false, false);
        (*description, *returned) = (None, None);
        let is_large = expected.capacity() > LARGE || events.capacity() > LARGE;
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MOST_SPARE && !is_large {
                spare.push(self);
            }
        });
    }

    /// A whole message from the server, or for rows and copied data (`DataRow`, `CopyData`) that the
    /// client is to get, as much of it as has come; see [`Exchange::passes_rows`].
    pub fn receive(&mut self, frame: &Frame<'_>) -> Verdict {
        match frame.tag {
            tag::NOTICE_RESPONSE => return self.notice(),
            // Handled by whoever keeps the connection's reported settings.
            tag::PARAMETER_STATUS => return Verdict::Drop,
            tag::NOTIFICATION_RESPONSE => return Verdict::Pass,
            tag::ERROR_RESPONSE => return self.error(frame.body),
            _ => {}
        }
        if let Some(verdict) = self.keep(frame) {
            return verdict;
        }
        let Some((sent, audience)) = self.expected.front() else { return Verdict::Pass };
        let verdict = if matches!(audience, Audience::Proxy(_)) { Verdict::Drop } else { Verdict::Pass };
        let purpose = match audience {
            Audience::Proxy(purpose) => Some(*purpose),
            _ => None,
        };
        match (sent, frame.tag) {
            (Sent::Query | Sent::FunctionCall | Sent::Sync, tag::READY_FOR_QUERY) => {
                let status = TransactionStatus::read(frame.body).unwrap_or(TransactionStatus::Failed);
                let has_tail = matches!(self.expected.get(1), Some((_, Audience::Proxy(Purpose::Tail))));
                self.expected.pop_front();
                self.copying_in = false;
                if has_tail {
                    return Verdict::Drop;
                }
                if purpose == Some(Purpose::Proof) {
                    self.events.push(Event::ProofEnds);
                }
                if purpose == Some(Purpose::Turn) {
                    self.events.push(Event::Turned(status));
                }
                if purpose.is_none_or(|purpose| purpose == Purpose::Tail) {
                    self.events.push(Event::Ready(status));
                    return Verdict::Pass;
                }
            }
            (Sent::Query, tag::DATA_ROW) if purpose == Some(Purpose::Probe) => {
                self.events.push(Event::OwnRow(frame.body.into()));
            }
            (Sent::Query, tag::DATA_ROW) if purpose == Some(Purpose::Proof) => {
                self.events.push(Event::Replayed(frame.body.into()));
            }
            (Sent::Query, tag::DATA_ROW) if purpose == Some(Purpose::Position) => {
                self.events.push(Event::Position(frame.body.into()));
            }
            (Sent::Execute, tag::COMMAND_COMPLETE) if matches!(purpose, Some(Purpose::Elsewhere | Purpose::Alone)) => {
                self.expected.pop_front();
            }
            (Sent::Query | Sent::Execute, tag::COPY_IN_RESPONSE) => self.begin_copy_in(),
            (Sent::Query, tag::COMMAND_COMPLETE) if purpose.is_none() => {
                self.events.push(Event::Completed { rows: backend::rows(frame.body) });
            }
            (Sent::Query, tag::EMPTY_QUERY_RESPONSE) if purpose.is_none() => self.events.push(Event::Answered),
            (Sent::Parse(id), tag::PARSE_COMPLETE) => {
                self.events.push(Event::Prepared(*id));
                self.expected.pop_front();
            }
            (Sent::ParseOther, tag::PARSE_COMPLETE)
            | (Sent::Bind, tag::BIND_COMPLETE)
            | (Sent::Close, tag::CLOSE_COMPLETE)
            | (Sent::DescribeOther, tag::ROW_DESCRIPTION | tag::NO_DATA) => {
                self.expected.pop_front();
            }
            (Sent::Execute, tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED) => {
                self.events.push(Event::Answered);
                self.expected.pop_front();
            }
            (Sent::Execute, tag::COMMAND_COMPLETE) => {
                self.events.push(Event::Completed { rows: backend::rows(frame.body) });
                self.copying_in = false;
                self.expected.pop_front();
            }
            (Sent::Describe(_), tag::PARAMETER_DESCRIPTION) => {
                let mut digest = FixedState::default().build_hasher();
                digest.write(frame.bytes);
                self.description = Some(digest);
            }
            (Sent::Describe(id), tag::ROW_DESCRIPTION | tag::NO_DATA) => {
                let mut digest = self.description.take().unwrap_or_else(|| FixedState::default().build_hasher());
                digest.write_u8(frame.tag);
                digest_columns(&mut digest, frame.body);
                let columns = RowShape::read(frame.body).map_or(0, |shape| shape.digest(shape.len()));
                let (shape, for_client) = (digest.finish() | 1, purpose.is_none());
                let described = Event::Described { id: *id, shape, columns, for_client };
                self.events.push(described);
                self.expected.pop_front();
            }
            _ => {}
        }
        verdict
    }

    /// Takes what has to do with rows that are kept.
    fn keep(&mut self, frame: &Frame<'_>) -> Option<Verdict> {
        let returned = self.returned.as_deref_mut()?;
        let (sent, audience) = self.expected.front()?;
        let is_clients = *audience == Audience::Client;
        let is_run = matches!(sent, Sent::Query | Sent::Execute)
            && (is_clients || *audience == Audience::Proxy(Purpose::Elsewhere));
        match frame.tag {
            tag::ROW_DESCRIPTION if is_run || *sent == Sent::DescribeOther => returned.describe(frame.body),
            tag::DATA_ROW if is_run => {
                returned.row(frame.bytes);
                return Some(Verdict::Drop);
            }
            tag::PORTAL_SUSPENDED if is_run => returned.suspended(),
            tag::COPY_OUT_RESPONSE if is_run => returned.copied(),
            tag::COMMAND_COMPLETE if is_run && is_clients => {
                let (rows, messages) = returned.complete(frame.body);
                if *sent == Sent::Execute {
                    self.expected.pop_front();
                }
                self.events.push(Event::Completed { rows });
                return Some(Verdict::Rewrite(messages));
            }
            tag::COMMAND_COMPLETE if is_run => returned.completed(frame.body),
            _ => {}
        }
        None
    }

    /// How long a message from the server may be that is held whole, in bytes.
    pub fn longest_held(&self) -> usize {
        if self.keeps_rows() { MAX_RETURNED } else { MAX_MESSAGE }
    }

    /// Whether rows and copied data go to the client without being looked at.
    pub fn passes_rows(&self) -> bool {
        !self.keeps_rows() && !matches!(self.expected.front(), Some((_, Audience::Proxy(_))))
    }

    fn notice(&self) -> Verdict {
        match self.expected.front() {
            Some((_, Audience::Proxy(Purpose::Alone))) => Verdict::Pass,
            Some((_, Audience::Proxy(_) | Audience::Refusal(_))) => Verdict::Drop,
            _ => Verdict::Pass,
        }
    }

    fn begin_copy_in(&mut self) {
        self.copying_in = true;
        // The backend ignores Sync and Flush while it copies in, and so those that are on their way.
        if self.expected.front().is_some_and(|(sent, _)| *sent == Sent::Execute) {
            self.expected.retain(|(sent, _)| *sent != Sent::Sync);
        }
    }

    fn error(&mut self, body: &[u8]) -> Verdict {
        self.copying_in = false;
        self.awaiting_sync = false;
        self.description = None;
        let Some((sent, audience)) = self.expected.front().cloned() else { return Verdict::Pass };
        let is_simple = matches!(sent, Sent::Query | Sent::FunctionCall | Sent::Sync);
        if !is_simple {
            self.skip_to_sync();
        }
        match audience {
            Audience::Proxy(Purpose::Tail | Purpose::Position | Purpose::Proof) => Verdict::Drop,
            Audience::Proxy(purpose) if purpose != Purpose::Prepare => {
                self.events.push(Event::OwnFailed(body.into()));
                Verdict::Drop
            }
            Audience::Refusal(reply) => {
                self.events.push(Event::Refused(reply.clone()));
                self.events.push(Event::Failed(Failure {
                    sqlstate: code(reply.sqlstate.as_bytes()),
                    mentions_recovery: false,
                }));
                Verdict::Replace(reply)
            }
            _ => {
                if sent == Sent::Sync {
                    self.events.push(Event::Undone);
                }
                self.events.push(Event::Failed(failure(body)));
                Verdict::Pass
            }
        }
    }

    fn skip_to_sync(&mut self) {
        while let Some((sent, _)) = self.expected.front() {
            match sent {
                Sent::Sync => return,
                Sent::Parse(id) => self.events.push(Event::NotPrepared(*id)),
                _ => {}
            }
            self.expected.pop_front();
        }
        self.skipping = true;
    }
}

/// Of an error's body.
pub(super) fn failure(body: &[u8]) -> Failure {
    let message = backend::error_field(body, b'M').unwrap_or_default();
    let mentions_recovery = message.windows(8).any(|word| word == b"recovery");
    Failure { sqlstate: code(backend::sqlstate(body)), mentions_recovery }
}

fn code(sqlstate: &[u8]) -> [u8; 5] {
    sqlstate.try_into().unwrap_or(*b"XX000")
}

/// Of a `RowDescription`, what PostgreSQL compares before it says that a result has changed: names and types. From which
/// table a column comes is another number on each shard, and after the table was made anew.
fn digest_columns(digest: &mut impl Hasher, body: &[u8]) {
    const ORIGIN_BYTES: usize = 6;
    const COLUMN_BYTES: usize = 18;
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, fixed) = rest.split_at(end + 1);
        let (column, others) = fixed.split_at(COLUMN_BYTES.min(fixed.len()));
        digest.write(name);
        digest.write(column.get(ORIGIN_BYTES..).unwrap_or_default());
        rest = others;
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;

//! Bytes both ways until the server has answered.
//!
//! One task owns both sockets. What the server sends is looked at frame by frame (five bytes of
//! each; rows are not read), marked, and written to the client from the buffer that it was read
//! into. Neither side is read further ahead than its buffer, so the slower one sets the pace.
//!
//! The first part of a read's answer may be held back until it is complete or fills a server's send
//! buffer: as long as the client has seen nothing, another node can be asked.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::across::deadlock;
use super::exchange::{Event, Sent, Verdict};
use super::limits::timed_out;
use super::prepared::{ClientStatements, SERVER_NAME_PREFIX};
use super::told::Told;
use super::{Attached, Audience, Fault, Parked, Session};
use crate::pool::{NodePool, note_parameter};
use crate::topology::{Lsn, Role};
use crate::wire::backend::{self, TransactionStatus, tag};
use crate::wire::{BUFFER_SIZE, Frame, Link, frontend, header};

/// PostgreSQL sends when it has this much (`PQ_SEND_BUFFER_SIZE`) or is done: an answer that is
/// longer than this would come in pieces on a direct connection too.
pub(super) const HOLD_LIMIT: usize = 8192;

/// What became of an exchange.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It went as far as was asked for, and the client has it.
    Done,
    /// The server is gone, or said goodbye. Its last words, where it had any: an error's body.
    ServerLost(Option<Box<[u8]>>),
    /// Nothing of the answer has reached the client, and the node failed in a way that another may not.
    Refused(Failure),
}

/// An error that the client was, or would have been, told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its SQLSTATE.
    pub(super) sqlstate: [u8; 5],
    /// It says that the server is in recovery.
    pub(super) mentions_recovery: bool,
}

/// When to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Everything has been answered, and the client has it.
    Answered,
    /// Everything has been answered; what is held back stays so, for more is to come.
    Told,
    /// Everything has been sent.
    Sent,
}

/// What one exchange has brought, besides bytes for the client.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The last error of the client's statements.
    pub(super) failed: Option<Failure>,
    /// How many of its statements completed.
    pub(super) completed: usize,
    /// What covers all that the statements have shown.
    pub(super) position: Option<Lsn>,
    /// Rows of the proxy's own query.
    pub(super) rows: Vec<Box<[u8]>>,
    /// The proxy's own message failed: the error's body.
    pub(super) own_failure: Option<Box<[u8]>>,
}

impl Failure {
    /// A replica is not as far as it was hoped to be: as good as a conflict with recovery.
    const NOT_REPLAYED: Self = Self { sqlstate: *b"40001", mentions_recovery: true };

    /// The connection was lost.
    pub(super) const LOST: Self = Self { sqlstate: *b"08006", mentions_recovery: false };

    /// Whether another node may answer better, and why this one did not.
    pub(super) fn is_worth_another_node(self) -> bool {
        match &self.sqlstate {
            // read_only_sql_transaction: a standby refuses a write.
            b"25006" => true,
            // A conflict with recovery; a deadlock or a temporary table on a standby.
            b"40001" | b"40P01" | b"55000" | b"0A000" | b"XX000" => self.mentions_recovery,
            // A table, column, function, type, schema or right that is not there: the standby may not
            // have replayed its creation.
            b"42P01" | b"42703" | b"42883" | b"42704" | b"42501" | b"3F000" => true,
            _ => false,
        }
    }

    /// Whether the text is to be remembered as a write.
    pub(super) fn is_a_refused_write(self) -> bool {
        match &self.sqlstate {
            b"25006" => true,
            b"55000" | b"0A000" | b"XX000" => self.mentions_recovery,
            _ => false,
        }
    }
}

/// A `DataRow` of one `pg_lsn` in text.
fn read_lsn(body: &[u8]) -> Option<Lsn> {
    std::str::from_utf8(body.get(6..)?).ok()?.parse().ok()
}

impl Session {
    /// Relays until everything is answered or sent, or the server fails. An error is the client's end.
    pub(super) async fn relay(&mut self, until: Until) -> Result<Outcome, Fault> {
        loop {
            self.scan_server()?;
            if let Some(failure) = self.take_events() {
                return Ok(Outcome::Refused(failure));
            }
            self.scan_copy_in()?;
            self.make_room();
            if let Some(outcome) = self.outcome(until) {
                return Ok(outcome);
            }
            // Where there is always something to move, nobody would look at the clock.
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.time_out();
            }
            let deadline = self.deadline;
            let lost_life = self.server.as_ref().filter(|server| server.holding).map(Attached::watch_life);
            let parked = self.parked.as_ref().map(Parked::place);
            let is_client_there = if deadline.is_none() && lost_life.is_none() && parked.is_none() {
                poll_fn(|cx| self.poll_io(until, cx)).await
            } else {
                // In a box: it is large, and mostly there is nothing but the sockets to wait for.
                let mut other = Box::pin(wait_for_others(lost_life, parked, deadline));
                tokio::select! {
                    biased;
                    is_client_there = poll_fn(|cx| self.poll_io(until, cx)) => is_client_there,
                    other = &mut other => {
                        match other {
                            Other::LifeIsOver => return Ok(Outcome::ServerLost(None)),
                            Other::ParkedIsWanted => self.unpark(),
                            Other::TimeIsOver => self.time_out(),
                        }
                        true
                    }
                }
            };
            if !is_client_there {
                return Err(Fault::ClientGone);
            }
        }
    }

    fn outcome(&mut self, until: Until) -> Option<Outcome> {
        let Some(server) = &mut self.server else { return Some(Outcome::ServerLost(None)) };
        let is_answered = server.exchange.is_answered();
        let link = &server.checkout.link;
        // Nothing will be asked of another node any more: the answer is here, or too long to wait for.
        let is_all_here = until == Until::Answered && is_answered && link.unread == 0;
        if server.holding && (is_all_here || self.client.output.len() + link.ready > server.hold_limit) {
            server.holding = false;
        }
        let is_sent = link.is_flushed() && self.client.ready == 0 && self.client.unread == 0;
        let is_delivered = link.ready == 0 && link.unread == 0 && self.client.is_flushed();
        let is_done = match until {
            Until::Sent => is_sent,
            Until::Told => is_sent && is_answered,
            Until::Answered => is_sent && is_answered && is_delivered,
        };
        if is_done {
            Some(Outcome::Done)
        } else if server.eof && (server.holding || link.ready == 0) {
            Some(Outcome::ServerLost(server.last_words.take()))
        } else {
            None
        }
    }

    /// What is held back does not keep the rest from being read: where more of it may be held than a link reads ahead, it
    /// waits on the client's side.
    fn make_room(&mut self) {
        if let Some(server) = &mut self.server
            && server.holding
            && server.hold_limit > HOLD_LIMIT
            && server.checkout.link.ready >= HOLD_LIMIT
        {
            server.checkout.link.hand_over(&mut self.client);
        }
    }

    /// Moves something, if anything can be moved; false when the client is gone. What has moved is looked at before more is
    /// read: mostly it was all, and to ask a socket that has nothing costs as much as to read. But what was sent to a
    /// server that owes an answer leaves nothing to do but to listen.
    fn poll_io(&mut self, until: Until, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(server) = &mut self.server else { return Poll::Ready(true) };
        let link = &mut server.checkout.link;
        let mut moved = false;
        if !link.is_flushed() || self.client.ready > 0 {
            match link.poll_write_from(&mut self.client, cx) {
                Poll::Ready(Ok(())) => {
                    self.overhead.pause();
                    moved = until == Until::Sent || server.exchange.is_answered();
                }
                Poll::Ready(Err(_)) => {
                    // It takes nothing more, but may still have something to say: reading will tell.
                    link.drop_output();
                    self.client.input.advance(self.client.ready);
                    self.client.ready = 0;
                    moved = true;
                }
                Poll::Pending => {}
            }
        }
        if !server.holding && (link.ready > 0 || !self.client.is_flushed()) {
            match self.client.poll_write_from(link, cx) {
                Poll::Ready(Ok(())) => {
                    self.overhead.delivered();
                    moved = true;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
        }
        if moved {
            return Poll::Ready(true);
        }
        if !server.eof && link.input.len() < server.input_limit {
            match link.poll_fill(cx, server.input_limit) {
                Poll::Ready(Ok(1..)) => {
                    self.overhead.heard();
                    return Poll::Ready(true);
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    server.eof = true;
                    return Poll::Ready(true);
                }
                Poll::Pending => {}
            }
        }
        if self.client.input.len() < BUFFER_SIZE {
            match self.client.poll_fill(cx, BUFFER_SIZE) {
                Poll::Ready(Ok(1..)) => return Poll::Ready(true),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Reads from a client that is owed nothing, and passes on what the held server says unasked.
    /// False when the client is gone.
    pub(super) async fn listen(&mut self, limit: usize) -> Result<bool, Fault> {
        let kept = self.kept_registered();
        let Some(server) = &mut self.server else {
            let Some(parked) = &self.parked else { return Ok(self.client.fill(limit).await.unwrap_or(false)) };
            let mut wanted = Box::pin(wait_for_others(None, Some(parked.place()), Some(parked.until)));
            tokio::select! {
                biased;
                came = self.client.fill(limit) => return Ok(came.unwrap_or(false)),
                _ = &mut wanted => self.unpark(),
            }
            return Ok(true);
        };
        let mut came = poll_fn(|cx| {
            let client = self.client.poll_fill(cx, limit);
            if let Poll::Ready(count) = client {
                return Poll::Ready(Some(matches!(count, Ok(1..))));
            }
            if server.checkout.link.input.len() >= server.input_limit {
                return Poll::Ready(None);
            }
            match server.checkout.link.poll_fill(cx, server.input_limit) {
                Poll::Ready(Ok(1..)) => Poll::Ready(None),
                Poll::Ready(Ok(0) | Err(_)) => {
                    server.eof = true;
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            }
        });
        let came = match kept {
            None => came.await,
            Some((pool, registered)) => {
                let mut news = Box::pin(async move { pool.news(registered).await });
                tokio::select! {
                    biased;
                    came = &mut came => came,
                    () = &mut news => {
                        Box::pin(self.catch_up()).await?;
                        return Ok(true);
                    }
                }
            }
        };
        if let Some(is_there) = came {
            return Ok(is_there);
        }
        self.scan_server()?;
        let Some(server) = &mut self.server else { return Ok(true) };
        let is_delivered = poll_fn(|cx| self.client.poll_write_from(&mut server.checkout.link, cx)).await.is_ok();
        if server.eof {
            return Err(Fault::ServerLost(server.last_words.take()));
        }
        Ok(is_delivered)
    }

    /// Looks at what the server has sent, and marks or takes out each message.
    fn scan_server(&mut self) -> Result<(), Fault> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.input_limit = BUFFER_SIZE;
        while server.checkout.link.unread == 0 {
            let link = &server.checkout.link;
            let Some(header) = header(link.unmarked()).map_err(Fault::ServerFrame)? else { break };
            let is_row = matches!(header.tag, tag::DATA_ROW | tag::COPY_DATA);
            if is_row && server.exchange.passes_rows() {
                server.checkout.link.pass(header.size);
                continue;
            }
            let here = link.unmarked().len();
            let held = header.size.min(server.exchange.longest_held());
            if here < held {
                server.input_limit = BUFFER_SIZE.max(link.ready + held);
                break;
            }
            let seen = header.size.min(here);
            server.put_in_clients_terms(header.tag, seen, self.registration.key().pid);
            match server.see(&mut self.told, &self.statements, header.tag, seen) {
                Verdict::Pass => server.checkout.link.pass(header.size),
                Verdict::Drop => server.checkout.link.drop_message(header.size),
                Verdict::Rewrite(message) => {
                    server.checkout.link.hand_over(&mut self.client);
                    server.checkout.link.drop_message(header.size);
                    self.client.output.extend_from_slice(&message);
                }
                Verdict::Replace(reply) => {
                    server.checkout.link.hand_over(&mut self.client);
                    server.checkout.link.drop_message(header.size);
                    reply.put(&mut self.client.output);
                }
            }
        }
        Ok(())
    }

    /// Takes note of what the last messages meant. A failure that is worth another node comes back.
    fn take_events(&mut self) -> Option<Failure> {
        let server = self.server.as_mut().filter(|server| server.exchange.has_events())?;
        let mut worth_another = None;
        let mut refused = Vec::new();
        let mut is_further = false;
        let mut is_over = false;
        let mut events = server.exchange.take_events();
        for event in events.drain(..) {
            let connection = &mut *server.checkout;
            match event {
                Event::Prepared(id) if connection.unnamed == Some(id) => {}
                // It may be the second attempt of one batch.
                Event::Prepared(id) => {
                    connection.prepared.entry(id).or_insert(0);
                }
                Event::NotPrepared(id) => {
                    connection.unnamed = connection.unnamed.filter(|unnamed| *unnamed != id);
                    connection.prepared.remove(&id);
                    self.statements.remove_id(id, &self.named_here);
                }
                Event::Described { id, shape, columns, for_client } => {
                    if connection.unnamed != Some(id) {
                        connection.prepared.insert(id, shape);
                    }
                    if for_client {
                        self.statements.note_shape(id, shape, columns);
                    }
                }
                Event::Refused(reply) => refused.push(reply),
                Event::Failed(failure) => {
                    self.ledger.failed(failure.sqlstate);
                    self.tally.failed = Some(failure);
                    if server.holding && server.role == Role::Replica && failure.is_worth_another_node() {
                        worth_another = Some(failure);
                    }
                }
                Event::OwnFailed(body) => self.tally.own_failure = Some(body),
                Event::OwnRow(body) => self.tally.rows.push(body),
                Event::Position(body) => self.tally.position = read_lsn(&body),
                Event::Replayed(body) => {
                    let is_same_life = connection.incarnation == connection.node.incarnation();
                    let here = read_lsn(&body).filter(|_| is_same_life);
                    let here = here.and_then(|lsn| connection.node.position_at(lsn));
                    server.proof = server.proof.filter(|needed| !here.is_some_and(|here| here.reaches(*needed)));
                }
                Event::ProofEnds if server.proof.is_some() => worth_another = Some(Failure::NOT_REPLAYED),
                Event::ProofEnds => {}
                Event::Completed { rows } => {
                    self.tally.completed += 1;
                    self.ledger.answered(rows);
                    is_further = true;
                }
                Event::Answered => {
                    self.ledger.answered(0);
                    is_further = true;
                }
                Event::Undone => self.ledger.reopen(),
                Event::Turned(status) => self.status = status,
                Event::Ready(status) => {
                    self.status = status;
                    self.in_batch = false;
                    is_over |= status == TransactionStatus::Idle;
                }
            }
        }
        server.exchange.give_back(events);
        if is_further && (self.deadline.is_some() || server.is_timed_out) {
            self.deadline = self.limits.deadline(self.ledger.unanswered());
        }
        refused.iter().for_each(|reply| self.note_refusal(reply));
        if is_over && let Some(server) = &self.server {
            self.tell_others(&server.shard, server.role);
        }
        worth_another
    }

    /// Passes on what a client copies in.
    fn scan_copy_in(&mut self) -> Result<(), Fault> {
        let Some(server) = &mut self.server else { return Ok(()) };
        while server.exchange.takes_copy_data() && self.client.unread == 0 {
            let Some(header) = header(self.client.unmarked())? else { break };
            match header.tag {
                frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL => server.exchange.end_copy_in(),
                frontend::tag::SYNC if !server.exchange.is_copying_in() => {
                    server.exchange.expect(Sent::Sync, Audience::Client);
                }
                frontend::tag::TERMINATE => return Err(Fault::ClientGone),
                _ => {}
            }
            self.client.pass(header.size);
        }
        Ok(())
    }
}

impl Attached {
    /// Decides what becomes of the next message, of which `size` bytes are there.
    fn see(&mut self, told: &mut Told, statements: &ClientStatements, tag: u8, size: usize) -> Verdict {
        let connection = &mut *self.checkout;
        let bytes = &connection.link.unmarked()[..size];
        let frame = Frame { tag, body: &bytes[5..], bytes };
        match tag {
            tag::PARAMETER_STATUS => {
                note_parameter(&mut connection.reported, frame.body);
                if told.note(frame.body) { Verdict::Pass } else { Verdict::Drop }
            }
            tag::ERROR_RESPONSE if is_farewell(frame.body) => {
                self.last_words = Some(frame.body.into());
                Verdict::Drop
            }
            tag::ERROR_RESPONSE => match self.exchange.receive(&frame) {
                Verdict::Pass if self.is_timed_out && backend::sqlstate(frame.body) == b"57014" => {
                    Verdict::Replace(timed_out().into())
                }
                Verdict::Pass if self.postscript.is_some() => {
                    let postscript = self.postscript.as_deref();
                    let body =
                        postscript.map_or_else(|| frame.body.to_vec(), |postscript| postscript.under(frame.body));
                    let mut message = BytesMut::new();
                    frontend::put(&mut message, tag::ERROR_RESPONSE, &[&body]);
                    Verdict::Rewrite(message.to_vec())
                }
                Verdict::Pass => match deadlock(self.waits_are_bounded, frame.body) {
                    Some(reply) => Verdict::Replace(reply.into()),
                    None => with_clients_names(frame.body, statements).map_or(Verdict::Pass, Verdict::Rewrite),
                },
                verdict => verdict,
            },
            _ => self.exchange.receive(&frame),
        }
    }

    /// A notification that the client has sent itself carries the process ID that the client knows, and users' types have the
    /// numbers that it knows.
    fn put_in_clients_terms(&mut self, tag: u8, size: usize, pid: i32) {
        let connection = &mut *self.checkout;
        let start = connection.link.ready + 5;
        let end = connection.link.ready + size;
        match (tag, &self.types) {
            (tag::NOTIFICATION_RESPONSE, _) if size >= 9 => {
                let sender = &mut connection.link.input[start..start + 4];
                if *sender == connection.cancel_key.pid.to_be_bytes() {
                    sender.copy_from_slice(&pid.to_be_bytes());
                }
            }
            (tag::ROW_DESCRIPTION, Some(types)) => types.describe_rows(&mut connection.link.input[start..end]),
            (tag::PARAMETER_DESCRIPTION, Some(types)) => {
                types.describe_parameters(&mut connection.link.input[start..end]);
            }
            _ => {}
        }
    }

    /// To wait for the end of the life of the node that the statement was sent to.
    fn watch_life(&self) -> (u64, tokio::sync::watch::Receiver<u64>) {
        (self.checkout.incarnation, self.checkout.node.watch_incarnation())
    }
}

impl Link {
    fn drop_message(&mut self, size: usize) {
        let here = size.min(self.unmarked().len());
        self.remove(here);
        if here < size {
            self.ignore(size - here);
        }
    }
}

/// An `ErrorResponse` in which the servers' names of prepared statements are the client's own again;
/// `None` where there is none in it.
fn with_clients_names(body: &[u8], statements: &ClientStatements) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(body).ok()?;
    let (before, rest) = text.split_once(&format!("\"{SERVER_NAME_PREFIX}"))?;
    let (id, after) = rest.split_once('"')?;
    let name = String::from_utf8_lossy(statements.name_of(id.parse().ok()?)?);
    let mut message = BytesMut::new();
    frontend::put(&mut message, tag::ERROR_RESPONSE, &[format!("{before}\"{name}\"{after}").as_bytes()]);
    Some(message.to_vec())
}

/// Whether the server ends the session with this error.
pub(super) fn is_farewell(body: &[u8]) -> bool {
    matches!(backend::error_field(body, b'V').or_else(|| backend::error_field(body, b'S')), Some(b"FATAL" | b"PANIC"))
}

/// The client's part of what several servers and one client move: what it is told, and, where it is heard, what it says.
/// Whether something has moved.
pub(super) fn poll_client(client: &mut Link, cx: &mut Context<'_>, is_heard: bool) -> Result<bool, Fault> {
    let mut has_moved = false;
    if !client.is_flushed() {
        match client.poll_write_output(cx) {
            Poll::Ready(Ok(())) => has_moved = true,
            Poll::Ready(Err(_)) => return Err(Fault::ClientGone),
            Poll::Pending => {}
        }
    }
    if is_heard && client.input.len() < BUFFER_SIZE {
        match client.poll_fill(cx, BUFFER_SIZE) {
            Poll::Ready(Ok(1..)) => has_moved = true,
            Poll::Ready(Ok(0) | Err(_)) => return Err(Fault::ClientGone),
            Poll::Pending => {}
        }
    }
    Ok(has_moved)
}

/// What happens beside the sockets.
enum Other {
    LifeIsOver,
    ParkedIsWanted,
    TimeIsOver,
}

async fn wait_for_others(
    life: Option<(u64, tokio::sync::watch::Receiver<u64>)>,
    parked: Option<(Arc<NodePool>, u64)>,
    deadline: Option<Instant>,
) -> Other {
    tokio::select! {
        biased;
        () = wait_for_end(life) => Other::LifeIsOver,
        () = wait_until_wanted(parked) => Other::ParkedIsWanted,
        () = sleep_until(deadline) => Other::TimeIsOver,
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns when the connection that is kept is to be given back, for somebody else's sake.
async fn wait_until_wanted(parked: Option<(Arc<NodePool>, u64)>) {
    match parked {
        Some((pool, vacated)) => pool.wanted(vacated).await,
        None => std::future::pending().await,
    }
}

async fn wait_for_end(life: Option<(u64, tokio::sync::watch::Receiver<u64>)>) {
    if let Some((known, mut life)) = life
        && life.wait_for(|now| *now != known).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

//! From what was gathered to what was answered; and a session's end.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::future::OptionFuture;

use super::attach::cancelled;
use super::bring::Brought;
use super::cancel::Cancelled;
use super::clients::Activity;
use super::cut::{note_cut, terminated};
use super::exchange::{Audience, Purpose, Sent};
use super::foresee::{Foreseen, LONG};
use super::gather::Gathered;
use super::ledger::End;
use super::relay::{Failure, Outcome, Until};
use super::reshard::Way;
use super::seldom::Seldom;
use super::understand::Understood;
use super::{ClientFault, Fault, Session, Tally};
use crate::config::PoolMode;
use crate::route::{Demand, Reason};
use crate::telemetry::metrics::CutCause;
use crate::topology::{Node, Role};
use crate::wire::backend::{self, TransactionStatus, put_ready_for_query};
use crate::wire::frontend::{put, put_query, tag};
use crate::wire::{ErrorReply, Frames, Header, Link};

/// Covers whatever has been read on this connection of a primary.
const INSERT_POSITION: &[u8] = b"SELECT pg_catalog.pg_current_wal_insert_lsn()";

/// Covers whatever has been read on this connection of a replica, which must be one still.
const REPLAY_POSITION: &[u8] = b"SELECT pg_catalog.pg_last_wal_replay_lsn() WHERE pg_catalog.pg_is_in_recovery()";

/// How long a client may take to hear why it is sent away.
pub(super) const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// Messages that are served together.
#[derive(Debug)]
pub(super) enum Work {
    /// Whole ones, as they came.
    Messages {
        bytes: BytesMut,
        /// The client waits for the answer.
        waits: bool,
    },
    /// One that is passed on while it comes.
    Long(Header),
}

impl Work {
    /// Whether a long text may be among it.
    fn is_long(&self) -> bool {
        matches!(self, Self::Messages { bytes, .. } if bytes.len() > LONG)
    }
}

/// What came of trying to serve something.
enum Attempt {
    /// It is served.
    Done,
    /// The client has seen nothing, and it may be tried once more.
    Again,
    /// It is over, with this for the client.
    Refused(ErrorReply),
    /// It is to be routed anew.
    Outdated,
}

impl Session {
    /// Serves the client until one side ends it.
    pub async fn run(mut self: Box<Self>) {
        let killed = self.registration.killed();
        let killed = pin!(killed.cancelled());
        let end = tokio::select! {
            biased;
            end = self.serve_all() => Some(end),
            () = Seldom::new(killed) => None,
        };
        // In a box, so that nothing is kept for it until then.
        Box::pin(self.end(end)).await;
    }

    /// The client has gone, or is to go; none: an operator has ended it, wherever it stands.
    async fn end(mut self: Box<Self>, end: Option<Result<(), Fault>>) {
        let end = match end {
            Some(end) => end,
            None => Err(self.die().await),
        };
        if let Err(fault) = &end {
            tracing::debug!(user = %self.identity.user, database = %self.identity.database, %fault, "session ended");
        }
        self.finish(end).await;
    }

    async fn serve_all(&mut self) -> Result<(), Fault> {
        let mut signal = self.proxy.shutdown_signal();
        // One for all waits: to begin to wait is what costs.
        let shutdown = pin!(signal.wait());
        let mut shutdown = Seldom::new(shutdown);
        loop {
            self.refresh_limits();
            let is_idle = self.status == TransactionStatus::Idle && !self.in_batch;
            // In a box, as it mostly has no end.
            let mut impatience = OptionFuture::from(self.patience().map(|patience| Box::pin(patience.end())));
            let gathered = tokio::select! {
                biased;
                gathered = self.gather() => gathered?,
                Some((cause, reply)) = &mut impatience => return Err(self.cut(cause, reply)),
                () = &mut shutdown, if is_idle => return Err(self.cut(CutCause::Shutdown, terminated())),
            };
            let work = match gathered {
                Gathered::Batch(bytes) => Work::Messages { bytes, waits: true },
                Gathered::Part(bytes) => Work::Messages { bytes, waits: false },
                Gathered::Long(header) => Work::Long(header),
                Gathered::End => return Ok(()),
            };
            // In a box, so that who is idle takes less memory.
            Box::pin(self.serve(&work)).await?;
        }
    }

    async fn die(&mut self) -> Fault {
        self.registration.cancel_running().await;
        let fault = self.cut(CutCause::Killed, terminated());
        let is_at_a_boundary = |server: &super::Attached| {
            let link = &server.checkout.link;
            link.ready == 0 && link.unread == 0
        };
        if !self.server.as_ref().is_none_or(is_at_a_boundary) {
            // A message to the client is cut off, so there is no place for another.
            return Fault::ClientGone;
        }
        fault
    }

    pub(super) async fn serve(&mut self, work: &Work) -> Result<(), Fault> {
        if self.status == TransactionStatus::Idle && !self.in_batch && self.client.is_stuck() {
            // Who does not take the last answer's end gets no other one.
            Box::pin(self.client.flush()).await.map_err(|_| Fault::ClientGone)?;
        }
        if !self.enter().await? {
            return self.refuse(work, &cancelled(Cancelled)).await;
        }
        let served = self.serve_inside(work).await;
        self.leave_rows();
        if !self.foreseen.is_empty() {
            self.foreseen = Foreseen::new();
        }
        self.leave_if_idle();
        served
    }

    /// Begins to do something, as soon as that is allowed; false when the client has given up waiting for it.
    async fn enter(&mut self) -> Result<bool, Fault> {
        self.registration.note_activity(Activity::Active);
        if self.inside.is_none() {
            self.inside = self.proxy.gate.try_enter();
        }
        // In a box: seldom, and large.
        if self.inside.is_some() { Ok(true) } else { Box::pin(self.wait_to_enter()).await }
    }

    async fn wait_to_enter(&mut self) -> Result<bool, Fault> {
        let mut shutdown = self.proxy.shutdown_signal();
        tokio::select! {
            inside = self.registration.unless_cancelled(self.proxy.gate.enter()) => self.inside = inside.ok(),
            () = shutdown.wait() => return Err(self.cut(CutCause::Shutdown, terminated())),
        }
        Ok(self.inside.is_some())
    }

    fn leave_if_idle(&mut self) {
        self.registration.note_pins(&self.pins);
        let is_idle = self.status == TransactionStatus::Idle && !self.in_batch;
        if is_idle {
            self.inside = None;
        }
        self.registration.note_activity(if is_idle { Activity::Idle } else { Activity::IdleInTransaction });
    }

    async fn serve_inside(&mut self, work: &Work) -> Result<(), Fault> {
        if self.skipping {
            return self.skip(work).await;
        }
        // It may have been silent, or kept outside, for long.
        self.refresh_limits();
        (self.misplaced, self.part, self.outdated) = (None, None, None);
        self.is_sharded = self.config.shards.len() > 1;
        if self.is_sharded {
            self.take_rows().await;
            self.lot = self.lot.next_lot();
        }
        // In a box: seldom, and large.
        let asked_at = if work.is_long() { Box::pin(self.foresee(work)).await } else { None };
        // In a box of its own: two short pieces of memory are had faster than one long one.
        let mut understood = Box::new(self.understand(work)?);
        understood.asked_at = asked_at.unwrap_or(understood.asked_at);
        self.overhead.start(understood.asked_at);
        if let Some(turn) = self.turn(understood.runs)
            && let Err(reply) = Box::pin(self.keep_pace(turn)).await
        {
            return Box::pin(self.refuse(work, &reply)).await;
        }
        loop {
            if !self.across.made.is_nothing() && !Box::pin(self.see_made(work, &mut understood)).await? {
                return Ok(());
            }
            let Way::Again = self.serve_understood(work, &mut understood).await? else { return Ok(()) };
            self.undo_names();
            *understood = Understood { asked_at: understood.asked_at, ..self.understand(work)? };
        }
    }

    /// Serves the messages, unless they are to be understood anew by what is known of the rows now.
    async fn serve_understood(&mut self, work: &Work, understood: &mut Understood) -> Result<Way, Fault> {
        self.ledger.begin(understood.asked_at);
        if understood.hinted.is_some() {
            self.adopt_hints(understood);
        }
        if self.must_move(understood) {
            Box::pin(self.leave_batch()).await?;
        }
        if self.is_sharded {
            match Box::pin(self.go_to_shard(work, understood)).await? {
                Way::Here => {}
                way => return Ok(way),
            }
        }
        if let Some(demand) = self.other_side(understood) {
            Box::pin(self.relocate(demand)).await?;
        }
        let mut excluded = Vec::new();
        loop {
            match self.attempt(work, understood, &mut excluded).await? {
                Attempt::Done => break,
                Attempt::Again => self.undo_names(),
                Attempt::Outdated => return Ok(Way::Again),
                Attempt::Refused(reply) => {
                    Box::pin(self.refuse(work, &reply)).await?;
                    return Ok(Way::Served);
                }
            }
        }
        self.conclude(understood).await?;
        Ok(Way::Served)
    }

    async fn attempt(
        &mut self,
        work: &Work,
        understood: &mut Understood,
        excluded: &mut Vec<Arc<Node>>,
    ) -> Result<Attempt, Fault> {
        if self.server.is_none()
            && let Err(reply) = self.attach(understood, excluded).await
        {
            return Ok(Attempt::Refused(reply));
        }
        if self.is_sharded && !self.has_right_version(understood) {
            match Box::pin(self.register()).await? {
                Brought::Refused(_) if Box::pin(self.knows_more()).await => return Ok(Attempt::Outdated),
                Brought::Refused(reply) => return Ok(Attempt::Refused(reply)),
                Brought::Yes if self.is_behind(understood) => return Ok(Attempt::Outdated),
                Brought::Yes => {}
                Brought::Lost | Brought::LostReplica(_) => return Ok(Attempt::Again),
            }
        }
        match self.bring_settings().await? {
            Brought::Yes => {}
            Brought::Refused(reply) => {
                let at = "It was refused when this session's settings were carried over to another server connection.";
                return Ok(Attempt::Refused(if reply.detail.is_none() { reply.detail(at) } else { reply }));
            }
            Brought::LostReplica(node) => {
                excluded.push(node);
                return Ok(Attempt::Again);
            }
            Brought::Lost => return Ok(Attempt::Again),
        }
        self.forget_sequences(understood);
        self.hold_where_possible(understood);
        self.demand_proof();
        match self.execute(work, understood, Until::Answered).await? {
            Outcome::Done => Ok(Attempt::Done),
            Outcome::Refused(failure) => {
                self.reconsider(failure, understood, excluded);
                Box::pin(self.take_back()).await?;
                Ok(Attempt::Again)
            }
            Outcome::ServerLost(words) => Box::pin(self.after_loss(understood, words.as_deref(), excluded)).await,
        }
    }

    /// Sends the messages and relays the answers, as far as the client waits for them.
    /// They are answered up to `until`, at the most.
    pub(super) async fn execute(
        &mut self,
        work: &Work,
        understood: &Understood,
        until: Until,
    ) -> Result<Outcome, Fault> {
        let statements = understood.analyses.iter().flat_map(|analysis| &analysis.statements);
        statements.flat_map(|statement| &statement.databases).for_each(|database| self.proxy.vacate(database));
        self.start_clock(if understood.is_commit() { 0 } else { understood.runs.max(1) });
        let outcome = self.send_and_relay(work, understood, until).await;
        if self.stop_clock() { Box::pin(self.settled(outcome)).await } else { outcome }
    }

    async fn send_and_relay(&mut self, work: &Work, understood: &Understood, until: Until) -> Result<Outcome, Fault> {
        let sent = match work {
            Work::Messages { bytes, .. } => self.translate(bytes, understood.analyses.first()).await?,
            Work::Long(header) => self.translate_long(*header).await?,
        };
        match sent {
            Outcome::Done => {
                self.ask_position(understood);
                self.relay(if understood.waits { until } else { Until::Sent }).await
            }
            other => Ok(other),
        }
    }

    /// Has a replica say, before a read, how far it is; its answer is held back until that is known to be far enough.
    fn demand_proof(&mut self) {
        if self.server.as_ref().is_some_and(|server| server.proof.is_some()) {
            self.put(|out| put_query(out, REPLAY_POSITION));
            self.expect(Sent::Query, Audience::Proxy(Purpose::Proof));
        }
    }

    /// Asks, behind a read, which position covers it, where no sample of the monitor has done that for long.
    fn ask_position(&mut self, understood: &Understood) {
        let Some(server) = &self.server else { return };
        let interval = self.config.lag.poll_interval;
        let (patience, sql) = match (server.role, server.reason) {
            (Role::Replica, _) => (interval, REPLAY_POSITION),
            (_, Reason::NotFresh) => (interval / 10, INSERT_POSITION),
            _ => return,
        };
        let ends_idle = understood.is_repeatable && understood.is_query() || understood.is_commit();
        if ends_idle
            && server.exchange.ends_ready()
            && self.horizons.of(&server.shard).is_unsettled_for(server.role, understood.asked_at) >= patience
        {
            self.put(|out| put_query(out, sql));
            self.expect(Sent::Query, Audience::Proxy(Purpose::Position));
        }
    }

    /// A node has failed a read in a way that another may not.
    fn reconsider(&self, failure: Failure, understood: &mut Understood, excluded: &mut Vec<Arc<Node>>) {
        if failure.is_a_refused_write() {
            self.note_heal(failure.sqlstate);
            understood.analyses.iter().for_each(|analysis| analysis.note_refused_by_standby());
            understood.demand = Demand::Primary(Reason::RefusedByStandby);
        } else if self.server.as_ref().is_some_and(|server| server.proof.is_some()) {
            understood.is_disproved = true;
        } else if failure.sqlstate.starts_with(b"40") {
            excluded.extend(self.server.as_ref().map(|server| Arc::clone(&server.checkout.node)));
        } else {
            understood.demand = Demand::Primary(Reason::StandbyError);
        }
    }

    /// The server connection is gone before all was answered.
    async fn after_loss(
        &mut self,
        understood: &Understood,
        words: Option<&[u8]>,
        excluded: &mut Vec<Arc<Node>>,
    ) -> Result<Attempt, Fault> {
        let Some(server) = self.server.take() else { return Err(Fault::ClientGone) };
        let node = Arc::clone(&server.checkout.node);
        node.note_connection_error();
        self.registration.clear().await;
        if server.holding && !excluded.iter().any(|known| Arc::ptr_eq(known, &node)) {
            tracing::info!(node = %node.name, "connection lost; its read is asked of another node");
            excluded.push(node);
            // Since the answer was held back nothing has been written to the client.
            self.client.output.clear();
            self.forget_exchange();
            return Ok(Attempt::Again);
        }
        self.account_lost(&server);
        let in_transaction = self.status != TransactionStatus::Idle;
        let link = &server.checkout.link;
        let is_at_a_boundary = link.ready == 0 && link.unread == 0 && self.client.unread == 0;
        let reply = lost(&node, server.role, understood, in_transaction, words);
        if server.role != Role::Replica && understood.may_commit(in_transaction) {
            self.note_unknown_outcome(understood, &server.shard);
        }
        if in_transaction || !is_at_a_boundary {
            return Err(Fault::Fatal(reply.into_fatal()));
        }
        if self.has_lost_state() {
            return Err(Fault::Fatal(match reply.sqlstate {
                "08007" => reply.into_fatal(),
                _ => lost_while_idle(Some(&node), words),
            }));
        }
        self.forget_exchange();
        Ok(Attempt::Refused(reply))
    }

    /// Whether something of this session was on the connection that is lost, as on a direct connection: it cannot go on as
    /// if nothing had happened.
    fn has_lost_state(&self) -> bool {
        !self.pins.is_empty() || self.proxy.config.load().pool.mode == PoolMode::Session
    }

    /// It may have been committed, so what comes next must show it if it was.
    fn note_unknown_outcome(&mut self, understood: &Understood, shard: &Arc<str>) {
        let now = Instant::now();
        self.horizons.of(shard).saw_primary(now, None);
        if let Some(key) = self.shared {
            self.proxy.session_keys.horizon(key, shard).saw_primary(now, None);
        }
        if self.changed_catalog || understood.analyses.iter().any(|analysis| analysis.has_ddl()) {
            self.database.note_catalog_change(shard, now);
            self.proxy.monitor.catalog_changed(&self.identity.database);
        }
    }

    /// What was under way will never be answered.
    pub(super) fn forget_exchange(&mut self) {
        self.status = TransactionStatus::Idle;
        self.in_batch = false;
        self.tally = Tally::default();
        self.executed.clear();
        self.ledger.clear();
        self.portals.clear();
        self.tracked.forget_transaction();
        (self.saw_rows, self.changed_catalog) = (false, false);
    }

    /// Tells the client an error of the proxy's own, where no server connection is held.
    pub(super) async fn refuse(&mut self, work: &Work, reply: &ErrorReply) -> Result<(), Fault> {
        self.note_refusal(reply);
        reply.put(&mut self.client.output);
        self.give_up(work).await
    }

    /// Tells the client an error that a server has said elsewhere: its body.
    pub(super) async fn refuse_as(&mut self, work: &Work, body: &[u8]) -> Result<(), Fault> {
        put(&mut self.client.output, backend::tag::ERROR_RESPONSE, &[body]);
        self.give_up(work).await
    }

    async fn give_up(&mut self, work: &Work) -> Result<(), Fault> {
        self.outdated = None;
        self.undo_names();
        self.skipping = true;
        if let Work::Long(header) = work {
            let here = header.size.min(self.client.input.len());
            self.client.remove(here);
            self.client.ignore(header.size - here);
        }
        self.skip(work).await
    }

    /// Ignores messages up to the one after which the client may speak again.
    async fn skip(&mut self, work: &Work) -> Result<(), Fault> {
        let ends = |last: u8| matches!(last, tag::SYNC | tag::QUERY | tag::FUNCTION_CALL);
        let last = match work {
            Work::Messages { bytes, .. } => Frames::new(bytes).last().transpose()?.map(|frame| frame.tag),
            Work::Long(header) => Some(header.tag),
        };
        if last.is_some_and(ends) {
            self.skipping = false;
            put_ready_for_query(&mut self.client.output, self.status);
        }
        self.client.flush().await.map_err(|_| Fault::ClientGone)
    }

    pub(super) fn undo_names(&mut self) {
        for name in self.named_here.drain(..) {
            self.statements.remove(&name);
        }
    }

    /// Says goodbye to both sides.
    async fn finish(mut self: Box<Self>, end: Result<(), Fault>) {
        self.account(End::Lost);
        let farewell = match end {
            Ok(()) | Err(Fault::ClientGone | Fault::Client(ClientFault::Io(_))) => None,
            Err(Fault::Cut(reply)) => Some(reply),
            Err(fault) => Some(self.cut_by(fault)),
        };
        if self.client.ready > 0 || self.client.unread > 0 {
            self.server = None;
        }
        self.part_with_server().await;
        if let Some(reply) = farewell {
            reply.put(&mut self.client.output);
        }
        let _ =
            tokio::time::timeout(GOODBYE_LIMIT, std::mem::replace(&mut self.client, Link::of_nobody()).close()).await;
    }

    /// Notes a cut that nobody has noted yet. What the client is told of it.
    fn cut_by(&mut self, fault: Fault) -> ErrorReply {
        let server = if matches!(fault, Fault::Fatal(_)) { None } else { self.server.take() };
        let (cause, reply) = match fault {
            Fault::Fatal(reply) | Fault::Cut(reply) => (CutCause::Server, reply),
            Fault::ServerLost(words) => {
                let node = server.map(|server| Arc::clone(&server.checkout.node));
                (CutCause::Server, lost_while_idle(node.as_deref(), words.as_deref()))
            }
            Fault::ServerFrame(_) => (CutCause::Server, ErrorReply::fatal("08P01", fault.to_string())),
            Fault::ClientGone | Fault::Client(_) | Fault::Malformed(_) => {
                (CutCause::Protocol, ErrorReply::fatal("08P01", fault.to_string()))
            }
        };
        note_cut(&self.proxy, self.who(), cause, &reply);
        reply
    }
}

/// What a client is told when the node that ran its statement is lost.
fn lost(node: &Node, role: Role, understood: &Understood, in_transaction: bool, words: Option<&[u8]>) -> ErrorReply {
    let name = &node.name;
    let message = match words.and_then(|body| backend::error_field(body, b'M')) {
        Some(words) => format!("connection to {name} was lost: {}", String::from_utf8_lossy(words)),
        None => format!("connection to {name} was lost"),
    };
    if role != Role::Primary || !understood.may_commit(in_transaction) {
        let reply = ErrorReply::error("08006", message);
        return if in_transaction { reply.detail("The transaction was rolled back.") } else { reply };
    }
    ErrorReply::error("08007", message)
        .detail("Whether the transaction was committed is not known. It was not sent again.")
        .hint("Look for its effects before you repeat it.")
}

fn lost_while_idle(node: Option<&Node>, words: Option<&[u8]>) -> ErrorReply {
    let name = node.map_or("the server", |node| &node.name);
    match words.and_then(|body| backend::error_field(body, b'M')) {
        Some(words) => ErrorReply::fatal("57P01", String::from_utf8_lossy(words)),
        None => ErrorReply::fatal("08006", format!("connection to {name} was lost")),
    }
}

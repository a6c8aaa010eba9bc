//! A statement that every shard has to carry out, all or none: DDL, changes of reference tables, and changes of a sharded
//! table's rows that no key confines to one shard.
//!
//! It is run on one shard after the other, in one transaction over all of them ([`super::across`], [`super::agree`]); the
//! answer of the last is the client's, with the rows that all have returned ([`super::returned`]). It is held back until
//! nothing can fail any more.

use std::sync::Arc;

use bytes::BytesMut;

use super::across::deadlock;
use super::agree::Committed;
use super::bring::Brought;
use super::exchange::Purpose;
use super::relay::{Outcome, Until};
use super::returned::{MAX_RETURNED, Returned};
use super::scatter::{Scatter, object, pinned_elsewhere, too_long, unsplittable};
use super::serve::Work;
use super::understand::Understood;
use super::{Fault, Session, Tally, constraints};
use crate::commit::RunError;
use crate::pool::quote_literal;
use crate::route::{Demand, Reason};
use crate::shard::sql::SPREAD_SEQUENCES;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// How much of an answer is held back, in bytes, but for its rows.
const MAX_HELD: usize = 1 << 20;

/// Fails, on every server: a transaction that is to be as failed as the client has been told.
const FAIL: &str = "refused by pgsluice";

/// Why the client's statement fails.
#[derive(Debug)]
pub(super) enum Why {
    /// A server has said so: its error's body.
    Refused(Box<[u8]>),
    /// Pgsluice says so.
    Told(ErrorReply),
}

impl Session {
    /// Serves messages that are for every shard.
    pub(super) async fn serve_everywhere(
        &mut self,
        work: &Work,
        understood: &Understood,
        scatter: &Scatter,
    ) -> Result<(), Fault> {
        let is_alone = self.status == TransactionStatus::Idle;
        if let (Scatter::Alone, Some(upkeep), true) = (scatter, understood.only_upkeep(), is_alone) {
            return self.serve_alone(work, understood, upkeep).await;
        }
        if let Err(why) = self.run_on_others(work, understood, scatter).await? {
            return self.fail(work, is_alone, why).await;
        }
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        let (Demand::Primary(reason) | Demand::Replica(reason)) = understood.demand;
        server.reason = reason;
        if !is_alone && !scatter.adds_up() && !has_ddl(understood) {
            // It will be the same on all of them.
            return self.answer(work, understood).await;
        }
        self.answer_when_done(work, understood, is_alone).await
    }

    /// Runs it on all shards but the one that is then at hand, with the transaction open there.
    async fn run_on_others(
        &mut self,
        work: &Work,
        understood: &Understood,
        scatter: &Scatter,
    ) -> Result<Result<(), Why>, Fault> {
        let objection = object(work, understood, scatter);
        let (Work::Messages { bytes, .. }, None) = (work, &objection) else {
            return Ok(Err(Why::Told(objection.unwrap_or_else(too_long))));
        };
        let topology = self.proxy.topology.load_full();
        let involved = topology.shards.iter().map(|shard| &shard.name).filter(|shard| scatter.involves(shard));
        let mut returned = Box::new(scatter.returned(involved.clone()));
        let mut shards: Vec<&Arc<str>> = involved.collect();
        // Where the session is, the answer is the client's.
        let here = self.server.as_ref().map(|server| &server.shard);
        if let Some(at) = shards.iter().position(|shard| Some(*shard) == here) {
            shards.swap(0, at);
        } else if !self.pins.is_empty() {
            return Ok(Err(Why::Told(pinned_elsewhere())));
        }
        let Some((last, others)) = shards.split_first() else { return Ok(Err(Why::Told(unsplittable()))) };
        for (number, shard) in others.iter().enumerate() {
            let Ok(part) = self.part_of(bytes, scatter, shard) else { return Ok(Err(Why::Told(unsplittable()))) };
            if let Err(reply) = self.go_on(shard).await? {
                return Ok(Err(Why::Told(reply)));
            }
            self.part = part.map(Box::new);
            // What it has made is the same on the others.
            let run = match number == 0 && has_ddl(understood) {
                true => self.run_checked(bytes, scatter, returned).await?,
                false => self.run_unseen(bytes, scatter, returned).await?,
            };
            returned = match run {
                Ok(returned) => returned,
                Err(why) => return Ok(Err(why)),
            };
            if let Err(why) = self.spread_sequences(understood).await? {
                return Ok(Err(why));
            }
        }
        let Ok(part) = self.part_of(bytes, scatter, last) else { return Ok(Err(Why::Told(unsplittable()))) };
        if let Err(reply) = self.go_on(last).await? {
            return Ok(Err(Why::Told(reply)));
        }
        self.part = part.map(Box::new);
        if let Some(server) = &mut self.server {
            returned.begin(last);
            server.exchange.keep_rows(returned);
        }
        Ok(Ok(()))
    }

    /// Goes to a shard with the transaction, which is begun where none is open.
    pub(super) async fn go_on(&mut self, shard: &Arc<str>) -> Result<Result<(), ErrorReply>, Fault> {
        if self.status == TransactionStatus::Idle {
            if let Brought::Refused(reply) = self.register().await? {
                return Ok(Err(reply));
            }
            // A session that is pinned holds a connection all the time.
            let begun = match &mut self.server {
                Some(server) => match server.run_own("BEGIN").await {
                    Ok(_) => Ok(()),
                    Err(_) => return Err(Fault::ServerLost(None)),
                },
                None => self.open(shard, Demand::Primary(Reason::Transaction), "BEGIN").await?,
            };
            if let Err(reply) = begun {
                return Ok(Err(reply));
            }
            self.status = TransactionStatus::Transaction;
        }
        if self.server.as_ref().is_some_and(|server| server.shard == *shard) {
            return Ok(Ok(()));
        }
        self.join(shard).await
    }

    /// Runs the messages where the client sees nothing of it. What they have returned, unless it is the same everywhere.
    async fn run_unseen(
        &mut self,
        messages: &[u8],
        scatter: &Scatter,
        mut returned: Box<Returned>,
    ) -> Result<Result<Box<Returned>, Why>, Fault> {
        let mut kept = None;
        if let Some(server) = &mut self.server {
            server.holding = true;
            if scatter.adds_up() {
                returned.begin(&server.shard);
                server.exchange.keep_rows(returned);
            } else {
                kept = Some(returned);
            }
        }
        let translated = self.translate(messages, None).await?;
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        server.exchange.disown_for(Purpose::Elsewhere);
        let link = &mut server.checkout.link;
        let marked = std::mem::take(&mut link.ready);
        link.remove(marked);
        self.client.output.clear();
        let outcome = match translated {
            Outcome::Done => self.relay(Until::Answered).await?,
            other => other,
        };
        self.forget_messages();
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        server.holding = false;
        let returned = server.exchange.take_returned().or(kept).unwrap_or_default();
        match (outcome, self.tally.own_failure.take()) {
            (Outcome::Done, None) => Ok(returned.objection().map_or(Ok(returned), |reply| Err(Why::Told(reply)))),
            (Outcome::Done, Some(body)) => {
                self.status = TransactionStatus::Failed;
                Ok(Err(deadlock(server.waits_are_bounded, &body).map_or(Why::Refused(body), Why::Told)))
            }
            (Outcome::ServerLost(words), _) => Err(Fault::ServerLost(words)),
            (Outcome::Refused(_), _) => Err(Fault::ServerLost(None)),
        }
    }

    /// Likewise DDL: it fails if it has made a constraint that cannot hold.
    async fn run_checked(
        &mut self,
        messages: &[u8],
        scatter: &Scatter,
        returned: Box<Returned>,
    ) -> Result<Result<Box<Returned>, Why>, Fault> {
        let before = match self.unfit_constraints().await? {
            Ok(before) => before,
            Err(why) => return Ok(Err(why)),
        };
        let returned = match self.run_unseen(messages, scatter, returned).await? {
            Ok(returned) => returned,
            Err(why) => return Ok(Err(why)),
        };
        Ok(self.unfit_constraints().await?.and_then(|after| match constraints::objection(&before, &after) {
            None => Ok(returned),
            Some(reply) => Err(Why::Told(reply)),
        }))
    }

    /// They are going to be sent once more, to another server, or never.
    pub(super) fn forget_messages(&mut self) {
        self.undo_names();
        self.executed.clear();
        self.ledger.clear();
        self.portals.clear();
        self.forget_controls_under_way();
        (self.tail, self.tail_sent) = (None, None);
        self.opening.sent = None;
        self.in_batch = false;
    }

    /// In a transaction block: the client is answered as by any statement.
    async fn answer(&mut self, work: &Work, understood: &Understood) -> Result<(), Fault> {
        if let Some(server) = &mut self.server {
            server.exchange.take_returned();
        }
        match self.execute(work, understood, Until::Answered).await? {
            Outcome::Done => self.conclude(understood).await,
            Outcome::Refused(_) => Err(Fault::ServerLost(None)),
            Outcome::ServerLost(words) => Err(Fault::ServerLost(words)),
        }
    }

    /// Behind DDL: the sequences that it has made here are to give values that no other shard gives, and keys that belong here.
    async fn spread_sequences(&mut self, understood: &Understood) -> Result<Result<(), Why>, Fault> {
        if !has_ddl(understood) {
            return Ok(Ok(()));
        }
        let sql = SPREAD_SEQUENCES.replace("{tables}", &quote_literal(&self.declared_tables()));
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        match server.run_own(&sql).await {
            Ok(_) => Ok(Ok(())),
            Err(RunError::Refused(refusal)) => {
                self.status = TransactionStatus::Failed;
                // No such function, no such schema.
                Ok(Err(match refusal.sqlstate() {
                    b"42883" | b"3F000" => Why::Told(not_prepared()),
                    _ => Why::Refused(refusal.0.as_ref().into()),
                }))
            }
            Err(RunError::Lost(_)) => Err(Fault::ServerLost(None)),
        }
    }

    /// The client is answered when nothing can fail any more: outside of a transaction block, when all have committed.
    async fn answer_when_done(&mut self, work: &Work, understood: &Understood, is_alone: bool) -> Result<(), Fault> {
        if let Some(server) = &mut self.server {
            (server.holding, server.hold_limit) = (true, MAX_HELD + MAX_RETURNED);
        }
        match self.execute(work, understood, Until::Told).await? {
            Outcome::Done => {}
            Outcome::Refused(_) => return Err(Fault::ServerLost(None)),
            Outcome::ServerLost(words) => return Err(Fault::ServerLost(words)),
        }
        let returned = self.server.as_mut().and_then(|server| server.exchange.take_returned());
        let Some(held) = self.take_held(is_alone) else { return Err(Fault::Fatal(answer_too_long())) };
        if self.status == TransactionStatus::Transaction {
            if let Some(reply) = returned.and_then(|returned| returned.objection()) {
                return self.fail(work, is_alone, Why::Told(reply)).await;
            }
            if let Err(why) = self.spread_sequences(understood).await? {
                return self.fail(work, is_alone, why).await;
            }
        }
        let committed = match self.status {
            _ if !is_alone => Committed::Yes,
            TransactionStatus::Transaction => self.commit_across().await,
            _ => {
                self.roll_back_here().await;
                Committed::Yes
            }
        };
        if is_alone {
            self.status = TransactionStatus::Idle;
        }
        match committed {
            Committed::Yes => {
                self.client.output.unsplit(held);
                self.client.flush().await.map_err(|_| Fault::ClientGone)?;
                self.conclude(understood).await
            }
            Committed::Refused(body) => self.fail(work, is_alone, Why::Refused((*body).into())).await,
            Committed::Lost(reply) => self.fail(work, is_alone, Why::Told(reply)).await,
        }
    }

    /// The whole of an answer that was held back; with `ends`, as one that ends outside of a transaction. `None` where it is
    /// not whole.
    fn take_held(&mut self, ends: bool) -> Option<BytesMut> {
        let server = self.server.as_mut()?;
        let link = &mut server.checkout.link;
        if !std::mem::take(&mut server.holding) || link.unread > 0 {
            return None;
        }
        let mut held = self.client.output.split();
        let marked = std::mem::take(&mut link.ready);
        held.extend_from_slice(&link.input[..marked]);
        link.remove(marked);
        if ends {
            // ReadyForQuery.
            *held.last_mut()? = b'I';
        }
        Some(held)
    }

    pub(super) async fn roll_back_here(&mut self) {
        if let Some(server) = &mut self.server
            && server.run_own("ROLLBACK").await.is_err()
        {
            self.server = None;
        }
    }

    /// Tells the client why, and leaves its transaction block failed, or, where there is none, nothing done.
    pub(super) async fn fail(&mut self, work: &Work, is_alone: bool, why: Why) -> Result<(), Fault> {
        self.undo(is_alone).await?;
        if is_alone && self.outdated.is_some() {
            // Nothing was done, nobody was told, and it is routed anew.
            return Ok(());
        }
        match why {
            Why::Told(reply) => self.refuse(work, &reply).await,
            Why::Refused(body) => self.refuse_as(work, &body).await,
        }
    }

    /// Leaves the transaction block failed, or, where there is none, nothing done.
    pub(super) async fn undo(&mut self, is_alone: bool) -> Result<(), Fault> {
        if is_alone {
            if self.status != TransactionStatus::Idle {
                self.roll_back_here().await;
            }
            self.forget_exchange();
            self.follow_transaction().await?;
            self.release_if_free().await;
        } else {
            self.fail_here().await;
            self.forget_messages();
            self.tally = Tally::default();
        }
        Ok(())
    }
}

impl Session {
    /// Has the open transaction failed, as the client has been told.
    pub(super) async fn fail_here(&mut self) {
        if self.status != TransactionStatus::Transaction {
            return;
        }
        if let Some(server) = &mut self.server {
            // It must fail, and that is all.
            let _ = server.run_own(FAIL).await;
        }
        self.status = TransactionStatus::Failed;
    }
}

fn answer_too_long() -> ErrorReply {
    ErrorReply::fatal("54000", "the answer of a statement for every shard is too long")
        .detail(format!("At most {MAX_HELD} bytes, but for rows, are kept until all shards have answered."))
        .hint("Have it raise fewer notices.")
}

fn not_prepared() -> ErrorReply {
    ErrorReply::error("55000", "a shard lacks functions of pgsluice that DDL needs")
        .detail("It was prepared by an older release, or not at all. Nothing was changed.")
        .hint("Run pgsluice shards init.")
}

fn has_ddl(understood: &Understood) -> bool {
    understood.analyses.iter().any(|analysis| analysis.has_ddl())
}

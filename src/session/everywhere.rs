//! A statement that every shard has to carry out, all or none: DDL, changes of reference tables, and changes of a sharded
//! table's rows that no key confines to one shard.
//!
//! It is run on one shard after the other, in one transaction over all of them ([`super::across`]); the answer of the last
//! is the client's. Outside of a transaction block that answer is held back until all have committed.

use std::sync::Arc;

use super::across::Committed;
use super::exchange::Purpose;
use super::relay::{Outcome, Until};
use super::serve::Work;
use super::understand::Understood;
use super::{Fault, Session};
use crate::pool::Settings;
use crate::route::places::Spread;
use crate::route::{Demand, Reason};
use crate::sql::Kind;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// How much of an answer is held back, in bytes: less than what a link reads ahead.
const MAX_HELD: usize = 16 * 1024;

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
        spread: Spread,
    ) -> Result<(), Fault> {
        let is_alone = self.status == TransactionStatus::Idle;
        let run = self.run_on_others(work, understood, spread).await?;
        let extra = match run {
            Ok(changed) if spread == Spread::Own => changed,
            Ok(_) => 0,
            Err(why) => return self.fail(work, is_alone, why).await,
        };
        if let Some(server) = &mut self.server {
            server.exchange.add_rows(extra);
            let (Demand::Primary(reason) | Demand::Replica(reason)) = understood.demand;
            server.reason = reason;
        }
        if is_alone { self.answer_and_commit(work, understood).await } else { self.answer(work, understood).await }
    }

    /// Runs it on all shards but the one that is then at hand, with the transaction open there. How many rows it has changed.
    async fn run_on_others(
        &mut self,
        work: &Work,
        understood: &Understood,
        spread: Spread,
    ) -> Result<Result<u64, Why>, Fault> {
        let objection = object(work, understood, spread);
        let (Work::Messages { bytes, .. }, None) = (work, &objection) else {
            return Ok(Err(Why::Told(objection.unwrap_or_else(too_long))));
        };
        let last = match self.shard_for(understood) {
            Ok(shard) => shard,
            Err(reply) => return Ok(Err(Why::Told(reply))),
        };
        let topology = self.proxy.topology.load_full();
        let others = topology.shards.iter().map(|shard| &shard.name).filter(|shard| **shard != last);
        let mut changed: u64 = 0;
        for shard in others {
            if let Err(reply) = self.go_on(shard).await? {
                return Ok(Err(Why::Told(reply)));
            }
            match self.run_unseen(bytes, spread).await? {
                Ok(rows) => changed = changed.saturating_add(rows),
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(self.go_on(&last).await?.map(|()| changed).map_err(Why::Told))
    }

    /// Goes to a shard with the transaction, which is begun where none is open.
    pub(super) async fn go_on(&mut self, shard: &Arc<str>) -> Result<Result<(), ErrorReply>, Fault> {
        if self.status == TransactionStatus::Idle {
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

    /// Runs the messages where the client sees nothing of it.
    async fn run_unseen(&mut self, messages: &[u8], spread: Spread) -> Result<Result<u64, Why>, Fault> {
        if let Some(server) = &mut self.server {
            server.holding = true;
        }
        let translated = self.translate(messages).await?;
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
        let ran = server.exchange.take_elsewhere();
        match (outcome, self.tally.own_failure.take()) {
            (Outcome::Done, None) if ran.has_returned && spread == Spread::Own => {
                Ok(Err(Why::Told(rows_of_several_shards())))
            }
            (Outcome::Done, None) => Ok(Ok(ran.rows)),
            (Outcome::Done, Some(body)) => {
                self.status = TransactionStatus::Failed;
                Ok(Err(Why::Refused(body)))
            }
            (Outcome::ServerLost(words), _) => Err(Fault::ServerLost(words)),
            (Outcome::Refused(_), _) => Err(Fault::ServerLost(None)),
        }
    }

    /// They are going to be sent once more, to another server, or never.
    fn forget_messages(&mut self) {
        self.undo_names();
        self.executed.clear();
        self.ledger.clear();
        self.portals.clear();
        self.forget_controls_under_way();
        (self.tail, self.tail_sent) = (Settings::default(), Settings::default());
        self.opening.sent = None;
        self.in_batch = false;
    }

    /// In a transaction block: the client is answered as by any statement.
    async fn answer(&mut self, work: &Work, understood: &Understood) -> Result<(), Fault> {
        match self.execute(work, understood, Until::Answered).await? {
            Outcome::Done => self.conclude(understood).await,
            Outcome::Refused(_) => Err(Fault::ServerLost(None)),
            Outcome::ServerLost(words) => Err(Fault::ServerLost(words)),
        }
    }

    async fn answer_and_commit(&mut self, work: &Work, understood: &Understood) -> Result<(), Fault> {
        if let Some(server) = &mut self.server {
            (server.holding, server.hold_limit) = (true, MAX_HELD);
        }
        match self.execute(work, understood, Until::Told).await? {
            Outcome::Done => {}
            Outcome::Refused(_) => return Err(Fault::ServerLost(None)),
            Outcome::ServerLost(words) => return Err(Fault::ServerLost(words)),
        }
        let Some(held) = self.take_held() else {
            return Err(Fault::Fatal(
                ErrorReply::fatal("54000", "the answer of a statement for every shard is too long")
                    .detail(format!(
                        "At most {MAX_HELD} bytes are kept until all shards have committed. They have not."
                    ))
                    .hint("Leave RETURNING out, or send it in a transaction block."),
            ));
        };
        let committed = match self.status {
            TransactionStatus::Transaction => self.commit_across().await,
            _ => {
                self.roll_back_here().await;
                Committed::Yes
            }
        };
        self.status = TransactionStatus::Idle;
        match committed {
            Committed::Yes => {
                self.client.output.extend_from_slice(&held);
                self.client.flush().await.map_err(|_| Fault::ClientGone)?;
                self.conclude(understood).await
            }
            Committed::Refused(body) => self.fail(work, true, Why::Refused((*body).into())).await,
            Committed::Lost(reply) => self.fail(work, true, Why::Told(reply)).await,
        }
    }

    /// The whole of an answer that was held back, as one that ends outside of a transaction; `None` where it is not whole.
    fn take_held(&mut self) -> Option<Vec<u8>> {
        let server = self.server.as_mut()?;
        let link = &mut server.checkout.link;
        if !std::mem::take(&mut server.holding) || link.unread > 0 {
            return None;
        }
        let mut held = self.client.output.split().to_vec();
        let marked = std::mem::take(&mut link.ready);
        held.extend_from_slice(&link.input[..marked]);
        link.remove(marked);
        // ReadyForQuery.
        *held.last_mut()? = b'I';
        Some(held)
    }

    async fn roll_back_here(&mut self) {
        if let Some(server) = &mut self.server
            && server.run_own("ROLLBACK").await.is_err()
        {
            self.server = None;
        }
    }

    /// Tells the client why, and leaves its transaction block failed, or, where there is none, nothing done.
    pub(super) async fn fail(&mut self, work: &Work, is_alone: bool, why: Why) -> Result<(), Fault> {
        self.undo(is_alone).await?;
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
        } else if self.status == TransactionStatus::Transaction {
            if let Some(server) = &mut self.server {
                // It must fail, and that is all.
                let _ = server.run_own(FAIL).await;
            }
            self.status = TransactionStatus::Failed;
        }
        Ok(())
    }
}

fn object(work: &Work, understood: &Understood, spread: Spread) -> Option<ErrorReply> {
    if !matches!(work, Work::Messages { waits: true, .. }) {
        return Some(too_long());
    }
    let refused = |detail: &str, hint: &str| {
        let reply = ErrorReply::error("0A000", "a statement for every shard cannot be sent in this way");
        Some(reply.detail(detail).hint(hint))
    };
    let mut statements = understood.analyses.iter().flat_map(|analysis| &analysis.statements);
    let controls = |kind: &Kind| {
        matches!(
            kind,
            Kind::Begin(_) | Kind::Commit { .. } | Kind::Rollback { .. } | Kind::Savepoint { .. } | Kind::TwoPhase
        )
    };
    if statements.any(|statement| controls(&statement.kind)) {
        return refused(
            "It came in one message with BEGIN, COMMIT or the like.",
            "Send these in messages of their own.",
        );
    }
    if spread == Spread::Own && understood.runs > 1 {
        return refused("It came together with others, and each one's rows have to be counted.", "Send it alone.");
    }
    None
}

fn too_long() -> ErrorReply {
    ErrorReply::error("54000", "a statement for every shard is too long")
        .hint("Send it alone, or in parts: pgsluice has to hold all of it.")
}

fn rows_of_several_shards() -> ErrorReply {
    ErrorReply::error("0A000", "RETURNING would give rows of several shards")
        .hint("Leave it out, or give the shard key's value: then the statement is for one shard.")
}

//! Which shard the next messages are served on, where there are several: the way there, or why there is none.

use std::sync::Arc;
use std::time::Duration;

use super::agree::Committed;
use super::fence::outdated;
use super::place::Place;
use super::serve::Work;
use super::token::asks_for_token;
use super::understand::Understood;
use super::{Fault, Session};
use crate::monitor::Rows;
use crate::sql::{Kind, Statement};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// How often it is looked whether a database's tables have been read.
const LOOK: Duration = Duration::from_millis(20);

/// How long that is waited for.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How long it is waited for that DDL has been read.
const DDL_LIMIT: Duration = Duration::from_secs(5);

/// What is to be done with the messages.
pub(super) enum Way {
    /// They are served on the connection that the session has, or gets.
    Here,
    /// They have been served.
    Served,
    /// More is known of the bucket map now than they were routed by: they are to be routed anew.
    Again,
}

impl Session {
    /// What is known of the database's rows, for all that the next messages ask of it.
    pub(super) fn known_rows(&self) -> Option<Arc<Rows>> {
        self.proxy.catalogs().rows(&self.identity.database)
    }

    /// It is read when it is first asked for: those who ask first wait.
    pub(super) async fn wait_for_rows(&self) -> Option<Arc<Rows>> {
        let read = async {
            loop {
                match self.known_rows() {
                    Some(rows) => return rows,
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        };
        // Without it they are told what to do; likewise those who give up waiting.
        self.registration.unless_cancelled(tokio::time::timeout(READ_LIMIT, read)).await.ok()?.ok()
    }

    /// What cannot be placed may be about something that a client of this process has made, or changed, just now: waits until
    /// that was read. False where nothing has, or it takes too long.
    pub(super) async fn await_ddl(&mut self, limit: Duration) -> bool {
        let catalogs = Arc::clone(self.proxy.catalogs());
        let database = &self.identity.database;
        if !catalogs.is_behind(database) {
            return false;
        }
        let read = async {
            while catalogs.is_behind(database) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let was_read = self.registration.unless_cancelled(tokio::time::timeout(limit, read)).await;
        let was_read = was_read.is_ok_and(|in_time| in_time.is_ok());
        if was_read {
            self.take_rows().await;
        }
        was_read
    }

    /// Goes to the shard that the messages are for.
    pub(super) async fn go_to_shard(&mut self, work: &Work, understood: &mut Understood) -> Result<Way, Fault> {
        self.keep_portals(understood);
        if self.status == TransactionStatus::Failed {
            // Whatever comes, the server that has failed says so.
            return Ok(Way::Here);
        }
        if asks_for_token(understood) {
            self.overhead.pause();
            let made = Box::pin(self.make_token(understood)).await;
            self.overhead.go_on();
            if let Err(reply) = made {
                return self.misplaced(work, reply).await;
            }
        }
        self.note_writes(understood);
        if self.status == TransactionStatus::Transaction && !self.across.others.is_empty() && !self.in_batch {
            if is_lone_commit(understood) {
                return self.commit_here(work).await;
            }
            if understood.statements().any(|statement| ends_transaction(&statement.kind)) && understood.runs > 1 {
                return self.refuse_when_it_comes(entangled_end());
            }
        }
        if let Place::Merged(merging) = &understood.place {
            let merging = merging.clone();
            if self.serve_merged(work, understood, &merging).await? {
                return Ok(Way::Served);
            }
            understood.place = merging.otherwise;
        }
        let shard = match understood.place.clone() {
            Place::Any => return Ok(Way::Here),
            Place::One(shard) => shard,
            Place::Refused(_) if self.await_ddl(DDL_LIMIT).await => return Ok(Way::Again),
            Place::Refused(reply) => return self.misplaced(work, *reply).await,
            Place::Moving(_) if self.await_move().await => return Ok(Way::Again),
            Place::Moving(reply) => return self.misplaced(work, *reply).await,
            // What stands for it is none.
            Place::Merged(_) => return self.misplaced(work, in_a_pipeline()).await,
            Place::Together(_) if self.in_batch => return self.misplaced(work, in_a_pipeline()).await,
            Place::Together(views) => {
                return match self.go_to_coordinator(&views, understood).await? {
                    Ok(()) => Ok(Way::Here),
                    Err(_) if self.knows_more().await || self.await_ddl(DDL_LIMIT).await => Ok(Way::Again),
                    Err(reply) => {
                        self.release_if_free().await;
                        self.misplaced(work, reply).await
                    }
                };
            }
            Place::InTurn if self.in_batch || !self.pins.is_empty() => {
                return self.misplaced(work, in_a_pipeline()).await;
            }
            Place::InTurn => {
                let Work::Messages { bytes, waits: true } = work else {
                    return self.misplaced(work, in_a_pipeline()).await;
                };
                let mut rest = understood.statements().enumerate();
                if rest.any(|(place, statement)| controls_transaction(&statement.kind, place == 0)) {
                    return self.misplaced(work, in_a_pipeline()).await;
                }
                self.serve_in_turn(bytes, understood).await?;
                return self.served(work).await;
            }
            Place::Everywhere(_) | Place::RowByRow if self.in_batch => {
                return self.misplaced(work, in_a_pipeline()).await;
            }
            Place::RowByRow => {
                self.serve_copy(work, understood).await?;
                return self.served(work).await;
            }
            Place::Everywhere(scatter) => {
                self.serve_everywhere(work, understood, &scatter).await?;
                return self.served(work).await;
            }
        };
        let Some(server) = &self.server else { return Ok(Way::Here) };
        if server.shard == shard {
            return Ok(Way::Here);
        }
        if self.in_batch {
            return self.misplaced(work, in_a_pipeline()).await;
        }
        if self.status == TransactionStatus::Idle {
            let pin = self.pins.first().map_or("its pool mode", |pin| pin.name());
            let reply = ErrorReply::error("0A000", format!("this statement is for shard \"{shard}\""))
                .detail(format!("This session is pinned to a server of shard \"{}\" by {pin}.", server.shard))
                .hint("Use another connection, or end what pins this one.");
            return self.misplaced(work, reply).await;
        }
        if self.relocate_to_shard(&shard, understood).await? {
            return Ok(Way::Here);
        }
        match self.join(&shard).await? {
            Ok(()) => Ok(Way::Here),
            Err(_) if self.knows_more().await => Ok(Way::Again),
            Err(reply) => self.misplaced(work, reply).await,
        }
    }

    /// Messages for several shards have been served, unless one of the shards knows more of the bucket map.
    async fn served(&mut self, work: &Work) -> Result<Way, Fault> {
        if self.outdated.is_none() {
            return Ok(Way::Served);
        }
        if self.knows_more().await {
            return Ok(Way::Again);
        }
        self.refuse(work, &outdated()).await?;
        Ok(Way::Served)
    }

    /// Refuses the messages: where a transaction or pipeline is open, in their place in it.
    async fn misplaced(&mut self, work: &Work, reply: ErrorReply) -> Result<Way, Fault> {
        if self.server.is_some() && (self.in_batch || self.status != TransactionStatus::Idle) {
            return self.refuse_when_it_comes(reply);
        }
        self.refuse(work, &reply).await?;
        Ok(Way::Served)
    }

    fn refuse_when_it_comes(&mut self, reply: ErrorReply) -> Result<Way, Fault> {
        self.misplaced = Some(Box::new(reply));
        Ok(Way::Here)
    }

    /// COMMIT, of a transaction on several shards. What is left for the client's own message to end is empty.
    async fn commit_here(&mut self, work: &Work) -> Result<Way, Fault> {
        let reply = match self.commit_across().await {
            Committed::Yes => {
                if let Some(server) = &mut self.server
                    && server.run_own("BEGIN").await.is_ok()
                {
                    return Ok(Way::Here);
                }
                let reply =
                    ErrorReply::fatal("08006", "the transaction was committed, and then the connection was lost");
                return Err(Fault::Fatal(reply.detail("It is committed on all of its shards.")));
            }
            Committed::Refused(body) => {
                self.rolled_back().await?;
                self.refuse_as(work, &body).await?;
                return Ok(Way::Served);
            }
            Committed::Lost(reply) => reply,
        };
        if self.server.is_none() {
            return Err(Fault::Fatal(reply.into_fatal()));
        }
        self.rolled_back().await?;
        self.refuse(work, &reply).await?;
        Ok(Way::Served)
    }

    async fn rolled_back(&mut self) -> Result<(), Fault> {
        self.forget_exchange();
        self.status_before = TransactionStatus::Idle;
        self.follow_transaction().await?;
        self.release_if_free().await;
        Ok(())
    }
}

fn ends_transaction(kind: &Kind) -> bool {
    matches!(kind, Kind::Commit { .. } | Kind::Rollback { .. } | Kind::TwoPhase)
}

/// Of a statement in a pipeline over several shards; the first one may be BEGIN.
fn controls_transaction(kind: &Kind, is_first: bool) -> bool {
    ends_transaction(kind) || matches!(kind, Kind::Savepoint { .. }) || matches!(kind, Kind::Begin(_)) && !is_first
}

fn is_lone_commit(understood: &Understood) -> bool {
    let mut statements = understood.statements();
    let first = statements.next();
    understood.runs == 1
        && statements.next().is_none()
        && matches!(first, Some(Statement { kind: Kind::Commit { .. }, .. }))
}

fn in_a_pipeline() -> ErrorReply {
    ErrorReply::error("0A000", "one pipeline cannot be for several shards")
        .detail("Messages up to a Sync are one implicit transaction, and its first ones have gone to another shard, or it holds BEGIN, COMMIT or the like.")
        .hint("Send Sync before the statement that is for another shard, in a transaction block where they belong together.")
}

fn entangled_end() -> ErrorReply {
    ErrorReply::error("0A000", "a transaction on several shards cannot be ended in this way")
        .detail("Its end came in one message, or one pipeline, with other statements.")
        .hint("Send COMMIT or ROLLBACK alone.")
}

impl Session {
    /// Begins the open transaction anew on another shard, where it has done nothing yet.
    async fn relocate_to_shard(&mut self, shard: &Arc<str>, understood: &Understood) -> Result<bool, Fault> {
        if !self.across.others.is_empty() || !self.has_only_begun() || !self.pins.is_empty() {
            return Ok(false);
        }
        let Some(server) = &self.server else { return Ok(false) };
        let demand = self.side_to_begin_on(server.role, understood);
        self.begin_anew(demand, Place::One(Arc::clone(shard))).await?;
        Ok(true)
    }
}

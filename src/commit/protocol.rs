//! The protocol: prepare, decide, carry out.
//!
//! Two-phase commit with a last agent. The last agent (the decider) needs no prepare: the decision is a row of its own
//! transaction, so that its writes and the decision are durable by one commit record, or neither is. It is asked
//! when all others are prepared, and nobody acts before its answer is there.
//! <https://www.postgresql.org/docs/current/sql-prepare-transaction.html>

use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::time::timeout;

use super::coordinators::{Coordinator, Coordinators};
use super::name::{Gid, ShardName, TransactionId};
use super::participant::{Participant, Refusal, RunError};
use super::sql;

/// How a transaction is to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// COMMIT on each shard: at most one has written, so there is nothing to agree on.
    Plain,
    /// By [`commit`].
    TwoPhase,
}

/// By how many shards have written. Shards that were only read are committed first in both cases: a COMMIT of a
/// serializable transaction that has only read may be refused, too.
pub fn way(writers: usize) -> Way {
    if writers < 2 { Way::Plain } else { Way::TwoPhase }
}

/// What came of it.
#[derive(Debug, Clone)]
#[must_use]
pub enum Outcome {
    /// Committed and visible everywhere.
    Committed,
    /// Committed for ever, but not carried out yet on the shards named: what was written there is neither visible
    /// nor unlocked until recovery has been there ([`Coordinators::settled`]). The client may be told that it is
    /// committed; a session that must read its own writes waits before it uses one of these shards again.
    CommittedNotEverywhere {
        /// The transaction.
        id: TransactionId,
        /// Where recovery has work left.
        unfinished: Vec<ShardName>,
    },
    /// Rolled back everywhere, or will be.
    RolledBack {
        /// Who made it so.
        shard: ShardName,
        /// And why.
        cause: Cause,
        /// The transaction.
        id: TransactionId,
        /// Where something may still be prepared, and rows locked, until recovery has been there.
        unfinished: Vec<ShardName>,
    },
    /// The decider was lost while it committed: only recovery will know. The client is told so (08007).
    InDoubt {
        /// The transaction.
        id: TransactionId,
        /// Who was asked for the decision.
        decider: ShardName,
        /// Where the transaction stays prepared until then.
        unfinished: Vec<ShardName>,
    },
}

/// Why a transaction is rolled back.
#[derive(Debug, Clone)]
pub enum Cause {
    /// A server has refused to prepare or to commit: for the client, as it is.
    Refused(Refusal),
    /// The connection was lost before anything was decided; with the server's last words, if it had any.
    Lost(Option<Refusal>),
}

impl From<RunError> for Cause {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Refused(refusal) => Self::Refused(refusal),
            RunError::Lost(words) => Self::Lost(words),
        }
    }
}

/// Whether what was prepared needs nothing more to be done: it has been carried out, be it by recovery (42704,
/// `undefined_object`).
fn is_over(result: &Result<(), RunError>) -> bool {
    match result {
        Ok(()) => true,
        Err(RunError::Refused(refusal)) => refusal.sqlstate() == b"42704",
        Err(RunError::Lost(_)) => false,
    }
}

/// Commits what `decider` and `others` have written, on all of them or on none. Each has a transaction open that has
/// not failed, in the database of this name. Which one decides is the caller's choice; a server refuses to *prepare* a
/// transaction that has used temporary tables, LISTEN or NOTIFY, a cursor WITH HOLD, or has exported a snapshot.
///
/// Afterwards no transaction is open on any connection that is still of use ([`Participant::run`]). A shard may take as
/// long to prepare, and the decider to commit, as it may to commit a transaction of its own; when the future is dropped
/// halfway, the caller closes all of the connections, and recovery does the rest.
pub async fn commit<P: Participant>(
    coordinators: &Coordinators,
    database: &str,
    decider: &mut P,
    others: &mut [P],
) -> Outcome {
    let mut work = coordinators.begin(database);
    let gids = gids(work.id, decider.shard(), others.len());
    work.left = others.iter().map(|other| other.shard().clone()).collect();
    let prepared = each(others, &gids, sql::prepare).await;
    let failure =
        others.iter().zip(&prepared).find_map(|(other, result)| Some((other.shard(), result.as_ref().err()?)));
    if let Some((shard, error)) = failure {
        let reason = (shard.clone(), error.clone().into());
        return undo(work, decider, others, (&gids, &prepared), reason).await;
    }
    let decision = sql::decide(&work.secret, &work.left);
    match decider.run(&decision).await {
        Ok(()) => carry_out(work, others, &gids).await,
        Err(RunError::Lost(_)) => {
            let (decider, unfinished) = (decider.shard().clone(), work.left.clone());
            Outcome::InDoubt { id: work.id, decider, unfinished }
        }
        Err(refused) => {
            let reason = (decider.shard().clone(), refused.into());
            undo(work, decider, others, (&gids, &prepared), reason).await
        }
    }
}

fn gids(id: TransactionId, decider: &ShardName, others: usize) -> Vec<Gid> {
    (0..).take(others).map(|ordinal| Gid { id, decider: decider.clone(), ordinal }).collect()
}

/// Runs a statement on each, at the same time.
async fn each<P: Participant>(
    participants: &mut [P],
    gids: &[Gid],
    statement: impl Fn(&Gid) -> String,
) -> Vec<Result<(), RunError>> {
    let runs = participants.iter_mut().zip(gids).map(|(participant, gid)| {
        let statement = statement(gid);
        async move { participant.run(&statement).await }
    });
    join_all(runs).await
}

/// A connection that does not answer in time counts as lost.
async fn run_within<P: Participant>(limit: Duration, participant: &mut P, statement: &str) -> Result<(), RunError> {
    timeout(limit, participant.run(statement)).await.unwrap_or(Err(RunError::Lost(None)))
}

/// After the commit point. Nothing that happens here changes the outcome any more.
async fn carry_out<P: Participant>(mut work: Coordinator<'_>, others: &mut [P], gids: &[Gid]) -> Outcome {
    let limit = work.finish_within();
    let runs = others.iter_mut().zip(gids).map(|(participant, gid)| async move {
        let is_over = is_over(&run_within(limit, participant, &sql::commit_prepared(gid)).await);
        (!is_over).then(|| participant.shard().clone())
    });
    let unfinished: Vec<ShardName> = join_all(runs).await.into_iter().flatten().collect();
    work.left.clone_from(&unfinished);
    if unfinished.is_empty() { Outcome::Committed } else { Outcome::CommittedNotEverywhere { id: work.id, unfinished } }
}

/// Before the commit point, which then cannot be reached any more: nobody but this coordinator asks the decider to
/// commit.
async fn undo<P: Participant>(
    mut work: Coordinator<'_>,
    decider: &mut P,
    others: &mut [P],
    (gids, prepared): (&[Gid], &[Result<(), RunError>]),
    (shard, cause): (ShardName, Cause),
) -> Outcome {
    let limit = work.finish_within();
    let runs = others.iter_mut().zip(gids).zip(prepared).map(|((participant, gid), prepared)| async move {
        let is_over = match prepared {
            Ok(()) => is_over(&run_within(limit, participant, &sql::rollback_prepared(gid)).await),
            // Not prepared, whatever comes of this: a connection that is lost takes its transaction with it.
            Err(RunError::Refused(_)) => {
                let _ = run_within(limit, participant, "ROLLBACK").await;
                true
            }
            // It may be prepared.
            Err(RunError::Lost(_)) => false,
        };
        (!is_over).then(|| participant.shard().clone())
    });
    // The decider has nothing prepared, so its answer changes nothing.
    let (_, unfinished) = join(run_within(limit, decider, "ROLLBACK"), join_all(runs)).await;
    let unfinished: Vec<ShardName> = unfinished.into_iter().flatten().collect();
    work.left.clone_from(&unfinished);
    Outcome::RolledBack { shard, cause, id: work.id, unfinished }
}

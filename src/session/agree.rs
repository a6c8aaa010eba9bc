//! How a transaction over several shards ends: committed on all of them, or on none.
//!
//! Where one shard at most has written, COMMIT on each; otherwise two-phase commit (`commit/`). Afterwards it is open
//! nowhere. What is decided and not carried out everywhere yet is remembered, so that this session sees its own commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::hand::{Part, first_text};
use super::{Attached, Session};
use crate::commit::{Cause, Outcome, RunError, Way, commit, way};
use crate::topology::Role;
use crate::wire::ErrorReply;

/// Whether the open transaction has written anything: then it has an ID.
const HAS_WRITTEN: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";

/// How a COMMIT over several shards has ended.
pub(super) enum Committed {
    /// On all of them.
    Yes,
    /// On none: with an error of a server's, as it came.
    Refused(bytes::Bytes),
    /// On none, or nobody knows.
    Lost(ErrorReply),
}

impl Session {
    /// Commits the open transaction on all of its shards, or on none. Afterwards it is open nowhere; the session still has
    /// the connection that it had in its hands, unless that was lost.
    pub(super) async fn commit_across(&mut self) -> Committed {
        let Some(here) = self.server.take() else { return Committed::Lost(lost()) };
        // A request to cancel what ran on one of them must not hit whoever gets it next, nor the commit.
        self.registration.clear().await;
        let home = Arc::clone(&here.shard);
        let mut parts: Vec<Attached> = std::mem::take(&mut self.across.others);
        parts.push(here);
        let writers = match split(parts).await {
            Ok((readers, writers)) => {
                for (reader, ended) in readers {
                    match ended {
                        Ok(()) => self.keep_or_part(reader, &home),
                        // Nothing was written there.
                        Err(refused) => return self.abandon(writers, refused).await,
                    }
                }
                writers
            }
            Err((parts, error)) => return self.abandon(parts, cause_of(error)).await,
        };
        match way(writers.len()) {
            Way::Plain => self.commit_plainly(writers, &home).await,
            Way::TwoPhase => self.commit_in_two_phases(writers, &home).await,
        }
    }

    /// Takes note that the client will see a part of its transaction committed.
    fn note_committed(&mut self, shard: &Arc<str>) {
        self.tell_others(shard, Role::Primary);
        self.horizons.of(shard).saw_primary(Instant::now(), None);
    }

    fn keep_or_part(&mut self, part: Attached, home: &Arc<str>) {
        if part.shard == *home {
            self.server = Some(part);
        } else {
            self.part_with(part);
        }
    }

    async fn commit_plainly(&mut self, writers: Vec<Attached>, home: &Arc<str>) -> Committed {
        for mut writer in writers {
            match writer.run_own("COMMIT").await {
                Ok(own) if own.tag == b"ROLLBACK" => return Committed::Lost(rolled_back()),
                Ok(_) => {
                    self.note_committed(&writer.shard);
                    self.keep_or_part(writer, home);
                }
                Err(RunError::Refused(refusal)) => {
                    self.keep_or_part(writer, home);
                    return Committed::Refused(refusal.0);
                }
                Err(RunError::Lost(_)) => {
                    // It may have been committed, so what comes next must show it if it was.
                    self.note_committed(&writer.shard);
                    return Committed::Lost(unknown(&writer.checkout.node.name));
                }
            }
        }
        Committed::Yes
    }

    async fn commit_in_two_phases(&mut self, mut writers: Vec<Attached>, home: &Arc<str>) -> Committed {
        // The last one decides, and is not prepared: PostgreSQL prepares no transaction that has notified anybody.
        let first = self.proxy.config.load().shards.first().map(|shard| shard.name.clone());
        writers.sort_by_key(|writer| first.as_deref() == Some(&*writer.shard));
        let coordinators = Arc::clone(&self.proxy.coordinators);
        let mut parts: Vec<Part<'_>> = writers.iter_mut().filter_map(Part::new).collect();
        let Some(mut decider) = parts.pop() else { return Committed::Yes };
        let outcome = commit(&coordinators, &self.identity.database, &mut decider, &mut parts).await;
        drop((decider, parts));
        let (committed, id, unfinished) = match outcome {
            Outcome::Committed => (Committed::Yes, None, Vec::new()),
            Outcome::CommittedNotEverywhere { id, unfinished } => (Committed::Yes, Some(id), unfinished),
            Outcome::RolledBack { cause, id, unfinished, shard } => {
                (refused(cause, shard.as_str()), Some(id), unfinished)
            }
            Outcome::InDoubt { id, decider, unfinished } => {
                (Committed::Lost(unknown(decider.as_str())), Some(id), unfinished)
            }
        };
        let is_finished = |writer: &Attached| unfinished.iter().all(|shard| shard.as_str() != &*writer.shard);
        for mut writer in writers {
            if let (Some(id), false) = (id, is_finished(&writer)) {
                self.across.unsettled.insert(Arc::clone(&writer.shard), id);
            }
            if !matches!(committed, Committed::Refused(_)) {
                // Or it may have been committed: what comes next must show it if it was.
                self.note_committed(&writer.shard);
            }
            let is_usable = match committed {
                Committed::Yes => is_finished(&writer) && !writer.eof,
                // Nothing tells how the rollback went on this one.
                Committed::Refused(_) => is_finished(&writer) && is_idle(&mut writer).await,
                Committed::Lost(_) => false,
            };
            if is_usable {
                self.keep_or_part(writer, home);
            }
        }
        committed
    }

    /// Rolls back what is open of a transaction that cannot be committed.
    async fn abandon(&mut self, parts: Vec<Attached>, why: Committed) -> Committed {
        self.across.others = parts;
        self.leave_others().await;
        why
    }

    /// Whether something that this session has committed there may not be seen there yet.
    pub(super) fn awaits_settling(&self, shard: &Arc<str>) -> bool {
        !self.across.unsettled.is_empty() && self.across.unsettled.contains_key(shard)
    }

    /// What this session has committed on a shard is to be seen there before anything else.
    pub(super) async fn await_settled(&mut self, shard: &Arc<str>) -> Result<(), ErrorReply> {
        let Some(id) = self.across.unsettled.get(shard).copied() else { return Ok(()) };
        let limit = self.proxy.config.load().pool.checkout_timeout;
        let coordinators = Arc::clone(&self.proxy.coordinators);
        let settled = tokio::time::timeout(limit, coordinators.settled(id));
        match self.registration.unless_cancelled(settled).await {
            Ok(Ok(())) => {
                self.across.unsettled.remove(shard);
                Ok(())
            }
            Ok(Err(_)) => {
                Err(ErrorReply::error("57P03", format!("shard \"{shard}\" has not carried out a commit yet"))
                    .detail("What this session has committed is decided, but not visible there.")
                    .hint("It will be, without anybody's doing, as soon as the shard answers. Try again."))
            }
            Err(cancelled) => Err(super::attach::cancelled(cancelled)),
        }
    }
}
/// How long a connection may take to say that no transaction is open on it.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

async fn is_idle(server: &mut Attached) -> bool {
    matches!(tokio::time::timeout(IDLE_LIMIT, server.run_own("ROLLBACK")).await, Ok(Ok(_)))
}

type Ended = Result<(), Committed>;

/// Those that have only read, with how they have ended, and those that have written.
async fn split(mut parts: Vec<Attached>) -> Result<(Vec<(Attached, Ended)>, Vec<Attached>), (Vec<Attached>, RunError)> {
    let asked = join_all(parts.iter_mut().map(|part| async {
        let own = part.run_own(if part.role == Role::Replica { "SELECT false" } else { HAS_WRITTEN }).await?;
        Ok(own.rows.first().and_then(|row| first_text(row)) == Some("t"))
    }))
    .await;
    let mut has_written = Vec::with_capacity(asked.len());
    for answer in asked {
        match answer {
            Ok(answer) => has_written.push(answer),
            Err(error) => return Err((parts, error)),
        }
    }
    let mut has_written = has_written.into_iter();
    let (writers, mut readers): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|_| has_written.next().unwrap_or_default());
    let ended = join_all(readers.iter_mut().map(|reader| reader.run_own("COMMIT"))).await;
    let ended = ended.into_iter().map(|ended| ended.map(drop).map_err(cause_of));
    Ok((readers.into_iter().zip(ended).collect(), writers))
}

fn cause_of(error: RunError) -> Committed {
    match error {
        RunError::Refused(refusal) => Committed::Refused(refusal.0),
        RunError::Lost(_) => Committed::Lost(lost()),
    }
}

fn lost() -> ErrorReply {
    ErrorReply::error("08006", "a connection of the transaction was lost")
        .detail("The transaction was rolled back on all of its shards.")
}

fn refused(cause: Cause, shard: &str) -> Committed {
    match cause {
        Cause::Refused(refusal) => Committed::Refused(refusal.0),
        Cause::Lost(_) => Committed::Lost(
            ErrorReply::error("08006", format!("the connection to shard \"{shard}\" was lost"))
                .detail("The transaction was rolled back on all of its shards."),
        ),
    }
}
fn rolled_back() -> ErrorReply {
    ErrorReply::error("25P02", "the transaction had failed on one of its shards").detail("It was rolled back.")
}

fn unknown(name: &str) -> ErrorReply {
    ErrorReply::error("08007", format!("connection to {name} was lost"))
        .detail("Whether the transaction was committed is not known yet: it is on all of its shards, or on none.")
        .hint("Look for its effects before you repeat it.")
}

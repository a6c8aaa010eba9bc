//! A command that PostgreSQL runs in no transaction (CREATE INDEX CONCURRENTLY, VACUUM), on several shards: on one after the
//! other, each on its own. The client hears of one command, with a notice as each shard is done.
//!
//! Where one shard fails, nothing is taken back: the error is that shard's own, and its DETAIL says of each shard how far it
//! is. Sent again, the command goes on where it is not done ([`super::standing`]).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::bring::Brought;
use super::everywhere::Why;
use super::exchange::Purpose;
use super::place::Place;
use super::relay::{Outcome, Until};
use super::scatter::{object, too_long};
use super::serve::Work;
use super::standing::Standing;
use super::understand::Understood;
use super::wish::constant;
use super::{Attached, Fault, Session};
use crate::commit::RunError;
use crate::route::{Demand, Reason};
use crate::sql::Upkeep;
use crate::wire::ErrorReply;
use crate::wire::backend::sqlstate;

/// What an error is told with, besides its own words.
#[derive(Debug)]
pub(super) struct Postscript {
    detail: String,
    hint: &'static str,
    /// Something was done on a shard before.
    has_begun: bool,
}

/// How far a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotBegun,
    /// By an earlier command.
    DoneBefore,
    Done,
    Failed,
    /// Nobody knows.
    Lost,
}

/// How far all are.
struct Course {
    shards: Vec<(Arc<str>, Standing, State)>,
    hint: &'static str,
    /// The connection that a pinned session holds all the time, while another one is at hand.
    kept: Option<Attached>,
}

impl Session {
    /// Serves messages that run one such command and nothing else, outside of a transaction block.
    pub(super) async fn serve_alone(
        &mut self,
        work: &Work,
        understood: &Understood,
        upkeep: &Upkeep,
    ) -> Result<(), Fault> {
        if let Some(reply) = object(work, understood, &super::scatter::Scatter::Alone) {
            return self.refuse(work, &reply).await;
        }
        let topology = self.proxy.topology.load_full();
        let shards = topology.shards.iter().map(|shard| (Arc::clone(&shard.name), Standing::Open, State::NotBegun));
        let mut course = Course { shards: shards.collect(), hint: hint(upkeep), kept: self.server.take() };
        let run = match self.plan_alone(upkeep, &mut course).await? {
            Ok(()) => self.run_alone(work, understood, &mut course).await?,
            Err(why) => Err(why),
        };
        if run.is_err() {
            self.forget_messages();
            self.proxy.monitor.catalog_changed(&self.identity.database);
        }
        if let Some(kept) = course.kept.take() {
            self.release().await;
            self.server = Some(kept);
            self.be_cancelled_here();
        }
        match run {
            Ok(()) => Ok(()),
            Err(why) => {
                self.release_if_free().await;
                match (why, course.postscript()) {
                    (Why::Refused(body), postscript) => self.refuse_as(work, &postscript.under(&body)).await,
                    (Why::Told(reply), postscript) => self.refuse(work, &postscript.beneath(reply)).await,
                }
            }
        }
    }

    /// Asks all shards how far they are. Where all are done, or none can be, each runs it: PostgreSQL says the rest.
    async fn plan_alone(&mut self, upkeep: &Upkeep, course: &mut Course) -> Result<Result<(), Why>, Fault> {
        if *upkeep == Upkeep::Repeatable {
            return Ok(Ok(()));
        }
        for number in 0..course.shards.len() {
            if let Err(reply) = self.go_alone(number, course).await? {
                return Ok(Err(Why::Told(reply)));
            }
            let checked = if number == 0 { self.object_to_index(upkeep).await? } else { Ok(()) };
            let standing = match checked {
                Ok(()) => self.standing(upkeep).await?,
                Err(why) => Err(why),
            };
            self.leave_alone(course).await;
            match standing {
                Ok(standing) => course.shards[number].1 = standing,
                Err(why) => return Ok(Err(why)),
            }
        }
        if course.shards.iter().all(|(_, standing, _)| *standing == Standing::Done) {
            course.shards.iter_mut().for_each(|(_, standing, _)| *standing = Standing::Open);
        }
        for (_, standing, state) in &mut course.shards {
            if *standing == Standing::Done {
                *state = State::DoneBefore;
            }
        }
        Ok(Ok(()))
    }

    async fn run_alone(
        &mut self,
        work: &Work,
        understood: &Understood,
        course: &mut Course,
    ) -> Result<Result<(), Why>, Fault> {
        let Work::Messages { bytes, .. } = work else { return Ok(Err(Why::Told(too_long()))) };
        let is_open = |(_, standing, _): &(Arc<str>, Standing, State)| *standing != Standing::Done;
        let Some(last) = course.shards.iter().rposition(is_open) else { return Ok(Ok(())) };
        for number in 0..course.shards.len() {
            if course.shards[number].1 != Standing::Done {
                if let Err(reply) = self.go_alone(number, course).await? {
                    return Ok(Err(Why::Told(reply)));
                }
                course.shards[number].2 = State::Failed;
                if let Err(why) = self.clear_away(&course.shards[number].1.clone(), course).await? {
                    return Ok(Err(why));
                }
                if number == last {
                    return self.answer_alone(work, understood, course).await;
                }
                if let Err(why) = self.run_alone_unseen(bytes, course).await? {
                    return Ok(Err(why));
                }
                course.shards[number].2 = State::Done;
                self.leave_alone(course).await;
            }
            self.note_progress(number, course).await?;
        }
        Ok(Ok(()))
    }

    /// The last shard's answer is the client's.
    async fn answer_alone(
        &mut self,
        work: &Work,
        understood: &Understood,
        course: &mut Course,
    ) -> Result<Result<(), Why>, Fault> {
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        let (Demand::Primary(reason) | Demand::Replica(reason)) = understood.demand;
        server.reason = reason;
        server.postscript = Some(Box::new(course.postscript()));
        let outcome = self.execute(work, understood, Until::Answered).await?;
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        server.postscript = None;
        match outcome {
            Outcome::Done => {
                self.note_done();
                self.conclude(understood).await?;
                Ok(Ok(()))
            }
            _ if self.client.unread > 0 || server.checkout.link.unread > 0 => Err(Fault::ServerLost(None)),
            _ => Ok(Err(self.lost_alone(course))),
        }
    }

    /// Runs the messages where the client sees nothing of it but what the server tells meanwhile.
    async fn run_alone_unseen(&mut self, messages: &[u8], course: &mut Course) -> Result<Result<(), Why>, Fault> {
        if let Some(server) = &mut self.server {
            server.holding = true;
        }
        let translated = self.translate(messages, None).await?;
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        server.exchange.disown_for(Purpose::Alone);
        let link = &mut server.checkout.link;
        let marked = std::mem::take(&mut link.ready);
        link.remove(marked);
        self.client.output.clear();
        server.holding = false;
        self.start_clock(1);
        let outcome = match translated {
            Outcome::Done => self.relay(Until::Answered).await?,
            other => other,
        };
        if self.stop_clock() {
            self.registration.settle().await;
        }
        self.forget_messages();
        match (outcome, self.tally.own_failure.take()) {
            (Outcome::Done, None) => {
                self.note_done();
                Ok(Ok(()))
            }
            (Outcome::Done, Some(body)) => Ok(Err(Why::Refused(body))),
            _ => Ok(Err(self.lost_alone(course))),
        }
    }

    /// What an earlier attempt has left on the shard at hand goes first.
    async fn clear_away(&mut self, standing: &Standing, course: &mut Course) -> Result<Result<(), Why>, Fault> {
        let (Standing::Left(sql), Some(server)) = (standing, &mut self.server) else { return Ok(Ok(())) };
        Ok(match server.run_own(sql).await {
            Ok(_) => Ok(()),
            Err(RunError::Refused(refusal)) => Err(Why::Refused(refusal.0.as_ref().into())),
            Err(RunError::Lost(_)) => Err(self.lost_alone(course)),
        })
    }

    /// A connection to the shard with this number, with the session's settings.
    async fn go_alone(&mut self, number: usize, course: &mut Course) -> Result<Result<(), ErrorReply>, Fault> {
        let shard = &course.shards[number].0;
        let Some(kept) = course.kept.take_if(|kept| kept.shard == *shard) else {
            let place = Place::One(Arc::clone(shard));
            let demand = Demand::Primary(Reason::Transaction);
            let there = Understood { place, ..Understood::nothing(demand) };
            return loop {
                match self.reach_for(&there).await? {
                    // It is for every shard, whatever the bucket map says.
                    Err(_) if self.knows_more().await => {}
                    reached => break Ok(reached),
                }
            };
        };
        self.server = Some(kept);
        self.be_cancelled_here();
        match self.bring_settings().await? {
            Brought::Yes => match self.relay_own().await? {
                Outcome::Done => Ok(Ok(())),
                _ => Err(Fault::ServerLost(None)),
            },
            Brought::Refused(reply) => Ok(Err(reply)),
            Brought::LostReplica(_) | Brought::Lost => Err(Fault::ServerLost(None)),
        }
    }

    /// The connection at hand is for others again, but for one that stays with this session.
    async fn leave_alone(&mut self, course: &mut Course) {
        if self.pins.is_empty() && self.proxy.config.load().pool.mode == crate::config::PoolMode::Transaction {
            self.release().await;
        } else if course.kept.is_none() {
            course.kept = self.server.take();
        } else {
            self.release().await;
        }
    }

    fn lost_alone(&mut self, course: &mut Course) -> Why {
        let shard = self.server.take().map(|server| server.shard).unwrap_or_default();
        for (name, _, state) in &mut course.shards {
            if *name == shard {
                *state = State::Lost;
            }
        }
        self.forget_exchange();
        Why::Told(ErrorReply::error("08006", format!("the connection to shard \"{shard}\" was lost")))
    }

    /// What this session does next must see it there.
    fn note_done(&mut self) {
        let Some(server) = &self.server else { return };
        let now = Instant::now();
        self.database.note_catalog_change(&server.shard, now);
        self.horizons.of(&server.shard).saw_primary(now, None);
    }

    async fn note_progress(&mut self, number: usize, course: &Course) -> Result<(), Fault> {
        let (shard, _, state) = &course.shards[number];
        let level = constant(self.tracked.current(), "client_min_messages").unwrap_or_default();
        if ["warning", "error"].iter().any(|silent| level.eq_ignore_ascii_case(silent)) {
            return Ok(());
        }
        let how = if *state == State::DoneBefore { "was done before" } else { "is done" };
        let text = format!("shard \"{shard}\" {how} ({} of {})", number + 1, course.shards.len());
        ErrorReply::put_notice(&text, &mut self.client.output);
        self.client.flush().await.map_err(|_| Fault::ClientGone)
    }
}

impl Course {
    fn postscript(&self) -> Postscript {
        let mut detail = String::new();
        for (shard, _, state) in &self.shards {
            let state = match state {
                State::NotBegun => "not begun",
                State::DoneBefore => "done before",
                State::Done => "done",
                State::Failed => "failed",
                State::Lost => "not known",
            };
            let space = if detail.is_empty() { "" } else { " " };
            let _ = write!(detail, "{space}Shard \"{shard}\": {state}.");
        }
        let has_begun = self.shards.iter().any(|(_, _, state)| matches!(state, State::Done | State::DoneBefore));
        Postscript { detail, hint: self.hint, has_begun }
    }
}

impl Postscript {
    /// The body of a server's error, with it.
    pub(super) fn under(&self, body: &[u8]) -> Vec<u8> {
        // It is the statement that is wrong, not a shard: 25, an open transaction; 42, names and rights.
        if !self.has_begun && (sqlstate(body).starts_with(b"42") || sqlstate(body).starts_with(b"25")) {
            return body.to_vec();
        }
        let (mut out, mut detail, mut hint) = (Vec::new(), Vec::new(), Vec::new());
        for field in body.split(|byte| *byte == 0).take_while(|field| !field.is_empty()) {
            match field.split_first() {
                Some((b'D', own)) => detail = [own, b"\n"].concat(),
                Some((b'H', own)) => hint = [own, b"\n"].concat(),
                _ => {
                    out.extend_from_slice(field);
                    out.push(0);
                }
            }
        }
        for (code, own, further) in [(b'D', detail, &*self.detail), (b'H', hint, self.hint)] {
            out.push(code);
            out.extend_from_slice(&own);
            out.extend_from_slice(further.as_bytes());
            out.push(0);
        }
        out.push(0);
        out
    }

    /// An error of pgsluice's own, with it.
    fn beneath(&self, reply: ErrorReply) -> ErrorReply {
        if reply.detail.is_some() && !self.has_begun {
            return reply;
        }
        let detail = reply.detail.iter().map(|own| format!("{own}\n")).chain([self.detail.clone()]).collect::<String>();
        let hint = reply.hint.clone().unwrap_or_else(|| self.hint.to_owned());
        reply.detail(detail).hint(hint)
    }
}

fn hint(upkeep: &Upkeep) -> &'static str {
    match upkeep {
        Upkeep::CreateIndex { .. } => {
            "Send the same statement again: it skips the shards where the index is there, and drops what has failed first."
        }
        Upkeep::DropIndex(_) | Upkeep::Detach { .. } => {
            "Send the same statement again: it skips the shards where that has been done."
        }
        Upkeep::Repeatable | Upkeep::OfServer => "Send the same statement again: all shards run it once more.",
    }
}

/// What is done to a whole server is done there.
pub(super) fn of_server() -> ErrorReply {
    ErrorReply::error("0A000", "databases and tablespaces are not made or dropped on several shards at once")
        .detail("No transaction holds them together, and a database that is new needs a bucket map before it can be served.")
        .hint(
            "Run it on each shard: SET pgsluice.shard = 'name', or /* pgsluice: shard=name */ in front of it. For a new \
             database pgsluice shards init comes then.",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend::error_field;

    #[test]
    fn an_error_keeps_its_own_words() {
        let postscript =
            |has_begun| Postscript { detail: "Shard \"a\": failed.".into(), hint: "Send it again.", has_begun };
        let body = b"SERROR\0C23505\0Mcould not create\0DKey (n)=(1) is duplicated.\0Rtuplesort\0\0";
        let told = postscript(false).under(body);
        assert_eq!(sqlstate(&told), b"23505");
        let detail = b"Key (n)=(1) is duplicated.\nShard \"a\": failed.".as_slice();
        assert_eq!(error_field(&told, b'D'), Some(detail));
        assert_eq!(error_field(&told, b'H'), Some(b"Send it again.".as_slice()));
        assert_eq!(error_field(&told, b'R'), Some(b"tuplesort".as_slice()));
        assert!(told.ends_with(b"\0\0"));
        let wrong = b"SERROR\0C42P01\0Mno such table\0\0";
        assert_eq!(postscript(false).under(wrong), wrong);
        assert!(error_field(&postscript(true).under(wrong), b'D').is_some());
    }
}

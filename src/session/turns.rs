//! A pipeline whose statements are each for one shard, and not all for the same: they are run in turn, in one transaction
//! over their shards, as the implicit transaction up to a `Sync` is one on a single server.
//!
//! Outside of a transaction block the answers are held back until all shards have committed, unless it only reads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::agree::Committed;
use super::exchange::{Purpose, Sent};
use super::ledger::End;
use super::place::Place;
use super::relay::{Outcome, Until};
use super::understand::Understood;
use super::{Audience, Fault, Session};
use crate::route::{Demand, Reason};
use crate::sql::Kind;
use crate::wire::backend::{self, TransactionStatus, put_ready_for_query};
use crate::wire::frontend::{self, Bind, Target, tag};
use crate::wire::{ErrorReply, Frames};

/// How long the answers may be that are held back, in bytes.
const MAX_HELD: usize = 1 << 20;

/// Messages that go to one server together.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    /// Where they stand among all.
    messages: Range<usize>,
    /// `None`: wherever the session is.
    shard: Option<Arc<str>>,
}

impl Session {
    /// Serves the messages, which end with a `Sync`.
    pub(super) async fn serve_in_turn(&mut self, messages: &[u8], understood: &Understood) -> Result<(), Fault> {
        let turns = turns(messages, &understood.binds)?;
        let opens = understood.statements().next().is_some_and(|first| matches!(first.kind, Kind::Begin(_)));
        let is_alone = self.status == TransactionStatus::Idle && !opens;
        let holds = is_alone && !understood.is_query();
        let mut held = Vec::new();
        let mut failed = false;
        for (number, turn) in turns.into_iter().enumerate() {
            let gone = self.go_to_turn(turn.shard.as_ref(), opens).await?;
            if gone.is_err() && self.outdated.is_some() && (number == 0 || holds) {
                // Nobody was told of anything, and they are routed anew.
                return if is_alone { self.undo(true).await } else { Ok(()) };
            }
            if let Err(reply) = gone {
                self.outdated = None;
                self.note_refusal(&reply);
                reply.put(&mut self.client.output);
                failed = true;
            } else {
                failed = self.run_turn(&messages[turn.messages], holds).await?;
            }
            self.hold(holds, &mut held)?;
            if failed {
                break;
            }
        }
        if failed {
            self.fail_here().await;
        }
        let commit_error = if is_alone { self.end_alone(failed).await } else { None };
        self.client.output.extend_from_slice(&held);
        match commit_error {
            Some(Committed::Refused(body)) => {
                frontend::put(&mut self.client.output, backend::tag::ERROR_RESPONSE, &[&body]);
            }
            Some(Committed::Lost(reply)) => reply.put(&mut self.client.output),
            Some(Committed::Yes) | None => {}
        }
        put_ready_for_query(&mut self.client.output, self.status);
        self.client.flush().await.map_err(|_| Fault::ClientGone)?;
        self.conclude(understood).await
    }

    /// With the transaction, which is begun where none is open; unless the messages begin it themselves.
    async fn go_to_turn(&mut self, shard: Option<&Arc<str>>, opens: bool) -> Result<Result<(), ErrorReply>, Fault> {
        if opens && self.status == TransactionStatus::Idle {
            let place = shard.map_or(Place::Any, |shard| Place::One(Arc::clone(shard)));
            let demand = Demand::Primary(Reason::Transaction);
            return self.reach_for(&Understood { place, ..Understood::nothing(demand) }).await;
        }
        match shard {
            Some(shard) => self.go_on(shard).await,
            None if self.server.is_some() && self.status != TransactionStatus::Idle => Ok(Ok(())),
            None => match self.shard_for(&Understood::nothing(Demand::Primary(Reason::Transaction))) {
                Ok(shard) => self.go_on(&shard).await,
                Err(reply) => Ok(Err(reply)),
            },
        }
    }

    /// Whether it has failed.
    async fn run_turn(&mut self, messages: &[u8], holds: bool) -> Result<bool, Fault> {
        if let Some(server) = &mut self.server {
            (server.holding, server.hold_limit) = (holds, MAX_HELD);
        }
        let outcome = match self.translate(messages, None).await? {
            Outcome::Done => {
                self.put(|out| frontend::put(out, tag::SYNC, &[]));
                self.expect(Sent::Sync, Audience::Proxy(Purpose::Turn));
                self.relay(if holds { Until::Told } else { Until::Answered }).await?
            }
            other => other,
        };
        match outcome {
            Outcome::Done => {}
            Outcome::ServerLost(words) => return Err(Fault::ServerLost(words)),
            Outcome::Refused(_) => return Err(Fault::ServerLost(None)),
        }
        if holds && !self.server.as_ref().is_some_and(|server| server.holding) {
            return Err(Fault::Fatal(too_long()));
        }
        self.in_batch = false;
        let failed = self.tally.failed.is_some();
        self.account(End::Answered);
        Ok(failed)
    }

    /// Takes what the last server has answered.
    fn hold(&mut self, holds: bool, held: &mut Vec<u8>) -> Result<(), Fault> {
        if !holds {
            return Ok(());
        }
        held.extend_from_slice(&self.client.output.split());
        if let Some(server) = &mut self.server {
            server.holding = false;
            let link = &mut server.checkout.link;
            let marked = std::mem::take(&mut link.ready);
            held.extend_from_slice(&link.input[..marked]);
            link.remove(marked);
        }
        if held.len() > MAX_HELD { Err(Fault::Fatal(too_long())) } else { Ok(()) }
    }

    async fn end_alone(&mut self, failed: bool) -> Option<Committed> {
        let ended = if failed {
            self.roll_back_here().await;
            None
        } else if self.status == TransactionStatus::Transaction {
            Some(self.commit_across().await)
        } else {
            None
        };
        self.status = TransactionStatus::Idle;
        ended
    }
}

fn too_long() -> ErrorReply {
    ErrorReply::fatal("54000", "the answers of a pipeline for several shards are too long")
        .detail(format!("At most {MAX_HELD} bytes are kept until all shards have committed. They have not."))
        .hint("Send it in a transaction block.")
}

/// Cut where the next message is for another shard. `binds`: where each `Bind` is for, in order.
fn turns(messages: &[u8], binds: &[(Box<[u8]>, Place)]) -> Result<Vec<Turn>, Fault> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut portals: HashMap<&[u8], Option<Arc<str>>> = HashMap::new();
    let mut binds = binds.iter();
    let (mut start, mut at, mut shard) = (0, 0, None);
    for frame in Frames::new(messages) {
        let frame = frame?;
        let wanted = match frame.tag {
            tag::BIND => {
                let wanted = match binds.next() {
                    Some((_, Place::One(shard))) => Some(Arc::clone(shard)),
                    _ => None,
                };
                portals.insert(Bind::read(frame.body)?.portal, wanted.clone());
                wanted
            }
            tag::EXECUTE => portals.get(frontend::execute(frame.body)?.0).cloned().flatten(),
            tag::DESCRIBE | tag::CLOSE => match Target::read(frame.body, "Describe")? {
                Target::Portal(portal) => portals.get(portal).cloned().flatten(),
                Target::Statement(_) => None,
            },
            tag::SYNC => break,
            _ => None,
        };
        if wanted.is_some() && shard.is_some() && wanted != shard {
            turns.push(Turn { messages: start..at, shard: shard.take() });
            start = at;
        }
        shard = wanted.or(shard);
        at += frame.bytes.len();
    }
    turns.push(Turn { messages: start..at, shard });
    Ok(turns)
}

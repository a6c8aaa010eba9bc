//! A read that each shard answers for its own rows: all are asked at once, each on a node that is fresh enough for this
//! session on that shard, and the rows go to the client as they come.
//!
//! Only for what is certain ([`crate::sql::merge`]); where it turns out too late that it is not, by the types of the columns,
//! nothing has been told to the client yet, and the statement goes the way that it would have gone otherwise. An error of one
//! shard is the client's error, once; the others are stopped.

mod combine;
mod part;
mod parts;
mod question;
mod request;
mod stream;

use std::sync::Arc;

use super::everywhere::Why;
use super::limits::timed_out;
use super::place::{Merging, Place};
use super::relay::Failure;
use super::serve::Work;
use super::understand::Understood;
use super::{Attached, Fault, Session};
use crate::audit::Event;
use crate::gather::merge::Unmergeable;
use crate::route::{Demand, Reason};
use crate::shard::Charset;
use crate::sql::Gathering;
use crate::wire::ErrorReply;
use crate::wire::backend::{self, TransactionStatus, put_ready_for_query};
use crate::wire::frontend::put;
use parts::{Ending, Left, Parts};
use request::Request;
use stream::{Given, Stream};

/// Settings that change how values are written: where servers have others, their rows do not go together.
const SETTINGS: [&str; 6] =
    ["DateStyle", "IntervalStyle", "TimeZone", "client_encoding", "integer_datetimes", "server_encoding"];

/// What came of asking the shards.
enum Tried {
    /// The client has its rows.
    Given(Given),
    /// They are not asked in this way.
    Unmergeable(Unmergeable),
    /// Nodes have failed it in a way that others may not, and the client has seen nothing.
    Again(Demand),
    Failed(Why),
}

impl Session {
    /// Serves the messages where that can be done; false where it cannot, and nothing has changed.
    pub(super) async fn serve_merged(
        &mut self,
        work: &Work,
        understood: &Understood,
        merging: &Merging,
    ) -> Result<bool, Fault> {
        let is_in_block = match self.status {
            TransactionStatus::Idle if self.server.is_none() => false,
            TransactionStatus::Transaction => true,
            _ => return Ok(false),
        };
        if self.in_batch || !self.pins.is_empty() {
            return Ok(false);
        }
        let request = self.read_merged(work, &merging.gathering)?;
        // In a block a portal that has more rows would have to stay.
        let Some(request) = request.filter(|request| !is_in_block || request.most == 0) else {
            self.undo_names();
            return Ok(false);
        };
        let mut demand = understood.demand;
        loop {
            let servers = match is_in_block {
                false => self.reach_shards(&merging.shards, demand, understood).await?,
                true => self.join_shards(&merging.shards).await?,
            };
            let servers = match servers {
                Ok(servers) => servers,
                Err(reply) if is_in_block => {
                    tracing::debug!(why = %reply.message, "shards' answers are not put together");
                    self.undo_names();
                    return Ok(false);
                }
                // By the map as it is now: all shards are asked, whatever it says.
                Err(_) if self.knows_more().await => continue,
                Err(reply) => {
                    self.named_here.clear();
                    self.refuse(work, &reply).await?;
                    return Ok(true);
                }
            };
            match self.try_merged(&request, &merging.gathering, servers, demand).await? {
                Tried::Given(given) => {
                    self.conclude_merged(&request, understood, given).await?;
                    return Ok(true);
                }
                // There is nobody else to ask.
                Tried::Unmergeable(Unmergeable::TooMuch) if matches!(merging.otherwise, Place::Refused(_)) => {
                    self.named_here.clear();
                    self.fail(work, !is_in_block, Why::Told(combine::too_much())).await?;
                    return Ok(true);
                }
                Tried::Unmergeable(_) => {
                    self.undo_names();
                    self.release_if_free().await;
                    return Ok(false);
                }
                Tried::Again(primary) => {
                    self.release().await;
                    demand = primary;
                }
                Tried::Failed(why) => {
                    self.named_here.clear();
                    self.fail(work, !is_in_block, why).await?;
                    return Ok(true);
                }
            }
        }
    }

    /// A connection to each shard.
    async fn reach_shards(
        &mut self,
        shards: &[Arc<str>],
        demand: Demand,
        understood: &Understood,
    ) -> Result<Result<Vec<Attached>, ErrorReply>, Fault> {
        let mut servers: Vec<Attached> = Vec::with_capacity(shards.len());
        for shard in shards {
            let there = Understood {
                place: Place::One(Arc::clone(shard)),
                runs: understood.runs,
                hinted: understood.hinted,
                ..Understood::nothing(demand)
            };
            let reached = self.reach_for(&there).await?;
            match (reached, self.server.take()) {
                (Ok(()), Some(server)) => servers.push(server),
                (reached, _) => {
                    servers.into_iter().for_each(|server| server.checkout.give_back());
                    let mut reply = reached.err().unwrap_or_else(|| ErrorReply::error("08006", "no server is held"));
                    reply.message = format!("shard \"{shard}\": {}", reply.message);
                    return Ok(Err(reply));
                }
            }
        }
        Ok(Ok(servers))
    }

    /// Goes to each shard with the open transaction: their connections, out of the session's hands.
    async fn join_shards(&mut self, shards: &[Arc<str>]) -> Result<Result<Vec<Attached>, ErrorReply>, Fault> {
        for shard in shards {
            if let Err(reply) = self.go_on(shard).await? {
                return Ok(Err(reply));
            }
        }
        let others = std::mem::take(&mut self.across.others);
        let held = self.server.take().into_iter().chain(others);
        let (servers, others) = held.partition(|server| shards.contains(&server.shard));
        self.across.others = others;
        Ok(Ok(servers))
    }

    /// Asks them. Afterwards one of the connections is at hand, for whoever counts, and the others have been given back, or
    /// wait with the rest of the transaction.
    async fn try_merged(
        &mut self,
        request: &Request,
        gathering: &Gathering,
        servers: Vec<Attached>,
        demand: Demand,
    ) -> Result<Tried, Fault> {
        if !write_alike(&servers) {
            self.keep(Left { servers, lost: Vec::new() }).await?;
            return Ok(Tried::Unmergeable(Unmergeable::Differ));
        }
        match &request.prepared {
            None => self.note_query(&request.analysis, &request.text),
            prepared => self.note_execute(prepared.as_ref()),
        }
        self.overhead.pause();
        let cancellers = servers.iter().map(|server| Arc::clone(&server.checkout.canceller)).collect();
        self.registration.set_all(cancellers);
        self.start_clock(1);
        let deadline = self.deadline.take();
        let is_utf8 = self.charset() == Charset::Utf8;
        let is_in_block = self.status != TransactionStatus::Idle;
        let mut parts = Parts::new(&mut self.client, servers, is_in_block);
        let run = async {
            match gathering {
                Gathering::Merge(merge) => {
                    match (Stream::run(&mut parts, request, merge, is_utf8).await?, &merge.otherwise) {
                        (Err(Ending::Unmergeable(Unmergeable::Order)), Some(plan)) => {
                            combine::combine(&mut parts, request, plan).await
                        }
                        (ran, _) => Ok(ran),
                    }
                }
                Gathering::Combine(plan) => combine::combine(&mut parts, request, plan).await,
            }
        };
        let ran = match deadline {
            None => Some(run.await?),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), run).await.ok().transpose()?,
        };
        let has_begun = parts.has_begun;
        let is_again = |failure: &Option<Failure>| {
            failure.is_some() && !has_begun && !is_in_block && matches!(demand, Demand::Replica(_))
        };
        let tried = match ran {
            Some(Ok(given)) => Tried::Given(given),
            Some(Err(Ending::Unmergeable(unmergeable))) => {
                tracing::debug!(%unmergeable, "shards' answers are not put together");
                Tried::Unmergeable(unmergeable)
            }
            Some(Err(Ending::Failed { is_worth_another, .. })) if is_again(&is_worth_another) => {
                Tried::Again(Demand::Primary(match is_worth_another {
                    Some(failure) if failure.is_a_refused_write() => Reason::RefusedByStandby,
                    _ => Reason::StandbyError,
                }))
            }
            Some(Err(Ending::Failed { why, .. })) => {
                parts.put_answers(request);
                Tried::Failed(in_own_places(why, gathering, &request.text))
            }
            None => {
                parts.put_answers(request);
                Tried::Failed(Why::Told(timed_out()))
            }
        };
        let is_timed_out = matches!(&tried, Tried::Failed(Why::Told(reply)) if *reply == timed_out());
        let left = parts.stop(matches!(tried, Tried::Failed(_))).await?;
        if is_timed_out {
            self.note_time_out(&left);
        }
        match &tried {
            Tried::Failed(why) => self.note_merged_failure(why, left).await?,
            Tried::Given(_) => {
                self.executed.push(Arc::clone(&request.analysis));
                self.note_seen(&left);
                self.keep(left).await?;
            }
            Tried::Unmergeable(_) => {
                self.ledger.clear();
                self.keep(left).await?;
            }
            Tried::Again(demand) => {
                if *demand == Demand::Primary(Reason::RefusedByStandby) {
                    request.analysis.note_refused_by_standby();
                }
                self.ledger.clear();
                self.keep(left).await?;
            }
        }
        Ok(tried)
    }

    /// Gives back all but one, unless they are the open transaction's.
    async fn keep(&mut self, left: Left) -> Result<(), Fault> {
        // A request to cancel must not hit whoever gets one of them next.
        self.registration.clear().await;
        for server in &left.lost {
            tracing::info!(node = %server.checkout.node.name, "connection closed: its part of a merged answer has not ended");
        }
        let is_in_block = self.status != TransactionStatus::Idle;
        if is_in_block && !left.lost.is_empty() {
            return Err(Fault::ServerLost(None));
        }
        let mut servers = left.servers.into_iter();
        self.server = servers.next();
        if is_in_block {
            self.across.others.extend(servers);
        } else {
            servers.for_each(|server| {
                server.checkout.node.note_answer();
                server.checkout.give_back();
            });
        }
        if let Some(server) = &mut self.server {
            server.reason = Reason::Merged;
        }
        self.be_cancelled_here();
        Ok(())
    }

    /// What the rows have shown to this session, on each shard.
    fn note_seen(&mut self, left: &Left) {
        for server in left.servers.iter().chain(&left.lost) {
            self.tell_others(&server.shard, server.role);
            self.note_seen_on(server);
        }
    }

    fn note_time_out(&mut self, left: &Left) {
        self.proxy.metrics.statement_timeouts.increment(1);
        let Some(server) = left.lost.first().or(left.servers.first()) else { return };
        self.proxy.audit.tell(Event::StatementTimedOut {
            who: self.who(),
            node: (&server.checkout.node.name).into(),
            limit_seconds: self.limits.statement_seconds(),
            text: self.text_under_way(),
        });
    }

    async fn note_merged_failure(&mut self, why: &Why, mut left: Left) -> Result<(), Fault> {
        for server in &left.lost {
            server.checkout.node.note_connection_error();
        }
        if left.servers.is_empty()
            && self.status == TransactionStatus::Idle
            && let Some(mut server) = left.lost.pop()
        {
            server.reason = Reason::Merged;
            self.account_lost(&server);
        }
        self.keep(left).await?;
        self.note_failure(why);
        Ok(())
    }

    async fn conclude_merged(&mut self, request: &Request, understood: &Understood, given: Given) -> Result<(), Fault> {
        let out = &mut self.client.output;
        if given.is_suspended {
            self.ledger.answered(0);
            put(out, backend::tag::PORTAL_SUSPENDED, &[]);
        } else {
            self.ledger.answered(given.rows);
            put(out, backend::tag::COMMAND_COMPLETE, &[format!("SELECT {}\0", given.rows).as_bytes()]);
        }
        if !request.is_simple() && self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.tally.completed += 1;
        put_ready_for_query(out, self.status);
        self.client.flush().await.map_err(|_| Fault::ClientGone)?;
        self.conclude(understood).await
    }
}

/// Whether the servers write values alike for this session.
fn write_alike(servers: &[Attached]) -> bool {
    let Some((first, others)) = servers.split_first() else { return false };
    let settings = |server: &Attached| SETTINGS.map(|name| server.checkout.reported.get(name).cloned());
    let known = settings(first);
    others.iter().all(|other| settings(other) == known)
}

/// An error whose place in the text is one in the client's own.
fn in_own_places(why: Why, gathering: &Gathering, text: &[u8]) -> Why {
    let (Why::Refused(body), Gathering::Merge(merge)) = (&why, gathering) else { return why };
    let Ok(own) = std::str::from_utf8(text) else { return why };
    let mut said = Vec::with_capacity(body.len());
    for field in body.split(|byte| *byte == 0).take_while(|field| !field.is_empty()) {
        let place = field.strip_prefix(b"P").and_then(|place| std::str::from_utf8(place).ok()?.parse().ok());
        match place {
            None => said.extend_from_slice(field),
            Some(place) => match merge.place_in(own, place) {
                Some(place) => said.extend_from_slice(format!("P{place}").as_bytes()),
                None => continue,
            },
        }
        said.push(0);
    }
    said.push(0);
    Why::Refused(said.into())
}

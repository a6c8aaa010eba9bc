//! COPY from the client into a table whose rows are on several shards, or are the same on all of them.
//!
//! The statement runs on every shard, in one transaction over all ([`super::across`]); each row goes to the shard that its
//! key says ([`crate::route::rows`]). The client hears of one COPY: of all rows together, after all shards have committed,
//! or of the first error, after which none has. What it sends behind an error is passed over as PostgreSQL does.

mod request;
mod server;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use super::agree::Committed;
use super::everywhere::Why;
use super::ledger::End;
use super::limits::timed_out;
use super::serve::Work;
use super::understand::Understood;
use super::{Attached, Fault, Session};
use crate::route::Demand;
use crate::wire::backend::{self, TransactionStatus, put_ready_for_query};
use crate::wire::frontend::{put, tag};
use crate::wire::{BUFFER_SIZE, ErrorReply, header};
use request::Request;
use stream::{Left, Split, Stream};

/// How the data's way has ended.
enum Copied {
    /// So many rows are in their tables.
    Rows(u64),
    /// None are; the client had not been asked for its data yet, or had been.
    Failed { why: Why, has_begun: bool },
}

impl Session {
    /// Serves a COPY whose rows go to several shards.
    pub(super) async fn serve_copy(&mut self, work: &Work, understood: &Understood) -> Result<(), Fault> {
        let is_alone = self.status == TransactionStatus::Idle;
        let request = match self.read_request(work)? {
            Ok(request) if understood.runs == 1 => request,
            Ok(_) => return self.fail(work, is_alone, Why::Told(not_alone())).await,
            Err(reply) => return self.fail(work, is_alone, Why::Told(reply)).await,
        };
        let (split, width) = match self.plan_copy(&request) {
            Ok(plan) => plan,
            Err(reply) => return self.fail(work, is_alone, Why::Told(reply)).await,
        };
        if let Err(reply) = self.reach_all(understood, &split).await? {
            return self.fail(work, is_alone, Why::Told(reply)).await;
        }
        self.named_here.clear();
        match &request.prepared {
            None => self.note_query(&request.analysis, &request.text),
            prepared => self.note_execute(prepared.as_ref()),
        }
        self.executed.push(Arc::clone(&request.analysis));
        match self.copy(&request, split, width).await? {
            Copied::Rows(rows) => self.conclude_copy(&request, understood, is_alone, rows).await,
            Copied::Failed { why, has_begun } => {
                self.note_failure(&why);
                if self.server.is_none() && !is_alone {
                    return Err(Fault::Fatal(lost_in_block(&why)));
                }
                if has_begun {
                    return self.fail_behind(&request, is_alone, why).await;
                }
                self.client.output.extend_from_slice(&request.answers);
                self.fail(work, is_alone, why).await
            }
        }
    }

    /// A connection to each shard, with the transaction open there; the last of them is the one at hand.
    async fn reach_all(&mut self, understood: &Understood, split: &Split) -> Result<Result<(), ErrorReply>, Fault> {
        let last = match self.shard_for(understood) {
            Ok(shard) => shard,
            Err(reply) => return Ok(Err(reply)),
        };
        let topology = self.proxy.topology.load_full();
        let has = |name: &Arc<str>| topology.shards.iter().any(|shard| shard.name == *name);
        if let Split::ByKey { shards, .. } = split
            && let Some(absent) = shards.iter().find(|name| !has(name))
        {
            return Ok(Err(ErrorReply::error(
                "55000",
                format!("shard \"{absent}\" of the bucket map is not in the config"),
            )));
        }
        for shard in topology.shards.iter().map(|shard| &shard.name).filter(|shard| **shard != last) {
            if let Err(reply) = self.go_on(shard).await? {
                return Ok(Err(reply));
            }
        }
        let gone = self.go_on(&last).await?;
        if let Some(server) = &mut self.server {
            let (Demand::Primary(reason) | Demand::Replica(reason)) = understood.demand;
            server.reason = reason;
        }
        Ok(gone)
    }

    /// Has the data go its way. Afterwards this session has its connections again, but for those that were lost.
    async fn copy(&mut self, request: &Request, split: Split, width: Option<usize>) -> Result<Copied, Fault> {
        self.overhead.pause();
        self.start_clock(1);
        let deadline = self.deadline.take();
        let mut servers = std::mem::take(&mut self.across.others);
        servers.extend(self.server.take());
        let home = servers.last().map(|server| Arc::clone(&server.shard));
        let mut stream = Stream::new(&mut self.client, servers, split, &request.text);
        let mut has_begun = false;
        if let Some(response) = stream.begin().await? {
            if width.is_some_and(|width| columns_of(&response) != Some(width)) {
                stream.fail(Why::Told(other_columns()));
            } else {
                has_begun = true;
                stream.invite(&[&request.answers[..], &response].concat()).await?;
                if within(deadline, stream.take()).await?.is_none() {
                    stream.fail(Why::Told(timed_out()));
                }
            }
        }
        let (result, left) = stream.end().await?;
        self.take_back_servers(left, home);
        Ok(match result {
            Ok(rows) => Copied::Rows(rows),
            Err(why) => Copied::Failed { why, has_begun },
        })
    }

    fn take_back_servers(&mut self, left: Left, home: Option<Arc<str>>) {
        for name in &left.lost {
            tracing::info!(node = %name, "connection lost in a COPY over shards");
        }
        let is_home = |server: &Attached| Some(&server.shard) == home.as_ref();
        let (mut here, others): (Vec<_>, Vec<_>) = left.servers.into_iter().partition(is_home);
        (self.server, self.across.others) = (here.pop(), others);
        self.be_cancelled_here();
    }

    /// The statement under way has failed, and that is all that came of it.
    pub(super) fn note_failure(&mut self, why: &Why) {
        let sqlstate = match why {
            Why::Told(reply) => reply.sqlstate.as_bytes(),
            Why::Refused(body) => backend::sqlstate(body),
        };
        self.ledger.failed(sqlstate.try_into().unwrap_or(*b"XX000"));
        self.account(End::Answered);
        self.executed.clear();
    }

    /// All rows are in: commits them where no transaction block is open, and tells the client.
    async fn conclude_copy(
        &mut self,
        request: &Request,
        understood: &Understood,
        is_alone: bool,
        rows: u64,
    ) -> Result<(), Fault> {
        if !request.is_simple()
            && let Err(reply) = self.await_sync().await?
        {
            return self.fail_behind(request, is_alone, Why::Told(reply)).await;
        }
        if is_alone {
            let committed = self.commit_across().await;
            self.status = TransactionStatus::Idle;
            match committed {
                Committed::Yes => {}
                Committed::Refused(body) => {
                    return self.fail_ended(&Why::Refused((*body).into())).await;
                }
                Committed::Lost(reply) => return self.fail_ended(&Why::Told(reply)).await,
            }
        }
        self.ledger.answered(rows);
        self.tally.completed += 1;
        let out = &mut self.client.output;
        put(out, backend::tag::COMMAND_COMPLETE, &[format!("COPY {rows}\0").as_bytes()]);
        put_ready_for_query(out, self.status);
        self.client.flush().await.map_err(|_| Fault::ClientGone)?;
        self.conclude(understood).await
    }

    /// By the extended protocol the client's transaction, and what it waits for, ends with its `Sync`.
    async fn await_sync(&mut self) -> Result<Result<(), ErrorReply>, Fault> {
        loop {
            let known = header(&self.client.input)?;
            let size = known.map_or(0, |header| header.size);
            match known.map(|header| header.tag) {
                Some(tag::SYNC) if self.client.input.len() >= size => {
                    self.client.remove(size);
                    return Ok(Ok(()));
                }
                Some(tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL) => {
                    let here = size.min(self.client.input.len());
                    self.client.remove(here);
                    self.client.ignore(size - here);
                    continue;
                }
                Some(tag::SYNC) | None => {}
                Some(tag::TERMINATE) => return Err(Fault::ClientGone),
                Some(_) => return Ok(Err(not_alone())),
            }
            if !self.client.fill(BUFFER_SIZE).await.map_err(|_| Fault::ClientGone)? {
                return Err(Fault::ClientGone);
            }
        }
    }

    /// Tells the client why, which has been asked for its data already.
    async fn fail_behind(&mut self, request: &Request, is_alone: bool, why: Why) -> Result<(), Fault> {
        self.undo(is_alone).await?;
        self.put_failure(&why);
        if request.is_simple() {
            put_ready_for_query(&mut self.client.output, self.status);
        } else {
            self.skipping = true;
        }
        self.client.flush().await.map_err(|_| Fault::ClientGone)
    }

    /// Likewise, where nothing more comes from it.
    async fn fail_ended(&mut self, why: &Why) -> Result<(), Fault> {
        self.note_failure(why);
        self.undo(true).await?;
        self.put_failure(why);
        put_ready_for_query(&mut self.client.output, self.status);
        self.client.flush().await.map_err(|_| Fault::ClientGone)
    }

    fn put_failure(&mut self, why: &Why) {
        match why {
            Why::Told(reply) => {
                self.note_refusal(reply);
                reply.put(&mut self.client.output);
            }
            Why::Refused(body) => put(&mut self.client.output, backend::tag::ERROR_RESPONSE, &[body]),
        }
    }
}

/// `None` where the time is over before.
async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<Option<T>, Fault> {
    match deadline {
        None => work.await.map(Some),
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok().transpose(),
    }
}

/// Of a `CopyInResponse`.
fn columns_of(message: &[u8]) -> Option<usize> {
    let count = message.get(6..8)?.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*count)))
}

fn not_alone() -> ErrorReply {
    ErrorReply::error("0A000", "a COPY over shards cannot be sent together with other statements")
        .hint("Send it alone.")
}

fn other_columns() -> ErrorReply {
    ErrorReply::error("0A000", "this COPY cannot be split by shard")
        .detail("Its table has other columns, or generated ones, than pgsluice has read.")
        .hint("Name the columns: COPY table (column, ...) FROM STDIN.")
}

/// A transaction block cannot go on without one of its servers.
fn lost_in_block(why: &Why) -> ErrorReply {
    match why {
        Why::Told(reply) => reply.clone().into_fatal(),
        Why::Refused(body) => super::attach::as_told(body).into_fatal(),
    }
}

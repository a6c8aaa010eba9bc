//! The data of one COPY on its way from the client to several servers at once.
//!
//! One task owns all sockets. From the client no more is read while any server has more than [`MAX_AHEAD`] bytes to take
//! still: the slowest one sets the pace, and memory is bounded. When one server fails, or the client's data cannot be
//! placed, the COPY is ended on all of them; a [`Stream`] always leaves each connection either quiet or lost.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;

use super::super::everywhere::Why;
use super::super::relay::poll_client;
use super::super::{Attached, Fault};
use super::server::{Part, Phase};
use crate::route::rows::{RowError, Splitter, Target};
use crate::wire::frontend;
use crate::wire::{ErrorReply, Link, header};

/// How much a server may have to take still before the client has to wait, in bytes.
const MAX_AHEAD: usize = 256 * 1024;

/// `PQ_SMALL_MESSAGE_LIMIT`: no `CopyFail` is longer.
const MAX_COPY_FAIL: usize = 10_000;

/// How the data is told apart.
#[derive(Debug)]
pub(super) enum Split {
    /// Each row is for one shard: those of the bucket map by their names, in its order.
    ByKey { splitter: Box<Splitter>, table: Box<str>, shards: Vec<Arc<str>> },
    /// Each row is for all.
    ToAll,
}

/// A COPY under way.
#[derive(Debug)]
pub(super) struct Stream<'c> {
    client: &'c mut Link,
    parts: Vec<Part>,
    split: Split,
    /// What is still to come of the client's `CopyData`.
    rest: usize,
    failure: Option<Why>,
}

/// What a stream leaves behind.
#[derive(Debug)]
pub(super) struct Left {
    /// Connections on which all has been said.
    pub(super) servers: Vec<Attached>,
    /// Names of nodes whose connections were lost.
    pub(super) lost: Vec<Arc<str>>,
}

impl<'c> Stream<'c> {
    /// Sends the statement to these servers, the last of which answers the client.
    pub(super) fn new(client: &'c mut Link, servers: Vec<Attached>, split: Split, sql: &[u8]) -> Self {
        let parts = servers.into_iter().map(|server| Part::new(server, sql)).collect();
        Self { client, parts, split, rest: 0, failure: None }
    }

    /// Waits until all servers take data; gives what the client is to be told of that, where none has failed.
    pub(super) async fn begin(&mut self) -> Result<Option<Box<[u8]>>, Fault> {
        self.run(|stream| stream.parts.iter().all(|part| part.phase != Phase::Asked)).await?;
        if self.failure.is_none() && self.parts.iter().any(|part| part.phase != Phase::Copying) {
            self.failure = Some(Why::Told(ErrorReply::error("08P01", "a server does not take the data of a COPY")));
        }
        let response = self.parts.last().map(|part| part.response.clone()).unwrap_or_default();
        Ok(self.failure.is_none().then_some(response))
    }

    /// Tells the client that it can send its data.
    pub(super) async fn invite(&mut self, message: &[u8]) -> Result<(), Fault> {
        self.client.output.extend_from_slice(message);
        self.client.flush().await.map_err(|_| Fault::ClientGone)
    }

    /// Passes on what the client sends, to its end or to a failure.
    pub(super) async fn take(&mut self) -> Result<(), Fault> {
        loop {
            self.hear()?;
            if self.failure.is_some() || self.take_messages()? {
                return Ok(());
            }
            let is_congested = self.is_congested();
            poll_fn(|cx| self.poll_move(cx, !is_congested)).await?;
        }
    }

    /// Something else than a server says that it has failed.
    pub(super) fn fail(&mut self, why: Why) {
        self.failure.get_or_insert(why);
    }

    /// Ends the COPY everywhere, and waits until all is said. How many rows were copied, or why none.
    pub(super) async fn end(mut self) -> Result<(Result<u64, Why>, Left), Fault> {
        self.drop_rest();
        loop {
            let has_failed = self.failure.is_some();
            self.parts.iter_mut().for_each(|part| part.end(has_failed));
            if self.parts.iter().all(Part::is_done) {
                break;
            }
            poll_fn(|cx| self.poll_move(cx, false)).await?;
            self.hear()?;
        }
        let rows = match &self.split {
            Split::ByKey { .. } => self.parts.iter().fold(0u64, |rows, part| rows.saturating_add(part.rows)),
            Split::ToAll => self.parts.last().map_or(0, |part| part.rows),
        };
        let mut left = Left { servers: Vec::new(), lost: Vec::new() };
        for part in self.parts {
            if part.phase == Phase::Lost {
                left.lost.push(Arc::clone(&part.server.checkout.node.name));
            } else {
                left.servers.push(part.server);
            }
        }
        Ok((self.failure.map_or(Ok(rows), Err), left))
    }

    async fn run(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<(), Fault> {
        loop {
            self.hear()?;
            if is_done(self) {
                return Ok(());
            }
            poll_fn(|cx| self.poll_move(cx, false)).await?;
        }
    }

    fn is_congested(&self) -> bool {
        self.parts.iter().any(|part| part.server.checkout.link.output.len() > MAX_AHEAD)
    }

    /// What the client has sent; true at the end of it.
    fn take_messages(&mut self) -> Result<bool, Fault> {
        while !self.is_congested() {
            if self.rest > 0 {
                if self.client.input.is_empty() {
                    return Ok(false);
                }
                if !self.take_data() {
                    return Ok(true);
                }
                continue;
            }
            let Some(header) = header(&self.client.input)? else { return Ok(false) };
            let here = self.client.input.len();
            match header.tag {
                frontend::tag::COPY_DATA => {
                    self.client.input.advance(5);
                    self.rest = header.size - 5;
                }
                frontend::tag::COPY_FAIL if header.size > MAX_COPY_FAIL => {
                    return Ok(self.refuse_message(header.tag, header.size));
                }
                frontend::tag::COPY_DONE | frontend::tag::COPY_FAIL | frontend::tag::SYNC | frontend::tag::FLUSH
                    if here < header.size =>
                {
                    return Ok(false);
                }
                frontend::tag::COPY_DONE => {
                    self.client.input.advance(header.size);
                    self.finish_rows();
                    return Ok(true);
                }
                frontend::tag::COPY_FAIL => {
                    let message = self.client.input.split_to(header.size);
                    let words = message[5..].split(|byte| *byte == 0).next().unwrap_or_default();
                    let words = String::from_utf8_lossy(words);
                    self.fail(Why::Told(ErrorReply::error("57014", format!("COPY from stdin failed: {words}"))));
                    return Ok(true);
                }
                // As PostgreSQL does, for the sake of clients that send them behind an Execute.
                frontend::tag::SYNC | frontend::tag::FLUSH => self.client.input.advance(header.size),
                frontend::tag::TERMINATE => return Err(Fault::ClientGone),
                other => return Ok(self.refuse_message(other, header.size)),
            }
        }
        Ok(false)
    }

    fn refuse_message(&mut self, tag: u8, size: usize) -> bool {
        let here = size.min(self.client.input.len());
        self.client.input.advance(here);
        self.client.ignore(size - here);
        let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
        self.fail(Why::Told(ErrorReply::error("08P01", message)));
        true
    }

    /// What has come of a `CopyData`. False where it cannot be placed: what is left of it nobody gets.
    fn take_data(&mut self) -> bool {
        let size = self.rest.min(self.client.input.len());
        let data = &self.client.input[..size];
        let parts = &mut self.parts;
        let result = match &mut self.split {
            Split::ToAll => {
                parts.iter_mut().for_each(|part| part.put(data));
                Ok(())
            }
            Split::ByKey { splitter, shards, .. } => {
                splitter.feed(data, |target, bytes| give(parts, shards, target, bytes))
            }
        };
        self.parts.iter_mut().for_each(Part::close);
        self.client.input.advance(size);
        self.rest -= size;
        let Err(error) = result else { return true };
        self.fail_row(&error);
        false
    }

    /// Nobody gets what is left of a `CopyData` that has begun.
    fn drop_rest(&mut self) {
        let here = self.rest.min(self.client.input.len());
        self.client.input.advance(here);
        self.client.ignore(self.rest - here);
        self.rest = 0;
    }

    fn finish_rows(&mut self) {
        let Split::ByKey { splitter, shards, .. } = &mut self.split else { return };
        let parts = &mut self.parts;
        let result = splitter.finish(|target, bytes| give(parts, shards, target, bytes));
        self.parts.iter_mut().for_each(Part::close);
        if let Err(error) = result {
            self.fail_row(&error);
        }
    }

    fn fail_row(&mut self, error: &RowError) {
        let Split::ByKey { splitter, table, .. } = &self.split else { return };
        let sqlstate = match error {
            RowError::Null(_) => "23502",
            RowError::Missing(_) | RowError::Format(_) => "22P04",
            RowError::Value { .. } => "0A000",
            RowError::TooLong => "54000",
            RowError::Moving(_) => "40001",
        };
        let place = format!("COPY {table}, line {}", splitter.line());
        self.fail(Why::Told(ErrorReply::error(sqlstate, error.to_string()).detail(place)));
    }

    /// Looks at what the servers have said.
    fn hear(&mut self) -> Result<(), Fault> {
        for part in &mut self.parts {
            if let Some(why) = part.hear(&mut self.client.output)? {
                self.failure.get_or_insert(why);
            }
        }
        Ok(())
    }

    /// Moves what can be moved.
    fn poll_move(&mut self, cx: &mut Context<'_>, hears_client: bool) -> Poll<Result<(), Fault>> {
        let mut has_moved = false;
        for part in self.parts.iter_mut().filter(|part| !part.is_done()) {
            has_moved |= part.poll_move(cx);
        }
        has_moved |= poll_client(self.client, cx, hears_client)?;
        if has_moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

fn give(parts: &mut [Part], shards: &[Arc<str>], target: Target, bytes: &[u8]) {
    let name = match target {
        Target::All => None,
        Target::One(shard) => shards.get(shard),
    };
    let is_for = |part: &&mut Part| name.is_none_or(|name| part.server.shard == *name);
    parts.iter_mut().filter(is_for).for_each(|part| part.put(bytes));
}

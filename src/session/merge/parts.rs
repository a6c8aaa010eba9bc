//! The servers that answer one client together, and the client.
//!
//! One task owns all sockets. [`Parts::stop`] always leaves each connection either quiet or closed.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;

use super::super::everywhere::Why;
use super::super::relay::{Failure, poll_client};
use super::super::{Attached, Fault};
use super::part::{Part, Phase, Trouble};
use super::request::Request;
use crate::gather::merge::{RowShape, Unmergeable};
use crate::wire::backend;
use crate::wire::frontend::put;
use crate::wire::{ErrorReply, Link};

/// How long, and for how many bytes, a server may go on with what nobody wants any more before it is told to stop.
const GRACE: Duration = Duration::from_millis(20);
const MAX_UNWANTED: usize = 256 * 1024;

/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether the monitor has given a node up.
const LOOK: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Ending {
    Failed {
        why: Why,
        is_worth_another: Option<Failure>,
    },
    /// Nothing was told to the client, and nothing has gone wrong.
    Unmergeable(Unmergeable),
}

/// What a stream leaves behind.
#[derive(Debug)]
pub(super) struct Left {
    /// Connections on which all has been said.
    pub(super) servers: Vec<Attached>,
    /// Those that are not to be used again.
    pub(super) lost: Vec<Attached>,
}

/// One answer under way.
#[derive(Debug)]
pub(super) struct Parts<'c> {
    pub(super) client: &'c mut Link,
    /// Those that are asked.
    pub(super) list: Vec<Part>,
    /// Those that have said all that is wanted of them.
    done: Vec<Part>,
    /// Something of the answer has gone to the client.
    pub(super) has_begun: bool,
    /// They go on with the client's transaction afterwards: an error on one of them is the end of it.
    pub(super) is_in_block: bool,
    /// The client is told that the rows look like this, whatever the servers call them.
    pub(super) shown: Option<RowShape>,
    /// How many of the servers' columns only tell the order.
    pub(super) sorting: usize,
}

impl<'c> Parts<'c> {
    pub(super) fn new(client: &'c mut Link, servers: Vec<Attached>, is_in_block: bool) -> Self {
        let list = servers.into_iter().map(Part::new).collect();
        Self { client, list, done: Vec::new(), has_begun: false, is_in_block, shown: None, sorting: 0 }
    }

    pub(super) fn ask(&mut self, messages: &[u8]) {
        self.list.iter_mut().for_each(|part| part.ask(messages));
    }

    /// Until all that were asked have said all; `take` is given what rows there are.
    pub(super) async fn finish(
        &mut self,
        mut take: impl FnMut(&mut Part) -> Result<(), Unmergeable>,
    ) -> Result<Option<Ending>, Fault> {
        loop {
            if let Some(ending) = self.hear()? {
                return Ok(Some(ending));
            }
            for part in &mut self.list {
                if let Err(unmergeable) = take(part) {
                    return Ok(Some(Ending::Unmergeable(unmergeable)));
                }
            }
            if let Some(ending) = self.hear()? {
                return Ok(Some(ending));
            }
            if self.list.iter().all(Part::is_done) {
                return Ok(None);
            }
            if !self.list.iter().any(Part::has_row) {
                self.wait().await?;
            }
        }
    }

    /// What all rows look like; `None` where a server has not said it yet.
    pub(super) fn shape(&self) -> Result<Option<RowShape>, Unmergeable> {
        let Some(first) = self.list.first().and_then(|part| part.shape.as_ref()) else { return Ok(None) };
        for part in &self.list {
            match &part.shape {
                Some(shape) => first.goes_with(shape)?,
                None => return Ok(None),
            }
        }
        Ok(Some(first.clone()))
    }

    /// From now on nobody but the first is asked.
    pub(super) fn keep_first(&mut self) {
        self.done.extend(self.list.drain(1..));
    }

    /// Looks at what the servers have said.
    pub(super) fn hear(&mut self) -> Result<Option<Ending>, Fault> {
        for part in &mut self.list {
            match part.hear(&mut self.client.output)? {
                Some(Trouble::Failed { why, is_worth_another }) => {
                    return Ok(Some(Ending::Failed { why, is_worth_another }));
                }
                Some(Trouble::Unmergeable(unmergeable)) if !self.has_begun => {
                    return Ok(Some(Ending::Unmergeable(unmergeable)));
                }
                Some(Trouble::Unmergeable(_)) => return Ok(Some(misordered())),
                None => {}
            }
        }
        Ok(None)
    }

    /// Until something has moved, or the monitor may know more.
    pub(super) async fn wait(&mut self) -> Result<(), Fault> {
        let moved = tokio::time::timeout(LOOK, poll_fn(|cx| self.poll_move(cx))).await;
        if let Ok(moved) = moved {
            return moved;
        }
        self.list.iter_mut().for_each(Part::note_end_of_life);
        Ok(())
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut has_moved = false;
        for part in self.list.iter_mut().filter(|part| !part.is_done()) {
            has_moved |= part.poll_move(cx);
        }
        has_moved |= poll_client(self.client, cx, true)?;
        if has_moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Stops what is still under way. Nobody wants to know any more what comes of it.
    ///
    /// `has_failed`: so has the client's transaction, if there is one. Otherwise what is stopped would end it.
    pub(super) async fn stop(mut self, has_failed: bool) -> Result<Left, Fault> {
        let ended = if self.is_in_block && !has_failed {
            Ok(self.drain(usize::MAX).await)
        } else {
            tokio::time::timeout(GRACE, self.drain(MAX_UNWANTED)).await
        };
        if !matches!(ended, Ok(Ok(true))) {
            let cancellers: Vec<_> = self.list.iter().filter(|part| !part.is_done()).map(Part::canceller).collect();
            let stop = async {
                // One that cannot be told is given the time to end by itself.
                join_all(cancellers.iter().map(|canceller| canceller.cancel())).await;
                self.drain(usize::MAX).await
            };
            // Those that do not stop are closed.
            if let Ok(Err(fault)) = tokio::time::timeout(STOP_LIMIT, stop).await {
                return Err(fault);
            }
        }
        let (mut servers, mut lost) = (Vec::new(), Vec::new());
        for part in self.list.into_iter().chain(self.done) {
            let is_quiet = part.phase == Phase::Over && part.server.checkout.link.input.is_empty();
            if is_quiet { servers.push(part.server) } else { lost.push(part.server) }
        }
        Ok(Left { servers, lost })
    }

    /// Throws away what comes, until all have said all; false when that was so many bytes before.
    async fn drain(&mut self, most: usize) -> Result<bool, Fault> {
        let mut thrown = 0usize;
        let mut nobody = bytes::BytesMut::new();
        loop {
            for part in &mut self.list {
                thrown = thrown.saturating_add(part.discard());
                // An error is that it was stopped, or one more than the one that is told.
                drop(part.hear(&mut nobody)?);
                thrown = thrown.saturating_add(part.discard());
                nobody.clear();
            }
            if self.list.iter().all(Part::is_done) {
                return Ok(true);
            }
            if thrown > most {
                return Ok(false);
            }
            poll_fn(|cx| {
                let parts = self.list.iter_mut().filter(|part| !part.is_done());
                if parts.fold(false, |moved, part| part.poll_move(cx) | moved) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    /// Of an error that no row has come before: what the client is to be told first.
    pub(super) fn put_answers(&mut self, request: &Request) {
        if self.has_begun {
            return;
        }
        // Those that have not come so far would have.
        let is_parsed = self.list.iter().any(|part| part.is_parsed);
        let is_bound = self.list.iter().any(|part| part.is_bound);
        if is_parsed && request.parses && !request.is_simple() {
            put(&mut self.client.output, backend::tag::PARSE_COMPLETE, &[]);
        }
        if !(is_parsed && is_bound) {
            return;
        }
        if !request.is_simple() {
            put(&mut self.client.output, backend::tag::BIND_COMPLETE, &[]);
        }
        let shape = self.shown.as_ref().or_else(|| self.list.iter().find_map(|part| part.shape.as_ref()));
        if let Some(shape) = shape.filter(|_| request.describes) {
            let columns = shape.len().saturating_sub(self.sorting);
            shape.put(columns, &request.formats, &mut self.client.output);
        }
    }
}

pub(super) fn misordered() -> Ending {
    let reply = ErrorReply::error("XX000", "the answers of the shards cannot be put together")
        .detail("A shard's rows came in another order, or another form, than they must have.")
        .hint("Compare the shards' versions and their collations.");
    Ending::Failed { why: Why::Told(reply), is_worth_another: None }
}

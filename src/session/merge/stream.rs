//! The rows of several servers on their way to one client.
//!
//! One task owns all sockets. From a server no more is read than its buffer takes, and none of it is taken while the client
//! has more than [`MAX_AHEAD`] bytes to take still: the slowest sets the pace, and memory is bounded by one buffer, or one row
//! where that is longer, for each server. A [`Stream`] always leaves each connection either quiet or closed.

use std::cmp::Ordering;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;

use super::super::everywhere::Why;
use super::super::relay::Failure;
use super::super::{Attached, Fault};
use super::part::{Part, Phase, Trouble};
use super::request::Request;
use crate::gather::merge::{Misordered, Order, RowShape, Unmergeable};
use crate::sql::Merge;
use crate::wire::backend;
use crate::wire::frontend::{Bind, Parse, put, put_bind, put_parse, put_statement_target, tag};
use crate::wire::{BUFFER_SIZE, ErrorReply, Link};

/// How much the client may have to take still before the servers have to wait, in bytes.
const MAX_AHEAD: usize = 64 * 1024;

/// How long, and for how many bytes, a server may go on with what nobody wants any more before it is told to stop.
const GRACE: Duration = Duration::from_millis(20);
const MAX_UNWANTED: usize = 256 * 1024;

/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether the monitor has given a node up.
const LOOK: Duration = Duration::from_millis(500);

/// `Describe` and the rest for a portal without a name.
const PORTAL: &[u8] = b"P\0";
const ALL_ROWS: &[u8] = b"\0\0\0\0\0";

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

/// Rows that the client has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) rows: u64,
    /// It wanted no more of them for now.
    pub(super) is_suspended: bool,
}

/// A merge under way.
#[derive(Debug)]
pub(super) struct Stream<'c> {
    client: &'c mut Link,
    request: &'c Request,
    merge: &'c Merge,
    parts: Vec<Part>,
    order: Option<Order>,
    /// How many columns the client gets.
    columns: usize,
    to_pass_over: u64,
    given: u64,
    /// Something of the answer has gone to the client.
    pub(super) has_begun: bool,
}

impl<'c> Stream<'c> {
    pub(super) fn new(client: &'c mut Link, request: &'c Request, merge: &'c Merge, servers: Vec<Attached>) -> Self {
        Self {
            client,
            request,
            merge,
            parts: servers.into_iter().map(Part::new).collect(),
            order: None,
            columns: 0,
            to_pass_over: request.offset,
            given: 0,
            has_begun: false,
        }
    }

    /// Has all servers answer, and the client get the rows.
    pub(super) async fn run(&mut self, is_utf8: bool) -> Result<Result<Given, Ending>, Fault> {
        let asked = if self.merge.sort.is_empty() {
            self.ask_at_once();
            Ok(())
        } else {
            self.ask_sorted(is_utf8).await?
        };
        match asked {
            Ok(()) => self.give().await,
            Err(ending) => Ok(Err(ending)),
        }
    }

    fn parse(&self) -> Vec<u8> {
        let mut messages = bytes::BytesMut::new();
        let text = self.merge.text.as_bytes();
        put_parse(&mut messages, Parse { name: b"", text, types: &self.request.types });
        messages.to_vec()
    }

    fn bind_and_execute(&self, formats: &[[u8; 2]], describes: bool) -> Vec<u8> {
        let mut messages = bytes::BytesMut::new();
        let count = u16::try_from(formats.len()).unwrap_or(u16::MAX).to_be_bytes();
        let rest = [&self.request.parameters[..], &count, &formats.concat()].concat();
        put_bind(&mut messages, Bind { portal: b"", statement: b"", rest: &rest });
        if describes {
            // A server keeps what it has to say until there is enough of it; but what the rows look like must be known of
            // all before the first is given.
            put(&mut messages, tag::DESCRIBE, &[PORTAL]);
            put(&mut messages, tag::FLUSH, &[]);
        }
        put(&mut messages, tag::EXECUTE, &[ALL_ROWS]);
        messages.to_vec()
    }

    fn ask(&mut self, messages: &[u8]) {
        self.parts.iter_mut().for_each(|part| part.ask(messages));
    }

    /// Rows in any order: one round trip.
    fn ask_at_once(&mut self) {
        let messages = [self.parse(), self.bind_and_execute(&self.request.formats, true)].concat();
        self.ask(&messages);
    }

    /// First it must be known what the rows are sorted by.
    async fn ask_sorted(&mut self, is_utf8: bool) -> Result<Result<(), Ending>, Fault> {
        let mut messages = bytes::BytesMut::from(&self.parse()[..]);
        put_statement_target(&mut messages, tag::DESCRIBE, b"");
        self.ask(&messages);
        loop {
            if let Some(ending) = self.hear()? {
                return Ok(Err(ending));
            }
            if self.parts.iter().all(Part::is_done) {
                break;
            }
            self.wait().await?;
        }
        let shape = match self.shape() {
            Ok(Some(shape)) => shape,
            Ok(None) => return Ok(Err(Ending::Unmergeable(Unmergeable::Malformed))),
            Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
        };
        match Order::new(&self.merge.sort, &shape, is_utf8) {
            Ok(order) => self.order = Some(order),
            Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
        }
        let columns = shape.len().saturating_sub(self.merge.sort.len());
        let wanted = &self.request.formats;
        if wanted.len() > 1 && wanted.len() != columns {
            // PostgreSQL's own error for it would count other columns.
            return Ok(Err(Ending::Failed {
                why: Why::Told(ErrorReply::error(
                    "08P01",
                    format!("bind message has {} result formats but query has {columns} columns", wanted.len()),
                )),
                is_worth_another: None,
            }));
        }
        let of = |at: usize| if wanted.len() > 1 { wanted.get(at) } else { wanted.first() };
        let mut formats: Vec<[u8; 2]> = (0..columns).map(|at| of(at).copied().unwrap_or([0, 0])).collect();
        formats.resize(shape.len(), [0, 1]);
        let messages = self.bind_and_execute(&formats, false);
        self.ask(&messages);
        Ok(Ok(()))
    }

    /// What all rows look like; `None` where a server has not said it yet.
    fn shape(&self) -> Result<Option<RowShape>, Unmergeable> {
        let Some(first) = self.parts.first().and_then(|part| part.shape.as_ref()) else { return Ok(None) };
        for part in &self.parts {
            match &part.shape {
                Some(shape) => first.goes_with(shape)?,
                None => return Ok(None),
            }
        }
        Ok(Some(first.clone()))
    }

    async fn give(&mut self) -> Result<Result<Given, Ending>, Fault> {
        let mut shape = None;
        loop {
            if let Some(ending) = self.hear()? {
                return Ok(Err(ending));
            }
            if shape.is_none() {
                match self.shape() {
                    Ok(known) => shape = known,
                    Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
                }
                self.columns = shape.as_ref().map_or(0, RowShape::len).saturating_sub(self.merge.sort.len());
                let told = self.request.told;
                if shape.as_ref().is_some_and(|shape| told != 0 && shape.digest(self.columns) != told) {
                    // asyncpg and JDBC prepare anew, and say nothing, where an error comes from this function.
                    let changed = ErrorReply::error("0A000", "cached plan must not change result type");
                    let why = Why::Told(changed.routine("RevalidateCachedQuery"));
                    return Ok(Err(Ending::Failed { why, is_worth_another: None }));
                }
            }
            if let Some(shape) = &shape {
                let given = match self.order.is_some() {
                    true => self.give_sorted(shape),
                    false => Ok(self.give_any(shape)),
                };
                match given {
                    Ok(None) => {}
                    Ok(Some(given)) => {
                        self.begin(shape);
                        return Ok(Ok(given));
                    }
                    Err(Misordered) => return Ok(Err(misordered())),
                }
            }
            self.wait().await?;
        }
    }

    /// What comes in front of the first row, once.
    fn begin(&mut self, shape: &RowShape) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let out = &mut self.client.output;
        if self.request.parses {
            put(out, backend::tag::PARSE_COMPLETE, &[]);
        }
        if !self.request.is_simple() {
            put(out, backend::tag::BIND_COMPLETE, &[]);
        }
        if self.request.describes {
            shape.put(self.columns, &self.request.formats, out);
        }
    }

    /// Whether the client has all that it wants, and how.
    fn enough(&self) -> Option<Given> {
        let is_suspended = self.request.most > 0 && self.given >= u64::from(self.request.most);
        let is_over = self.request.limit.is_some_and(|limit| self.given >= limit);
        (is_suspended || is_over).then_some(Given { rows: self.given, is_suspended })
    }

    fn end(&self) -> Option<Given> {
        let has_more = |part: &Part| part.has_more() || part.head.is_some();
        (!self.parts.iter().any(has_more)).then_some(Given { rows: self.given, is_suspended: false })
    }

    /// Rows as they come.
    fn give_any(&mut self, shape: &RowShape) -> Option<Given> {
        let mut at = 0;
        loop {
            if let Some(given) = self.enough() {
                return Some(given);
            }
            if self.client.output.len() > MAX_AHEAD {
                return None;
            }
            let Some(part) = self.parts.get_mut(at) else { return self.end() };
            if self.to_pass_over > 0 {
                if part.take_row(None) {
                    self.to_pass_over -= 1
                } else {
                    at += 1
                }
                continue;
            }
            let before = self.client.output.len();
            if !part.take_row(Some(&mut self.client.output)) {
                at += 1;
                continue;
            }
            if !self.has_begun {
                let row = self.client.output.split_off(before);
                self.begin(shape);
                self.client.output.unsplit(row);
            }
            self.given += 1;
        }
    }

    /// A row has been passed on, or over.
    fn count(&mut self) {
        if self.to_pass_over > 0 {
            self.to_pass_over -= 1;
        } else {
            self.given += 1;
        }
    }

    /// The first row of all, again and again.
    fn give_sorted(&mut self, shape: &RowShape) -> Result<Option<Given>, Misordered> {
        let Some(order) = self.order.clone() else { return Ok(None) };
        loop {
            if let Some(given) = self.enough() {
                return Ok(Some(given));
            }
            if self.client.output.len() > MAX_AHEAD {
                return Ok(None);
            }
            let mut first: Option<usize> = None;
            for at in 0..self.parts.len() {
                let part = &mut self.parts[at];
                if !part.find_head(self.columns, &order)? {
                    if part.has_more() {
                        // What it has next may be the first of all.
                        return Ok(None);
                    }
                    continue;
                }
                first = match first {
                    Some(best) => {
                        let ordering = order.compare(&self.parts[at].values, &self.parts[best].values)?;
                        Some(if ordering == Ordering::Less { at } else { best })
                    }
                    None => Some(at),
                };
            }
            let Some(at) = first else { return Ok(self.end()) };
            let is_passed_over = self.to_pass_over > 0;
            if !is_passed_over {
                self.begin(shape);
            }
            let columns = self.columns;
            self.parts[at].take_head(columns, (!is_passed_over).then_some(&mut self.client.output));
            self.count();
        }
    }

    /// Looks at what the servers have said.
    fn hear(&mut self) -> Result<Option<Ending>, Fault> {
        for part in &mut self.parts {
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
    async fn wait(&mut self) -> Result<(), Fault> {
        let moved = tokio::time::timeout(LOOK, poll_fn(|cx| self.poll_move(cx))).await;
        if let Ok(moved) = moved {
            return moved;
        }
        self.parts.iter_mut().for_each(Part::note_end_of_life);
        Ok(())
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let mut has_moved = false;
        for part in self.parts.iter_mut().filter(|part| !part.is_done()) {
            has_moved |= part.poll_move(cx);
        }
        if !self.client.is_flushed() {
            match self.client.poll_write_output(cx) {
                Poll::Ready(Ok(())) => has_moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => {}
            }
        }
        if self.client.input.len() < BUFFER_SIZE {
            match self.client.poll_fill(cx, BUFFER_SIZE) {
                Poll::Ready(Ok(1..)) => has_moved = true,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => {}
            }
        }
        if has_moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Stops what is still under way. Nobody wants to know any more what comes of it.
    pub(super) async fn stop(mut self) -> Result<Left, Fault> {
        let ended = tokio::time::timeout(GRACE, self.drain(MAX_UNWANTED)).await;
        if !matches!(ended, Ok(Ok(true))) {
            let cancellers: Vec<_> = self.parts.iter().filter(|part| !part.is_done()).map(Part::canceller).collect();
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
        for part in self.parts {
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
            for part in &mut self.parts {
                thrown = thrown.saturating_add(part.discard());
                // An error is that it was stopped, or one more than the one that is told.
                drop(part.hear(&mut nobody)?);
                thrown = thrown.saturating_add(part.discard());
                nobody.clear();
            }
            if self.parts.iter().all(Part::is_done) {
                return Ok(true);
            }
            if thrown > most {
                return Ok(false);
            }
            poll_fn(|cx| {
                let parts = self.parts.iter_mut().filter(|part| !part.is_done());
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
    pub(super) fn put_answers(&mut self) {
        if self.has_begun || self.request.is_simple() {
            return;
        }
        let (is_parsed, is_bound) = self
            .parts
            .iter()
            .fold((true, true), |(parsed, bound), part| (parsed && part.is_parsed, bound && part.is_bound));
        if is_parsed && self.request.parses {
            put(&mut self.client.output, backend::tag::PARSE_COMPLETE, &[]);
        }
        if is_parsed && is_bound {
            put(&mut self.client.output, backend::tag::BIND_COMPLETE, &[]);
        }
    }
}

fn misordered() -> Ending {
    let reply = ErrorReply::error("XX000", "the answers of the shards cannot be put together")
        .detail("A shard's rows came in another order, or another form, than they must have.")
        .hint("Compare the shards' versions and their collations.");
    Ending::Failed { why: Why::Told(reply), is_worth_another: None }
}

//! One server's part in a merged answer: what it is sent, what it has said, and the row that is next.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};

use super::super::everywhere::Why;
use super::super::exchange::failure;
use super::super::relay::{Failure, is_farewell};
use super::super::{Attached, Fault};
use crate::gather::merge::{Misordered, Order, RowShape, Unmergeable, cut};
use crate::pool::note_parameter;
use crate::topology::Role;
use crate::wire::backend::tag;
use crate::wire::frontend::{self, put};
use crate::wire::{BUFFER_SIZE, ErrorReply, header};

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has been sent something, or gives rows.
    Asked,
    /// It has no more rows.
    Ended,
    /// It has said all.
    Over,
    /// The connection is gone.
    Lost,
}

/// What has gone wrong on one server.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The statement has failed.
    Failed {
        why: Why,
        /// Another node of the shard may do better.
        is_worth_another: Option<Failure>,
    },
    /// The answer cannot be merged.
    Unmergeable(Unmergeable),
}

/// The row that is next.
#[derive(Debug)]
pub(super) struct Head {
    /// Of the whole message.
    pub(super) size: usize,
    /// Of its body, without the columns that it is sorted by.
    pub(super) kept: usize,
}

/// One server.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) server: Attached,
    pub(super) phase: Phase,
    pub(super) shape: Option<RowShape>,
    pub(super) head: Option<Head>,
    /// By which the row that is next is sorted, or else the last one.
    pub(super) values: Vec<Option<Box<[u8]>>>,
    has_values: bool,
    /// How much of a row that nobody wants is still to come.
    rest: usize,
    pub(super) is_parsed: bool,
    pub(super) is_bound: bool,
    /// The types of its parameters, as in `Parse`, where it was asked for them.
    pub(super) parameters: Option<Box<[u8]>>,
}

impl Part {
    pub(super) fn new(mut server: Attached) -> Self {
        server.checkout.unnamed = None;
        Self {
            server,
            phase: Phase::Over,
            shape: None,
            head: None,
            values: Vec::new(),
            has_values: false,
            rest: 0,
            is_parsed: false,
            is_bound: false,
            parameters: None,
        }
    }

    /// Before another question: what it has said to the last one.
    pub(super) fn forget(&mut self) {
        (self.shape, self.parameters) = (None, None);
        (self.is_parsed, self.is_bound) = (false, false);
    }

    /// Puts messages into its output, the last of which is a `Sync`.
    pub(super) fn ask(&mut self, messages: &[u8]) {
        self.server.checkout.link.output.extend_from_slice(messages);
        put(&mut self.server.checkout.link.output, frontend::tag::SYNC, &[]);
        self.phase = Phase::Asked;
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Over | Phase::Lost)
    }

    /// Whether it may still have rows that are not here.
    pub(super) fn has_more(&self) -> bool {
        self.phase == Phase::Asked
    }

    pub(super) fn poll_move(&mut self, cx: &mut Context<'_>) -> bool {
        let link = &mut self.server.checkout.link;
        let mut has_moved = link.poll_send(cx);
        // A row is held whole; one that nobody wants is not.
        let size = header(link.unmarked()).ok().flatten().filter(|_| self.rest == 0).map_or(0, |header| header.size);
        let limit = BUFFER_SIZE.max(size);
        if link.input.len() < limit {
            match link.poll_fill(cx, limit) {
                Poll::Ready(Ok(1..)) => has_moved = true,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.server.eof = true;
                    self.phase = Phase::Lost;
                    has_moved = true;
                }
                Poll::Pending => {}
            }
        }
        has_moved
    }

    /// The node's life in which the connection was made is over, as far as the monitor knows.
    pub(super) fn note_end_of_life(&mut self) {
        let connection = &self.server.checkout;
        if !self.is_done() && connection.node.incarnation() != connection.incarnation {
            self.phase = Phase::Lost;
        }
    }

    /// Takes what the server has said, up to its next row.
    pub(super) fn hear(&mut self, client: &mut BytesMut) -> Result<Option<Trouble>, Fault> {
        let mut trouble = None;
        while self.rest == 0 {
            let connection = &mut *self.server.checkout;
            let Some(header) = header(connection.link.unmarked()).map_err(Fault::ServerFrame)? else { break };
            if header.tag == tag::DATA_ROW || connection.link.unmarked().len() < header.size {
                break;
            }
            let message = connection.link.input.split_to(header.size);
            let body = &message[5..];
            match header.tag {
                tag::PARSE_COMPLETE => self.is_parsed = true,
                tag::BIND_COMPLETE => self.is_bound = true,
                tag::ROW_DESCRIPTION => match RowShape::read(body) {
                    Ok(shape) => self.shape = Some(shape),
                    Err(unmergeable) => trouble = Some(Trouble::Unmergeable(unmergeable)),
                },
                tag::PARAMETER_DESCRIPTION => self.parameters = Some(body.into()),
                tag::NO_DATA => trouble = Some(Trouble::Unmergeable(Unmergeable::Malformed)),
                tag::COMMAND_COMPLETE => self.phase = Phase::Ended,
                tag::READY_FOR_QUERY => self.phase = Phase::Over,
                tag::ERROR_RESPONSE => {
                    if is_farewell(body) {
                        self.phase = Phase::Lost;
                        continue;
                    }
                    let failure = failure(body);
                    let is_replica = self.server.role == Role::Replica;
                    trouble = Some(Trouble::Failed {
                        why: Why::Refused(body.into()),
                        is_worth_another: Some(failure).filter(|failure| is_replica && failure.is_worth_another_node()),
                    });
                }
                tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => client.extend_from_slice(&message),
                tag::PARAMETER_STATUS => drop(note_parameter(&mut connection.reported, body)),
                _ => {}
            }
        }
        Ok(trouble.or_else(|| self.loss()))
    }

    fn loss(&self) -> Option<Trouble> {
        let (name, shard) = (&self.server.checkout.node.name, &self.server.shard);
        let lost = || ErrorReply::error("08006", format!("connection to {name} of shard \"{shard}\" was lost"));
        let is_replica = self.server.role == Role::Replica;
        (self.phase == Phase::Lost)
            .then(|| Trouble::Failed { why: Why::Told(lost()), is_worth_another: is_replica.then_some(Failure::LOST) })
    }

    /// Whether the next row is here, as a whole, with what it is sorted by behind its first `columns`.
    pub(super) fn find_head(&mut self, columns: usize, order: &Order) -> Result<bool, Misordered> {
        if self.head.is_some() {
            return Ok(true);
        }
        let unmarked = self.server.checkout.link.unmarked();
        let Some(header) = header(unmarked).ok().flatten() else { return Ok(false) };
        let (tag::DATA_ROW, Some(message)) = (header.tag, unmarked.get(..header.size)) else { return Ok(false) };
        let (kept, values) = cut(&message[5..], columns).ok_or(Misordered)?;
        let values: Vec<Option<Box<[u8]>>> = values.into_iter().map(|value| value.map(Into::into)).collect();
        if self.has_values && order.compare(&self.values, &values)?.is_gt() {
            return Err(Misordered);
        }
        (self.values, self.has_values) = (values, true);
        self.head = Some(Head { size: header.size, kept });
        Ok(true)
    }

    /// Moves the row that is next to the client, or away.
    pub(super) fn take_head(&mut self, columns: usize, client: Option<&mut BytesMut>) {
        let Some(head) = self.head.take() else { return };
        let message = self.server.checkout.link.input.split_to(head.size);
        if let (Some(client), Some(row)) = (client, message.get(7..5 + head.kept)) {
            let count = u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes();
            put(client, tag::DATA_ROW, &[&count, row]);
        }
    }

    /// Moves the row that is next to the client as it is, or away; false where it is not here as a whole.
    pub(super) fn take_row(&mut self, client: Option<&mut BytesMut>) -> bool {
        let input = &mut self.server.checkout.link.input;
        let known = header(input).ok().flatten().filter(|header| header.tag == tag::DATA_ROW);
        let Some(header) = known.filter(|header| header.size <= input.len()) else { return false };
        let row = input.split_to(header.size);
        if let Some(client) = client {
            client.extend_from_slice(&row);
        }
        true
    }

    /// Whether a row is here as a whole.
    pub(super) fn has_row(&self) -> bool {
        let input = self.server.checkout.link.unmarked();
        let known = header(input).ok().flatten().filter(|header| header.tag == tag::DATA_ROW);
        known.is_some_and(|header| header.size <= input.len())
    }

    /// Takes all rows that are here.
    pub(super) fn take_values(&mut self, mut take: impl FnMut(&[Option<&[u8]>])) -> Result<(), Unmergeable> {
        while self.has_row() {
            let input = &mut self.server.checkout.link.input;
            let Some(header) = header(input).ok().flatten() else { break };
            let row = input.split_to(header.size);
            let (_, values) = cut(row.get(5..).unwrap_or_default(), 0).ok_or(Unmergeable::Malformed)?;
            take(&values);
        }
        Ok(())
    }

    /// Throws away what rows are here; how many bytes.
    pub(super) fn discard(&mut self) -> usize {
        let mut thrown = 0;
        self.head = None;
        loop {
            let input = &mut self.server.checkout.link.input;
            let piece = self.rest.min(input.len());
            input.advance(piece);
            self.rest -= piece;
            thrown += piece;
            match header(input).ok().flatten() {
                Some(header) if self.rest == 0 && header.tag == tag::DATA_ROW => self.rest = header.size,
                _ => return thrown,
            }
        }
    }

    /// What a server is asked to stop by.
    pub(super) fn canceller(&self) -> Arc<crate::pool::Canceller> {
        Arc::clone(&self.server.checkout.canceller)
    }
}

//! One server's part in a COPY: what it is sent, how far it is, and what it says.
//!
//! It is sent the statement as a simple query, whatever the client's protocol: it then ends with a `ReadyForQuery`, also
//! behind an error, and ignores what data is still on its way.

use std::task::{Context, Poll};

use bytes::BytesMut;

use super::super::everywhere::Why;
use super::super::relay::is_farewell;
use super::super::{Attached, Fault};
use crate::pool::note_parameter;
use crate::wire::backend::{self, tag};
use crate::wire::frontend::{self, put, put_query};
use crate::wire::{BUFFER_SIZE, ErrorReply, header};

/// How far a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has been sent the statement.
    Asked,
    /// It takes data.
    Copying,
    /// It has been told that there is no more.
    Ended,
    /// It has said all.
    Over,
    /// The connection is gone.
    Lost,
}

/// One server.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) server: Attached,
    pub(super) phase: Phase,
    pub(super) rows: u64,
    /// Its `CopyInResponse`.
    pub(super) response: Box<[u8]>,
    /// Where the `CopyData` begins that is being written.
    open: Option<usize>,
}

impl Part {
    /// Sends the statement.
    pub(super) fn new(mut server: Attached, sql: &[u8]) -> Self {
        server.checkout.unnamed = None;
        put_query(&mut server.checkout.link.output, sql);
        Self { server, phase: Phase::Asked, rows: 0, response: [].into(), open: None }
    }

    /// Tells a server that takes data that there is no more, or that none of it counts.
    pub(super) fn end(&mut self, has_failed: bool) {
        if self.phase != Phase::Copying {
            return;
        }
        let output = &mut self.server.checkout.link.output;
        if has_failed {
            put(output, frontend::tag::COPY_FAIL, &[b"refused by pgsluice\0"]);
        } else {
            put(output, frontend::tag::COPY_DONE, &[]);
        }
        self.phase = Phase::Ended;
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Over | Phase::Lost)
    }

    /// Data, in one message with what was put before and not closed.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let output = &mut self.server.checkout.link.output;
        if self.open.is_none() {
            self.open = Some(output.len());
            output.extend_from_slice(&[frontend::tag::COPY_DATA, 0, 0, 0, 0]);
        }
        output.extend_from_slice(bytes);
    }

    pub(super) fn close(&mut self) {
        let Some(start) = self.open.take() else { return };
        let output = &mut self.server.checkout.link.output;
        // At most a piece of the client's, and what was held of a row.
        let length = u32::try_from(output.len() - start - 1).unwrap_or(u32::MAX);
        output[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    pub(super) fn poll_move(&mut self, cx: &mut Context<'_>) -> bool {
        let link = &mut self.server.checkout.link;
        let mut has_moved = link.poll_send(cx);
        let size = header(link.unmarked()).ok().flatten().map_or(0, |header| header.size);
        match link.poll_fill(cx, (link.input.len() + 1).max(BUFFER_SIZE).max(size)) {
            Poll::Ready(Ok(1..)) => has_moved = true,
            Poll::Ready(Ok(0) | Err(_)) => {
                self.server.eof = true;
                self.phase = Phase::Lost;
                has_moved = true;
            }
            Poll::Pending => {}
        }
        has_moved
    }

    /// Takes what the server has said. Why the COPY has failed, where it says that.
    pub(super) fn hear(&mut self, client: &mut BytesMut) -> Result<Option<Why>, Fault> {
        let mut failure = None;
        let connection = &mut *self.server.checkout;
        while let Some(header) = header(connection.link.unmarked()).map_err(Fault::ServerFrame)? {
            if connection.link.unmarked().len() < header.size {
                break;
            }
            let message = connection.link.input.split_to(header.size);
            let body = &message[5..];
            match header.tag {
                tag::COPY_IN_RESPONSE => {
                    self.response = message[..].into();
                    self.phase = Phase::Copying;
                }
                tag::COMMAND_COMPLETE => self.rows = backend::rows(body),
                tag::READY_FOR_QUERY => self.phase = Phase::Over,
                tag::ERROR_RESPONSE => {
                    if is_farewell(body) {
                        self.phase = Phase::Lost;
                    }
                    failure = Some(Why::Refused(with_shard(body, &self.server.shard)));
                    if self.phase == Phase::Copying {
                        self.phase = Phase::Ended;
                    }
                }
                tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => client.extend_from_slice(&message),
                tag::PARAMETER_STATUS => drop(note_parameter(&mut connection.reported, body)),
                _ => {}
            }
        }
        if self.phase == Phase::Lost && failure.is_none() {
            let name = &connection.node.name;
            failure = Some(Why::Told(ErrorReply::error("08006", format!("connection to {name} was lost"))));
        }
        Ok(failure)
    }
}

/// A server counts the lines that it was sent: its error says whose they are.
fn with_shard(body: &[u8], shard: &str) -> Box<[u8]> {
    let fields = body.split(|byte| *byte == 0).take_while(|field| !field.is_empty());
    let mut said = Vec::with_capacity(body.len() + 64);
    for field in fields {
        said.extend_from_slice(field);
        if field.starts_with(b"WCOPY ") {
            said.extend_from_slice(format!("\nlines are counted among those for shard \"{shard}\"").as_bytes());
        }
        said.push(0);
    }
    said.push(0);
    said.into()
}

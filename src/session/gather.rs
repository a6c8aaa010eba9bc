//! What a client wants done next: whole messages, up to the point where it waits for an answer.

use std::io;

use bytes::BytesMut;

use super::Session;
use crate::wire::frontend::tag;
use crate::wire::{BUFFER_SIZE, FrameError, Header, header};

/// Bytes of a pipeline that are looked at together before it is sent on in parts.
const MAX_BATCH: usize = 256 * 1024;

/// Bytes of a pipeline after which it is sent on in parts already if no more of it can change its way. So its answers,
/// an error among them, come while the rest of it is still being sent, as on a direct connection.
const ENOUGH: usize = BUFFER_SIZE;

/// Some of a client's messages.
#[derive(Debug)]
pub enum Gathered {
    /// Whole messages that end with one after which the client waits (`Query`, `Sync`, `Flush`, `FunctionCall`).
    Batch(BytesMut),
    /// Whole messages of a pipeline that goes on.
    Part(BytesMut),
    /// A message that is too long to be held: its header and its first bytes are in the input.
    Long(Header),
    /// The client says goodbye, or is gone.
    End,
}

/// Why a client cannot be listened to any longer.
#[derive(Debug, thiserror::Error)]
pub enum ClientFault {
    /// The connection broke.
    #[error("the connection to the client broke: {0}")]
    Io(#[from] io::Error),
    /// What it sends is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message type that no client may send.
    #[error("invalid frontend message type {0}")]
    Type(u8),
}

impl Session {
    /// Reads on until there is something to do. While a server connection is held, what that says
    /// unasked is passed on meanwhile.
    pub(super) async fn gather(&mut self) -> Result<Gathered, super::Fault> {
        let limit = self.longest_message().max(MAX_BATCH) + BUFFER_SIZE;
        // With several shards every statement of it may be for another one.
        let (mut scanned, mut is_asked) = (0, self.config.shards.len() > 1);
        loop {
            if let Some(gathered) = self.scan_batch(&mut scanned, limit)? {
                return Ok(gathered);
            }
            if scanned > 0 && self.client.input.len() >= ENOUGH && !is_asked {
                is_asked = true;
                if self.is_decided(&self.client.input[..scanned])? {
                    return Ok(self.part(scanned));
                }
            }
            if self.client.input.is_empty() {
                // Who is silent keeps no memory for what it may say.
                self.client.shrink(0, 0);
            }
            if !self.listen(limit).await? {
                return Ok(Gathered::End);
            }
        }
    }

    fn longest_message(&self) -> usize {
        self.config.limits.max_statement_bytes
    }

    /// Looks at the messages behind the first `scanned` bytes of the input.
    fn scan_batch(&mut self, scanned: &mut usize, limit: usize) -> Result<Option<Gathered>, ClientFault> {
        loop {
            let Some(header) = header(&self.client.input[*scanned..])? else {
                // Where not even the next header fits, what is whole must go first.
                let is_full = self.client.input.len() >= limit && *scanned > 0;
                return Ok(is_full.then(|| self.part(*scanned)));
            };
            let is_whole = self.client.input.len() >= *scanned + header.size;
            match header.tag {
                tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL if *scanned == 0 => {
                    // Left over from a COPY that failed: PostgreSQL ignores them too.
                    let here = header.size.min(self.client.input.len());
                    self.client.remove(here);
                    self.client.ignore(header.size - here);
                }
                tag::TERMINATE if *scanned == 0 => return Ok(Some(Gathered::End)),
                tag::TERMINATE | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {
                    return Ok(Some(self.part(*scanned)));
                }
                tag::QUERY | tag::FUNCTION_CALL if *scanned > 0 => return Ok(Some(self.part(*scanned))),
                tag::QUERY | tag::SYNC | tag::FLUSH | tag::FUNCTION_CALL if is_whole => {
                    let end = *scanned + header.size;
                    return Ok(Some(Gathered::Batch(self.cut_off(end))));
                }
                tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE if is_whole => {
                    *scanned += header.size
                }
                tag::QUERY
                | tag::SYNC
                | tag::FLUSH
                | tag::FUNCTION_CALL
                | tag::PARSE
                | tag::BIND
                | tag::DESCRIBE
                | tag::EXECUTE
                | tag::CLOSE => {
                    return Ok(match *scanned {
                        0 if header.size > limit - BUFFER_SIZE && self.client.input.len() >= BUFFER_SIZE => {
                            Some(Gathered::Long(header))
                        }
                        1.. if *scanned + header.size > limit || self.client.input.len() >= limit => {
                            Some(self.part(*scanned))
                        }
                        _ => None,
                    });
                }
                other => return Err(ClientFault::Type(other)),
            }
        }
    }

    fn part(&mut self, size: usize) -> Gathered {
        Gathered::Part(self.cut_off(size))
    }

    /// The first bytes of the input; mostly it is all of it, and there is nothing to share a buffer with.
    fn cut_off(&mut self, size: usize) -> BytesMut {
        let input = &mut self.client.input;
        if input.len() == size { std::mem::take(input) } else { input.split_to(size) }
    }
}

//! A server connection with the proxy alone: statements of its own, while no client is looking.
//!
//! For a connection on which all that the client asked for has been answered. Where a part of the answer is still held
//! back, it stays where it is.

use bytes::Bytes;

use super::Attached;
use crate::commit::{Participant, Refusal, RunError, ShardName};
use crate::pool::note_parameter;
use crate::wire::backend::tag;
use crate::wire::frontend::put_query;
use crate::wire::{BUFFER_SIZE, header};

/// What a server has said to a statement of the proxy's own that did not fail.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The last `CommandComplete`.
    pub(super) tag: Vec<u8>,
    /// The bodies of the rows.
    pub(super) rows: Vec<Box<[u8]>>,
}

impl Attached {
    /// Runs one simple query, of one statement or several.
    pub(super) async fn run_own(&mut self, sql: &str) -> Result<Own, RunError> {
        let lost = |_| RunError::Lost(None);
        put_query(&mut self.checkout.link.output, sql.as_bytes());
        self.checkout.unnamed = None;
        self.checkout.link.flush().await.map_err(lost)?;
        let (mut own, mut refused) = (Own::default(), None);
        loop {
            let link = &mut self.checkout.link;
            let known = header(link.unmarked()).map_err(|_| RunError::Lost(None))?;
            let Some(header) = known.filter(|header| header.size <= link.unmarked().len()) else {
                let size = known.map_or(0, |header| header.size);
                let limit = (link.input.len() + BUFFER_SIZE).max(link.ready + size + 1);
                if !link.fill(limit).await.map_err(lost)? {
                    self.eof = true;
                    return Err(RunError::Lost(refused));
                }
                continue;
            };
            let body = Bytes::copy_from_slice(&link.unmarked()[5..header.size]);
            link.remove(header.size);
            match header.tag {
                tag::READY_FOR_QUERY => return refused.map_or(Ok(own), |refused| Err(RunError::Refused(refused))),
                tag::ERROR_RESPONSE if super::relay::is_farewell(&body) => {
                    return Err(RunError::Lost(Some(Refusal(body))));
                }
                tag::ERROR_RESPONSE => refused = Some(Refusal(body)),
                tag::COMMAND_COMPLETE => own.tag = body.strip_suffix(b"\0").unwrap_or(&body).to_vec(),
                tag::DATA_ROW => own.rows.push(body.as_ref().into()),
                tag::PARAMETER_STATUS => {
                    note_parameter(&mut self.checkout.reported, &body);
                }
                _ => {}
            }
        }
    }
}

/// A part of a transaction over several shards.
#[derive(Debug)]
pub(super) struct Part<'a> {
    server: &'a mut Attached,
    shard: ShardName,
}

impl<'a> Part<'a> {
    /// `None` for a shard with a name that the config would not have taken.
    pub(super) fn new(server: &'a mut Attached) -> Option<Self> {
        let shard = server.shard.parse().ok()?;
        Some(Self { server, shard })
    }
}

impl Participant for Part<'_> {
    fn shard(&self) -> &ShardName {
        &self.shard
    }

    async fn run(&mut self, sql: &str) -> Result<(), RunError> {
        self.server.run_own(sql).await.map(drop)
    }
}

/// The first column of a row of texts.
pub(super) fn first_text(row: &[u8]) -> Option<&str> {
    texts(row).next().flatten()
}

/// The columns of a row of texts; `None` for NULL, and for what is no UTF-8.
pub(super) fn texts(row: &[u8]) -> impl Iterator<Item = Option<&str>> {
    values(row).map(|value| std::str::from_utf8(value?).ok())
}

/// The columns of a row; `None` for NULL.
pub(super) fn values(row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = row.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, tail) = tail.split_at_checked(length.unwrap_or(0))?;
        rest = tail;
        Some(length.map(|_| value))
    })
}

//! What each shard gets of a statement for several: the same text, or an INSERT's rows that are its own.

use std::collections::HashSet;
use std::sync::Arc;

use super::Session;
use super::returned::Returned;
use super::serve::Work;
use super::understand::Understood;
use crate::sql::{Kind, Lexer, TokenKind, with_rows};
use crate::wire::frontend::{self, Bind, Parse, tag};
use crate::wire::{ErrorReply, Frames};

/// What a statement does on several shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scatter {
    /// The same on all of them, with the same outcome.
    Same,
    /// Likewise, but on each in no transaction ([`super::alone`]); in a transaction block as [`Scatter::Same`].
    Alone,
    /// The same on all of them; each changes its own rows, and the numbers of rows add up.
    Own,
    /// It puts in rows: for each of them, in the text's order, its shard. The numbers of rows add up.
    Rows(Arc<[Arc<str>]>),
}

/// A text that stands for the client's own on one shard.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) text: Box<[u8]>,
    /// As in `Parse`; of a simple query none.
    pub(super) types: Vec<u8>,
    /// As in [`Bind::rest`].
    pub(super) rest: Vec<u8>,
}

/// The OID of `text`.
const TEXT: u32 = 25;

impl Scatter {
    /// Whether the client is told the sum of all shards' rows.
    pub(super) fn adds_up(&self) -> bool {
        !matches!(self, Self::Same | Self::Alone)
    }

    /// Where the rows are kept that these shards return.
    pub(super) fn returned<'s>(&self, shards: impl Iterator<Item = &'s Arc<str>>) -> Returned {
        let rows = match self {
            Self::Rows(rows) => Some(Arc::clone(rows)),
            Self::Same | Self::Alone | Self::Own => None,
        };
        Returned::new(shards.cloned().collect(), rows)
    }

    /// Which of the shards take part.
    pub(super) fn involves(&self, shard: &Arc<str>) -> bool {
        match self {
            Self::Same | Self::Alone | Self::Own => true,
            Self::Rows(rows) => rows.contains(shard),
        }
    }
}

impl Session {
    /// What `shard` gets instead of the client's text: `Ok(None)` is the same.
    ///
    /// # Errors
    /// The text cannot be taken apart.
    pub(super) fn part_of(
        &self,
        messages: &[u8],
        scatter: &Scatter,
        shard: &Arc<str>,
    ) -> Result<Option<Part>, Unsplittable> {
        let Scatter::Rows(rows) = scatter else { return Ok(None) };
        let keeps = |number: usize| rows.get(number) == Some(shard);
        let mut parsed: Option<Parse<'_>> = None;
        for frame in Frames::new(messages) {
            let frame = frame.map_err(|_| Unsplittable)?;
            match frame.tag {
                tag::QUERY => {
                    let text = frontend::query(frame.body).map_err(|_| Unsplittable)?;
                    let text = split(text, rows.len(), keeps)?;
                    return Ok(Some(Part { text, types: Vec::new(), rest: Vec::new() }));
                }
                tag::PARSE => parsed = Some(Parse::read(frame.body).map_err(|_| Unsplittable)?),
                tag::BIND => {
                    let bind = Bind::read(frame.body).map_err(|_| Unsplittable)?;
                    let here =
                        parsed.filter(|parse| parse.name == bind.statement).map(|parse| (parse.text, parse.types));
                    let held = || {
                        self.statements.get(bind.statement).map(|held| (&*held.statement.text, &*held.statement.types))
                    };
                    let (text, types) = here.or_else(held).ok_or(Unsplittable)?;
                    return part_of_bind(bind, split(text, rows.len(), keeps)?, types).map(Some);
                }
                _ => {}
            }
        }
        Err(Unsplittable)
    }
}

/// It cannot be taken apart.
#[derive(Debug)]
pub(super) struct Unsplittable;

fn split(text: &[u8], count: usize, keeps: impl Fn(usize) -> bool) -> Result<Box<[u8]>, Unsplittable> {
    let text = std::str::from_utf8(text).map_err(|_| Unsplittable)?;
    with_rows(text, count, keeps).map(|text| text.into_bytes().into()).ok_or(Unsplittable)
}

/// Parameters that the text does not name any more have no type that a server could find out, and no value.
fn part_of_bind(bind: Bind<'_>, text: Box<[u8]>, types: &[u8]) -> Result<Part, Unsplittable> {
    let count = bind.parameters().map_err(|_| Unsplittable)?.len();
    let named: HashSet<usize> = Lexer::new(&text)
        .filter(|token| token.kind == TokenKind::Param)
        .filter_map(|token| std::str::from_utf8(token.bytes(&text)).ok()?.strip_prefix('$')?.parse::<usize>().ok())
        .filter_map(|number| number.checked_sub(1))
        .collect();
    let mut all = u16::try_from(count).map_err(|_| Unsplittable)?.to_be_bytes().to_vec();
    for index in 0..count {
        let known = types.get(2 + 4 * index..6 + 4 * index).and_then(|bytes| bytes.first_chunk());
        let oid = known.map_or(0, |oid| u32::from_be_bytes(*oid));
        let oid = if oid == 0 && !named.contains(&index) { TEXT } else { oid };
        all.extend_from_slice(&oid.to_be_bytes());
    }
    let rest = bind.with_nulls(|index| !named.contains(&index)).map_err(|_| Unsplittable)?;
    Ok(Part { text, types: all, rest })
}

/// Why messages cannot be run on several shards, whatever is in them.
pub(super) fn object(work: &Work, understood: &Understood, scatter: &Scatter) -> Option<ErrorReply> {
    let Work::Messages { bytes, waits: true } = work else { return Some(too_long()) };
    let refused = |detail: &str, hint: &str| {
        let reply = ErrorReply::error("0A000", "a statement for every shard cannot be sent in this way");
        Some(reply.detail(detail).hint(hint))
    };
    let mut statements = understood.analyses.iter().flat_map(|analysis| &analysis.statements);
    let controls = |kind: &Kind| {
        matches!(
            kind,
            Kind::Begin(_) | Kind::Commit { .. } | Kind::Rollback { .. } | Kind::Savepoint { .. } | Kind::TwoPhase
        )
    };
    if !ends_ready(bytes) {
        return refused("It came with Flush, in a pipeline that goes on.", "Send Sync behind it.");
    }
    if statements.any(|statement| controls(&statement.kind)) {
        return refused(
            "It came in one message with BEGIN, COMMIT or the like.",
            "Send these in messages of their own.",
        );
    }
    if scatter.adds_up() && understood.runs > 1 {
        return refused("It came together with others, and each one's rows have to be counted.", "Send it alone.");
    }
    None
}

/// Whether the last of the messages is answered with `ReadyForQuery`.
pub(super) fn ends_ready(messages: &[u8]) -> bool {
    let last = Frames::new(messages).last().and_then(Result::ok);
    last.is_some_and(|frame| matches!(frame.tag, tag::QUERY | tag::SYNC))
}

pub(super) fn too_long() -> ErrorReply {
    ErrorReply::error("54000", "a statement for every shard is too long")
        .hint("Send it alone, or in parts: pgsluice has to hold all of it.")
}

pub(super) fn pinned_elsewhere() -> ErrorReply {
    ErrorReply::error("0A000", "this statement is for several shards, and this session is pinned to another one")
        .hint("Use another connection, or end what pins this one: see SHOW CLIENTS in the database pgsluice.")
}

pub(super) fn unsplittable() -> ErrorReply {
    ErrorReply::error("0A000", "the rows of this INSERT are for several shards, and cannot be taken apart")
        .hint("Send the rows of each shard in a statement of their own, in one transaction.")
}

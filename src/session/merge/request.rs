//! What a client has sent to have a merged answer: one statement alone, by either protocol, up to where it waits.

use std::sync::Arc;

use super::super::prepared::Prepared;
use super::super::serve::Work;
use super::super::{Fault, Session};
use crate::shard::type_oids::has_users;
use crate::sql::{Analysis, Count, Gathering};
use crate::wire::Frames;
use crate::wire::frontend::{self, Bind, Parse, Target, tag};

/// A read that several shards are going to answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) text: Box<[u8]>,
    pub(super) analysis: Arc<Analysis>,
    /// By the extended protocol.
    pub(super) prepared: Option<Arc<Prepared>>,
    /// Parameter types, as in `Parse`.
    pub(super) types: Box<[u8]>,
    /// Formats and values of parameters, as in `Bind`.
    pub(super) parameters: Box<[u8]>,
    /// Formats of the answer's columns: none, one for all, or one for each.
    pub(super) formats: Vec<[u8; 2]>,
    /// It is to be told that it was parsed.
    pub(super) parses: bool,
    /// A digest of the columns that the client has been told before; 0 where it has not.
    pub(super) told: u64,
    /// It is to be told the columns.
    pub(super) describes: bool,
    /// So many rows, and no more, are wanted; 0 is all.
    pub(super) most: u32,
    pub(super) limit: Option<u64>,
    pub(super) offset: u64,
}

/// The messages of one execution by the extended protocol.
#[derive(Default)]
struct Messages<'w> {
    parse: Option<Parse<'w>>,
    bind: Option<Bind<'w>>,
    describes: bool,
    most: Option<u32>,
}

impl Request {
    pub(super) fn is_simple(&self) -> bool {
        self.prepared.is_none()
    }
}

impl Session {
    /// Reads the messages; `None`, and nothing has changed, where they are others than one execution of one statement.
    pub(super) fn read_merged(&mut self, work: &Work, gathering: &Gathering) -> Result<Option<Request>, Fault> {
        let Work::Messages { bytes, waits: true } = work else { return Ok(None) };
        let (limit, offset) = match gathering {
            Gathering::Merge(merge) => (merge.limit, merge.offset),
            Gathering::Combine(_) => (Count::Unsaid, Count::Unsaid),
        };
        if let Some(Ok(frame)) = Frames::new(bytes).next()
            && frame.tag == tag::QUERY
        {
            return self.read_merged_query(frontend::query(frame.body)?, limit, offset);
        }
        let Some(messages) = read(bytes)? else { return Ok(None) };
        let (Some(bind), Some(most)) = (messages.bind, messages.most) else { return Ok(None) };
        match messages.parse {
            Some(parse) if parse.name != bind.statement => return Ok(None),
            // Its error is told elsewhere.
            Some(parse) if !parse.name.is_empty() && self.statements.get(parse.name).is_some() => return Ok(None),
            Some(parse) if self.objection(&self.analysis_of(parse.text)).is_some() => return Ok(None),
            Some(parse) if self.parse_here(parse).is_err() => return Ok(None),
            Some(_) | None => {}
        }
        let Some(held) = self.statements.get(bind.statement) else { return Ok(None) };
        let (prepared, told) = (Arc::clone(&held.statement), held.columns);
        // They have another number on each shard.
        if has_users(&prepared.types) {
            return Ok(None);
        }
        let (parameters, formats) = bind.parts()?;
        let counts = |count| rows(count, bind, &prepared.types, &prepared.text);
        let (Some(limit), Some(offset)) = (counts(limit), counts(offset)) else { return Ok(None) };
        Ok(Some(Request {
            text: prepared.text.clone(),
            analysis: Arc::clone(&prepared.analysis),
            types: prepared.types.clone(),
            parameters: parameters.into(),
            formats,
            parses: messages.parse.is_some(),
            told,
            describes: messages.describes,
            most,
            limit,
            offset: offset.unwrap_or_default(),
            prepared: Some(prepared),
        }))
    }

    fn read_merged_query(&mut self, text: &[u8], limit: Count, offset: Count) -> Result<Option<Request>, Fault> {
        let analysis = self.analysis_of(text);
        let number = |count| match count {
            Count::Unsaid => Some(None),
            Count::Number(number) => Some(Some(number)),
            Count::Parameter(_) => None,
        };
        let (Some(limit), Some(offset)) = (number(limit), number(offset)) else { return Ok(None) };
        // A parameter that a simple query names is an error of its own.
        let names_parameters = crate::sql::Lexer::new(text).any(|token| token.kind == crate::sql::TokenKind::Param);
        if names_parameters || self.objection(&analysis).is_some() {
            return Ok(None);
        }
        self.statements.drop_unnamed();
        self.unprepare_by_sql("");
        Ok(Some(Request {
            text: text.into(),
            analysis,
            prepared: None,
            types: [0, 0].into(),
            parameters: [0, 0, 0, 0].into(),
            formats: Vec::new(),
            parses: false,
            told: 0,
            describes: true,
            most: 0,
            limit,
            offset: offset.unwrap_or_default(),
        }))
    }
}

fn read(bytes: &[u8]) -> Result<Option<Messages<'_>>, Fault> {
    let (mut messages, mut is_synced) = (Messages::default(), false);
    for frame in Frames::new(bytes) {
        let frame = frame?;
        match frame.tag {
            tag::PARSE if messages.parse.is_none() && messages.bind.is_none() => {
                messages.parse = Some(Parse::read(frame.body)?);
            }
            tag::BIND if messages.bind.is_none() => {
                let bind = Bind::read(frame.body)?;
                if bind.check().is_err() {
                    return Ok(None);
                }
                messages.bind = Some(bind);
            }
            tag::DESCRIBE if messages.most.is_none() && !messages.describes => {
                match (Target::read(frame.body, "Describe")?, messages.bind) {
                    (Target::Portal(portal), Some(bind)) if portal == bind.portal => messages.describes = true,
                    _ => return Ok(None),
                }
            }
            tag::EXECUTE if messages.most.is_none() => {
                let (portal, most) = frontend::execute(frame.body)?;
                if messages.bind.is_none_or(|bind| bind.portal != portal) {
                    return Ok(None);
                }
                messages.most = Some(most);
            }
            tag::SYNC => is_synced = true,
            _ => return Ok(None),
        }
    }
    Ok(is_synced.then_some(messages))
}

/// The types by which a number of rows can be bound.
const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;

/// How many rows; `None` where that cannot be told, or PostgreSQL refuses it.
fn rows(count: Count, bind: Bind<'_>, types: &[u8], text: &[u8]) -> Option<Option<u64>> {
    let index = match count {
        Count::Unsaid => return Some(None),
        Count::Number(number) => return Some(Some(number)),
        Count::Parameter(index) => index,
    };
    let oid = types.get(2 + 4 * index..6 + 4 * index).and_then(|bytes| bytes.first_chunk());
    let oid = oid.map_or(0, |oid| u32::from_be_bytes(*oid));
    // What is not said the server takes from where the parameter is named.
    if !matches!(oid, INT2 | INT4 | INT8) && (oid != 0 || crate::sql::names_parameter_twice(text, index)) {
        return None;
    }
    let parameters = bind.parameters().ok()?;
    let (is_binary, value) = parameters.get(index)?;
    let Some(value) = value else { return Some(None) };
    let number = match (is_binary, oid, value.len()) {
        (true, INT2, 2) => i64::from(i16::from_be_bytes((*value).try_into().ok()?)),
        (true, INT4, 4) => i64::from(i32::from_be_bytes((*value).try_into().ok()?)),
        (true, INT8 | 0, 8) => i64::from_be_bytes((*value).try_into().ok()?),
        (false, _, _) => std::str::from_utf8(value).ok()?.parse().ok()?,
        _ => return None,
    };
    u64::try_from(number).ok().map(Some)
}

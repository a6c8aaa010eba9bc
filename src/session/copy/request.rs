//! What a client has sent to begin a COPY, and what is to be known before its data comes.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::prepared::Prepared;
use super::super::serve::Work;
use super::super::{Fault, Session};
use super::stream::Split;
use crate::route::places::{Distribution, Placement, Table};
use crate::route::rows::{KeyFields, Splitter};
use crate::shard::Charset;
use crate::sql::{Analysis, CopyFrom, copy_from};
use crate::wire::backend::tag as answer;
use crate::wire::frontend::{self, Bind, Parse, Target, put, tag};
use crate::wire::{ErrorReply, Frames};

/// Before version 18 a line `\.` ends comma-separated values too.
const MARKS_NO_CSV: u32 = 18;

/// A COPY that the client has asked for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) text: Box<[u8]>,
    pub(super) analysis: Arc<Analysis>,
    /// By the extended protocol.
    pub(super) prepared: Option<Arc<Prepared>>,
    /// To the messages before its execution.
    pub(super) answers: BytesMut,
}

impl Request {
    pub(super) fn is_simple(&self) -> bool {
        self.prepared.is_none()
    }
}

impl Session {
    /// Reads the messages: a `Query`, or those of the extended protocol from `Parse` or `Bind` to `Execute`.
    pub(super) fn read_request(&mut self, work: &Work) -> Result<Result<Request, ErrorReply>, Fault> {
        let Work::Messages { bytes, waits: true } = work else { return Ok(Err(in_another_way())) };
        let (mut answers, mut bound, mut is_executed) = (BytesMut::new(), None, false);
        for frame in Frames::new(bytes) {
            let frame = frame?;
            match frame.tag {
                tag::QUERY => {
                    let text = frontend::query(frame.body)?;
                    self.statements.drop_unnamed();
                    self.unprepare_by_sql("");
                    let analysis = self.analysis_of(text);
                    return Ok(Ok(Request { text: text.into(), analysis, prepared: None, answers }));
                }
                tag::PARSE if bound.is_none() => {
                    if let Err(reply) = self.parse_here(Parse::read(frame.body)?) {
                        return Ok(Err(reply));
                    }
                    put(&mut answers, answer::PARSE_COMPLETE, &[]);
                }
                tag::BIND if bound.is_none() => {
                    let bind = Bind::read(frame.body)?;
                    let held = self.statements.get(bind.statement).map(|held| Arc::clone(&held.statement));
                    match held.filter(|_| bind.parameters().is_ok_and(|parameters| parameters.is_empty())) {
                        Some(prepared) => bound = Some(prepared),
                        None => return Ok(Err(in_another_way())),
                    }
                    put(&mut answers, answer::BIND_COMPLETE, &[]);
                }
                tag::DESCRIBE => {
                    if let Target::Statement(_) = Target::read(frame.body, "Describe")? {
                        put(&mut answers, answer::PARAMETER_DESCRIPTION, &[b"\0\0"]);
                    }
                    put(&mut answers, answer::NO_DATA, &[]);
                }
                tag::EXECUTE if !is_executed => is_executed = true,
                tag::SYNC | tag::FLUSH => {}
                _ => return Ok(Err(in_another_way())),
            }
        }
        let Some(prepared) = bound.filter(|_| is_executed) else { return Ok(Err(in_another_way())) };
        let (text, analysis) = (prepared.text.clone(), Arc::clone(&prepared.analysis));
        Ok(Ok(Request { text, analysis, prepared: Some(prepared), answers }))
    }

    /// The statement is prepared where it is needed; here it gets its name.
    pub(in super::super) fn parse_here(&mut self, parse: Parse<'_>) -> Result<(), ErrorReply> {
        if !parse.name.is_empty() && self.statements.get(parse.name).is_some() {
            let name = String::from_utf8_lossy(parse.name);
            return Err(ErrorReply::error("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let analysis = self.analysis_of(parse.text);
        let statements = &self.proxy.statements;
        let statement = if parse.name.is_empty() {
            statements.unnamed(parse, analysis, None)
        } else {
            statements.intern(parse, analysis)
        };
        self.statements.insert(parse.name, statement);
        self.named_here.push(parse.name.into());
        Ok(())
    }

    /// How the data is to be told apart, and how many columns it must have, where that is known.
    pub(super) fn plan_copy(&self, request: &Request) -> Result<(Split, Option<usize>), ErrorReply> {
        let leaves_state = |statement: &crate::sql::Statement| statement.pin.is_some() || statement.changes_settings;
        if request.analysis.statements.iter().any(leaves_state) {
            return Err(refused("Its WHERE clause calls a function that leaves state behind on one server."));
        }
        if !self.told.can_read(&request.text) {
            return Err(refused("Its text, or its data, may mean something else under this session's settings."));
        }
        let copy =
            copy_from(&request.text).map_err(|unread| refused(format!("As far as pgsluice can tell, {unread}.")))?;
        self.check_encoding(&copy)?;
        let rows = self.rows.as_ref().ok_or_else(|| refused("Its table is not known."))?;
        let distribution = &rows.distribution;
        let table = distribution.table(&copy.table).ok().flatten().ok_or_else(|| refused("Its table is not known."))?;
        let width = copy.columns.is_none().then_some(table.columns.len());
        match &table.placement {
            Placement::Reference => check_made_up(&copy, table).map(|()| (Split::ToAll, width)),
            Placement::Key(_) => Ok((self.split_by_key(copy, table, distribution)?, width)),
            Placement::Shard(_) => Err(refused("Its table is on one shard.")),
        }
    }

    fn split_by_key(&self, copy: CopyFrom, table: &Table, distribution: &Distribution) -> Result<Split, ErrorReply> {
        let Placement::Key(parts) = &table.placement else { return Ok(Split::ToAll) };
        let Some(map) = &distribution.versions.in_force else {
            return Err(ErrorReply::error("55000", "this database has no bucket map yet")
                .hint("Run pgsluice shards init --database with its name."));
        };
        let keys = KeyFields::new(&copy, table, parts, distribution.versions.clone(), self.charset())
            .map_err(|misfit| refused(format!("As far as pgsluice can tell, {misfit}.")))?;
        let ends_csv = self.server_major().is_some_and(|major| major < MARKS_NO_CSV);
        Ok(Split::ByKey {
            splitter: Box::new(Splitter::new(copy.format, keys, ends_csv)),
            table: copy.table.to_string().into(),
            shards: map.shards().iter().map(|shard| Arc::clone(&shard.name)).collect(),
        })
    }

    /// Another encoding than the client's is not followed.
    fn check_encoding(&self, copy: &CopyFrom) -> Result<(), ErrorReply> {
        let Some(encoding) = &copy.encoding else { return Ok(()) };
        let is_utf8 = Charset::of(encoding, "UTF8") == Charset::Utf8;
        let client = self.told.get("client_encoding").map(String::from_utf8_lossy);
        let is_clients = client.is_some_and(|client| client.eq_ignore_ascii_case(encoding));
        match is_clients || is_utf8 && self.charset() == Charset::Utf8 {
            true => Ok(()),
            false => Err(refused(format!("Its data is in {encoding}, which is not this session's client_encoding."))),
        }
    }

    fn server_major(&self) -> Option<u32> {
        let version = std::str::from_utf8(self.told.get("server_version")?).ok()?;
        version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    }
}

/// A reference table is the same everywhere: no server must make up a value of its own.
fn check_made_up(copy: &CopyFrom, table: &Table) -> Result<(), ErrorReply> {
    let is_given =
        |name: &str| copy.columns.as_ref().is_none_or(|columns| columns.iter().any(|given| **given == *name));
    match table.columns.iter().find(|column| column.is_made_up && !is_given(&column.name)) {
        None => Ok(()),
        Some(column) => Err(ErrorReply::error(
            "0A000",
            format!("the default of \"{}\" would give each shard another value", column.name),
        )
        .detail("A reference table has the same rows on every shard.")
        .hint("Name the column, and give its values.")),
    }
}

fn refused(detail: impl Into<String>) -> ErrorReply {
    ErrorReply::error("0A000", "this COPY cannot be split by shard")
        .detail(detail)
        .hint("Name the shard: SET pgsluice.shard = 'name', or /* pgsluice: shard=name */ in front of the statement.")
}

fn in_another_way() -> ErrorReply {
    ErrorReply::error("0A000", "a COPY over shards cannot be sent in this way")
        .hint("Send it alone, as a simple query, or its Bind and Execute together.")
}

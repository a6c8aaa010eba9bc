//! A client's messages in the terms of the server connection that it has: its own names for prepared
//! statements become the servers', and what this connection does not have yet is prepared first.
//!
//! Bytes are passed on as they came but for statement names.

use std::borrow::Cow;
use std::sync::Arc;

use super::exchange::{Purpose, Sent};
use super::prepared::{Held, Prepared, SERVER_NAME_PREFIX};
use super::relay::{Outcome, Until};
use super::relocate::opens;
use super::scatter::Part;
use super::{Audience, Fault, Session};
use crate::config::PoolMode;
use crate::pool::Settings;
use crate::shard::type_oids::TypeOids;
use crate::sql::{Analysis, Kind, Pin, unread};
use crate::wire::frontend::{self, Bind, Parse, Target, put_bind, put_parse, put_query, put_statement_target, tag};
use crate::wire::{ErrorReply, Frame, Frames, Header};

/// A text that no server accepts: whatever is refused here must fail there as well, in its place in
/// the pipeline and in the transaction. The server's error is replaced on its way back.
const REFUSED: &[u8] = b"refused by pgsluice";

/// The name of no statement: IDs begin at 1.
const NO_STATEMENT: &[u8] = b"pgsluice_0";

/// Prepared statements that one server connection is made to hold.
const MAX_PREPARED: usize = 1000;

impl Session {
    /// Puts whole messages into the server connection's output. `first`: what the first of them says, where that is a text
    /// and was analysed already.
    pub(super) async fn translate(
        &mut self,
        messages: &[u8],
        mut first: Option<&Arc<Analysis>>,
    ) -> Result<Outcome, Fault> {
        for frame in Frames::new(messages) {
            let frame = frame?;
            let known = first.take();
            let outcome = match frame.tag {
                tag::QUERY => self.translate_query(&frame, known).await?,
                tag::PARSE => self.translate_parse(&frame, known).await?,
                tag::BIND => self.translate_bind(&frame).await?,
                tag::DESCRIBE => self.translate_describe(&frame).await?,
                tag::CLOSE => self.translate_close(&frame)?,
                _ => {
                    self.translate_other(&frame);
                    Outcome::Done
                }
            };
            if !matches!(outcome, Outcome::Done) {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Done)
    }

    /// Passes on a message that is too long to be held. Of a `Bind` the start is here, with the names.
    pub(super) async fn translate_long(&mut self, header: Header) -> Result<Outcome, Fault> {
        let sent = match header.tag {
            tag::QUERY => {
                self.executed.push(Arc::new(unread()));
                self.note_unread();
                Sent::Query
            }
            tag::FUNCTION_CALL => {
                self.executed.push(Arc::new(unread()));
                self.note_unread();
                Sent::FunctionCall
            }
            tag::PARSE => {
                // Nobody knows its text, so it can live on this connection only.
                let name = self.client.input[5..].split(|byte| *byte == 0).next().unwrap_or_default();
                self.statements.remove(name);
                self.prepared_by_sql.push(String::from_utf8_lossy(name).into());
                self.pin(Pin::Prepare);
                self.in_batch = true;
                Sent::ParseOther
            }
            tag::BIND => return Box::pin(self.translate_long_bind(header)).await,
            _ => return Err(Fault::Malformed(frontend::Malformed("extended query"))),
        };
        self.expect(sent, Audience::Client);
        self.client.pass(header.size);
        Ok(Outcome::Done)
    }

    async fn translate_long_bind(&mut self, header: Header) -> Result<Outcome, Fault> {
        self.in_batch = true;
        let start = self.client.input[5..].to_vec();
        let bind = Bind::read(&start)?;
        let names = bind.portal.len() + bind.statement.len() + 2;
        let mut audience = Audience::Client;
        let held = self.statements.get(bind.statement).cloned();
        let server_name = match &held {
            Some(held) => match self.ensure_prepared(held).await? {
                Ok(()) => held.statement.server_name.as_bytes().to_vec(),
                Err(outcome) => return Ok(outcome),
            },
            None => {
                let (name, not_there) = self.not_held(bind.statement);
                audience = not_there;
                name.to_vec()
            }
        };
        self.note_portal(bind.portal, held.as_ref());
        self.expect(Sent::Bind, audience);
        let rest = header.size - 5 - names;
        if let Some(server) = &mut self.server {
            let length = 4 + bind.portal.len() + server_name.len() + 2 + rest;
            let out = &mut server.checkout.link.output;
            out.extend_from_slice(&[tag::BIND]);
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
            for part in [bind.portal, b"\0", &server_name, b"\0"] {
                out.extend_from_slice(part);
            }
        }
        self.client.remove(5 + names);
        self.client.pass(rest);
        Ok(Outcome::Done)
    }

    async fn translate_query(&mut self, frame: &Frame<'_>, known: Option<&Arc<Analysis>>) -> Result<Outcome, Fault> {
        let text = frontend::query(frame.body)?;
        let analysis = known.map_or_else(|| self.analysis_of(text), Arc::clone);
        self.statements.drop_unnamed();
        self.unprepare_by_sql("");
        let misplaced = self.misplaced.as_deref().cloned();
        if let Some(reply) = misplaced.or_else(|| self.objection(&analysis)).or_else(|| self.claim_pin(&analysis)) {
            self.expect(Sent::Query, Audience::Refusal(reply.into()));
            self.put(|out| put_query(out, REFUSED));
        } else if let Some((held, renamed)) = self.rename(&analysis, text) {
            // In a box: seldom, and large.
            if let Err(outcome) = Box::pin(self.ensure_prepared(&held)).await? {
                return Ok(outcome);
            }
            // Where that fails the server ignores a Query, and the client has its error already.
            self.put(|out| frontend::put(out, tag::FLUSH, &[]));
            match Box::pin(self.relay(Until::Told)).await? {
                Outcome::Done => {}
                other => return Ok(other),
            }
            if self.is_skipping() {
                self.put(|out| frontend::put(out, tag::SYNC, &[]));
                self.expect(Sent::Sync, Audience::Client);
            } else {
                self.expect(Sent::Query, Audience::Client);
                self.put(|out| put_query(out, &renamed));
            }
        } else if let Some(answer) = self.own_answer(&analysis, text) {
            self.expect(Sent::Query, Audience::Client);
            self.put(|out| put_query(out, answer.as_bytes()));
        } else {
            self.expect(Sent::Query, Audience::Client);
            match self.part.take() {
                Some(part) => self.put(|out| put_query(out, &part.text)),
                None => self.put(|out| out.extend_from_slice(frame.bytes)),
            }
        }
        let is_lone_opening = matches!(&*analysis.statements, [statement] if opens(statement));
        self.opening.sent = is_lone_opening.then(|| text.into());
        self.add_tail(&analysis);
        self.note_query(&analysis, text);
        self.note_control(&analysis, text);
        self.executed.push(analysis);
        self.put_tail();
        Ok(Outcome::Done)
    }

    /// SQL-level EXECUTE and DEALLOCATE of a statement that was prepared by `Parse`: the statement,
    /// and the text with its name on the server.
    fn rename(&self, analysis: &Analysis, text: &[u8]) -> Option<(Held, Vec<u8>)> {
        let [statement] = &*analysis.statements else { return None };
        let (name, span) = match &statement.kind {
            Kind::Execute { name, name_span } | Kind::Deallocate { name: Some(name), name_span } => (name, name_span),
            _ => return None,
        };
        let held = self.statements.get(name.as_bytes()).filter(|_| !name.is_empty())?.clone();
        let (before, after) = (text.get(..span.start)?, text.get(span.end..)?);
        let renamed = [before, held.statement.server_name.as_bytes(), after].concat();
        Some((held, renamed))
    }

    async fn translate_parse(&mut self, frame: &Frame<'_>, known: Option<&Arc<Analysis>>) -> Result<Outcome, Fault> {
        self.in_batch = true;
        let parse = Parse::read(frame.body)?;
        let analysis = known.map_or_else(|| self.analysis_of(parse.text), Arc::clone);
        let objection = self.objection(&analysis).or_else(|| {
            let is_taken = !parse.name.is_empty() && self.statements.get(parse.name).is_some();
            let name = String::from_utf8_lossy(parse.name);
            is_taken.then(|| ErrorReply::error("42P05", format!("prepared statement \"{name}\" already exists")))
        });
        if let Some(reply) = objection {
            self.expect(Sent::ParseOther, Audience::Refusal(reply.into()));
            self.put(|out| put_parse(out, Parse { text: REFUSED, ..parse }));
            return Ok(Outcome::Done);
        }
        let statement = if let Some((held, renamed)) = self.rename(&analysis, parse.text) {
            if let Err(outcome) = Box::pin(self.ensure_prepared(&held)).await? {
                return Ok(outcome);
            }
            self.proxy.statements.naming(Parse { text: &renamed, ..parse }, analysis, held.statement)
        } else if parse.name.is_empty() {
            self.proxy.statements.unnamed(parse, analysis, self.statements.get(b""))
        } else {
            self.proxy.statements.intern(parse, analysis)
        };
        if !self.is_skipping() {
            self.statements.insert(parse.name, Arc::clone(&statement));
            self.named_here.push(parse.name.into());
        }
        // A client's own Parse is always carried out, as it would be on a direct connection: the
        // server may hold an older understanding of the same text.
        self.put_preparation(&statement, Audience::Client);
        Ok(Outcome::Done)
    }

    fn put_preparation(&mut self, statement: &Prepared, audience: Audience) {
        let name = statement.server_name.as_bytes();
        let own = self.own_answer(&statement.analysis, &statement.text);
        let text = own.as_ref().map_or(&*statement.text, |answer| answer.as_bytes());
        let Some(server) = &mut self.server else { return };
        let connection = &mut *server.checkout;
        if name.is_empty() {
            connection.unnamed = Some(statement.id);
        } else if connection.prepared.remove(&statement.id).is_some() {
            put_statement_target(&mut connection.link.output, tag::CLOSE, name);
            server.exchange.expect(Sent::Close, Audience::Proxy(Purpose::Prepare));
        } else if connection.prepared.len() >= MAX_PREPARED
            && let Some(other) = connection.prepared.keys().next().copied()
        {
            connection.prepared.remove(&other);
            let other = format!("{SERVER_NAME_PREFIX}{other}");
            put_statement_target(&mut connection.link.output, tag::CLOSE, other.as_bytes());
            server.exchange.expect(Sent::Close, Audience::Proxy(Purpose::Prepare));
        }
        if !name.is_empty() {
            // Until the server says otherwise: more messages may be sent before it has answered.
            connection.prepared.insert(statement.id, 0);
        }
        let types = own_types(server.types.as_deref(), &statement.types);
        put_parse(&mut connection.link.output, Parse { name, text, types: &types });
        server.exchange.expect(Sent::Parse(statement.id), audience);
    }

    async fn translate_bind(&mut self, frame: &Frame<'_>) -> Result<Outcome, Fault> {
        self.in_batch = true;
        let bind = Bind::read(frame.body)?;
        let Some(held) = self.statements.get(bind.statement).cloned() else {
            self.note_portal(bind.portal, None);
            let (statement, audience) = self.not_held(bind.statement);
            self.expect(Sent::Bind, audience);
            self.put(|out| put_bind(out, Bind { statement, ..bind }));
            return Ok(Outcome::Done);
        };
        if let Err(outcome) = self.ensure_prepared(&held).await? {
            return Ok(outcome);
        }
        self.note_portal(bind.portal, Some(&held));
        if let Some(reply) = self.misplaced.as_deref().cloned().or_else(|| self.claim_pin(&held.statement.analysis)) {
            self.expect(Sent::Bind, Audience::Refusal(reply.into()));
            self.put(|out| put_bind(out, Bind { statement: NO_STATEMENT, ..bind }));
            return Ok(Outcome::Done);
        }
        if let Some(part) = self.part.take() {
            self.put_part(bind, &part);
        } else {
            self.expect(Sent::Bind, Audience::Client);
            let statement = held.statement.server_name.as_bytes();
            self.put(|out| put_bind(out, Bind { statement, ..bind }));
        }
        self.describe_kept(bind.portal);
        Ok(Outcome::Done)
    }

    /// Where rows are kept, what they are like must be known, whether the client asks for it or knows it already.
    fn describe_kept(&mut self, portal: &[u8]) {
        if self.server.as_ref().is_some_and(|server| server.exchange.keeps_rows()) {
            self.put(|out| frontend::put(out, tag::DESCRIBE, &[b"P", portal, b"\0"]));
            self.expect(Sent::DescribeOther, Audience::Proxy(Purpose::Prepare));
        }
    }

    /// Binds a text that stands for the client's own.
    fn put_part(&mut self, bind: Bind<'_>, part: &Part) {
        self.expect(Sent::ParseOther, Audience::Proxy(Purpose::Prepare));
        if let Some(server) = &mut self.server {
            let types = own_types(server.types.as_deref(), &part.types);
            put_parse(&mut server.checkout.link.output, Parse { name: b"", text: &part.text, types: &types });
        }
        self.expect(Sent::Bind, Audience::Client);
        self.put(|out| put_bind(out, Bind { statement: b"", rest: &part.rest, ..bind }));
        if let Some(server) = &mut self.server {
            server.checkout.unnamed = None;
        }
    }

    /// A statement that this client has not prepared by `Parse`: one of SQL's PREPARE, on a connection that is kept
    /// for its sake, or none, whatever others have left under that name.
    fn not_held<'a>(&self, name: &'a [u8]) -> (&'a [u8], Audience) {
        let is_long_unnamed = || self.prepared_by_sql.iter().any(|name| name.is_empty());
        if self.pins.contains(&Pin::Prepare) && (!name.is_empty() || is_long_unnamed()) {
            return (name, Audience::Client);
        }
        let message = match name {
            b"" => "unnamed prepared statement does not exist".to_owned(),
            _ => format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)),
        };
        (NO_STATEMENT, Audience::Refusal(ErrorReply::error("26000", message).into()))
    }

    fn note_portal(&mut self, portal: &[u8], held: Option<&Held>) {
        self.portals.retain(|(name, _)| **name != *portal);
        self.portals.extend(held.map(|held| (portal.into(), Arc::clone(&held.statement))));
    }

    async fn translate_describe(&mut self, frame: &Frame<'_>) -> Result<Outcome, Fault> {
        self.in_batch = true;
        let Target::Statement(name) = Target::read(frame.body, "Describe")? else {
            self.expect(Sent::DescribeOther, Audience::Client);
            self.put(|out| out.extend_from_slice(frame.bytes));
            return Ok(Outcome::Done);
        };
        let Some(held) = self.statements.get(name).cloned() else {
            let (statement, audience) = self.not_held(name);
            self.expect(Sent::DescribeOther, audience);
            self.put(|out| put_statement_target(out, tag::DESCRIBE, statement));
            return Ok(Outcome::Done);
        };
        if let Err(outcome) = self.ensure_prepared(&held).await? {
            return Ok(outcome);
        }
        self.expect(Sent::Describe(held.statement.id), Audience::Client);
        self.put(|out| put_statement_target(out, tag::DESCRIBE, held.statement.server_name.as_bytes()));
        Ok(Outcome::Done)
    }

    fn translate_close(&mut self, frame: &Frame<'_>) -> Result<Outcome, Fault> {
        self.in_batch = true;
        self.expect(Sent::Close, Audience::Client);
        let held = match Target::read(frame.body, "Close")? {
            Target::Statement(name) if !self.is_skipping() => self.statements.remove(name),
            _ => None,
        };
        match held {
            Some(held) => {
                let name = self.server_name_to_close(&held);
                // Closing what is not there is no error.
                self.put(|out| put_statement_target(out, tag::CLOSE, name.as_deref().unwrap_or(NO_STATEMENT)));
            }
            None => self.put(|out| out.extend_from_slice(frame.bytes)),
        }
        Ok(Outcome::Done)
    }

    /// What the client closes is closed on the server as well, and gone from `pg_prepared_statements`, where the connection
    /// is its own and it has no other name for the same. Otherwise the server keeps it for others who have the same. The
    /// connection goes on counting it among what is prepared there, in case that the Close is never carried out: a `Parse`
    /// of the same closes it before.
    fn server_name_to_close(&self, held: &Held) -> Option<Box<[u8]>> {
        let is_own = self.config.pool.mode == PoolMode::Session;
        let is_last = !held.statement.server_name.is_empty() && self.statements.name_of(held.statement.id).is_none();
        (is_own && is_last).then(|| held.statement.server_name.as_bytes().into())
    }

    fn translate_other(&mut self, frame: &Frame<'_>) {
        match frame.tag {
            tag::EXECUTE => {
                self.in_batch = true;
                let portal = frame.body.split(|byte| *byte == 0).next().unwrap_or_default();
                let known = self.portals.iter().find(|(name, _)| **name == *portal);
                let known = known.map(|(_, prepared)| Arc::clone(prepared));
                self.note_execute(known.as_ref());
                if let Some(prepared) = &known {
                    self.note_control(&prepared.analysis, &prepared.text);
                }
                // Without a name that is known here: of a text too long to be read, or of SQL's PREPARE or DECLARE.
                let analysis = known.map_or_else(|| Arc::new(unread()), |prepared| Arc::clone(&prepared.analysis));
                self.add_tail(&analysis);
                self.executed.push(analysis);
                self.expect(Sent::Execute, Audience::Client);
            }
            tag::SYNC => {
                self.expect(Sent::Sync, Audience::Client);
                self.put(|out| out.extend_from_slice(frame.bytes));
                self.put_tail();
                return;
            }
            tag::FUNCTION_CALL => {
                self.executed.push(Arc::new(unread()));
                self.note_unread();
                self.expect(Sent::FunctionCall, Audience::Client);
            }
            _ => {}
        }
        self.put(|out| out.extend_from_slice(frame.bytes));
    }

    /// Sets again what the client's RESET must not take back, before it is told that it is done.
    fn add_tail(&mut self, analysis: &Analysis) {
        if let Some(tail) = self.tracked.tail(analysis) {
            self.tail = Some(Box::new(match self.tail.take() {
                Some(before) => tail.over(&before),
                None => tail,
            }));
        }
    }

    fn put_tail(&mut self) {
        let Some(tail) = self.tail.take() else { return };
        if let Some(sql) = tail.sql_from(&Settings::default()) {
            self.put(|out| put_query(out, sql.as_bytes()));
            self.expect(Sent::Query, Audience::Proxy(Purpose::Tail));
            self.tail_sent = Some(tail);
        }
    }

    /// Has the statement prepared on this connection. Where the client knows what it looks like, the
    /// server is asked, and a change is an error, as it would be on a connection of its own.
    async fn ensure_prepared(&mut self, held: &Held) -> Result<Result<(), Outcome>, Fault> {
        let statement = &held.statement;
        if let Some(named) = &statement.names {
            let named = Held { statement: Arc::clone(named), shape: 0, columns: 0 };
            if let Err(outcome) = Box::pin(self.ensure_prepared(&named)).await? {
                return Ok(Err(outcome));
            }
        }
        if self.is_prepared(held) {
            return Ok(Ok(()));
        }
        // Seldom, and large.
        Box::pin(self.prepare(held)).await
    }

    /// Whether nothing has to be sent for it.
    fn is_prepared(&self, held: &Held) -> bool {
        let statement = &held.statement;
        let Some(server) = &self.server else { return true };
        let is_here = if statement.server_name.is_empty() {
            server.checkout.unnamed == Some(statement.id)
        } else {
            let known = server.checkout.prepared.get(&statement.id).copied();
            known.is_some_and(|shape| held.shape == 0 || shape == 0 || shape == held.shape)
        };
        // What pgsluice answers itself it answers anew each time.
        is_here && !statement.analysis.is_own() || self.is_skipping()
    }

    async fn prepare(&mut self, held: &Held) -> Result<Result<(), Outcome>, Fault> {
        let statement = &held.statement;
        self.put_preparation(statement, Audience::Proxy(Purpose::Prepare));
        if held.shape == 0 {
            return Ok(Ok(()));
        }
        self.put(|out| {
            put_statement_target(out, tag::DESCRIBE, statement.server_name.as_bytes());
            frontend::put(out, tag::FLUSH, &[]);
        });
        self.expect(Sent::Describe(statement.id), Audience::Proxy(Purpose::Prepare));
        match self.relay(Until::Told).await? {
            Outcome::Done => {}
            other => return Ok(Err(other)),
        }
        let shape = self.server.as_ref().and_then(|server| server.checkout.prepared.get(&statement.id).copied());
        if shape.is_some_and(|shape| shape != 0 && shape != held.shape) {
            // asyncpg and JDBC prepare anew, and say nothing, where an error comes from this function.
            let changed = ErrorReply::error("0A000", "cached plan must not change result type");
            self.refuse_in_place(changed.routine("RevalidateCachedQuery"));
        }
        Ok(Ok(()))
    }

    /// Fails the messages up to the next `Sync`, here and on the server.
    fn refuse_in_place(&mut self, reply: ErrorReply) {
        self.expect(Sent::ParseOther, Audience::Refusal(reply.into()));
        self.put(|out| put_parse(out, Parse { name: b"", text: REFUSED, types: b"\0\0" }));
        if let Some(server) = &mut self.server {
            server.checkout.unnamed = None;
        }
    }

    fn is_skipping(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.exchange.is_skipping())
    }

    pub(super) fn expect(&mut self, sent: Sent, audience: Audience) {
        if let Some(server) = &mut self.server {
            if sent == Sent::Query {
                // Whoever's it is, it does away with the server's unnamed statement.
                server.checkout.unnamed = None;
            }
            server.exchange.expect(sent, audience);
        }
    }

    pub(super) fn put(&mut self, write: impl FnOnce(&mut bytes::BytesMut)) {
        if let Some(server) = &mut self.server {
            write(&mut server.checkout.link.output);
        }
    }
}

/// Parameter types as the shard has them.
fn own_types<'t>(known: Option<&TypeOids>, types: &'t [u8]) -> Cow<'t, [u8]> {
    known.map_or(Cow::Borrowed(types), |known| known.own_parameters(types))
}

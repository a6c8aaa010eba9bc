//! The admin database `pgsluice`: a connection that is answered by pgsluice itself.
//!
//! It comes here authenticated. pgwire's server loop answers, over messages that were split and checked
//! before it sees them, since it takes what it is given at its word. One slow or talkative operator
//! holds up nobody: each connection is a task of its own, and its messages are small.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use futures_util::Sink;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, DefaultClient, NoopHandler, PgWireConnectionState, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::AsyncReadExt;
use tokio_util::codec::Framed;

use super::act::Refused;
use super::command::{Command, CommandError, Select};
use super::show::{SHOWS, Show};
use super::table::{Cell, Column, Kind, Row};
use crate::audit::Outcome;
use crate::pool::Identity;
use crate::proxy::Proxy;
use crate::route::Considered;
use crate::session::explain_new_session;
use crate::wire::frontend::{Bind, Parse, Target, query, tag};
use crate::wire::{Frame, Link, Stream, header};

/// The database's name.
pub const DATABASE: &str = "pgsluice";

/// A command is short, whoever sends it.
const MAX_MESSAGE: usize = 64 * 1024;

/// How long a client may take to read an answer's part.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// How long an explanation waits for the catalog of a database that nobody has used yet, and how often it looks.
const CATALOG_LIMIT: Duration = Duration::from_secs(2);
const CATALOG_POLL: Duration = Duration::from_millis(20);

/// What somebody may do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

/// Somebody at the admin database.
#[derive(Debug)]
pub struct Operator {
    /// The role.
    pub user: Arc<str>,
    /// What it may do.
    pub rank: Rank,
}

type Console = Framed<Stream, PgWireMessageServerCodec<Command>>;

/// Serves an operator whose login is complete, `ReadyForQuery` and all, until one side ends it.
pub async fn serve(proxy: Arc<Proxy>, link: Link, operator: Operator) {
    let mut shutdown = proxy.shutdown_signal();
    let user = Arc::clone(&operator.user);
    tokio::select! {
        ended = serve_all(proxy, link, operator) => {
            if let Err(error) = ended {
                tracing::debug!(%user, %error, "an operator's connection ended");
            }
        }
        () = shutdown.wait() => {}
    }
}

async fn serve_all(proxy: Arc<Proxy>, link: Link, operator: Operator) -> io::Result<()> {
    let address = link.peer_address().unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    let (stream, mut input) = link.into_parts();
    let mut client = DefaultClient::new(address, matches!(stream, Stream::Tls(_)));
    client.set_state(PgWireConnectionState::ReadyForQuery);
    let mut console: Console = Framed::new(stream, PgWireMessageServerCodec::new(client));
    let handler = Arc::new(Handler { proxy, operator, address });
    while let Some(message) = next(&mut console, &mut input).await? {
        if matches!(message, PgWireFrontendMessage::Terminate(_)) {
            return Ok(());
        }
        let is_extended = is_extended(&message);
        let (simple, extended) = (Arc::clone(&handler), Arc::clone(&handler));
        let [startup, copy, cancel] = [(); 3].map(|()| Arc::new(NoopHandler));
        let answered = process_message(message, &mut console, startup, simple, extended, copy, cancel).await;
        if let Err(error) = answered {
            tokio::time::timeout(WRITE_LIMIT, process_error(&mut console, error, is_extended)).await??;
        }
    }
    Ok(())
}

/// The next message; `None` at the end, and behind what is none.
async fn next(console: &mut Console, input: &mut BytesMut) -> io::Result<Option<PgWireFrontendMessage>> {
    loop {
        if let Some(header) = header(input).map_err(io::Error::other)? {
            if header.size > MAX_MESSAGE {
                return Err(io::Error::other("a message is longer than any command"));
            }
            if input.len() >= header.size {
                let mut message = input.split_to(header.size);
                check(&Frame { tag: header.tag, body: &message[5..], bytes: &message }).map_err(io::Error::other)?;
                let mut context = DecodeContext::default();
                (context.awaiting_frontend_ssl, context.awaiting_frontend_startup) = (false, false);
                let decoded = PgWireFrontendMessage::decode(&mut message, &context).map_err(io::Error::other)?;
                if message.has_remaining() {
                    return Err(io::Error::other("a message is longer than what it says"));
                }
                return Ok(decoded);
            }
        }
        if console.get_mut().read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether the message is laid out as its kind is: pgwire would panic on others.
fn check(frame: &Frame<'_>) -> Result<(), crate::wire::frontend::Malformed> {
    match frame.tag {
        tag::QUERY => query(frame.body).map(drop),
        tag::PARSE => Parse::read(frame.body).map(drop),
        tag::BIND => Bind::read(frame.body)?.check(),
        tag::DESCRIBE => Target::read(frame.body, "Describe").map(drop),
        tag::CLOSE => Target::read(frame.body, "Close").map(drop),
        tag::EXECUTE => crate::wire::frontend::execute(frame.body).map(drop),
        tag::SYNC | tag::FLUSH | tag::TERMINATE if frame.body.is_empty() => Ok(()),
        _ => Err(crate::wire::frontend::Malformed("message to the admin database")),
    }
}

fn is_extended(message: &PgWireFrontendMessage) -> bool {
    use PgWireFrontendMessage::{Bind, Close, Describe, Execute, Parse};
    matches!(message, Parse(_) | Bind(_) | Describe(_) | Execute(_) | Close(_))
}

struct Handler {
    proxy: Arc<Proxy>,
    operator: Operator,
    address: SocketAddr,
}

/// What a command answers with.
enum Answer {
    Done(&'static str),
    Rows(&'static [Column], Vec<Row>),
}

const ROUTE: &[Column] = &[
    Column { name: "shard", kind: Kind::Text, meaning: "the shard" },
    Column { name: "node", kind: Kind::Text, meaning: "host:port" },
    Column { name: "role", kind: Kind::Text, meaning: "primary, replica or unknown" },
    Column { name: "reason", kind: Kind::Text, meaning: "why, of the node that was chosen" },
    Column { name: "considered", kind: Kind::Text, meaning: "why it was chosen, or was not" },
];

const ONE: &[Column] = &[Column { name: "?column?", kind: Kind::Int, meaning: "1" }];

impl Handler {
    /// Who did what, and what came of it.
    fn note(&self, action: &Command, outcome: &Result<(), Refused>) {
        let (user, address) = (&self.operator.user, self.address);
        let told = match outcome {
            Ok(()) => Outcome::Done,
            Err(refused) => Outcome::Refused { message: refused.message.clone() },
        };
        tracing::info!(%user, %address, %action, is_done = outcome.is_ok(), "operator action");
        self.proxy.audit.operator_action(user, Some(address), &action.to_string(), told);
    }

    async fn carry_out(&self, command: &Command) -> PgWireResult<Answer> {
        if command.is_an_action() && self.operator.rank != Rank::Admin {
            let message = format!("permission denied for {}", command.name());
            return Err(told("42501", message, Some("Only users in admin.admins may do that.".to_owned())));
        }
        match command {
            Command::Show(name) => {
                let show = show(name)?;
                Ok(Answer::Rows(show.columns, show.rows(&self.proxy).await))
            }
            Command::ExplainRoute { database, sql } => {
                let identity = Identity { user: Arc::clone(&self.operator.user), database: database.as_str().into() };
                self.await_catalog(database).await;
                let rows = explain_new_session(&self.proxy, identity, sql, None);
                Ok(Answer::Rows(ROUTE, rows.into_iter().map(route_row).collect()))
            }
            Command::Select(Select::One) => Ok(Answer::Rows(ONE, vec![vec![1.into()]])),
            Command::Select(Select::Version) => {
                let show = show("version")?;
                Ok(Answer::Rows(show.columns, show.rows(&self.proxy).await))
            }
            Command::Ignored(tag) => Ok(Answer::Done(tag)),
            action => {
                let outcome = super::act::act(&self.proxy, action).await;
                self.note(action, &outcome);
                outcome
                    .map(|()| Answer::Done(action.name()))
                    .map_err(|Refused { sqlstate, message, hint }| told(sqlstate, message, hint))
            }
        }
    }

    /// What views and functions do is known as soon as a database's catalog has been read, which begins when it is
    /// first asked for. There need be no such database: then it never is.
    async fn await_catalog(&self, database: &str) {
        let known = async {
            while self.proxy.catalogs().get(database).is_none() {
                tokio::time::sleep(CATALOG_POLL).await;
            }
        };
        let _ = tokio::time::timeout(CATALOG_LIMIT, known).await;
    }
}

fn show(name: &str) -> PgWireResult<&'static Show> {
    SHOWS.iter().find(|show| show.name == name).ok_or_else(|| {
        let near = crate::config::nearest(name, SHOWS.iter().map(|show| show.name));
        let hint = near.map_or_else(
            || "SHOW HELP lists what there is.".to_owned(),
            |near| format!("Did you mean SHOW {}?", near.to_uppercase()),
        );
        told("42704", format!("there is no SHOW {}", name.to_uppercase()), Some(hint))
    })
}

fn route_row(considered: Considered) -> Row {
    vec![
        considered.shard.into(),
        considered.node.into(),
        considered.role.into(),
        considered.reason.into(),
        considered.considered.into(),
    ]
}

fn told(sqlstate: &str, message: String, hint: Option<String>) -> PgWireError {
    let mut info = ErrorInfo::new("ERROR".to_owned(), sqlstate.to_owned(), message);
    info.hint = hint;
    PgWireError::UserError(Box::new(info))
}

fn parse(text: &str) -> PgWireResult<Command> {
    text.parse().map_err(|error: CommandError| {
        let sqlstate = if error == CommandError::Sql { "0A000" } else { "42601" };
        told(sqlstate, error.to_string(), Some("SHOW HELP lists what there is.".to_owned()))
    })
}

fn fields(columns: &[Column], format: impl Fn(usize) -> FieldFormat) -> Vec<FieldInfo> {
    let field = |(index, column): (usize, &Column)| {
        let datatype = match column.kind {
            Kind::Text => Type::TEXT,
            Kind::Int => Type::INT8,
            Kind::Float => Type::FLOAT8,
            Kind::Bool => Type::BOOL,
        };
        FieldInfo::new(column.name.to_owned(), None, None, datatype, format(index))
    };
    columns.iter().enumerate().map(field).collect()
}

fn respond(answer: Answer, format: impl Fn(usize) -> FieldFormat) -> PgWireResult<Response> {
    let (columns, rows) = match answer {
        Answer::Done(tag) => return Ok(Response::Execution(Tag::new(tag))),
        Answer::Rows(columns, rows) => (columns, rows),
    };
    let fields = Arc::new(fields(columns, format));
    let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
    let encode = |row: Row| {
        for cell in row {
            match cell {
                Cell::Text(text) => encoder.encode_field(&text)?,
                Cell::Int(number) => encoder.encode_field(&number)?,
                Cell::Float(number) => encoder.encode_field(&number)?,
                Cell::Bool(value) => encoder.encode_field(&value)?,
                Cell::Null => encoder.encode_field(&None::<String>)?,
            }
        }
        Ok(encoder.take_row())
    };
    let rows: Vec<_> = rows.into_iter().map(encode).collect();
    Ok(Response::Query(QueryResponse::new(fields, futures_util::stream::iter(rows))))
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn do_query<C>(&self, _: &mut C, text: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let answer = self.carry_out(&parse(text)?).await?;
        Ok(vec![respond(answer, |_| FieldFormat::Text)?])
    }
}

/// Knows a command's columns before it is carried out.
struct Parser;

#[async_trait]
impl QueryParser for Parser {
    type Statement = Command;

    async fn parse_sql<C>(&self, _: &C, sql: &str, _: &[Option<Type>]) -> PgWireResult<Option<Command>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        parse(sql).map(Some)
    }

    fn get_parameter_types(&self, _: &Command) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(&self, command: &Command, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let columns = match command {
            Command::Show(name) => show(name)?.columns,
            Command::ExplainRoute { .. } => ROUTE,
            Command::Select(Select::One) => ONE,
            Command::Select(Select::Version) => show("version")?.columns,
            _ => &[],
        };
        Ok(fields(columns, |index| format.map_or(FieldFormat::Text, |format| format.format_for(index))))
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Command;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser)
    }

    async fn do_query<C>(&self, _: &mut C, portal: &Portal<Command>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let answer = self.carry_out(&portal.statement.statement).await?;
        respond(answer, |index| portal.result_column_format.format_for(index))
    }
}

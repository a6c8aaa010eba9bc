//! A client of the plain server and one of pgsluice, who are asked the same in the same way, and what they see.

use std::collections::HashMap;
use std::fmt;

use crate::script::{Parameter, Statement};
use crate::support::raw::{self, Message, Raw};

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A simple query. Statements with parameters cannot be sent so.
    Simple,
    /// Parameters and results as text; the server finds out the parameters' types.
    Text,
    /// Parameters and results in binary; the parameters' types are declared.
    Binary,
    /// As `Text`, and the rows are fetched in two goes from one portal.
    Portal,
}

/// Parameters' types by which statements call them.
const TYPES: [(&str, u32); 15] = [
    ("bool", 16),
    ("bytea", 17),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("text", 25),
    ("float8", 701),
    ("varchar", 1043),
    ("date", 1082),
    ("timestamptz", 1184),
    ("numeric", 1700),
    ("uuid", 2950),
    ("jsonb", 3802),
    ("int4[]", 1007),
    ("text[]", 1009),
];

fn oid(kind: &str) -> u32 {
    TYPES.iter().find(|(name, _)| *name == kind).unwrap_or_else(|| panic!("{kind} is not in the list")).1
}

/// How much of an answer people are shown.
const SHOWN_ROWS: usize = 6;
const SHOWN_BYTES: usize = 120;

/// The first OID of what a database's owner makes: two databases call the same type by two of these.
const FIRST_OWN: u32 = 16384;

/// What a client sees of a statement's answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// Names, types and formats of the results' columns.
    columns: Vec<(String, u32, u16)>,
    /// In their order, or sorted where the statement asks for none.
    rows: Vec<Vec<u8>>,
    tags: Vec<String>,
    pub sqlstates: Vec<String>,
    /// Transaction status, behind each part.
    pub status: Vec<u8>,
    /// The first error, for people.
    message: String,
    hint: Option<String>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = String::from_utf8_lossy(&self.status);
        writeln!(f, "{:?} {:?} {status} {}", self.tags, self.sqlstates, self.message)?;
        writeln!(f, "{:?}", self.columns)?;
        self.rows.iter().take(SHOWN_ROWS).try_for_each(|row| {
            let row = &row[..row.len().min(SHOWN_BYTES)];
            writeln!(f, "    {}", row.escape_ascii())
        })
    }
}

impl Seen {
    fn of(messages: &[Message], is_ordered: bool) -> Self {
        let bodies = |tag: u8| messages.iter().filter(move |message| message.tag == tag).map(|message| &message.body);
        let mut rows: Vec<Vec<u8>> = bodies(b'D').cloned().collect();
        if !is_ordered {
            rows.sort();
        }
        let error = messages.iter().find(|message| message.tag == b'E');
        Self {
            columns: bodies(b'T').flat_map(|body| columns(body)).collect(),
            rows,
            tags: bodies(b'C').map(|body| String::from_utf8_lossy(body).trim_end_matches('\0').to_owned()).collect(),
            sqlstates: raw::sqlstates(messages),
            status: bodies(b'Z').flatten().copied().collect(),
            message: error.map_or_else(String::new, |error| format!("{error:?}")),
            hint: error.and_then(|error| error.field(b'H')),
        }
    }

    /// What pgsluice has refused, if it has: its refusals have a HINT.
    pub fn refusal(&self) -> Option<&str> {
        let is_its_own = matches!(self.sqlstates.first()?.as_str(), "0A000" | "54000" | "55000") && self.hint.is_some();
        is_its_own.then_some(&self.message)
    }

    /// Whether two clients have seen the same. What is said of an error, beyond its SQLSTATE, may differ.
    pub fn is_same(&self, other: &Self) -> bool {
        let plain = |seen: &Self| Self { message: String::new(), hint: None, ..seen.clone() };
        plain(self) == plain(other)
    }
}

/// What a `RowDescription` says of each column: the table that it is of differs, where a coordinator has views.
fn columns(body: &[u8]) -> Vec<(String, u32, u16)> {
    let mut found = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, fixed) = (String::from_utf8_lossy(&rest[..end]).into_owned(), &rest[end + 1..]);
        let kind = u32::from_be_bytes(fixed[6..10].try_into().expect("four bytes"));
        let format = u16::from_be_bytes(fixed[16..18].try_into().expect("two bytes"));
        found.push((name, kind.min(FIRST_OWN), format));
        rest = &fixed[18..];
    }
    found
}

/// Sends what a statement takes; `None` where it cannot be sent in this way.
pub async fn ask(client: &mut Raw, statement: &Statement, way: Way, encoded: &Encoded) -> Option<Seen> {
    let (sql, is_ordered) = (statement.sql.as_str(), statement.is_ordered());
    if way == Way::Simple {
        return if statement.binds.is_empty() { Some(Seen::of(&client.query(sql).await, is_ordered)) } else { None };
    }
    if statement.binds.is_empty() {
        let way = if has_portal(sql) { way } else { Way::Text };
        let bytes = [raw::parse("", sql), run("", &[], way), raw::sync()].concat();
        return Some(Seen::of(&client.exchange(&bytes).await, is_ordered));
    }
    // A prepared statement is placed anew each time that it is bound.
    let types: Vec<u32> = match way {
        Way::Binary => statement.binds[0].iter().map(|bound| oid(&bound.kind)).collect(),
        _ => Vec::new(),
    };
    let parse = [raw::parse_typed("again", sql, &types), raw::describe_statement("again"), raw::sync()].concat();
    let mut messages = client.exchange(&parse).await;
    // Its answer says what the parameters and results are.
    messages.retain(|message| message.tag != b'T');
    if raw::sqlstates(&messages).is_empty() {
        for bound in &statement.binds {
            let values: Vec<Option<Vec<u8>>> = bound.iter().map(|one| encoded.value(one, way)).collect();
            messages.extend(client.exchange(&[run("again", &values, way), raw::sync()].concat()).await);
        }
    }
    // In a transaction that has failed it closes all the same.
    client.exchange(&[raw::close_statement("again"), raw::sync()].concat()).await;
    // Of several runs each has an order of its own.
    Some(Seen::of(&messages, is_ordered))
}

/// Whether its rows can be fetched in several goes; what is done when it is first executed cannot be executed again.
fn has_portal(sql: &str) -> bool {
    ["SELECT", "VALUES", "WITH", "("].iter().any(|word| sql.starts_with(word))
}

/// Bind, Describe, Execute.
fn run(name: &str, values: &[Option<Vec<u8>>], way: Way) -> Vec<u8> {
    let format = u16::from(way == Way::Binary);
    let bind = raw::bind_values("", name, format, values, format);
    let execute = match way {
        Way::Portal => [raw::execute("", 2), raw::execute("", 0)].concat(),
        _ => raw::execute("", 0),
    };
    [bind, raw::describe_portal(""), execute].concat()
}

/// Parameters in binary, as a server writes them.
#[derive(Default)]
pub struct Encoded(HashMap<Parameter, Vec<u8>>);

impl Encoded {
    /// Asks a server for all that these statements need.
    pub async fn of(server: &mut Raw, statements: impl Iterator<Item = &Statement>) -> Self {
        let mut all = HashMap::new();
        for parameter in statements.flat_map(|statement| statement.binds.iter().flatten()) {
            let Some(value) = &parameter.value else { continue };
            if all.contains_key(parameter) {
                continue;
            }
            let sql = format!("SELECT $1::{}", parameter.kind);
            let bytes =
                [raw::parse("", &sql), raw::bind_as("", "", &[value], true), raw::execute("", 0), raw::sync()].concat();
            let messages = server.exchange(&bytes).await;
            let row = messages.iter().find(|message| message.tag == b'D');
            let row = row.unwrap_or_else(|| panic!("{parameter:?}: {messages:?}"));
            // One column: how many there are, and its length, come first.
            all.insert(parameter.clone(), row.body[6..].to_vec());
        }
        Self(all)
    }

    fn value(&self, parameter: &Parameter, way: Way) -> Option<Vec<u8>> {
        let text = parameter.value.as_ref()?;
        match way {
            Way::Binary => Some(self.0[parameter].clone()),
            _ => Some(text.clone().into_bytes()),
        }
    }
}

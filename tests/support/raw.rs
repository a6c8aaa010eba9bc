//! A client that speaks frames: it sends what a test wants, in the order and the packets that it
//! wants, and shows every message that comes back.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::fmt;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::DEADLINE;

/// One message from a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// `Z I`, `C SELECT 1`, `E ERROR 22012 division by zero`, `D [1|NULL]`, or the tag and the escaped bytes.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.tag {
            b'E' | b'N' => {
                let field = |code| self.field(code).unwrap_or_default();
                let texts = [field(b'S'), field(b'C'), field(b'M'), field(b'D'), field(b'H')];
                texts.join(" ").trim_end().to_owned()
            }
            b'D' => format!("[{}]", self.columns().join("|")),
            _ => self.body.escape_ascii().to_string().trim_end_matches("\\x00").to_owned(),
        };
        write!(f, "{} {text}", char::from(self.tag))
    }
}

impl Message {
    /// A field of an error or a notice.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        fields.find(|field| field.first() == Some(&code)).map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// The columns of a `DataRow`, as text.
    pub fn columns(&self) -> Vec<String> {
        assert_eq!(self.tag, b'D');
        let mut columns = Vec::new();
        let mut rest = &self.body[2..];
        while let Some((length, tail)) = rest.split_first_chunk() {
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                columns.push("NULL".to_owned());
                rest = tail;
                continue;
            };
            columns.push(String::from_utf8_lossy(&tail[..length]).into_owned());
            rest = &tail[length..];
        }
        columns
    }
}

/// As they came, but for where in its source a server has found an error: the proxy's own have no such place.
pub fn without_sources(messages: &[Message]) -> Vec<Message> {
    let strip = |message: &Message| {
        if message.tag != b'E' {
            return message.clone();
        }
        let fields = message.body.split_inclusive(|byte| *byte == 0);
        let kept = fields.filter(|field| !matches!(field[0], b'F' | b'L' | b'R'));
        Message { tag: message.tag, body: kept.flatten().copied().collect() }
    };
    messages.iter().map(strip).collect()
}

/// The messages' tags, as one word.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// The SQLSTATEs of all errors among them.
pub fn sqlstates(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'E').filter_map(|message| message.field(b'C')).collect()
}

/// The rows among them.
pub fn rows(messages: &[Message]) -> Vec<Vec<String>> {
    messages.iter().filter(|message| message.tag == b'D').map(Message::columns).collect()
}

/// Whom to connect as, and with which minor version of protocol 3.
#[derive(Debug, Clone)]
pub struct Login<'a> {
    pub address: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    pub database: &'a str,
    pub minor: u16,
    pub settings: &'a [(&'a str, &'a str)],
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What came between the authentication and the first `ReadyForQuery`.
    pub greeting: Vec<Message>,
}

impl Raw {
    /// Logs in, by SCRAM where the server asks for it.
    pub async fn connect(login: &Login<'_>) -> Self {
        let mut raw = Self::open(login.address).await;
        let messages = raw.log_in(login).await;
        assert_eq!(messages.last().map(|message| message.tag), Some(b'Z'), "{messages:?}");
        raw.greeting = messages;
        raw
    }

    /// Connects without a word.
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("it connects");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: Vec::new(), greeting: Vec::new() }
    }

    /// Sends the startup packet and answers what is asked, up to `ReadyForQuery` or an error.
    pub async fn log_in(&mut self, login: &Login<'_>) -> Vec<Message> {
        let mut body = [3_u16.to_be_bytes(), login.minor.to_be_bytes()].concat();
        let pairs = [("user", login.user), ("database", login.database)];
        for (name, value) in pairs.iter().chain(login.settings) {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        self.send(&[&length[..], &body].concat()).await;
        let mut scram = None;
        let mut greeting = Vec::new();
        loop {
            let message = self.read().await;
            match (message.tag, message.body.get(..4)) {
                (b'R', Some([0, 0, 0, 10])) => {
                    let exchange = ScramSha256::new(login.password.as_bytes(), ChannelBinding::unsupported());
                    let first = exchange.message();
                    let length = i32::try_from(first.len()).expect("short").to_be_bytes();
                    let parts = [SCRAM_SHA_256.as_bytes(), b"\0", &length, first];
                    self.send(&frame(b'p', &parts.concat())).await;
                    scram = Some(exchange);
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    let exchange = scram.as_mut().expect("SASL was asked for");
                    exchange.update(&message.body[4..]).expect("the server's first message");
                    let last = frame(b'p', exchange.message());
                    self.send(&last).await;
                }
                (b'R', Some([0, 0, 0, 12])) => {
                    scram.as_mut().expect("SASL was asked for").finish(&message.body[4..]).expect("its proof");
                }
                (tag, _) => {
                    greeting.push(message);
                    if matches!(tag, b'Z' | b'E') {
                        return greeting;
                    }
                }
            }
        }
    }

    /// Sends bytes, in one write.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it takes them");
    }

    /// Sends bytes to a server that may be gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message.
    pub async fn read(&mut self) -> Message {
        self.next().await.expect("a message, and not the end")
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let mut chunk = [0; 8192];
            let count = tokio::time::timeout(DEADLINE, self.stream.read(&mut chunk))
                .await
                .unwrap_or_else(|_| {
                    panic!("no message within {DEADLINE:?}; unread: {:?}", self.buffer.escape_ascii().to_string())
                })
                .unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    fn take(&mut self) -> Option<Message> {
        let header = self.buffer.first_chunk::<5>()?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let end = 1 + usize::try_from(length).expect("a length");
        if self.buffer.len() < end {
            return None;
        }
        let bytes: Vec<u8> = self.buffer.drain(..end).collect();
        Some(Message { tag: bytes[0], body: bytes[5..].to_vec() })
    }

    /// Messages up to this many `ReadyForQuery`.
    pub async fn until_ready(&mut self, count: usize) -> Vec<Message> {
        self.until(b'Z', count).await
    }

    /// Messages up to this many with this tag.
    pub async fn until(&mut self, tag: u8, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut left = count;
        while left > 0 {
            let Some(message) = self.next().await else { panic!("the end after {messages:?}") };
            left -= usize::from(message.tag == tag);
            messages.push(message);
        }
        messages
    }

    /// Sends, and reads up to `ReadyForQuery`.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.send(bytes).await;
        self.until_ready(1).await
    }

    /// A simple query.
    pub async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.exchange(&query(sql)).await
    }

    /// A simple query that must not fail; its rows.
    pub async fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let messages = self.query(sql).await;
        assert_eq!(sqlstates(&messages), Vec::<String>::new(), "{sql}: {messages:?}");
        rows(&messages)
    }

    /// A simple query that must give one value.
    pub async fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        assert_eq!((rows.len(), rows.first().map(Vec::len)), (1, Some(1)), "{sql}: {rows:?}");
        rows[0][0].clone()
    }
}

/// A message with this tag and body.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [&[tag][..], &length, body].concat()
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), b"\0"].concat()
}

fn count(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("few").to_be_bytes()
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &text(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let types_bytes: Vec<u8> = types.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    frame(b'P', &[text(name), text(sql), count(types.len()).to_vec(), types_bytes].concat())
}

/// All parameters and results as text.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    bind_as(portal, statement, parameters, false)
}

/// As [`bind`], with the results in binary where asked for.
pub fn bind_as(portal: &str, statement: &str, parameters: &[&str], binary: bool) -> Vec<u8> {
    let values: Vec<Option<Vec<u8>>> = parameters.iter().map(|value| Some(value.as_bytes().to_vec())).collect();
    bind_values(portal, statement, 0, &values, u16::from(binary))
}

/// Parameters in one format, or NULL, and results in one: 0 is text, 1 is binary.
pub fn bind_values(portal: &str, statement: &str, format: u16, values: &[Option<Vec<u8>>], results: u16) -> Vec<u8> {
    let mut body = [text(portal), text(statement), count(1).to_vec(), format.to_be_bytes().to_vec()].concat();
    body.extend(count(values.len()));
    for value in values {
        let length = value.as_ref().map_or(u32::MAX, |value| u32::try_from(value.len()).expect("short"));
        body.extend(length.to_be_bytes());
        body.extend(value.iter().flatten());
    }
    body.extend([count(1), results.to_be_bytes()].concat());
    frame(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    frame(b'D', &[b"S".to_vec(), text(name)].concat())
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    frame(b'D', &[b"P".to_vec(), text(name)].concat())
}

/// At most `limit` rows; 0 is all.
pub fn execute(portal: &str, limit: u32) -> Vec<u8> {
    frame(b'E', &[text(portal), limit.to_be_bytes().to_vec()].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    frame(b'C', &[b"S".to_vec(), text(name)].concat())
}

pub fn close_portal(name: &str) -> Vec<u8> {
    frame(b'C', &[b"P".to_vec(), text(name)].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}

pub fn copy_data(data: &str) -> Vec<u8> {
    frame(b'd', data.as_bytes())
}

pub fn copy_done() -> Vec<u8> {
    frame(b'c', b"")
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    frame(b'f', &text(reason))
}

/// A fast-path call with binary arguments and a binary result.
pub fn function_call(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = [&oid.to_be_bytes()[..], &count(1), &count(1), &count(arguments.len())].concat();
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).expect("short").to_be_bytes());
        body.extend(*argument);
    }
    body.extend(count(1));
    frame(b'F', &body)
}

/// Parse, Bind, Execute of the unnamed statement.
pub fn run(sql: &str, parameters: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", parameters), execute("", 0)].concat()
}

/// Bind, Execute of a prepared statement.
pub fn run_prepared(name: &str, parameters: &[&str]) -> Vec<u8> {
    [bind("", name, parameters), execute("", 0)].concat()
}

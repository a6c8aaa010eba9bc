//! A client that can send anything: for tests of what a well-behaved driver would never do.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use pgsluice::wire::backend::{error_field, tag};
use pgsluice::wire::{Frames, header};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{DEADLINE, Stand};

pub const V3: i32 = 3 << 16;
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// A connection without a driver. All that is awaited here ends within [`DEADLINE`], or the test has failed.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    input: BytesMut,
}

/// What an `ErrorResponse` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

/// A message: its type and its body.
pub type Message = (u8, Vec<u8>);

impl Raw {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy takes the connection");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, input: BytesMut::new() }
    }

    /// Connects and logs in as the application's user.
    pub async fn log_in(stand: &Stand) -> Self {
        let options = stand.cluster.options();
        let mut raw = Self::connect(&stand.proxy.address).await;
        let packet = startup(V3, &[("user", &options.app.user), ("database", &options.database)]);
        raw.send(&packet).await;
        raw.authenticate(&options.app.password).await;
        raw.until(tag::READY_FOR_QUERY).await;
        raw
    }

    /// The SCRAM exchange, up to `AuthenticationOk`.
    pub async fn authenticate(&mut self, password: &str) {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let asked = self.expect(tag::AUTHENTICATION).await;
        assert_eq!(asked[..4], 10_i32.to_be_bytes(), "AuthenticationSASL");
        self.send(&initial_response("SCRAM-SHA-256", scram.message())).await;
        let challenge = self.expect(tag::AUTHENTICATION).await;
        scram.update(&challenge[4..]).expect("a challenge");
        self.send(&frame(b'p', scram.message())).await;
        let last = self.expect(tag::AUTHENTICATION).await;
        scram.finish(&last[4..]).expect("the server knows the password too");
        assert_eq!(self.expect(tag::AUTHENTICATION).await, [0; 4], "AuthenticationOk");
    }

    /// To be read and written by different tasks.
    pub fn split(self) -> (Raw<OwnedReadHalf>, OwnedWriteHalf) {
        let (stream, writer) = self.stream.into_split();
        (Raw { stream, input: self.input }, writer)
    }

    /// Sends what the other side takes of it.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("the bytes are taken");
    }

    /// A `Query`, and all of its answer.
    pub async fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(&frame(b'Q', format!("{text}\0").as_bytes())).await;
        self.until(tag::READY_FOR_QUERY).await
    }

    /// The connection ends without warning: with a reset, not a farewell.
    pub fn vanish(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// The answer to an `SSLRequest` or `GSSENCRequest`.
    pub async fn byte(&mut self) -> Option<u8> {
        if self.input.is_empty() && !self.fill().await {
            return None;
        }
        Some(self.input.get_u8())
    }

    /// The next message; `None` at the end of the connection.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = Frames::new(&self.input).next() {
                let frame = frame.expect("the proxy speaks the protocol");
                let (message, size) = ((frame.tag, frame.body.to_vec()), frame.bytes.len());
                self.input.advance(size);
                return Some(message);
            }
            if !self.fill().await {
                assert!(self.input.is_empty(), "half a message at the end: {:?}", header(&self.input));
                return None;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.input));
        matches!(read.await.expect("the proxy answers or hangs up"), Ok(1..))
    }

    /// The body of the next message, which must be of that type.
    pub async fn expect(&mut self, wanted: u8) -> Vec<u8> {
        match self.message().await {
            Some((tag, body)) if tag == wanted => body,
            other => panic!("wanted {:?}, got {}", char::from(wanted), show(other.as_ref())),
        }
    }

    /// All messages up to one of that type.
    pub async fn until(&mut self, wanted: u8) -> Vec<Message> {
        let mut seen = Vec::new();
        loop {
            let message = self.message().await.unwrap_or_else(|| panic!("the connection ended after {seen:?}"));
            let is_last = message.0 == wanted;
            seen.push(message);
            if is_last {
                return seen;
            }
        }
    }

    /// An error, and then the end of the connection.
    pub async fn farewell(&mut self) -> Told {
        let told = read_error(&self.expect(tag::ERROR_RESPONSE).await);
        assert_eq!(self.message().await, None, "after {told:?}");
        told
    }

    /// Reads and throws away until the connection ends.
    pub async fn drain(&mut self) {
        while self.fill().await {
            self.input.clear();
        }
    }
}

pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(i32::try_from(body.len() + 4).expect("a length").to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A header that says what it likes about the body's length.
pub fn frame_of_length(tag: u8, length: i32, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// A first packet: its length, a version or request code, and the rest as it is.
pub fn packet(code: i32, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 8).expect("a length");
    [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

pub fn startup(version: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> =
        parameters.iter().flat_map(|(name, value)| format!("{name}\0{value}\0").into_bytes()).collect();
    body.push(0);
    packet(version, &body)
}

pub fn initial_response(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("a length").to_be_bytes();
    frame(b'p', &[mechanism.as_bytes(), b"\0", &length, message].concat())
}

/// `Parse` without parameter types.
pub fn parse(name: &str, text: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

/// `Bind` to the unnamed portal, with text parameters.
pub fn bind(statement: &str, parameters: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("\0{statement}\0").into_bytes();
    body.extend([0, 0]);
    body.extend(u16::try_from(parameters.len()).expect("few").to_be_bytes());
    for value in parameters {
        body.extend(i32::try_from(value.len()).expect("a length").to_be_bytes());
        body.extend(*value);
    }
    body.extend([0, 0]);
    frame(b'B', &body)
}

/// `Execute` of the unnamed portal, all rows.
pub fn execute() -> Vec<u8> {
    frame(b'E', &[0; 5])
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

pub fn read_error(body: &[u8]) -> Told {
    let field = |code| String::from_utf8_lossy(error_field(body, code).unwrap_or_default()).into_owned();
    Told { severity: field(b'V'), code: field(b'C'), message: field(b'M'), detail: field(b'D'), hint: field(b'H') }
}

/// The errors among some messages.
pub fn errors(messages: &[Message]) -> Vec<Told> {
    messages.iter().filter(|(tag, _)| *tag == tag::ERROR_RESPONSE).map(|(_, body)| read_error(body)).collect()
}

/// The first column of each row, as text.
pub fn first_column(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|(tag, _)| *tag == tag::DATA_ROW);
    rows.map(|(_, body)| {
        let length = usize::try_from(i32::from_be_bytes(*body[2..].first_chunk().expect("a column"))).expect("no null");
        String::from_utf8_lossy(&body[6..6 + length]).into_owned()
    })
    .collect()
}

fn show(message: Option<&Message>) -> String {
    match message {
        None => "the end of the connection".into(),
        Some((tag::ERROR_RESPONSE, body)) => format!("{:?}", read_error(body)),
        Some((tag, body)) => format!("{:?} {}", char::from(*tag), String::from_utf8_lossy(body)),
    }
}

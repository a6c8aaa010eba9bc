//! The first packet of a connection: what a client asks for before it has said who it is.
//!
//! Nobody has been authenticated yet, so everything here is small and bounded.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use bytes::BytesMut;
use pgwire::messages::startup::{GssEncRequest, SslRequest, Startup};
use pgwire::messages::{DecodeContext, Message};

/// `MAX_STARTUP_PACKET_LENGTH`.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/libpq/pqcomm.h>
pub const MAX_SIZE: usize = 10_000;

/// The request code of a `CancelRequest`: major 1234, minor 5678.
pub const CANCEL_REQUEST_CODE: i32 = 80_877_102;

/// An `SSLRequest`, whole.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A first packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// May I speak TLS?
    Ssl,
    /// May I speak GSSAPI?
    Gss,
    /// Cancel what that session is running.
    Cancel(CancelKey),
    /// I want to log in.
    Startup(Request),
}

/// What a `CancelRequest` carries, and a `BackendKeyData` gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The process ID.
    pub pid: i32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Box<[u8]>,
}

/// What a `StartupMessage` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The minor version of protocol 3 that the client speaks.
    pub minor_version: u16,
    /// `user`
    pub user: String,
    /// `database`; the user's name where it is missing.
    pub database: String,
    /// `replication`, where it is asked for.
    pub replication: Option<String>,
    /// Everything else that is not a `_pq_.` option, and what `options` sets, in that order: later wins.
    pub settings: Vec<(String, String)>,
    /// `_pq_.` options, none of which is known.
    pub protocol_options: Vec<String>,
}

impl Request {
    /// Whether it is to be a replication connection (`walsender`), as PostgreSQL reads the parameter.
    pub fn is_replication(&self) -> bool {
        self.replication.as_deref().is_some_and(|value| !["false", "off", "no", "0"].contains(&value))
    }

    /// Of the whole cluster, and so of no database.
    pub fn is_physical_replication(&self) -> bool {
        self.is_replication() && self.replication.as_deref() != Some("database")
    }
}

/// A first packet that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Its length cannot be.
    #[error("invalid length of startup packet")]
    Length,
    /// Another major version.
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0 to 3.2")]
    Version(u16, u16),
    /// It is not a list of names and values.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A login without a name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// `options` that are not `-c name=value` or `--name=value`.
    #[error("invalid command-line argument for server process: {0}")]
    Options(String),
}

/// The size of the packet at the start of `bytes`; `None` until its length field is there.
pub fn size(bytes: &[u8]) -> Result<Option<usize>, PacketError> {
    let Some(length) = bytes.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else { return Ok(None) };
    match usize::try_from(length) {
        Ok(length @ 8..=MAX_SIZE) => Ok(Some(length)),
        _ => Err(PacketError::Length),
    }
}

/// Reads one whole packet, as long as [`size`] said.
pub fn read(packet: &[u8]) -> Result<Packet, PacketError> {
    if size(packet)? != Some(packet.len()) {
        return Err(PacketError::Length);
    }
    if SslRequest::is_ssl_request_packet(packet) {
        return if packet.len() == SslRequest::BODY_SIZE { Ok(Packet::Ssl) } else { Err(PacketError::Length) };
    }
    if GssEncRequest::is_gss_enc_request_packet(packet) {
        return if packet.len() == GssEncRequest::BODY_SIZE { Ok(Packet::Gss) } else { Err(PacketError::Length) };
    }
    let (_, body) = packet.split_first_chunk::<4>().ok_or(PacketError::Length)?;
    let (code, body) = body.split_first_chunk::<4>().ok_or(PacketError::Length)?;
    let code = i32::from_be_bytes(*code);
    if code == CANCEL_REQUEST_CODE {
        return read_cancel(body).ok_or(PacketError::Length).map(Packet::Cancel);
    }
    // The two halves of the version number.
    let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
    if major != 3 {
        return Err(PacketError::Version(major, minor));
    }
    check_layout(body)?;
    let startup = Startup::decode(&mut BytesMut::from(packet), &DecodeContext::default())
        .map_err(|_| PacketError::Layout)?
        .ok_or(PacketError::Layout)?;
    read_login(startup).map(Packet::Startup)
}

fn read_cancel(body: &[u8]) -> Option<CancelKey> {
    let (pid, secret) = body.split_first_chunk()?;
    (4..=256).contains(&secret.len()).then(|| CancelKey { pid: i32::from_be_bytes(*pid), secret: secret.into() })
}

/// Pairs of strings, and an empty one at the very end. The decoder would let other things pass.
fn check_layout(body: &[u8]) -> Result<(), PacketError> {
    let body = body.strip_suffix(b"\0").ok_or(PacketError::Layout)?;
    if body.is_empty() {
        return Ok(());
    }
    let body = body.strip_suffix(b"\0").ok_or(PacketError::Layout)?;
    let strings: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
    let names_are_there = strings.chunks(2).all(|pair| pair.len() == 2 && !pair[0].is_empty());
    names_are_there.then_some(()).ok_or(PacketError::Layout)
}

fn read_login(startup: Startup) -> Result<Request, PacketError> {
    let mut request = Request {
        minor_version: startup.protocol_number_minor,
        user: String::new(),
        database: String::new(),
        replication: None,
        settings: Vec::new(),
        protocol_options: Vec::new(),
    };
    let mut options = Vec::new();
    for (name, value) in startup.parameters {
        match name.as_str() {
            "user" => request.user = value,
            "database" => request.database = value,
            "replication" => request.replication = Some(value),
            "options" => options = read_options(&value)?,
            _ if name.starts_with("_pq_.") => request.protocol_options.push(name),
            _ => request.settings.push((name.to_lowercase(), value)),
        }
    }
    // PostgreSQL applies the command line first, then the packet's own parameters.
    options.append(&mut request.settings);
    request.settings = options;
    if request.user.is_empty() {
        return Err(PacketError::NoUser);
    }
    if request.database.is_empty() {
        request.database.clone_from(&request.user);
    }
    Ok(request)
}

/// `-c name=value`, `-cname=value` and `--name=value`, separated by spaces that a backslash escapes
/// (`pg_split_opts`). In names, `-` stands for `_`.
fn read_options(text: &str) -> Result<Vec<(String, String)>, PacketError> {
    let mut settings = Vec::new();
    let mut words = split_options(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or_else(|| PacketError::Options(word.clone()))?
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(PacketError::Options(word));
        };
        let (name, value) = setting.split_once('=').ok_or_else(|| PacketError::Options(setting.clone()))?;
        settings.push((name.replace('-', "_").to_lowercase(), value.to_owned()));
    }
    Ok(settings)
}

fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = i32::try_from(8 + body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V3: i32 = 3 << 16;

    #[test]
    fn a_login_is_read() {
        let body = b"user\0ann\0database\0shop\0options\0-c work_mem=1\\ MB --Log-x=2 -cjit=off\0application_name\0psql\0_pq_.x\0 1\0\0";
        let Ok(Packet::Startup(request)) = read(&packet(V3 + 2, body)) else { panic!("not a login") };
        assert_eq!((request.user.as_str(), request.database.as_str(), request.minor_version), ("ann", "shop", 2));
        let settings: Vec<_> = request.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(settings, [("work_mem", "1 MB"), ("log_x", "2"), ("jit", "off"), ("application_name", "psql")]);
        assert_eq!(request.protocol_options, ["_pq_.x"]);
    }

    #[test]
    fn the_database_is_the_users_by_default() {
        let Ok(Packet::Startup(request)) = read(&packet(V3, b"user\0ann\0\0")) else { panic!("not a login") };
        assert_eq!(request.database, "ann");
    }

    #[test]
    fn special_requests_are_read() {
        assert_eq!(read(&packet(80_877_103, b"")), Ok(Packet::Ssl));
        assert_eq!(read(&SSL_REQUEST), Ok(Packet::Ssl));
        assert_eq!(read(&packet(80_877_104, b"")), Ok(Packet::Gss));
        assert_eq!(
            read(&packet(80_877_102, b"\0\0\0\x07abcd")),
            Ok(Packet::Cancel(CancelKey { pid: 7, secret: b"abcd".as_slice().into() }))
        );
    }

    #[test]
    fn other_things_are_refused() {
        for (bytes, error) in [
            (packet(V3, b""), PacketError::Layout),
            (packet(V3, b"\0"), PacketError::NoUser),
            (packet(V3, b"user\0ann\0"), PacketError::Layout),
            (packet(V3, b"user\0ann"), PacketError::Layout),
            (packet(V3, b"user\0\0"), PacketError::Layout),
            (packet(V3, b"user\0a\0\0x\0y\0\0"), PacketError::Layout),
            (packet(V3, b"user\0a\0options\0-x\0\0"), PacketError::Options("-x".into())),
            (packet(V3, b"user\0a\0options\0-c\0\0"), PacketError::Options("-c".into())),
            (packet(2 << 16, b"x"), PacketError::Version(2, 0)),
            (packet(80_877_102, b"\0\0\0\x07abc"), PacketError::Length),
            (packet(80_877_103, b"x"), PacketError::Length),
            (b"\0\0\0\x07\0\0\0".to_vec(), PacketError::Length),
            (b"GET / HTTP/1.1\r\n".to_vec(), PacketError::Length),
        ] {
            assert_eq!(read(&bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(size(b"\0\0"), Ok(None));
        assert_eq!(size(b"\x7f\xff\xff\xff"), Err(PacketError::Length));
        assert_eq!(size(b"\0\0\0\x03"), Err(PacketError::Length));
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>(), Just(b'-'), Just(b'c')], 0..80), code in prop_oneof![Just(V3), any::<i32>()]) {
            let _ = read(&packet(code, &body));
            let _ = read(&body);
        }
    }
}

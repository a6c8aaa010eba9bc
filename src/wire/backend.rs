//! Borrowed views of what a server sends, and the few backend messages that the proxy writes.

use bytes::{BufMut, BytesMut};

/// Message type bytes. <https://www.postgresql.org/docs/current/protocol-message-formats.html>
#[expect(missing_docs, reason = "each is the message of that name")]
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Where a session stands with transactions, as `ReadyForQuery` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In one.
    Transaction,
    /// In one that has failed.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a `ReadyForQuery`.
    pub fn read(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::Transaction),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Transaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Writes a `ReadyForQuery`.
pub fn put_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    out.put_slice(&[tag::READY_FOR_QUERY, 0, 0, 0, 5, status.code()]);
}

/// Reads the body of a `ParameterStatus`: name and value. PostgreSQL's are all UTF-8 or ASCII
/// but for values in another client encoding, which are left as bytes.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = body.split(|byte| *byte == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    Some((name, parts.next()?))
}

/// Writes a `ParameterStatus`.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &[u8]) {
    super::frontend::put(out, tag::PARAMETER_STATUS, &[name.as_bytes(), b"\0", value, b"\0"]);
}

/// One field of an `ErrorResponse` or `NoticeResponse`.
/// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
pub fn error_field(body: &[u8], code: u8) -> Option<&[u8]> {
    body.split(|byte| *byte == 0)
        .take_while(|field| !field.is_empty())
        .find_map(|field| field.split_first().filter(|(kind, _)| **kind == code).map(|(_, value)| value))
}

/// How many rows a `CommandComplete` speaks of: the number that its tag ends with; 0 where there is none.
pub fn rows(body: &[u8]) -> u64 {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    let last = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(last).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A `CommandComplete` with the same tag, of so many rows.
pub fn command_complete(body: &[u8], rows: u64) -> Vec<u8> {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    let words = tag.iter().rposition(|byte| *byte == b' ').map_or(tag, |at| &tag[..at]);
    let mut message = BytesMut::new();
    let rows = rows.to_string();
    super::frontend::put(&mut message, tag::COMMAND_COMPLETE, &[words, b" ", rows.as_bytes(), b"\0"]);
    message.to_vec()
}

/// An `ErrorResponse`'s SQLSTATE; `XX000` where it has none.
pub fn sqlstate(body: &[u8]) -> &[u8] {
    error_field(body, b'C').unwrap_or(b"XX000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_command_tags() {
        for (tag, expected) in [
            ("INSERT 0 5\0", 5),
            ("SELECT 18446744073709551615\0", u64::MAX),
            ("UPDATE 3\0", 3),
            ("COPY 7\0", 7),
            ("BEGIN\0", 0),
            ("CREATE TABLE\0", 0),
            ("", 0),
            ("SELECT 99999999999999999999999\0", 0),
        ] {
            assert_eq!(rows(tag.as_bytes()), expected, "{tag}");
        }
    }

    #[test]
    fn a_tag_gets_another_number() {
        assert_eq!(command_complete(b"UPDATE 3\0", 12), b"C\0\0\0\x0eUPDATE 12\0");
        assert_eq!(command_complete(b"INSERT 0 5\0", 7), b"C\0\0\0\x0fINSERT 0 7\0");
    }

    #[test]
    fn fields_of_an_error() {
        let body = b"SERROR\0VERROR\0C25006\0Mcannot execute INSERT\0\0";
        assert_eq!(sqlstate(body), b"25006");
        assert_eq!(error_field(body, b'M'), Some(b"cannot execute INSERT".as_slice()));
        assert_eq!(error_field(body, b'H'), None);
        assert_eq!(sqlstate(b""), b"XX000");
        assert_eq!(sqlstate(b"\0C25006\0"), b"XX000");
    }

    #[test]
    fn parameter_status_is_read_back() {
        let mut out = BytesMut::new();
        put_parameter_status(&mut out, "TimeZone", b"UTC");
        assert_eq!(parameter_status(&out[5..]), Some(("TimeZone", b"UTC".as_slice())));
        assert_eq!(parameter_status(b"x"), None);
    }
}

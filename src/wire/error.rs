//! What the proxy itself tells a client when something is wrong.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

/// How bad it is, in PostgreSQL's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement has failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

/// An error for a client: everything in it may be read by the client, so nothing secret goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// ERROR or FATAL.
    pub severity: Severity,
    /// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    pub sqlstate: &'static str,
    /// What is wrong; lower case, no full stop, as PostgreSQL writes them.
    pub message: String,
    /// More of it, in whole sentences.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The function of PostgreSQL that raises the same, where drivers know the error by that.
    pub routine: Option<&'static str>,
}

impl ErrorReply {
    /// An ERROR.
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, sqlstate, message: message.into(), detail: None, hint: None, routine: None }
    }

    /// A FATAL: the connection is closed after it.
    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    /// With a DETAIL.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a HINT.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With PostgreSQL's own function.
    #[must_use]
    pub fn routine(mut self, routine: &'static str) -> Self {
        self.routine = Some(routine);
        self
    }

    /// The same as a FATAL.
    #[must_use]
    pub fn into_fatal(mut self) -> Self {
        self.severity = Severity::Fatal;
        self
    }

    /// Appends a `NoticeResponse` of this text.
    pub fn put_notice(text: &str, out: &mut BytesMut) {
        let fields = [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', text)];
        let fields = fields.map(|(code, text)| (code, text.to_owned())).to_vec();
        if let Err(error) = NoticeResponse::new(fields).encode(out) {
            tracing::error!(%error, "a notice could not be encoded");
        }
    }

    /// Appends the `ErrorResponse` message.
    pub fn put(&self, out: &mut BytesMut) {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        // V is S in English, whatever the client's language.
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.sqlstate.to_owned()),
            (b'M', self.message.clone()),
        ];
        fields.extend(self.detail.iter().map(|text| (b'D', text.clone())));
        fields.extend(self.hint.iter().map(|text| (b'H', text.clone())));
        fields.extend(self.routine.map(|name| (b'R', name.to_owned())));
        // Into a buffer that grows, the encoder has nothing to fail on.
        if let Err(error) = ErrorResponse::new(fields).encode(out) {
            tracing::error!(%error, "an error message could not be encoded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend::{error_field, sqlstate};

    #[test]
    fn all_fields_are_on_the_wire() {
        let mut out = BytesMut::new();
        ErrorReply::error("53300", "too many clients")
            .detail("There are 10.")
            .hint("Close one.")
            .routine("f")
            .put(&mut out);
        assert_eq!(out[0], b'E');
        let body = &out[5..];
        assert_eq!(sqlstate(body), b"53300");
        for (code, text) in [
            (b'S', "ERROR"),
            (b'V', "ERROR"),
            (b'M', "too many clients"),
            (b'D', "There are 10."),
            (b'H', "Close one."),
            (b'R', "f"),
        ] {
            assert_eq!(error_field(body, code), Some(text.as_bytes()), "{}", char::from(code));
        }
    }
}

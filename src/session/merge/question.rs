//! What servers are asked, by the extended protocol and without names.

use bytes::BytesMut;

use crate::wire::frontend::{Bind, Parse, put, put_bind, put_parse, put_statement_target, tag};

/// `Describe` and the rest for a portal without a name.
const PORTAL: &[u8] = b"P\0";
const ALL_ROWS: &[u8] = b"\0\0\0\0\0";

/// A statement and its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) text: &'q [u8],
    /// Parameter types, as in `Parse`.
    pub(super) types: &'q [u8],
    /// Formats and values of parameters, as in `Bind`.
    pub(super) parameters: &'q [u8],
}

impl Question<'_> {
    pub(super) fn parse(&self) -> Vec<u8> {
        let mut messages = BytesMut::new();
        put_parse(&mut messages, Parse { name: b"", text: self.text, types: self.types });
        messages.to_vec()
    }

    /// What it takes, and what its rows would look like.
    pub(super) fn describe(&self) -> Vec<u8> {
        let mut messages = BytesMut::from(&self.parse()[..]);
        put_statement_target(&mut messages, tag::DESCRIBE, b"");
        messages.to_vec()
    }

    /// Of what was parsed; the answer in these formats.
    pub(super) fn execute(&self, formats: &[[u8; 2]], describes: bool) -> Vec<u8> {
        let mut messages = BytesMut::new();
        let count = u16::try_from(formats.len()).unwrap_or(u16::MAX).to_be_bytes();
        let rest = [self.parameters, &count, &formats.concat()].concat();
        put_bind(&mut messages, Bind { portal: b"", statement: b"", rest: &rest });
        if describes {
            // A server keeps what it has to say until there is enough of it; but what the rows look like must be known of
            // all before the first is given.
            put(&mut messages, tag::DESCRIBE, &[PORTAL]);
            put(&mut messages, tag::FLUSH, &[]);
        }
        put(&mut messages, tag::EXECUTE, &[ALL_ROWS]);
        messages.to_vec()
    }
}

//! Borrowed views of what a client sends, and the few frontend messages that the proxy writes.

use std::ffi::CStr;

use bytes::{BufMut, BytesMut};

/// Message type bytes. <https://www.postgresql.org/docs/current/protocol-message-formats.html>
#[expect(missing_docs, reason = "each is the message of that name")]
pub mod tag {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// Also SASLInitialResponse and SASLResponse.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// A body that does not have the form that its type demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0} message")]
pub struct Malformed(pub &'static str);

/// `Query`: the text, without its terminator.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    match cstr(body) {
        Some((text, [])) => Ok(text),
        _ => Err(Malformed("Query")),
    }
}

/// `Parse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty for the unnamed statement.
    pub name: &'a [u8],
    /// The statement's text.
    pub text: &'a [u8],
    /// The parameter type OIDs as they came: a 16-bit count and as many 32-bit OIDs.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let view = || {
            let (name, rest) = cstr(body)?;
            let (text, types) = cstr(rest)?;
            let count = usize::from(u16::from_be_bytes(*types.first_chunk()?));
            (types.len() == 2 + 4 * count).then_some(Self { name, text, types })
        };
        view().ok_or(Malformed("Parse"))
    }
}

/// Of one parameter: whether it is in binary format, and its value, `None` for NULL.
pub type BoundValue<'a> = (bool, Option<&'a [u8]>);

/// The start of a `Bind`; the parameters follow and are not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a [u8],
    /// Empty for the unnamed statement.
    pub statement: &'a [u8],
    /// Formats and values, as they came.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads a body.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let view = || {
            let (portal, rest) = cstr(body)?;
            let (statement, rest) = cstr(rest)?;
            Some(Self { portal, statement, rest })
        };
        view().ok_or(Malformed("Bind"))
    }

    /// [`Bind::rest`] with NULL for some of the parameters, by their place from 0.
    pub fn with_nulls(&self, is_null: impl Fn(usize) -> bool) -> Result<Vec<u8>, Malformed> {
        let mut rest = self.rest;
        let mut all = || {
            let formats = usize::from(take_u16(&mut rest)?);
            take(&mut rest, formats * 2)?;
            let count = usize::from(take_u16(&mut rest)?);
            let mut all = self.rest.get(..4 + formats * 2)?.to_vec();
            for index in 0..count {
                let length = *take(&mut rest, 4)?.first_chunk()?;
                let value = take(&mut rest, usize::try_from(i32::from_be_bytes(length)).unwrap_or_default())?;
                if is_null(index) {
                    all.extend_from_slice(&(-1i32).to_be_bytes());
                } else {
                    all.extend_from_slice(&length);
                    all.extend_from_slice(value);
                }
            }
            all.extend_from_slice(rest);
            Some(all)
        };
        all().ok_or(Malformed("Bind"))
    }

    /// The parameters.
    pub fn parameters(&self) -> Result<Vec<BoundValue<'a>>, Malformed> {
        let mut rest = self.rest;
        let mut all = || {
            let count = take_u16(&mut rest)?;
            let formats = take(&mut rest, usize::from(count) * 2)?;
            // None: all are texts; one: it is everybody's.
            let is_binary = |index: usize| match count {
                0 => Some(false),
                1 => Some(formats != [0, 0]),
                _ => Some(formats.get(index * 2..index * 2 + 2)? != [0, 0]),
            };
            let count = usize::from(take_u16(&mut rest)?);
            let mut parameters = Vec::with_capacity(count);
            for index in 0..count {
                let length = i32::from_be_bytes(*take(&mut rest, 4)?.first_chunk()?);
                let value = match usize::try_from(length) {
                    Ok(length) => Some(take(&mut rest, length)?),
                    Err(_) => None,
                };
                parameters.push((is_binary(index)?, value));
            }
            Some(parameters)
        };
        all().ok_or(Malformed("Bind"))
    }
}

impl<'a> Bind<'a> {
    /// Formats and values of the parameters, as they came; and the formats of the answer's columns.
    pub fn parts(&self) -> Result<(&'a [u8], Vec<[u8; 2]>), Malformed> {
        let mut rest = self.rest;
        let mut read = || {
            let formats = usize::from(take_u16(&mut rest)?);
            take(&mut rest, formats * 2)?;
            for _ in 0..take_u16(&mut rest)? {
                let length = i32::from_be_bytes(*take(&mut rest, 4)?.first_chunk()?);
                take(&mut rest, usize::try_from(length).unwrap_or_default())?;
            }
            let parameters = self.rest.get(..self.rest.len() - rest.len())?;
            let columns = take_u16(&mut rest)?;
            let formats = (0..columns).map(|_| take(&mut rest, 2)?.first_chunk().copied());
            Some((parameters, formats.collect::<Option<_>>()?))
        };
        read().ok_or(Malformed("Bind"))
    }
}

impl Bind<'_> {
    /// Whether formats and values are laid out as they say.
    pub fn check(&self) -> Result<(), Malformed> {
        let formats = |bytes: &mut &[u8]| {
            let count = take_u16(bytes)?;
            take(bytes, usize::from(count) * 2).map(drop)
        };
        let mut rest = self.rest;
        let mut all = || {
            formats(&mut rest)?;
            for _ in 0..take_u16(&mut rest)? {
                let length = i32::from_be_bytes(*take(&mut rest, 4)?.first_chunk()?);
                take(&mut rest, usize::try_from(length).unwrap_or_default())?;
            }
            formats(&mut rest)?;
            rest.is_empty().then_some(())
        };
        all().ok_or(Malformed("Bind"))
    }
}

/// The portal of an `Execute`, and how many rows are wanted; 0 is all.
pub fn execute(body: &[u8]) -> Result<(&[u8], u32), Malformed> {
    let view = || {
        let (portal, rest) = cstr(body)?;
        Some((portal, u32::from_be_bytes(rest.try_into().ok()?)))
    };
    view().ok_or(Malformed("Execute"))
}

fn take<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(taken)
}

fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*take(bytes, 2)?.first_chunk()?))
}

/// What `Describe` and `Close` are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads the body of a `Describe` or `Close`.
    pub fn read(body: &'a [u8], message: &'static str) -> Result<Self, Malformed> {
        match body.split_first().map(|(kind, rest)| (kind, cstr(rest))) {
            Some((b'S', Some((name, [])))) => Ok(Self::Statement(name)),
            Some((b'P', Some((name, [])))) => Ok(Self::Portal(name)),
            _ => Err(Malformed(message)),
        }
    }
}

fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let string = CStr::from_bytes_until_nul(bytes).ok()?.to_bytes();
    Some((string, &bytes[string.len() + 1..]))
}

/// Writes a message: its tag, its length, and the parts of its body one after the other.
#[inline]
pub fn put(out: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(5 + body);
    out.put_u8(tag);
    // The parts come from messages whose lengths were checked, plus a name of some bytes.
    out.put_u32(u32::try_from(4 + body).unwrap_or(u32::MAX));
    for part in parts {
        out.put_slice(part);
    }
}

/// Writes a `Query`.
pub fn put_query(out: &mut BytesMut, text: &[u8]) {
    put(out, tag::QUERY, &[text, b"\0"]);
}

/// Writes a `Parse`.
pub fn put_parse(out: &mut BytesMut, parse: Parse<'_>) {
    put(out, tag::PARSE, &[parse.name, b"\0", parse.text, b"\0", parse.types]);
}

/// Writes a `Bind` whose formats and values are taken over.
pub fn put_bind(out: &mut BytesMut, bind: Bind<'_>) {
    put(out, tag::BIND, &[bind.portal, b"\0", bind.statement, b"\0", bind.rest]);
}

/// Writes a `Describe` or `Close` (by `tag`) of a prepared statement.
pub fn put_statement_target(out: &mut BytesMut, tag: u8, name: &[u8]) {
    put(out, tag, &[b"S", name, b"\0"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frames;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = BytesMut::new();
        let parse = Parse { name: b"s1", text: b"select $1", types: b"\0\x01\0\0\0\x17" };
        let bind = Bind { portal: b"", statement: b"s1", rest: b"\0\0\0\x01\0\0\0\x011\0\0" };
        put_parse(&mut out, parse);
        put_bind(&mut out, bind);
        put_statement_target(&mut out, tag::CLOSE, b"s1");
        put_query(&mut out, b"select 1");
        let frames: Vec<_> = Frames::new(&out).map(Result::unwrap).collect();
        assert_eq!(Parse::read(frames[0].body), Ok(parse));
        assert_eq!(Bind::read(frames[1].body), Ok(bind));
        assert_eq!(Target::read(frames[2].body, "Close"), Ok(Target::Statement(b"s1")));
        assert_eq!(query(frames[3].body), Ok(b"select 1".as_slice()));
        assert_eq!(frames.len(), 4);
    }

    #[test]
    fn bodies_of_another_form_are_refused() {
        for body in [b"".as_slice(), b"select 1", b"select 1\0x", b"a\0b\0"] {
            assert_eq!(query(body), Err(Malformed("Query")));
        }
        for body in [b"".as_slice(), b"a\0", b"a\0b\0", b"a\0b\0\0", b"a\0b\0\0\x01\0\0\0", b"a\0b\0\0\0x"] {
            assert_eq!(Parse::read(body), Err(Malformed("Parse")));
        }
        for body in [b"".as_slice(), b"a", b"a\0b"] {
            assert_eq!(Bind::read(body), Err(Malformed("Bind")));
        }
        for rest in [b"".as_slice(), b"\0\0", b"\0\x01\0", b"\0\0\0\x01\0\0\0\x02x\0\0", b"\0\0\0\0\0\0x"] {
            assert_eq!(Bind { portal: b"", statement: b"", rest }.check(), Err(Malformed("Bind")), "{rest:?}");
        }
        let rest = b"\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x01\0\0";
        assert_eq!(Bind { portal: b"", statement: b"", rest }.check(), Ok(()));
        let (parameters, formats) = Bind { portal: b"", statement: b"", rest }.parts().unwrap();
        assert_eq!((parameters, &*formats), (&rest[..15], &[[0, 0]][..]));
        assert_eq!(execute(b"p\0\0\0\0\x07"), Ok((b"p".as_slice(), 7)));
        for body in [b"".as_slice(), b"p", b"p\0\0\0\0", b"p\0\0\0\0\0\0"] {
            assert_eq!(execute(body), Err(Malformed("Execute")));
        }
        for body in [b"".as_slice(), b"S", b"X\0", b"Sa", b"Sa\0b"] {
            assert_eq!(Target::read(body, "Close"), Err(Malformed("Close")));
        }
    }
}

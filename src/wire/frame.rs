//! Splitting a byte stream into frames.
//!
//! After start-up every message is a tag byte and a big-endian length that counts itself but not
//! the tag. <https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-MESSAGE-CONCEPTS>

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian};

/// The five bytes before a message's body, as they are on the wire.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    tag: u8,
    length: big_endian::I32,
}

const HEADER_SIZE: usize = size_of::<RawHeader>();

/// PostgreSQL's own limit on one message (`PQ_LARGE_MESSAGE_LIMIT`, `MaxAllocSize - 1`).
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/libpq/libpq.h>
const MAX_LENGTH: i32 = 0x3fff_fffe;

/// What a message is, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type byte.
    pub tag: u8,
    /// Bytes in all: tag, length field and body.
    pub size: usize,
}

/// A length field that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length {length} in message of type {tag:?}")]
pub struct FrameError {
    /// The message type byte, as a character.
    pub tag: char,
    /// The length field, as it came.
    pub length: i32,
}

/// Reads the header at the start of `bytes`; `None` until all five bytes are there.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else { return Ok(None) };
    let length = raw.length.get();
    if !(4..=MAX_LENGTH).contains(&length) {
        return Err(FrameError { tag: char::from(raw.tag), length });
    }
    // In range by the check above.
    Ok(Some(Header { tag: raw.tag, size: 1 + length.unsigned_abs() as usize }))
}

/// A whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message type byte.
    pub tag: u8,
    /// What follows the length field.
    pub body: &'a [u8],
    /// All of it, as it came.
    pub bytes: &'a [u8],
}

/// The whole messages at the start of a buffer. Ends at the first that is not whole.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Over `bytes`, which starts at a message's tag.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = match header(self.rest) {
            Ok(header) => header?,
            Err(error) => {
                self.rest = &[];
                return Some(Err(error));
            }
        };
        let (bytes, rest) = self.rest.split_at_checked(header.size)?;
        self.rest = rest;
        Some(Ok(Frame { tag: header.tag, body: &bytes[HEADER_SIZE..], bytes }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_checked() {
        assert_eq!(header(b"Q\0\0\0"), Ok(None));
        assert_eq!(header(b"S\0\0\0\x04"), Ok(Some(Header { tag: b'S', size: 5 })));
        assert_eq!(header(b"d\x3f\xff\xff\xfe"), Ok(Some(Header { tag: b'd', size: 0x3fff_ffff })));
        for (bytes, length) in [(b"Q\0\0\0\x03", 3), (b"Q\x7f\xff\xff\xff", i32::MAX), (b"Q\xff\xff\xff\xff", -1)] {
            assert_eq!(header(bytes), Err(FrameError { tag: 'Q', length }));
        }
    }

    proptest! {
        #[test]
        fn frames_are_found_again(bodies in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20), cut in 0usize..30) {
            let mut bytes = Vec::new();
            for (tag, body) in &bodies {
                bytes.push(*tag);
                bytes.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
                bytes.extend(body);
            }
            let found: Vec<_> = Frames::new(&bytes).map(|frame| frame.map(|frame| (frame.tag, frame.body.to_vec()))).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&found, &bodies);
            let cut = bytes.len().saturating_sub(cut);
            let whole: usize = Frames::new(&bytes[..cut]).map(|frame| frame.unwrap().bytes.len()).sum();
            prop_assert!(whole <= cut);
        }

        #[test]
        fn garbage_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let total: usize = Frames::new(&bytes).map_while(Result::ok).map(|frame| frame.bytes.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }
}

//! PostgreSQL's binary format.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format"

use super::{Event, Extent, Mark, RowError};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// With rows of OIDs, which no supported version has.
const HAS_OIDS: i32 = 1 << 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Signature, flags, and the extension's length.
    Header,
    Extension(usize),
    Count,
    Length(i16),
    /// So many bytes are still to come of a field, and so many fields behind it.
    Value {
        left: usize,
        fields: i16,
    },
    /// Behind the trailer.
    Over,
}

/// Where the reading stands.
#[derive(Debug)]
pub(super) struct Binary {
    /// Of the row that is being read, from 1.
    pub(super) number: u64,
    state: State,
    /// What has come of a number, or of the header.
    partial: [u8; 19],
    filled: usize,
    /// Where the field begins, from the row's beginning.
    start: usize,
}

impl Default for Binary {
    fn default() -> Self {
        Self { number: 1, state: State::Header, partial: [0; 19], filled: 0, start: 0 }
    }
}

impl Binary {
    /// `origin` and an index make a place in the row.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize, origin: usize) -> Result<Event, RowError> {
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = self.take::<19>(bytes, at) else { return Ok(Event::More) };
                    self.state = State::Extension(extension(&header)?);
                }
                State::Extension(left) => {
                    let left = pass(left, bytes, at);
                    self.state = if left > 0 { State::Extension(left) } else { State::Count };
                    return Ok(if left > 0 { Event::More } else { Event::Header });
                }
                State::Count => {
                    let Some(count) = self.take::<2>(bytes, at) else { return Ok(Event::More) };
                    match i16::from_be_bytes(count) {
                        -1 => {
                            self.state = State::Over;
                            return Ok(Event::Header);
                        }
                        // It has no key, which is then missing.
                        ..=0 => return Ok(Event::NoRow),
                        fields => self.state = State::Length(fields),
                    }
                }
                State::Length(fields) => {
                    let Some(length) = self.take::<4>(bytes, at) else { return Ok(Event::More) };
                    let start = origin.wrapping_add(*at);
                    match i32::from_be_bytes(length) {
                        -1 => return Ok(self.end_field(Extent { start, end: start, mark: Mark::Null }, fields - 1)),
                        length => {
                            let left = usize::try_from(length).map_err(|_| RowError::Format("invalid field size"))?;
                            self.start = start;
                            self.state = State::Value { left, fields: fields - 1 };
                        }
                    }
                }
                State::Value { left, fields } => {
                    let left = pass(left, bytes, at);
                    if left > 0 {
                        self.state = State::Value { left, fields };
                        return Ok(Event::More);
                    }
                    let extent = Extent { start: self.start, end: origin.wrapping_add(*at), mark: Mark::None };
                    return Ok(self.end_field(extent, fields));
                }
                State::Over if *at < bytes.len() => {
                    return Err(RowError::Format("received copy data after EOF marker"));
                }
                State::Over => return Ok(Event::More),
            }
        }
    }

    /// The next `N` bytes, once all of them have come.
    fn take<const N: usize>(&mut self, bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
        while self.filled < N {
            self.partial[self.filled] = *bytes.get(*at)?;
            self.filled += 1;
            *at += 1;
        }
        self.filled = 0;
        self.partial.first_chunk().copied()
    }

    fn end_field(&mut self, extent: Extent, fields_left: i16) -> Event {
        if fields_left > 0 {
            self.state = State::Length(fields_left);
            return Event::Field(extent);
        }
        self.state = State::Count;
        Event::Row(extent)
    }

    pub(super) fn finish(&self) -> Result<Event, RowError> {
        match self.state {
            State::Header | State::Extension(_) => Err(RowError::Format("COPY file signature not recognized")),
            // Of the time before protocol 3: PostgreSQL takes it as well.
            State::Count if self.filled == 0 => Ok(Event::More),
            State::Over => Ok(Event::More),
            _ => Err(RowError::Format("unexpected EOF in COPY data")),
        }
    }
}

/// The length of the header's extension.
fn extension(header: &[u8; 19]) -> Result<usize, RowError> {
    let (signature, rest) = header.split_at(SIGNATURE.len());
    if signature != SIGNATURE {
        return Err(RowError::Format("COPY file signature not recognized"));
    }
    let number = |bytes: Option<&[u8; 4]>| bytes.map(|bytes| i32::from_be_bytes(*bytes)).unwrap_or(-1);
    let (flags, length) = (number(rest.first_chunk()), number(rest.last_chunk()));
    if flags & HAS_OIDS != 0 {
        return Err(RowError::Format("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(RowError::Format("unrecognized critical flags in COPY file header"));
    }
    usize::try_from(length).map_err(|_| RowError::Format("invalid COPY file header (missing length)"))
}

/// Passes over as much of `left` bytes as has come; what is still to come.
fn pass(left: usize, bytes: &[u8], at: &mut usize) -> usize {
    let here = left.min(bytes.len() - *at);
    *at += here;
    left - here
}

//! PostgreSQL's text format: `CopyReadLineText` and `CopyReadAttributesText`.

use std::borrow::Cow;

use super::{Event, Extent, Mark, RowError};
use crate::sql::TextForm;

/// How lines end, which the first one decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    Unknown,
    Nl,
    Cr,
    CrNl,
}

/// What a byte outside of quotes and escapes is to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its end.
    Here,
    /// Its end, perhaps with the byte behind it.
    Maybe,
}

/// Lines and their ends, of both formats that have any.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) end: LineEnd,
    /// Of the line that is being read, from 1.
    pub(super) number: u64,
    pub(super) is_header: bool,
}

impl Lines {
    pub(super) fn new(form: &TextForm) -> Self {
        Self { end: LineEnd::Unknown, number: 1, is_header: form.has_header }
    }

    /// A newline or carriage return.
    pub(super) fn ending(&mut self, byte: u8) -> Result<Ending, RowError> {
        match (byte, self.end) {
            (b'\n', LineEnd::Unknown | LineEnd::Nl) => {
                self.end = LineEnd::Nl;
                Ok(Ending::Here)
            }
            (b'\n', _) => Err(RowError::Format("literal newline found in data")),
            (_, LineEnd::Unknown | LineEnd::CrNl) => Ok(Ending::Maybe),
            (_, LineEnd::Cr) => Ok(Ending::Here),
            (_, LineEnd::Nl) => Err(RowError::Format("literal carriage return found in data")),
        }
    }

    /// The byte behind a carriage return that may be a line's end: whether it belongs to that.
    pub(super) fn behind_return(&mut self, byte: Option<u8>) -> Result<bool, RowError> {
        match (byte, self.end) {
            (Some(b'\n'), _) => {
                self.end = LineEnd::CrNl;
                Ok(true)
            }
            (_, LineEnd::CrNl) => Err(RowError::Format("literal carriage return found in data")),
            _ => {
                self.end = LineEnd::Cr;
                Ok(false)
            }
        }
    }

    /// The line's last field has ended.
    pub(super) fn event(&mut self, extent: Extent) -> Event {
        if std::mem::take(&mut self.is_header) { Event::Header } else { Event::Row(extent) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    /// Behind a backslash.
    Escape,
    /// Behind a carriage return; the last field has ended where this says.
    Return(usize),
    /// Behind `\.` at a line's beginning; with a carriage return behind that.
    Marker,
    MarkerReturn,
}

/// Where the reading stands.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) lines: Lines,
    delimiter: u8,
    state: State,
    /// Where the field begins, from the row's beginning.
    start: usize,
}

impl Text {
    pub(super) fn new(form: &TextForm) -> Self {
        Self { lines: Lines::new(form), delimiter: form.delimiter, state: State::Plain, start: 0 }
    }

    /// `origin` and an index make a place in the row.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize, origin: usize) -> Result<Event, RowError> {
        while let Some(byte) = bytes.get(*at).copied() {
            let here = origin.wrapping_add(*at);
            match self.state {
                // A header's fields are nobody's.
                State::Plain if byte == self.delimiter && !self.lines.is_header => {
                    *at += 1;
                    let extent = Extent { start: self.start, end: here, mark: Mark::None };
                    self.start = here + 1;
                    return Ok(Event::Field(extent));
                }
                State::Plain => match byte {
                    b'\\' => self.state = State::Escape,
                    b'\n' | b'\r' => {
                        *at += 1;
                        match self.lines.ending(byte)? {
                            Ending::Here => return Ok(self.end_line(here)),
                            Ending::Maybe => self.state = State::Return(here),
                        }
                        continue;
                    }
                    _ => {}
                },
                State::Escape if byte == b'.' => {
                    // At a line's beginning, that is; versions differ in what it means elsewhere.
                    if here != 1 {
                        return Err(RowError::Format("end-of-copy marker is not alone on its line"));
                    }
                    self.state = State::Marker;
                }
                State::Escape => self.state = State::Plain,
                State::Return(end) => {
                    if self.lines.behind_return(Some(byte))? {
                        *at += 1;
                    }
                    return Ok(self.end_line(end));
                }
                State::Marker if byte == b'\r' && matches!(self.lines.end, LineEnd::CrNl | LineEnd::Unknown) => {
                    self.state = State::MarkerReturn;
                }
                State::Marker | State::MarkerReturn => return self.end_marker(byte),
            }
            *at += 1;
        }
        Ok(Event::More)
    }

    fn end_line(&mut self, end: usize) -> Event {
        let extent = Extent { start: self.start, end, mark: Mark::None };
        (self.state, self.start) = (State::Plain, 0);
        self.lines.event(extent)
    }

    fn end_marker(&self, byte: u8) -> Result<Event, RowError> {
        match (self.state, byte, self.lines.end) {
            (State::MarkerReturn, b'\n', LineEnd::CrNl | LineEnd::Unknown)
            | (State::MarkerReturn, _, LineEnd::Unknown)
            | (State::Marker, b'\n', LineEnd::Nl | LineEnd::Unknown)
            | (State::Marker, b'\r', LineEnd::Cr) => Ok(Event::End),
            (State::Marker, b'\r' | b'\n', _) => {
                Err(RowError::Format("end-of-copy marker does not match previous newline style"))
            }
            _ => Err(RowError::Format("end-of-copy marker corrupt")),
        }
    }

    /// The data is over: `length` bytes of the row have come.
    pub(super) fn finish(&mut self, length: usize) -> Result<Event, RowError> {
        match self.state {
            State::Plain | State::Escape if length == 0 => Ok(Event::More),
            State::Plain | State::Escape => Ok(self.end_line(length)),
            State::Return(end) => {
                self.lines.behind_return(None)?;
                Ok(self.end_line(end))
            }
            State::MarkerReturn if self.lines.end == LineEnd::Unknown => Ok(Event::End),
            State::Marker | State::MarkerReturn => Err(RowError::Format("end-of-copy marker corrupt")),
        }
    }
}

/// A field without its escapes.
pub(super) fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let (mut text, mut rest) = (Vec::with_capacity(raw.len()), raw);
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        // A backslash at the very end is nothing.
        let Some((byte, behind)) = rest.split_first() else { break };
        rest = behind;
        text.push(match byte {
            b'0'..=b'7' => numeric(*byte - b'0', 8, 2, &mut rest),
            b'x' => match rest.first().and_then(|digit| char::from(*digit).to_digit(16)) {
                Some(_) => numeric(0, 16, 2, &mut rest),
                None => b'x',
            },
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            byte => *byte,
        });
    }
    Cow::Owned(text)
}

/// The number that up to `limit` more digits make; of more than a byte the lowest eight bits.
fn numeric(first: u8, radix: u32, limit: usize, rest: &mut &[u8]) -> u8 {
    let mut value = u32::from(first);
    for _ in 0..limit {
        let Some((digit, behind)) = rest.split_first() else { break };
        let Some(digit) = char::from(*digit).to_digit(radix) else { break };
        value = value * radix + digit;
        *rest = behind;
    }
    u8::try_from(value & 0xff).unwrap_or_default()
}

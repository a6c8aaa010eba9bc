//! Comma-separated values as PostgreSQL reads them: `CopyReadLineText` and `CopyReadAttributesCSV`.

use std::borrow::Cow;

use super::text::{Ending, LineEnd, Lines};
use super::{Event, Extent, Mark, RowError};
use crate::sql::CsvForm;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    Quoted,
    /// Behind an escape within quotes.
    Escape,
    /// Behind a carriage return; the last field has ended where this says.
    Return(usize),
}

/// Where the reading stands.
#[derive(Debug)]
pub(super) struct Csv {
    pub(super) lines: Lines,
    delimiter: u8,
    quote: u8,
    /// Where it is another one than the quote: a doubled quote needs no attention here.
    escape: Option<u8>,
    /// A line `\.` ends the data.
    has_end: bool,
    /// The line is the beginning of `\.`.
    is_marker: bool,
    state: State,
    start: usize,
    mark: Mark,
}

impl Csv {
    pub(super) fn new(form: &CsvForm, has_end: bool) -> Self {
        Self {
            lines: Lines::new(&form.lines),
            delimiter: form.lines.delimiter,
            quote: form.quote,
            escape: (form.escape != form.quote).then_some(form.escape),
            has_end,
            is_marker: true,
            state: State::Plain,
            start: 0,
            mark: Mark::None,
        }
    }

    /// `origin` and an index make a place in the row.
    pub(super) fn next(&mut self, bytes: &[u8], at: &mut usize, origin: usize) -> Result<Event, RowError> {
        while let Some(byte) = bytes.get(*at).copied() {
            let here = origin.wrapping_add(*at);
            match self.state {
                State::Plain if byte == self.quote => (self.state, self.mark) = (State::Quoted, Mark::Quoted),
                // A header's fields are nobody's.
                State::Plain if byte == self.delimiter && !self.lines.is_header => {
                    *at += 1;
                    return Ok(self.end_field(here));
                }
                State::Plain if matches!(byte, b'\n' | b'\r') => {
                    *at += 1;
                    match self.lines.ending(byte)? {
                        Ending::Here => return Ok(self.end_line(here)),
                        Ending::Maybe => self.state = State::Return(here),
                    }
                    continue;
                }
                State::Plain => {
                    self.is_marker &= matches!((here, byte), (0, b'\\') | (1, b'.'));
                }
                State::Quoted if Some(byte) == self.escape => self.state = State::Escape,
                State::Quoted if byte == self.quote => self.state = State::Plain,
                State::Quoted => self.count_line(byte),
                State::Escape => {
                    self.state = State::Quoted;
                    self.count_line(byte);
                }
                State::Return(end) => {
                    if self.lines.behind_return(Some(byte))? {
                        *at += 1;
                    }
                    return Ok(self.end_line(end));
                }
            }
            *at += 1;
        }
        Ok(Event::More)
    }

    /// A line's end within quotes counts, too.
    fn count_line(&mut self, byte: u8) {
        if byte == if self.lines.end == LineEnd::Nl { b'\n' } else { b'\r' } {
            self.lines.number += 1;
        }
    }

    fn end_field(&mut self, end: usize) -> Event {
        let extent = Extent { start: self.start, end, mark: self.mark };
        (self.start, self.mark, self.is_marker) = (end + 1, Mark::None, false);
        Event::Field(extent)
    }

    fn end_line(&mut self, end: usize) -> Event {
        let extent = Extent { start: self.start, end, mark: self.mark };
        let is_marker = self.is_marker && self.mark == Mark::None && end == 2;
        (self.state, self.start, self.mark, self.is_marker) = (State::Plain, 0, Mark::None, true);
        if is_marker && self.has_end { Event::End } else { self.lines.event(extent) }
    }

    /// The data is over: `length` bytes of the row have come.
    pub(super) fn finish(&mut self, length: usize) -> Result<Event, RowError> {
        match self.state {
            State::Plain if length == 0 => Ok(Event::More),
            State::Plain => {
                // Without a line's end it is data.
                self.is_marker = false;
                Ok(self.end_line(length))
            }
            State::Quoted | State::Escape => Err(RowError::Format("unterminated CSV quoted field")),
            State::Return(end) => {
                self.lines.behind_return(None)?;
                Ok(self.end_line(end))
            }
        }
    }
}

/// A field with quotes, without them.
pub(super) fn unquoted(raw: &[u8], quote: u8, escape: u8) -> Cow<'_, [u8]> {
    let (mut text, mut rest, mut is_quoted) = (Vec::with_capacity(raw.len()), raw, false);
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if is_quoted
            && *byte == escape
            && let Some((next, behind)) = rest.split_first()
            && (*next == escape || *next == quote)
        {
            text.push(*next);
            rest = behind;
        } else if *byte == quote {
            is_quoted = !is_quoted;
        } else {
            text.push(*byte);
        }
    }
    Cow::Owned(text)
}

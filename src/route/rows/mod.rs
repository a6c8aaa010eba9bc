//! Rows of a COPY, each to the shard that its key says.
//!
//! A [`Splitter`] is fed with the data as it comes, in whatever pieces, and gives it out again: every byte, in order, for
//! one shard or for all of them. What it gives out for one shard is a COPY in itself, with the header that the client has
//! sent. It finds where rows and the fields of the key begin and end, as PostgreSQL's
//! [`copyfromparse.c`](https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/commands/copyfromparse.c) does;
//! whatever else is wrong with a row is for the server to say.
//!
//! Invariants: it holds no more of a row than what comes before its key is known, at most [`MAX_UNPLACED`] bytes; where it
//! is not certain where a row belongs, it is an error with the line's number, as PostgreSQL counts lines, and never a guess.

mod binary;
mod csv;
mod key;
mod text;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

pub use key::{KeyFields, MisfitKey};

use binary::Binary;
use csv::Csv;
use text::Text;

use crate::sql::CopyFormat;

/// So much of a row is held until its key is known, in bytes.
pub const MAX_UNPLACED: usize = 1 << 20;

/// For whom some bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Every shard: headers and trailers.
    All,
    /// The shard with this index in the bucket map.
    One(usize),
}

/// Why rows cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A column of the key is NULL.
    #[error("null value in column \"{0}\", by which rows are placed")]
    Null(Box<str>),
    /// A row ends before it.
    #[error("missing data for column \"{0}\"")]
    Missing(Box<str>),
    /// A value of the key cannot be read with certainty.
    #[error("a value of \"{column}\", by which rows are placed, cannot be read: {why}")]
    Value {
        /// The column.
        column: Box<str>,
        /// Why.
        why: crate::shard::Undecided,
    },
    /// The bucket map is being changed, and this key's shard with it.
    #[error("{0}")]
    Moving(crate::shard::Moving),
    /// The data is not in the format.
    #[error("{0}")]
    Format(&'static str),
    /// A row's key is not within its first [`MAX_UNPLACED`] bytes.
    #[error("a row's key does not come within its first {MAX_UNPLACED} bytes")]
    TooLong,
}

/// What a scanner has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The piece is used up.
    More,
    /// A field of the row has ended, and another one follows.
    Field(Extent),
    /// A row has ended with this field.
    Row(Extent),
    /// A row without fields has ended.
    NoRow,
    /// What has come since the last row's end is for all: a header, or a trailer.
    Header,
    /// Nothing of what follows counts, nor what has come since the last row's end.
    End,
}

/// Where a field is, in bytes from its row's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Extent {
    start: usize,
    end: usize,
    /// It is NULL, or has quotes: what its bytes alone do not tell.
    mark: Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mark {
    #[default]
    None,
    Null,
    Quoted,
}

#[derive(Debug)]
enum Scanner {
    Text(Text),
    Csv(Csv),
    Binary(Binary),
}

impl Scanner {
    /// Reads on in `bytes`, of which `at` have been read. `origin` and an index in them make a place in the row: it wraps
    /// around below zero where the row begins behind the first of them.
    fn next(&mut self, bytes: &[u8], at: &mut usize, origin: usize) -> Result<Event, RowError> {
        match self {
            Self::Text(text) => text.next(bytes, at, origin),
            Self::Csv(csv) => csv.next(bytes, at, origin),
            Self::Binary(binary) => binary.next(bytes, at, origin),
        }
    }

    /// The data is over, with so many bytes of a row behind the last one's end.
    fn finish(&mut self, length: usize) -> Result<Event, RowError> {
        match self {
            Self::Text(text) => text.finish(length),
            Self::Csv(csv) => csv.finish(length),
            Self::Binary(binary) => binary.finish(),
        }
    }

    /// What begins now comes behind a row, or behind a header.
    fn count(&mut self, behind: Event) {
        match self {
            Self::Text(text) => text.lines.number += 1,
            Self::Csv(csv) => csv.lines.number += 1,
            Self::Binary(binary) => binary.number += u64::from(matches!(behind, Event::Row(_))),
        }
    }

    fn line(&self) -> u64 {
        match self {
            Self::Text(text) => text.lines.number,
            Self::Csv(csv) => csv.lines.number,
            Self::Binary(binary) => binary.number,
        }
    }
}

/// Where the bytes of the row go that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Its key is not known yet.
    Open,
    Placed(usize),
    /// Nothing of it is for anybody.
    Over,
}

/// Splits the data of one COPY.
#[derive(Debug)]
pub struct Splitter {
    scanner: Scanner,
    keys: KeyFields,
    row: Row,
    /// What has come of the row in earlier pieces, while it is not placed.
    held: Vec<u8>,
    /// How much of the row has come in earlier pieces.
    before: usize,
    /// Fields of the row that have ended.
    fields: usize,
}

impl Splitter {
    /// For data in this format. `ends_csv`: to this server a line `\.` ends comma-separated values too (PostgreSQL before
    /// version 18).
    pub fn new(format: CopyFormat, keys: KeyFields, ends_csv: bool) -> Self {
        let scanner = match format {
            CopyFormat::Text(form) => Scanner::Text(Text::new(&form)),
            CopyFormat::Csv(form) => Scanner::Csv(Csv::new(&form, ends_csv)),
            CopyFormat::Binary => Scanner::Binary(Binary::default()),
        };
        Self { scanner, keys, row: Row::Open, held: Vec::new(), before: 0, fields: 0 }
    }

    /// The line that was read last, or of the binary format the row, from 1.
    pub fn line(&self) -> u64 {
        self.scanner.line()
    }

    /// Takes the next piece of the data, and gives out what can be placed.
    ///
    /// # Errors
    /// A row cannot be placed. There is nothing to go on with then.
    pub fn feed(&mut self, bytes: &[u8], mut give: impl FnMut(Target, &[u8])) -> Result<(), RowError> {
        // Where the part of the row begins that is in this piece, and up to where it was read.
        let (mut from, mut at) = (0, 0);
        while self.row != Row::Over {
            // Of the row, what came earlier and is not in `bytes`.
            let origin = self.before.wrapping_sub(from);
            let event = self.scanner.next(bytes, &mut at, origin)?;
            match event {
                Event::More => break,
                Event::Field(extent) => self.take_field(extent, &bytes[from..at])?,
                Event::Row(extent) => {
                    self.take_field(extent, &bytes[from..at])?;
                    self.end_row(event, &bytes[from..at], &mut give)?;
                    from = at;
                }
                Event::NoRow => return Err(self.keys.missing()),
                Event::Header => {
                    self.give_held(Target::All, &bytes[from..at], &mut give);
                    self.begin_row(event);
                    from = at;
                }
                Event::End => self.row = Row::Over,
            }
        }
        if self.row != Row::Over {
            self.hold(&bytes[from..], &mut give)?;
        }
        Ok(())
    }

    /// The data is over.
    ///
    /// # Errors
    /// As for [`Splitter::feed`], of a last row without an end.
    pub fn finish(&mut self, mut give: impl FnMut(Target, &[u8])) -> Result<(), RowError> {
        if self.row == Row::Over {
            return Ok(());
        }
        let event = self.scanner.finish(self.before)?;
        match event {
            Event::Row(extent) => {
                self.take_field(extent, &[])?;
                self.end_row(event, &[], &mut give)
            }
            Event::Header => {
                self.give_held(Target::All, &[], &mut give);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `here`: what of the row is in this piece, so far.
    fn take_field(&mut self, extent: Extent, here: &[u8]) -> Result<(), RowError> {
        let field = self.fields;
        self.fields += 1;
        if self.row != Row::Open || !self.keys.note(field, extent) {
            return Ok(());
        }
        let whole;
        let row = if self.held.is_empty() {
            here
        } else {
            whole = [&self.held, here].concat();
            &whole
        };
        self.row = Row::Placed(self.keys.place(row)?);
        Ok(())
    }

    fn end_row(&mut self, event: Event, here: &[u8], give: &mut impl FnMut(Target, &[u8])) -> Result<(), RowError> {
        let Row::Placed(shard) = self.row else { return Err(self.keys.missing()) };
        self.give_held(Target::One(shard), here, give);
        self.begin_row(event);
        Ok(())
    }

    fn begin_row(&mut self, behind: Event) {
        self.scanner.count(behind);
        (self.row, self.before, self.fields) = (Row::Open, 0, 0);
    }

    fn give_held(&mut self, target: Target, here: &[u8], give: &mut impl FnMut(Target, &[u8])) {
        if !self.held.is_empty() {
            give(target, &self.held);
            self.held.clear();
        }
        if !here.is_empty() {
            give(target, here);
        }
    }

    /// The piece ends within a row.
    fn hold(&mut self, rest: &[u8], give: &mut impl FnMut(Target, &[u8])) -> Result<(), RowError> {
        self.before += rest.len();
        if let Row::Placed(shard) = self.row {
            self.give_held(Target::One(shard), rest, give);
            return Ok(());
        }
        if self.held.len() + rest.len() > MAX_UNPLACED {
            return Err(RowError::TooLong);
        }
        self.held.extend_from_slice(rest);
        Ok(())
    }
}

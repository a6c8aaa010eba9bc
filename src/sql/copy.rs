//! What a `COPY … FROM STDIN` says of the data that will come: its format, and which columns it has.
//!
//! Read exactly as PostgreSQL reads it, in the form with options in parentheses and in the two older ones, or not at all:
//! who takes a delimiter for another one puts rows where nobody looks for them.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>, `ProcessCopyOptions` in
//! <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/commands/copy.c>

use super::{
    lexer::{Token, TokenKind},
    settings::boolean,
    split::Splitter,
    statement::{Name, Setting},
    tokens::Cursor,
};

/// A COPY from the client into a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFrom {
    /// The table.
    pub table: Name,
    /// The data's columns, as PostgreSQL keeps their names; `None`: the table's.
    pub columns: Option<Box<[Box<str>]>>,
    /// How rows are written.
    pub format: CopyFormat,
    /// Of texts, where it is said.
    pub encoding: Option<Box<str>>,
}

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFormat {
    /// PostgreSQL's own text format.
    Text(TextForm),
    /// Comma-separated values, as PostgreSQL understands them.
    Csv(CsvForm),
    /// The binary format.
    Binary,
}

/// What both formats of lines have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextForm {
    /// Between two fields.
    pub delimiter: u8,
    /// A field that is NULL, as it is spelt.
    pub null: Box<[u8]>,
    /// The first line is not a row.
    pub has_header: bool,
}

/// Of comma-separated values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvForm {
    /// What it has in common with text.
    pub lines: TextForm,
    /// Around a field.
    pub quote: u8,
    /// In front of a quote or of itself, within quotes.
    pub escape: u8,
    /// In these a quoted field that looks like NULL is NULL, too.
    pub force_null: Columns,
    /// In these nothing is NULL.
    pub force_not_null: Columns,
}

/// Some of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// `*`
    All,
    /// These, which may be none.
    These(Box<[Box<str>]>),
}

impl Columns {
    /// Whether a column is among them.
    pub fn has(&self, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|name| **name == *column),
        }
    }
}

/// Why a COPY cannot be read with certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CopyUnread {
    /// The text holds other statements, too, or is none of COPY's forms.
    #[error("it is not a COPY alone, in one of the forms that are read here")]
    Form,
    /// From a file or a program of the server.
    #[error("its data does not come from the client")]
    NotStdin,
    /// One that is unknown here, or that could not be followed.
    #[error("one of its options is not read here")]
    Option,
    /// An option's value that is written in a way that is not read, or that PostgreSQL refuses.
    #[error("the value of one of its options is not read here")]
    Value,
}

/// Reads a text that is one COPY from the client.
///
/// # Errors
/// It is something else, or not certain.
pub fn copy_from(text: &[u8]) -> Result<CopyFrom, CopyUnread> {
    let mut parts = Splitter::new(text);
    let (Some(part), None) = (parts.next(), parts.next()) else { return Err(CopyUnread::Form) };
    if !part.complete {
        return Err(CopyUnread::Form);
    }
    read(Cursor::new(text, &part.tokens))
}

fn read(mut cursor: Cursor<'_>) -> Result<CopyFrom, CopyUnread> {
    let mut options = Options::default();
    if !cursor.take("copy") {
        return Err(CopyUnread::Form);
    }
    if cursor.is("binary") && !cursor.is_at(1, "from") && !cursor.is_punct(1, ".") && !cursor.is_punct(1, "(") {
        cursor.next();
        options.format = Some(Format::Binary);
    }
    let table = cursor.name().ok_or(CopyUnread::Form)?;
    let columns = if cursor.is_punct(0, "(") { Some(names(&mut cursor)?) } else { None };
    if !cursor.take("from") {
        return Err(CopyUnread::Form);
    }
    // STDOUT is taken for the client, too.
    if !cursor.take_any(&["stdin", "stdout"]) {
        return Err(CopyUnread::NotStdin);
    }
    if cursor.take_any(&["using"]) || cursor.is("delimiters") {
        if !cursor.take("delimiters") {
            return Err(CopyUnread::Form);
        }
        options.delimiter = Some(byte(&string(&mut cursor)?)?);
    }
    cursor.take("with");
    if cursor.is_punct(0, "(") {
        let inner = cursor.parenthesised().ok_or(CopyUnread::Form)?;
        options.read_list(inner)?;
    } else {
        options.read_words(&mut cursor)?;
    }
    if !cursor.at_end() && !cursor.is("where") {
        return Err(CopyUnread::Form);
    }
    let encoding = options.encoding.take();
    Ok(CopyFrom { table, columns, format: options.finish()?, encoding })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Csv,
    Binary,
}

/// What has been said so far.
#[derive(Debug, Default)]
struct Options {
    format: Option<Format>,
    delimiter: Option<u8>,
    null: Option<Box<[u8]>>,
    header: Option<bool>,
    quote: Option<u8>,
    escape: Option<u8>,
    force_null: Option<Columns>,
    force_not_null: Option<Columns>,
    encoding: Option<Box<str>>,
}

/// What is said twice PostgreSQL refuses, too.
fn set<T>(option: &mut Option<T>, value: T) -> Result<(), CopyUnread> {
    match option.replace(value) {
        None => Ok(()),
        Some(_) => Err(CopyUnread::Value),
    }
}

impl Options {
    /// `(FORMAT csv, HEADER)`
    fn read_list(&mut self, mut list: Cursor<'_>) -> Result<(), CopyUnread> {
        loop {
            let (name, _) = list.ident().ok_or(CopyUnread::Form)?;
            match &*name {
                "format" => set(&mut self.format, format(&mut list)?)?,
                "delimiter" => set(&mut self.delimiter, byte(&string(&mut list)?)?)?,
                "null" => set(&mut self.null, string(&mut list)?.into())?,
                "header" => set(&mut self.header, header(&mut list)?)?,
                "quote" => set(&mut self.quote, byte(&string(&mut list)?)?)?,
                "escape" => set(&mut self.escape, byte(&string(&mut list)?)?)?,
                "force_null" => set(&mut self.force_null, columns(&mut list)?)?,
                "force_not_null" => set(&mut self.force_not_null, columns(&mut list)?)?,
                "encoding" => set(&mut self.encoding, text(&mut list)?)?,
                // The server judges whether it can be; nothing in the data depends on it.
                "freeze" => drop(header(&mut list)?),
                _ => return Err(CopyUnread::Option),
            }
            if list.at_end() {
                return Ok(());
            }
            if !list.take_punct(",") {
                return Err(CopyUnread::Value);
            }
        }
    }

    /// `CSV HEADER`, of the time before PostgreSQL 9.0, which psql's users still write.
    fn read_words(&mut self, cursor: &mut Cursor<'_>) -> Result<(), CopyUnread> {
        while !cursor.at_end() && !cursor.is("where") {
            let (name, _) = cursor.ident().ok_or(CopyUnread::Form)?;
            match &*name {
                "binary" => set(&mut self.format, Format::Binary)?,
                "csv" => set(&mut self.format, Format::Csv)?,
                "header" => set(&mut self.header, true)?,
                "freeze" => {}
                "delimiter" => set(&mut self.delimiter, byte(&string_as(cursor)?)?)?,
                "null" => set(&mut self.null, string_as(cursor)?.into())?,
                "quote" => set(&mut self.quote, byte(&string_as(cursor)?)?)?,
                "escape" => set(&mut self.escape, byte(&string_as(cursor)?)?)?,
                "encoding" => set(&mut self.encoding, text(cursor)?)?,
                "force" if cursor.take_all(&["not", "null"]) => {
                    set(&mut self.force_not_null, bare_columns(cursor)?)?;
                }
                "force" if cursor.take("null") => set(&mut self.force_null, bare_columns(cursor)?)?,
                _ => return Err(CopyUnread::Option),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<CopyFormat, CopyUnread> {
        let format = self.format.unwrap_or(Format::Text);
        let has_quotes = self.quote.is_some() || self.escape.is_some();
        let has_forces = self.force_null.is_some() || self.force_not_null.is_some();
        if format != Format::Csv && (has_quotes || has_forces) {
            return Err(CopyUnread::Value);
        }
        if format == Format::Binary {
            let has_lines = self.delimiter.is_some() || self.null.is_some() || self.header == Some(true);
            return if has_lines { Err(CopyUnread::Value) } else { Ok(CopyFormat::Binary) };
        }
        let (delimiter, null): (u8, &[u8]) = if format == Format::Csv { (b',', b"") } else { (b'\t', b"\\N") };
        let delimiter = self.delimiter.unwrap_or(delimiter);
        let null = self.null.unwrap_or_else(|| null.into());
        let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        if is_line_end(&delimiter) || null.iter().any(|byte| is_line_end(byte) || *byte == delimiter) {
            return Err(CopyUnread::Value);
        }
        let lines = TextForm { delimiter, null, has_header: self.header.unwrap_or_default() };
        if format == Format::Text {
            let is_taken = b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&delimiter);
            return if is_taken { Err(CopyUnread::Value) } else { Ok(CopyFormat::Text(lines)) };
        }
        let quote = self.quote.unwrap_or(b'"');
        // Where these are backslash or period, whether a line ends the data is asked before it is split.
        let is_ambiguous = [delimiter, quote].iter().any(|byte| matches!(byte, b'\\' | b'.'));
        if quote == delimiter || is_line_end(&quote) || lines.null.contains(&quote) || is_ambiguous {
            return Err(CopyUnread::Value);
        }
        Ok(CopyFormat::Csv(CsvForm {
            lines,
            quote,
            escape: self.escape.unwrap_or(quote),
            force_null: self.force_null.unwrap_or(Columns::These([].into())),
            force_not_null: self.force_not_null.unwrap_or(Columns::These([].into())),
        }))
    }
}

fn format(list: &mut Cursor<'_>) -> Result<Format, CopyUnread> {
    // A string is compared as it is; a word is in lower case already.
    match &*text(list)? {
        "text" => Ok(Format::Text),
        "csv" => Ok(Format::Csv),
        "binary" => Ok(Format::Binary),
        _ => Err(CopyUnread::Value),
    }
}

/// A boolean, or MATCH, which is a header as well; alone it is true.
fn header(list: &mut Cursor<'_>) -> Result<bool, CopyUnread> {
    if list.at_end() || list.is_punct(0, ",") {
        return Ok(true);
    }
    let value = text(list)?.to_ascii_lowercase();
    match &*value {
        "match" => Ok(true),
        // `defGetBoolean` takes no other spellings.
        "true" | "false" | "on" | "off" | "0" | "1" => boolean(&value).ok_or(CopyUnread::Value),
        _ => Err(CopyUnread::Value),
    }
}

/// A word, a number, or a string.
fn text(cursor: &mut Cursor<'_>) -> Result<Box<str>, CopyUnread> {
    let token = cursor.next().ok_or(CopyUnread::Value)?;
    let spelt = std::str::from_utf8(token.bytes(cursor.text)).map_err(|_| CopyUnread::Value)?;
    Setting::constant_value(spelt).map(Into::into).ok_or(CopyUnread::Value)
}

fn string_as(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, CopyUnread> {
    cursor.take("as");
    string(cursor)
}

fn string(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, CopyUnread> {
    let token = cursor.take_string().ok_or(CopyUnread::Value)?;
    string_value(cursor.text, &token).ok_or(CopyUnread::Value)
}

/// Of a string in one piece; of escapes those that an option can need.
fn string_value(text: &[u8], token: &Token) -> Option<Vec<u8>> {
    let spelt = std::str::from_utf8(token.bytes(text)).ok()?;
    let value = Setting::constant_value(spelt);
    if value.is_some() || token.kind != TokenKind::EscapeString {
        return value.map(String::into_bytes);
    }
    let inner = spelt.strip_prefix(['e', 'E'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    let (mut value, mut rest) = (Vec::new(), inner.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'\'' if rest.next() != Some(b'\'') => return None,
            b'\\' => value.push(match rest.next()? {
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => hex(&mut rest)?,
                character @ (b'\\' | b'\'' | b'"') => character,
                _ => return None,
            }),
            byte => value.push(byte),
        }
    }
    Some(value)
}

/// Two digits of an ASCII character.
fn hex(rest: &mut std::str::Bytes<'_>) -> Option<u8> {
    let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let value = digit()? * 16 + digit()?;
    (1..0x80).contains(&value).then_some(value)
}

/// The one byte of a delimiter, quote or escape.
fn byte(string: &[u8]) -> Result<u8, CopyUnread> {
    match string {
        [byte] if byte.is_ascii() && *byte != 0 => Ok(*byte),
        _ => Err(CopyUnread::Value),
    }
}

/// `(a, b)`
fn names(cursor: &mut Cursor<'_>) -> Result<Box<[Box<str>]>, CopyUnread> {
    let mut inner = cursor.parenthesised().ok_or(CopyUnread::Form)?;
    let names = name_list(&mut inner)?;
    inner.end().map(|()| names).ok_or(CopyUnread::Form)
}

fn name_list(cursor: &mut Cursor<'_>) -> Result<Box<[Box<str>]>, CopyUnread> {
    let mut names = Vec::new();
    loop {
        // U&"…" may hold escapes.
        let is_plain = cursor.peek().is_some_and(|token| !matches!(token.bytes(cursor.text), [b'u' | b'U', b'&', ..]));
        let (name, _) = cursor.ident().filter(|_| is_plain).ok_or(CopyUnread::Form)?;
        names.push(name);
        if !cursor.take_punct(",") {
            return Ok(names.into());
        }
    }
}

fn columns(list: &mut Cursor<'_>) -> Result<Columns, CopyUnread> {
    if list.take_operator("*") { Ok(Columns::All) } else { names(list).map(Columns::These) }
}

fn bare_columns(cursor: &mut Cursor<'_>) -> Result<Columns, CopyUnread> {
    if cursor.take_operator("*") { Ok(Columns::All) } else { name_list(cursor).map(Columns::These) }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;

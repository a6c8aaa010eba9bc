//! Where the parts of one SELECT stand in its text: by its tokens, because the parser's tree cannot be written out again
//! without changing it.
//!
//! What is not plain at the outermost level is not laid out at all.

use std::ops::Range;

use super::super::lexer::{Lexer, Token, TokenKind};
use super::super::tokens::{fold, is_keyword};

/// The parts of a text that is one SELECT with a FROM.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) tokens: Vec<Token>,
    /// Of each element of the select list, the tokens.
    pub(super) items: Vec<Range<usize>>,
    /// Behind the select list, in bytes: where further columns can be put.
    pub(super) list_end: usize,
    /// Of each element of ORDER BY, the tokens of its expression, and whether it says where NULLs go.
    pub(super) order: Vec<(Range<usize>, bool)>,
    /// LIMIT, OFFSET and FETCH, in bytes.
    pub(super) limit: Option<Range<usize>>,
}

/// What has another value on each server, or means something else there, wherever it stands.
const UNEVEN_NAMES: &[&str] = &[
    "cmax",
    "cmin",
    "ctid",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "tableoid",
    "xmax",
    "xmin",
];

/// Strings that date and time types read as moments of now.
const MOMENTS: &[&str] = &["now", "today", "tomorrow", "yesterday"];

impl Layout {
    /// Of a text that is one statement.
    pub(super) fn of(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut tokens: Vec<Token> = Lexer::new(bytes).collect();
        while tokens.last().is_some_and(|last| last.bytes(bytes) == b";") {
            tokens.pop();
        }
        let is_readable = |token: &Token| {
            !matches!(token.kind, TokenKind::Other | TokenKind::Unterminated)
                && token.bytes(bytes) != b";"
                && !is_uneven(bytes, token)
        };
        if !tokens.iter().all(is_readable) {
            return None;
        }
        let reader = Reader { text: bytes, tokens: &tokens };
        let first = reader.first_item()?;
        let from = reader.outermost(first, |at| reader.is(at, "from") && !reader.is_distinct_from(at))?;
        let is_count = |at| ["limit", "offset", "fetch"].iter().any(|keyword| reader.begins(at, keyword));
        let end = reader.outermost(from, is_count).unwrap_or(tokens.len());
        if reader.outermost(from, |at| reader.begins(at, "for") || reader.begins(at, "window")).is_some() {
            return None;
        }
        let order = match reader.outermost(from, |at| reader.begins(at, "order") && reader.is(at + 1, "by")) {
            Some(at) if at < end => reader.order(at + 2..end)?,
            Some(_) => return None,
            None => Vec::new(),
        };
        let items = reader.split(first..from)?;
        let list_end = tokens.get(from.checked_sub(1)?)?.end;
        let limit = tokens.get(end).and_then(|first| Some(first.start..tokens.last()?.end));
        Some(Self { items, list_end, order, limit, tokens })
    }

    /// The text of some tokens.
    pub(super) fn text<'t>(&self, text: &'t str, tokens: &Range<usize>) -> Option<&'t str> {
        text.get(self.tokens.get(tokens.start)?.start..self.tokens.get(tokens.end.checked_sub(1)?)?.end)
    }

    /// Of an element of the select list with an alias, the expression alone.
    pub(super) fn without_alias(&self, text: &str, item: &Range<usize>) -> Option<Range<usize>> {
        let name = item.end.checked_sub(1)?;
        let before = self.tokens.get(name.checked_sub(1)?)?;
        let end = if is_keyword(text.as_bytes(), before, "as") { name - 1 } else { name };
        (end > item.start).then_some(item.start..end)
    }
}

fn is_uneven(text: &[u8], token: &Token) -> bool {
    match token.kind {
        TokenKind::Word | TokenKind::QuotedIdent => {
            fold(text, token).is_none_or(|name| UNEVEN_NAMES.binary_search(&&*name).is_ok())
        }
        TokenKind::String | TokenKind::DollarString | TokenKind::EscapeString => {
            let said = String::from_utf8_lossy(token.bytes(text)).to_ascii_lowercase();
            let is_between = |character: char| !character.is_ascii_alphanumeric();
            said.split(is_between).any(|word| MOMENTS.contains(&word))
        }
        _ => false,
    }
}

struct Reader<'t> {
    text: &'t [u8],
    tokens: &'t [Token],
}

impl Reader<'_> {
    fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| is_keyword(self.text, token, keyword))
    }

    fn is_punct(&self, at: usize, punct: &[u8]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == TokenKind::Punct && token.bytes(self.text) == punct)
    }

    /// A reserved word that begins a clause, and is no name behind a dot or AS.
    fn begins(&self, at: usize, keyword: &str) -> bool {
        let is_name = at.checked_sub(1).is_some_and(|before| self.is_punct(before, b".") || self.is(before, "as"));
        self.is(at, keyword) && !is_name
    }

    /// `IS DISTINCT FROM`
    fn is_distinct_from(&self, at: usize) -> bool {
        let is_before = |back: usize, keyword| at.checked_sub(back).is_some_and(|at| self.is(at, keyword));
        is_before(1, "distinct") && (is_before(2, "is") || is_before(2, "not"))
    }

    /// Behind `SELECT`, `SELECT ALL`, `SELECT DISTINCT` or `SELECT DISTINCT ON (…)`.
    fn first_item(&self) -> Option<usize> {
        if !self.is(0, "select") {
            return None;
        }
        if self.is(1, "all") {
            return Some(2);
        }
        if !self.is(1, "distinct") {
            return Some(1);
        }
        if !(self.is(2, "on") && self.is_punct(3, b"(")) {
            return Some(2);
        }
        let mut depth = 0usize;
        for at in 3..self.tokens.len() {
            if self.is_punct(at, b"(") {
                depth += 1;
            } else if self.is_punct(at, b")") {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
        }
        None
    }

    /// The first token from `start` on, outside of all parentheses, of which that is true.
    fn outermost(&self, start: usize, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let mut depth = 0usize;
        for at in start..self.tokens.len() {
            if self.is_punct(at, b"(") || self.is_punct(at, b"[") {
                depth += 1;
            } else if self.is_punct(at, b")") || self.is_punct(at, b"]") {
                depth = depth.checked_sub(1)?;
            } else if depth == 0 && is_it(at) {
                return Some(at);
            }
        }
        None
    }

    /// At the commas outside of all parentheses.
    fn split(&self, tokens: Range<usize>) -> Option<Vec<Range<usize>>> {
        let mut parts = Vec::new();
        let mut start = tokens.start;
        while let Some(comma) = self.outermost(start, |at| self.is_punct(at, b",")).filter(|at| *at < tokens.end) {
            parts.push(start..comma);
            start = comma + 1;
        }
        parts.push(start..tokens.end);
        parts.iter().all(|part| !part.is_empty()).then_some(parts)
    }

    fn order(&self, tokens: Range<usize>) -> Option<Vec<(Range<usize>, bool)>> {
        let expression = |item: Range<usize>| {
            let mut end = item.end;
            let places_nulls = end >= item.start + 3
                && self.is(end - 2, "nulls")
                && (self.is(end - 1, "first") || self.is(end - 1, "last"));
            if places_nulls {
                end -= 2;
            }
            if self.is(end - 1, "asc") || self.is(end - 1, "desc") {
                end -= 1;
            }
            let is_plain = !(item.start..end).any(|at| self.is(at, "using"));
            (end > item.start && is_plain).then_some((item.start..end, places_nulls))
        };
        self.split(tokens)?.into_iter().map(expression).collect()
    }
}

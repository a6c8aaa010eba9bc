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
    /// The tokens of FROM and WHERE.
    pub(super) source: Range<usize>,
    /// Of each element of GROUP BY, the tokens.
    pub(super) groups: Vec<Range<usize>>,
    /// The tokens of the condition of HAVING.
    pub(super) having: Option<Range<usize>>,
    /// ORDER BY, LIMIT, OFFSET and FETCH.
    pub(super) ending: Ending,
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
    /// Of one statement.
    pub(super) fn of(text: &str, tokens: Vec<Token>) -> Option<Self> {
        let reader = Reader { text: text.as_bytes(), tokens: &tokens };
        let first = reader.first_item()?;
        let from = reader.outermost(first, |at| reader.is(at, "from") && !reader.is_distinct_from(at))?;
        if reader.outermost(from, |at| reader.begins(at, "for") || reader.begins(at, "window")).is_some() {
            return None;
        }
        let items = reader.split(first..from)?;
        let list_end = tokens.get(from.checked_sub(1)?)?.end;
        let body_end = reader.body_end(from);
        let ending = Ending::of(reader, body_end)?;
        let is_group = |at| reader.begins(at, "group") && reader.is(at + 1, "by");
        let having_at = reader.outermost(from, |at| reader.begins(at, "having")).unwrap_or(body_end);
        let group_at = reader.outermost(from, is_group).unwrap_or(having_at);
        let groups = if group_at < having_at { reader.split(group_at + 2..having_at)? } else { Vec::new() };
        let having = (having_at < body_end).then_some(having_at + 1..body_end);
        Some(Self { items, list_end, source: from..group_at, groups, having, ending, tokens })
    }

    /// LIMIT, OFFSET and FETCH, in bytes.
    pub(super) fn limit(&self) -> Option<Range<usize>> {
        let tokens = self.tokens.get(self.ending.limit.clone())?;
        Some(tokens.first()?.start..tokens.last()?.end)
    }

    /// The text of some tokens.
    pub(super) fn text<'t>(&self, text: &'t str, tokens: &Range<usize>) -> Option<&'t str> {
        Reader { text: text.as_bytes(), tokens: &self.tokens }.said(text, tokens).filter(|said| !said.is_empty())
    }

    /// Of an element of the select list with an alias, the expression alone.
    pub(super) fn without_alias(&self, text: &str, item: &Range<usize>) -> Option<Range<usize>> {
        let name = item.end.checked_sub(1)?;
        let before = self.tokens.get(name.checked_sub(1)?)?;
        let end = if is_keyword(text.as_bytes(), before, "as") { name - 1 } else { name };
        (end > item.start).then_some(item.start..end)
    }
}

/// What comes at last: ORDER BY, LIMIT, OFFSET, FETCH.
#[derive(Debug)]
pub(super) struct Ending {
    /// Where it begins, in tokens.
    pub(super) body_end: usize,
    /// Each element of ORDER BY.
    pub(super) order: Vec<Element>,
    /// The tokens of all the rest.
    pub(super) limit: Range<usize>,
}

/// An element of ORDER BY, by its tokens.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) expression: Range<usize>,
    /// It says where NULLs go.
    pub(super) places_nulls: bool,
    /// ASC, DESC, NULLS …
    pub(super) way: Range<usize>,
}

impl Ending {
    /// Of what begins here.
    pub(super) fn of(reader: Reader<'_>, body_end: usize) -> Option<Self> {
        let end = reader.tokens.len();
        let is_count = |at| ["limit", "offset", "fetch"].iter().any(|keyword| reader.begins(at, keyword));
        let limit = reader.outermost(body_end, is_count).unwrap_or(end)..end;
        let mut order = Vec::new();
        if reader.is(body_end, "order") {
            order = reader.order(body_end + 2..limit.start)?;
        } else if body_end != limit.start {
            return None;
        }
        Some(Self { body_end, order, limit })
    }

    /// The name that an element is, where it is nothing else.
    pub(super) fn bare_name(reader: Reader<'_>, element: &Element) -> Option<Box<str>> {
        reader.name(element.expression.start).filter(|_| element.expression.len() == 1)
    }
}

/// The tokens of a text that is one statement, where all of them mean the same on each server.
pub(super) fn tokens_of(text: &str) -> Option<Vec<Token>> {
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
    tokens.iter().all(is_readable).then_some(tokens)
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

/// A look at tokens by their place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'t> {
    pub(super) text: &'t [u8],
    pub(super) tokens: &'t [Token],
}

impl Reader<'_> {
    pub(super) fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| is_keyword(self.text, token, keyword))
    }

    pub(super) fn is_punct(&self, at: usize, punct: &[u8]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == TokenKind::Punct && token.bytes(self.text) == punct)
    }

    /// The text of some tokens.
    pub(super) fn said<'s>(&self, text: &'s str, tokens: &Range<usize>) -> Option<&'s str> {
        let Some(last) = tokens.end.checked_sub(1).filter(|_| !tokens.is_empty()) else { return Some("") };
        text.get(self.tokens.get(tokens.start)?.start..self.tokens.get(last)?.end)
    }

    /// A name as PostgreSQL folds it; keywords are not told from names.
    pub(super) fn name(&self, at: usize) -> Option<Box<str>> {
        fold(self.text, self.tokens.get(at)?)
    }

    /// A reserved word that begins a clause, and is no name behind a dot or AS.
    pub(super) fn begins(&self, at: usize, keyword: &str) -> bool {
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
        self.behind_parenthesis(3)
    }

    /// Behind the one that closes the parenthesis which opens here.
    pub(super) fn behind_parenthesis(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in open..self.tokens.len() {
            if self.is_punct(at, b"(") {
                depth += 1;
            } else if self.is_punct(at, b")") {
                depth = depth.checked_sub(1)?;
            }
            if depth == 0 {
                return (at > open).then_some(at + 1);
            }
        }
        None
    }

    /// Where ORDER BY, LIMIT, OFFSET or FETCH begins, from `start` on.
    pub(super) fn body_end(&self, start: usize) -> usize {
        let is_end = |at| {
            self.begins(at, "order") && self.is(at + 1, "by")
                || ["limit", "offset", "fetch"].iter().any(|keyword| self.begins(at, keyword))
        };
        self.outermost(start, is_end).unwrap_or(self.tokens.len())
    }

    /// The first token from `start` on, outside of all parentheses, of which that is true.
    pub(super) fn outermost(&self, start: usize, is_it: impl Fn(usize) -> bool) -> Option<usize> {
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
    pub(super) fn split(&self, tokens: Range<usize>) -> Option<Vec<Range<usize>>> {
        let mut parts = Vec::new();
        let mut start = tokens.start;
        while let Some(comma) = self.outermost(start, |at| self.is_punct(at, b",")).filter(|at| *at < tokens.end) {
            parts.push(start..comma);
            start = comma + 1;
        }
        parts.push(start..tokens.end);
        parts.iter().all(|part| !part.is_empty()).then_some(parts)
    }

    /// The elements of an ORDER BY: the tokens of the expression, and whether it is said where NULLs go.
    pub(super) fn order(&self, tokens: Range<usize>) -> Option<Vec<Element>> {
        let element = |item: Range<usize>| {
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
            let found = Element { expression: item.start..end, places_nulls, way: end..item.end };
            (end > item.start && is_plain).then_some(found)
        };
        self.split(tokens)?.into_iter().map(element).collect()
    }
}

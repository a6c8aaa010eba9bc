//! A statement's tokens, read from left to right.
//!
//! The small parsers of this room (transactions, settings, …) are written over [`Cursor`]; they take
//! a statement whole or not at all, so that what is misspelt goes to a server and gets its error.

use super::{
    lexer::{Token, TokenKind},
    statement::Name,
};
use std::ops::Range;

/// A place in a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    tokens: &'a [Token],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], tokens: &'a [Token]) -> Self {
        Self { text, tokens }
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [Token] {
        self.tokens
    }

    pub(super) fn at_end(&self) -> bool {
        self.tokens.is_empty()
    }

    /// `Some` at the end: to be asked with `?` as the last thing.
    pub(super) fn end(&self) -> Option<()> {
        self.at_end().then_some(())
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.tokens.first().copied()
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    /// Whether the token `ahead` of this place is the keyword (lower case).
    pub(super) fn is_at(&self, ahead: usize, keyword: &str) -> bool {
        self.tokens.get(ahead).is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    pub(super) fn is(&self, keyword: &str) -> bool {
        self.is_at(0, keyword)
    }

    pub(super) fn is_punct(&self, ahead: usize, punct: &str) -> bool {
        self.tokens.get(ahead).is_some_and(|t| t.kind == TokenKind::Punct && t.bytes(self.text) == punct.as_bytes())
    }

    /// Reads the keyword if it stands here.
    pub(super) fn take(&mut self, keyword: &str) -> bool {
        let found = self.is(keyword);
        if found {
            self.next();
        }
        found
    }

    /// Reads one of the keywords.
    pub(super) fn take_any(&mut self, keywords: &[&str]) -> bool {
        keywords.iter().any(|k| self.take(k))
    }

    /// Reads all of the keywords, or none.
    pub(super) fn take_all(&mut self, keywords: &[&str]) -> bool {
        let found = keywords.iter().enumerate().all(|(i, k)| self.is_at(i, k));
        if found {
            self.tokens = &self.tokens[keywords.len()..];
        }
        found
    }

    pub(super) fn take_punct(&mut self, punct: &str) -> bool {
        let found = self.is_punct(0, punct);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn take_operator(&mut self, operator: &str) -> bool {
        let found =
            self.peek().is_some_and(|t| t.kind == TokenKind::Operator && t.bytes(self.text) == operator.as_bytes());
        if found {
            self.next();
        }
        found
    }

    /// Reads a string constant of any spelling.
    pub(super) fn take_string(&mut self) -> Option<Token> {
        let token = self
            .peek()
            .filter(|t| matches!(t.kind, TokenKind::String | TokenKind::EscapeString | TokenKind::DollarString))?;
        self.next();
        Some(token)
    }

    /// Reads an identifier, folded, and where it stood.
    pub(super) fn ident(&mut self) -> Option<(Box<str>, Range<usize>)> {
        let token = self.peek()?;
        let name = fold(self.text, &token)?;
        self.next();
        Some((name, token.start..token.end))
    }

    /// Reads a possibly qualified name; of more than two parts the last two count.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut name = Name { schema: None, name: self.ident()?.0 };
        while self.take_punct(".") {
            name = Name { schema: Some(name.name), name: self.ident()?.0 };
        }
        Some(name)
    }

    /// Reads up to the parenthesis that closes the one here; gives the tokens between.
    pub(super) fn parenthesised(&mut self) -> Option<Cursor<'a>> {
        if !self.is_punct(0, "(") {
            return None;
        }
        let mut depth = 0usize;
        for (i, token) in self.tokens.iter().enumerate() {
            match (token.kind, token.bytes(self.text)) {
                (TokenKind::Punct, b"(") => depth += 1,
                (TokenKind::Punct, b")") => {
                    depth -= 1;
                    if depth == 0 {
                        let inner = Cursor::new(self.text, &self.tokens[1..i]);
                        self.tokens = &self.tokens[i + 1..];
                        return Some(inner);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Whether any token from here on is the keyword.
    pub(super) fn contains(&self, keyword: &str) -> bool {
        self.tokens.iter().any(|t| is_keyword(self.text, t, keyword))
    }

    /// Whether the keywords stand side by side anywhere from here on.
    pub(super) fn contains_all(&self, keywords: &[&str]) -> bool {
        (0..self.tokens.len()).any(|i| keywords.iter().enumerate().all(|(k, w)| self.is_at(i + k, w)))
    }
}

/// Whether the token is the keyword (lower case), in whatever case it is written.
pub(super) fn is_keyword(text: &[u8], token: &Token, keyword: &str) -> bool {
    token.kind == TokenKind::Word && token.bytes(text).eq_ignore_ascii_case(keyword.as_bytes())
}

/// An identifier as PostgreSQL folds it; `None` for what is none.
pub(super) fn fold(text: &[u8], token: &Token) -> Option<Box<str>> {
    let bytes = token.bytes(text);
    match token.kind {
        TokenKind::Word => Some(String::from_utf8_lossy(&bytes.to_ascii_lowercase()).into()),
        // U&"…" may hold escapes: nothing here needs them decoded, an unknown name is safe.
        TokenKind::QuotedIdent if bytes.first() == Some(&b'"') && bytes.len() >= 2 => {
            Some(String::from_utf8_lossy(&bytes[1..bytes.len() - 1]).replace("\"\"", "\"").into())
        }
        TokenKind::QuotedIdent => Some(String::from_utf8_lossy(bytes).into()),
        _ => None,
    }
}

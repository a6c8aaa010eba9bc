//! A text → its statements, at the semicolons that separate them.
//!
//! A semicolon separates unless it stands in parentheses (CREATE RULE) or in the body of a
//! `CREATE FUNCTION … BEGIN ATOMIC … END`; the rules are those of psql's
//! [`psqlscan.l`](https://github.com/postgres/postgres/blob/REL_18_STABLE/src/fe_utils/psqlscan.l).
//! Memory stays bounded: of a long statement only the first tokens are kept.

use super::{
    lexer::{Lexer, Token, TokenKind},
    tokens::is_keyword,
};
use std::ops::Range;

/// Tokens kept of one statement; what has more is understood by its head alone.
pub(super) const MAX_TOKENS: usize = 16 * 1024;

/// One statement of a text.
#[derive(Debug)]
pub(super) struct Part {
    /// Its tokens, without the semicolon, at most [`MAX_TOKENS`].
    pub(super) tokens: Vec<Token>,
    /// Whether `tokens` are all of them.
    pub(super) complete: bool,
    /// From its first token to behind its last, in bytes.
    pub(super) span: Range<usize>,
}

/// The statements of a text; empty ones are left out.
pub(super) struct Splitter<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
}

impl<'a> Splitter<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, lexer: Lexer::new(text) }
    }
}

impl Iterator for Splitter<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut tokens = Vec::new();
        let mut span = None::<Range<usize>>;
        let mut complete = true;
        let mut nesting = Nesting::default();
        for token in self.lexer.by_ref() {
            if nesting.separates(self.text, &token) {
                if span.is_none() {
                    continue;
                }
                break;
            }
            span = Some(span.map_or(token.start, |s| s.start)..token.end);
            if tokens.len() < MAX_TOKENS {
                tokens.push(token);
            } else {
                complete = false;
            }
        }
        Some(Part { tokens, complete, span: span? })
    }
}

/// What keeps a semicolon from separating.
#[derive(Default)]
struct Nesting {
    parentheses: usize,
    blocks: usize,
    words: usize,
    head: Head,
}

/// How far a statement's first words are those of a routine's definition.
#[derive(Default, PartialEq)]
enum Head {
    #[default]
    Nothing,
    Create,
    Or,
    Replace,
    Routine,
    Else,
}

impl Nesting {
    fn separates(&mut self, text: &[u8], token: &Token) -> bool {
        match (token.kind, token.bytes(text)) {
            (TokenKind::Punct, b"(") => self.parentheses += 1,
            (TokenKind::Punct, b")") => self.parentheses = self.parentheses.saturating_sub(1),
            (TokenKind::Punct, b";") => return self.parentheses == 0 && self.blocks == 0,
            (TokenKind::Word, _) => self.word(text, token),
            _ => {}
        }
        false
    }

    fn word(&mut self, text: &[u8], token: &Token) {
        let is = |keyword| is_keyword(text, token, keyword);
        if self.words < 4 {
            self.words += 1;
            self.head = match self.head {
                Head::Nothing if is("create") => Head::Create,
                Head::Create if is("or") => Head::Or,
                Head::Or if is("replace") => Head::Replace,
                Head::Create | Head::Replace if is("function") || is("procedure") => Head::Routine,
                Head::Routine => Head::Routine,
                _ => Head::Else,
            };
        }
        if self.head != Head::Routine || self.parentheses > 0 {
            return;
        }
        if is("begin") || (is("case") && self.blocks > 0) {
            self.blocks += 1;
        } else if is("end") {
            self.blocks = self.blocks.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<&str> {
        Splitter::new(text.as_bytes()).map(|p| &text[p.span]).collect()
    }

    #[test]
    fn statements() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ; ;-- x\n;", &[]),
            ("select 1", &["select 1"]),
            ("select 1;", &["select 1"]),
            (" select 1 ; /* ; */ select 2 -- ;", &["select 1", "select 2"]),
            ("select ';', $$;$$, \";\"; b", &["select ';', $$;$$, \";\"", "b"]),
            (
                "create rule r as on insert to t do (select 1; select 2); x",
                &["create rule r as on insert to t do (select 1; select 2)", "x"],
            ),
            (
                "create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; select 2; end; x",
                &[
                    "create or replace function f() returns int begin atomic select case 1 when 1 then 2 end; select 2; end",
                    "x",
                ],
            ),
            ("begin; end; x", &["begin", "end", "x"]),
            ("select ');' ); x", &["select ');' )", "x"]),
        ];
        for (text, expected) in cases {
            assert_eq!(&split(text), expected, "{text}");
        }
    }

    proptest! {
        /// What lies between the statements is white space, comments and semicolons.
        #[test]
        fn nothing_is_lost(text in "(?s)[a-z0-9 ;'\"$()\\-/*\n]{0,60}") {
            let mut rest = text.clone().into_bytes();
            for part in Splitter::new(text.as_bytes()) {
                rest[part.span].fill(b' ');
            }
            for token in Lexer::new(&rest) {
                prop_assert_eq!(token.bytes(&rest), b";");
            }
        }
    }
}

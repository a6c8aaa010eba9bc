//! The shape of a text: its tokens with plain literals taken out, hashed.
//!
//! Two texts of one shape have one [`Analysis`](super::Analysis). That holds for queries and
//! data-modifying statements alone; in other commands a literal can be what matters. A literal whose
//! spelling could change how it is parsed (escapes, huge numbers) stays in the shape.

use super::hint;
use super::lexer::{Lexer, Token, TokenKind};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// A text's shape under one key: 128 bits that a client cannot aim at.
pub(super) type Shape = u128;

/// Digits up to this many are a number like any other, whatever their value.
const PLAIN_DIGITS: usize = 18;

/// The shape, or `None` for a text whose literals matter or that does not lex to its end.
pub(super) fn shape(text: &[u8], key: &[u8; 16]) -> Option<Shape> {
    let mut hashing = Hashing::new(key);
    let mut is_first = true;
    // None is behind the last statement, whether or not there is one in the text.
    let mut has_ended = false;
    if let Some(hint) = hint::find(text) {
        hashing.spelt(tag::HINT, hint);
    }
    for token in Lexer::new(text) {
        let bytes = token.bytes(text);
        if token.kind == TokenKind::Punct && bytes == b";" {
            // Empty statements count as nothing.
            has_ended |= !is_first;
            is_first = true;
            continue;
        }
        if is_first && !starts_query(&token, bytes) {
            return None;
        }
        is_first = false;
        if std::mem::take(&mut has_ended) {
            hashing.tag(tag::SEMICOLON);
        }
        match token.kind {
            TokenKind::Word if matches_setting_function(bytes) => return None,
            TokenKind::Word | TokenKind::Param | TokenKind::Operator | TokenKind::Punct => hashing.plain(text, &token),
            TokenKind::QuotedIdent if may_be_setting_function(bytes) => return None,
            TokenKind::QuotedIdent => hashing.spelt(tag::QUOTED, bytes),
            TokenKind::String | TokenKind::DollarString => hashing.tag(tag::STRING),
            TokenKind::Number if is_plain(bytes) => hashing.tag(tag::NUMBER),
            TokenKind::Number | TokenKind::EscapeString | TokenKind::BitString => hashing.spelt(tag::SPELT, bytes),
            TokenKind::Other | TokenKind::Unterminated => return None,
        }
    }
    Some(hashing.finish())
}

/// What stands before a token, or instead of it: none is a byte of a word, an operator or punctuation.
mod tag {
    /// Before what is told by its bytes alone: words, parameters, operators and punctuation.
    pub(super) const PLAIN: u8 = 1;
    pub(super) const QUOTED: u8 = 2;
    pub(super) const STRING: u8 = 3;
    pub(super) const NUMBER: u8 = 4;
    pub(super) const SPELT: u8 = 5;
    pub(super) const SEMICOLON: u8 = 6;
    pub(super) const HINT: u8 = 7;
}

/// Hashes tokens, each as a tag and what counts of it: the same bytes only for texts of one shape.
struct Hashing {
    hasher: SipHasher13,
    /// What is not hashed yet: many short pieces are hashed at once.
    block: [u8; BLOCK],
    filled: usize,
}

/// How much is hashed at once, in bytes.
const BLOCK: usize = 256;

/// Of a word so much is put into lower case at once, in bytes: what a processor has instructions for.
const PIECE: usize = 16;

impl Hashing {
    fn new(key: &[u8; 16]) -> Self {
        Self { hasher: SipHasher13::new_with_key(key), block: [0; BLOCK], filled: 0 }
    }

    fn tag(&mut self, tag: u8) {
        self.place()[0] = tag;
        self.filled += 1;
    }

    /// A token that is equal to another if they differ in case alone.
    fn plain(&mut self, text: &[u8], token: &Token) {
        self.tag(tag::PLAIN);
        let mut at = token.start;
        while at < token.end {
            let place = self.place();
            let length = (token.end - at).min(PIECE);
            // What is taken too much is overwritten by what comes next, or not hashed.
            match text.get(at..at + PIECE) {
                Some(piece) => place.copy_from_slice(piece),
                None => place[..length].copy_from_slice(&text[at..at + length]),
            }
            place.make_ascii_lowercase();
            self.filled += length;
            at += length;
        }
    }

    /// What may hold any bytes goes with its length, so that it cannot pass for other tokens.
    fn spelt(&mut self, tag: u8, bytes: &[u8]) {
        self.tag(tag);
        self.hash();
        self.hasher.write_usize(bytes.len());
        self.hasher.write(bytes);
    }

    /// Where the next bytes go: a piece.
    fn place(&mut self) -> &mut [u8] {
        if self.filled > BLOCK - PIECE {
            self.hash();
        }
        &mut self.block[self.filled..self.filled + PIECE]
    }

    fn hash(&mut self) {
        self.hasher.write(&self.block[..self.filled]);
        self.filled = 0;
    }

    fn finish(mut self) -> Shape {
        self.hash();
        self.hasher.finish128().as_u128()
    }
}

fn is_plain(number: &[u8]) -> bool {
    number.len() <= PLAIN_DIGITS && number.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

/// Functions whose literal arguments say what they do to settings.
fn matches_setting_function(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"set_config") || word.eq_ignore_ascii_case(b"current_setting")
}

/// The same of a quoted name; `U&"…"` may be any.
fn may_be_setting_function(quoted: &[u8]) -> bool {
    match quoted {
        [b'"', name @ .., b'"'] => matches_setting_function(name),
        _ => true,
    }
}

fn starts_query(token: &Token, bytes: &[u8]) -> bool {
    let words: [&[u8]; 8] = [b"select", b"insert", b"update", b"delete", b"with", b"values", b"merge", b"table"];
    match token.kind {
        TokenKind::Word => words.iter().any(|w| bytes.eq_ignore_ascii_case(w)),
        _ => bytes == b"(",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Option<Shape> {
        shape(text.as_bytes(), &[7; 16])
    }

    #[test]
    fn same_shape() {
        let cases = [
            ("SELECT * FROM t WHERE a = 17", "select * from T where a=18 ;"),
            ("SELECT 'a'", "SELECT  /* c */ $$b'c$$ -- d"),
            ("SELECT 1; SELECT 'x'", "SELECT 2;; SELECT 'y';"),
            ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2.5, 'bb')"),
            ("SELECT $1", "SELECT  $1"),
        ];
        for (one, other) in cases {
            assert!(of(one).is_some(), "{one}");
            assert_eq!(of(one), of(other), "{one} / {other}");
        }
    }

    #[test]
    fn other_shape() {
        let cases = [
            ("SELECT a", "SELECT b"),
            ("SELECT \"a\"", "SELECT \"A\""),
            ("SELECT \"a\"", "SELECT a"),
            ("SELECT ab", "SELECT a b"),
            ("SELECT 1", "SELECT '1'"),
            ("SELECT 1", "SELECT -1"),
            ("SELECT 1", "SELECT 99999999999999999999"),
            ("SELECT E'a'", "SELECT E'b'"),
            ("SELECT $1", "SELECT $2"),
            ("SELECT a + b", "SELECT a - b"),
            ("SELECT 1; SELECT 1", "SELECT 1 SELECT 1"),
            ("SELECT f(1)", "SELECT g(1)"),
            ("SELECT a.b", "SELECT a, b"),
        ];
        for (one, other) in cases {
            assert_ne!(of(one), of(other), "{one} / {other}");
        }
    }

    #[test]
    fn no_shape() {
        for text in [
            "SET a = 1",
            "SELECT 1; SET a = 1",
            "EXPLAIN (ANALYZE 0) SELECT 1",
            "SELECT set_config('a', 'b', true)",
            "SELECT \"set_config\"('a', 'b', true)",
            "SELECT U&\"set\\005fconfig\"('a', 'b', true)",
            "SELECT current_setting('a')",
            "SELECT 'open",
            "PREPARE p AS SELECT 1",
            "DO 'x'",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn literals_do_not_count_and_names_do(a in 0u32.., b in 0u32.., s in "[a-z ;\"]{0,9}", x in "x[a-z]{1,6}", y in "y[a-z]{1,6}") {
            let text = |n: u32, s: &str, name: &str| format!("SELECT {name}, '{s}' FROM t WHERE {name} = {n}");
            prop_assert_eq!(of(&text(a, &s, &x)), of(&text(b, "other", &x)));
            prop_assert_ne!(of(&text(a, &s, &x)), of(&text(a, &s, &y)));
        }
    }
}

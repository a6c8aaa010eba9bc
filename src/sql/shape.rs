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
    let normal = normalise(text)?;
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(&normal);
    Some(hasher.finish128().as_u128())
}

/// The tokens, each as a tag below 0x20 and what counts of it; equal only for texts of one shape.
fn normalise(text: &[u8]) -> Option<Vec<u8>> {
    let mut normal = Vec::with_capacity(text.len() + text.len() / 2 + 16);
    let mut first = true;
    if let Some(hint) = hint::find(text) {
        spelt(&mut normal, tag::HINT, hint);
    }
    for token in Lexer::new(text) {
        let bytes = token.bytes(text);
        if token.kind == TokenKind::Punct && bytes == b";" {
            // Empty statements count as nothing.
            if !first {
                normal.push(tag::SEMICOLON);
            }
            first = true;
            continue;
        }
        if first && !starts_query(&token, bytes) {
            return None;
        }
        first = false;
        push(&mut normal, &token, bytes)?;
    }
    while normal.last() == Some(&tag::SEMICOLON) {
        normal.pop();
    }
    Some(normal)
}

mod tag {
    pub(super) const WORD: u8 = 1;
    pub(super) const QUOTED: u8 = 2;
    pub(super) const STRING: u8 = 3;
    pub(super) const NUMBER: u8 = 4;
    pub(super) const PARAM: u8 = 5;
    pub(super) const OPERATOR: u8 = 6;
    pub(super) const PUNCT: u8 = 7;
    pub(super) const SPELT: u8 = 8;
    pub(super) const SEMICOLON: u8 = 9;
    pub(super) const HINT: u8 = 10;
}

fn push(normal: &mut Vec<u8>, token: &Token, bytes: &[u8]) -> Option<()> {
    match token.kind {
        TokenKind::Word => {
            if matches_setting_function(bytes) {
                return None;
            }
            normal.push(tag::WORD);
            let start = normal.len();
            normal.extend_from_slice(bytes);
            normal[start..].make_ascii_lowercase();
        }
        TokenKind::QuotedIdent => {
            // A quoted name of the functions whose literals matter.
            if bytes.len() > 2 && matches_setting_function(&bytes[1..bytes.len() - 1]) {
                return None;
            }
            spelt(normal, tag::QUOTED, bytes);
        }
        TokenKind::String | TokenKind::DollarString => normal.push(tag::STRING),
        TokenKind::Number if is_plain(bytes) => normal.push(tag::NUMBER),
        TokenKind::Number | TokenKind::EscapeString | TokenKind::BitString => spelt(normal, tag::SPELT, bytes),
        TokenKind::Param => {
            normal.push(tag::PARAM);
            normal.extend_from_slice(bytes);
        }
        TokenKind::Operator => {
            normal.push(tag::OPERATOR);
            normal.extend_from_slice(bytes);
        }
        TokenKind::Punct => {
            normal.push(tag::PUNCT);
            normal.extend_from_slice(bytes);
        }
        TokenKind::Other | TokenKind::Unterminated => return None,
    }
    Some(())
}

/// What may hold any bytes goes with its length, so that it cannot pass for other tokens.
fn spelt(normal: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    normal.push(tag);
    normal.extend_from_slice(&bytes.len().to_le_bytes());
    normal.extend_from_slice(bytes);
}

fn is_plain(number: &[u8]) -> bool {
    number.len() <= PLAIN_DIGITS && number.iter().all(|b| b.is_ascii_digit() || *b == b'.')
}

/// Functions whose literal arguments say what they do to settings.
fn matches_setting_function(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"set_config") || word.eq_ignore_ascii_case(b"current_setting")
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

//! A statement's text without its literals: what statistics and the audit log know it by.
//!
//! Literals become `$n`, counted on from the text's own parameters; comments are left out, white space is one
//! blank. The fingerprint is of the tokens: it knows neither literals, nor spacing, nor the case of unquoted
//! words, and is the same in every process. No literal's text is ever in either.

use std::hash::Hasher;
use std::ops::Range;

use siphasher::sip::SipHasher13;

use super::lexer::{Lexer, Token, TokenKind};
use super::split::Splitter;
use super::text::MAX_PARSED_BYTES;

/// The longest normalised text that is kept, in bytes.
pub const MAX_NORMAL_BYTES: usize = 4096;

/// A statement without its literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal {
    /// Equal for statements that differ in literals, spacing, comments and the case of unquoted words alone.
    pub fingerprint: u64,
    /// Ends with `…` where it was longer than [`MAX_NORMAL_BYTES`], or has no end.
    pub text: String,
}

/// Where the first `limit` statements of a text stand, in bytes. One that is empty is one statement.
pub fn spans(text: &[u8], limit: usize) -> Vec<Range<usize>> {
    let mut spans: Vec<_> = Splitter::new(text).take(limit).map(|part| part.span).collect();
    if spans.is_empty() {
        spans.push(0..0);
    }
    spans
}

/// Takes the literals out of one statement. Of a long one the first [`MAX_PARSED_BYTES`] count.
pub fn normal(statement: &[u8]) -> Normal {
    let is_cut = statement.len() > MAX_PARSED_BYTES;
    let head = statement.get(..MAX_PARSED_BYTES).unwrap_or(statement);
    let mut tokens: Vec<Token> = Lexer::new(head).collect();
    if is_cut {
        // It may be the first half of a token.
        tokens.pop();
    }
    let mut writer = Writer {
        head,
        hasher: SipHasher13::new(),
        text: Vec::with_capacity(head.len().min(MAX_NORMAL_BYTES)),
        is_full: false,
        last_parameter: last_parameter(&tokens, head),
        end: None,
    };
    let mut rest = tokens.as_slice();
    while let Some((token, others)) = rest.split_first() {
        rest = others;
        if !writer.put(token) {
            break;
        }
        if opens_list(&tokens, tokens.len() - rest.len(), head) {
            let elements = list_elements(rest, head);
            if elements > 1 {
                writer.put_list();
                rest = rest.get(elements * 2 - 1..).unwrap_or_default();
                writer.end = None;
            }
        }
    }
    if is_cut {
        writer.cut();
    }
    Normal { fingerprint: writer.hasher.finish(), text: String::from_utf8_lossy(&writer.text).into_owned() }
}

fn last_parameter(tokens: &[Token], text: &[u8]) -> u64 {
    let number = |token: &Token| std::str::from_utf8(token.bytes(text).get(1..)?).ok()?.parse::<u32>().ok();
    let parameters = tokens.iter().filter(|token| token.kind == TokenKind::Param);
    parameters.filter_map(number).max().map_or(0, u64::from)
}

fn is_literal(kind: TokenKind) -> bool {
    use TokenKind::{BitString, DollarString, EscapeString, Number, String};
    matches!(kind, String | DollarString | EscapeString | BitString | Number)
}

/// Whether the tokens before `at` end in `IN (` or `ARRAY [`.
fn opens_list(tokens: &[Token], at: usize, text: &[u8]) -> bool {
    let Some([.., word, bracket]) = tokens.get(..at) else { return false };
    let is = |name: &[u8]| word.kind == TokenKind::Word && word.bytes(text).eq_ignore_ascii_case(name);
    match bracket.bytes(text) {
        b"(" => is(b"in"),
        b"[" => is(b"array"),
        _ => false,
    }
}

/// How many literals and parameters, and nothing else, stand between here and the closing bracket. Lists that
/// differ in length alone are one statement.
fn list_elements(tokens: &[Token], text: &[u8]) -> usize {
    let mut elements = 0;
    for pair in tokens.chunks(2) {
        let [element, separator] = pair else { return 0 };
        if !is_literal(element.kind) && element.kind != TokenKind::Param {
            return 0;
        }
        elements += 1;
        match separator.bytes(text) {
            b"," => {}
            b")" | b"]" => return elements,
            _ => return 0,
        }
    }
    0
}

struct Writer<'t> {
    head: &'t [u8],
    hasher: SipHasher13,
    text: Vec<u8>,
    is_full: bool,
    last_parameter: u64,
    /// Where the token before this one ended.
    end: Option<usize>,
}

mod tag {
    pub(super) const WORD: u8 = 1;
    pub(super) const LITERAL: u8 = 2;
    pub(super) const SPELT: u8 = 3;
    pub(super) const LIST: u8 = 4;
    pub(super) const OPEN: u8 = 5;
}

impl Writer<'_> {
    /// False when what follows cannot be shown.
    fn put(&mut self, token: &Token) -> bool {
        let bytes = token.bytes(self.head);
        let has_gap = self.end.is_some_and(|end| end < token.start);
        self.end = Some(token.end);
        if has_gap {
            self.write(b" ");
        }
        match token.kind {
            TokenKind::Unterminated => {
                // It may be a literal without its end.
                self.hasher.write_u8(tag::OPEN);
                self.cut();
                return false;
            }
            kind if is_literal(kind) => {
                self.hasher.write_u8(tag::LITERAL);
                self.last_parameter += 1;
                let parameter = format!("${}", self.last_parameter);
                self.write(parameter.as_bytes());
            }
            TokenKind::Word => {
                self.begin(tag::WORD, bytes);
                bytes.iter().for_each(|byte| self.hasher.write_u8(byte.to_ascii_lowercase()));
                self.write(bytes);
            }
            _ => {
                self.begin(tag::SPELT, bytes);
                self.hasher.write(bytes);
                self.write(bytes);
            }
        }
        true
    }

    /// With its length, so that it cannot pass for other tokens.
    fn begin(&mut self, tag: u8, bytes: &[u8]) {
        self.hasher.write_u8(tag);
        self.hasher.write(&(bytes.len() as u64).to_le_bytes());
    }

    fn put_list(&mut self) {
        self.hasher.write_u8(tag::LIST);
        self.last_parameter += 1;
        let list = format!("${}, …", self.last_parameter);
        self.write(list.as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.is_full {
            return;
        }
        if self.text.len() + bytes.len() > MAX_NORMAL_BYTES {
            self.cut();
            return;
        }
        self.text.extend_from_slice(bytes);
    }

    fn cut(&mut self) {
        if !std::mem::replace(&mut self.is_full, true) {
            self.text.extend_from_slice("…".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Normal {
        normal(text.as_bytes())
    }

    #[test]
    fn literals_are_taken_out() {
        for (text, expected) in [
            ("SELECT * FROM t WHERE a = 17", "SELECT * FROM t WHERE a = $1"),
            ("select 'x',1.5e3 , B'01', E'a\\'b', $$c$$", "select $1,$2 , $3, $4, $5"),
            ("SELECT $2 + 7", "SELECT $2 + $3"),
            ("SELECT  /* secret */ 1 -- too\n, a", "SELECT $1 , a"),
            ("SELECT a FROM t WHERE a IN (1, 2, 3)", "SELECT a FROM t WHERE a IN ($1, …)"),
            ("SELECT a IN ($1,$2) AND b = 5", "SELECT a IN ($3, …) AND b = $4"),
            ("SELECT ARRAY[1,2], a[1]", "SELECT ARRAY[$1, …], a[$2]"),
            ("SELECT a IN (1)", "SELECT a IN ($1)"),
            ("SELECT a IN (1, b)", "SELECT a IN ($1, b)"),
            ("ALTER ROLE a PASSWORD 'secret'", "ALTER ROLE a PASSWORD $1"),
            ("SELECT 'secret", "SELECT …"),
            ("SELECT \"Name\", f(1)::text", "SELECT \"Name\", f($1)::text"),
            ("", ""),
        ] {
            assert_eq!(of(text).text, expected, "{text}");
        }
    }

    #[test]
    fn fingerprints_know_what_matters_alone() {
        for (one, other, same) in [
            ("SELECT 1", "select   'x' /* c */", true),
            ("SELECT a IN (1, 2)", "SELECT a IN (1, 2, 3)", true),
            ("SELECT a IN (1, 2)", "SELECT a IN (1)", false),
            ("SELECT a=1", "SELECT a = 2", true),
            ("SELECT a", "SELECT b", false),
            ("SELECT \"a\"", "SELECT \"A\"", false),
            ("SELECT $1", "SELECT 1", false),
            ("SELECT ab", "SELECT a b", false),
        ] {
            assert_eq!(of(one).fingerprint == of(other).fingerprint, same, "{one} / {other}");
        }
        // For ever: fingerprints are compared over restarts and between proxies.
        assert_eq!(format!("{:016x}", of("SELECT a FROM t WHERE b = 1").fingerprint), "8c0408cb71136d5f");
    }

    #[test]
    fn long_texts_are_cut() {
        let long = format!("SELECT {}1", "a, ".repeat(2000));
        let normal = of(&long);
        assert!(normal.text.len() <= MAX_NORMAL_BYTES + 3 && normal.text.ends_with('…'), "{}", normal.text.len());
        // Cut in the middle of a literal, of which nothing may be shown.
        let text = format!("SELECT {}'secret'", " ".repeat(MAX_PARSED_BYTES - 10));
        assert_eq!(of(&text).text, "SELECT…");
        assert!(!of(&format!("SELECT {}{}", "'a',".repeat(20_000), "'secret'")).text.contains('a'));
    }

    #[test]
    fn statements_are_told_apart() {
        let text = b" select 1 ; ; select 2;";
        let found: Vec<_> = spans(text, 10).into_iter().map(|span| normal(&text[span]).text).collect();
        assert_eq!(found, ["select $1", "select $1"]);
        assert_eq!(spans(b"", 10), std::slice::from_ref(&(0..0)));
        assert_eq!(spans(text, 1).len(), 1);
    }

    proptest! {
        #[test]
        fn no_literal_is_shown(text in "[a-z0-9 '\"$;,()=\\\\-]{0,40}", secret in "[A-Z]{6}") {
            let whole = format!("SELECT '{secret}', $${secret}$$, E'\\\\{secret}' {text}");
            prop_assert!(!of(&whole).text.contains(&secret));
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            normal(&text);
        }
    }
}

//! PostgreSQL's lexical rules over bytes.
//!
//! Only what routing needs: where tokens begin and end, and of which sort they are. It follows
//! [`scan.l`](https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/parser/scan.l) with
//! `standard_conforming_strings = on`, keeps no copy, and accepts any bytes: what PostgreSQL would
//! refuse comes out as [`TokenKind::Other`] or [`TokenKind::Unterminated`], never as a panic.

/// The sort of a token. White space and comments are no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An identifier or keyword without quotes.
    Word,
    /// `"…"` or `U&"…"`.
    QuotedIdent,
    /// `'…'`, `N'…'`.
    String,
    /// `$tag$…$tag$`.
    DollarString,
    /// `E'…'`, `U&'…'`, and strings in several pieces: their value is not simply their bytes.
    EscapeString,
    /// `B'…'`, `X'…'`.
    BitString,
    /// `1`, `1.5e3`, `0xFF`, `1_000`.
    Number,
    /// `$1`.
    Param,
    /// `+`, `<=`, `->>`, …
    Operator,
    /// One of `, ( ) [ ] ; :` or `.`, or `::`, `:=`, `..`.
    Punct,
    /// A byte that no rule of PostgreSQL takes.
    Other,
    /// A string, quoted identifier or comment without an end; it reaches to the end of the text.
    Unterminated,
}

/// A token's sort and its place: `start..end` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its sort.
    pub kind: TokenKind,
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

impl Token {
    /// Its bytes.
    pub fn bytes<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// An iterator over the tokens of a text.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    /// Reads `text` from its beginning.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Reads `text` from byte `at`, which must be outside any token.
    pub fn new_at(text: &'a [u8], at: usize) -> Self {
        Self { text, at }
    }

    /// Where the next token, or the white space before it, begins.
    pub fn position(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Passes white space and comments; `false` if a comment has no end.
    fn skip_blank(&mut self) -> bool {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => {
                    if !self.skip_block_comment() {
                        return false;
                    }
                }
                _ => return true,
            }
        }
        true
    }

    fn skip_line(&mut self) {
        while self.at < self.text.len() && !matches!(self.text[self.at], b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) -> bool {
        let mut at = self.at + 2;
        let mut depth = 1usize;
        while at < self.text.len() {
            match (self.text[at], self.text.get(at + 1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        self.at = at;
                        return true;
                    }
                }
                _ => at += 1,
            }
        }
        false
    }

    /// Passes a quoted part whose opening quote is at `self.at`; `false` without an end.
    fn skip_quoted(&mut self, quote: u8, backslash: bool) -> bool {
        let mut at = self.at + 1;
        while at < self.text.len() {
            let byte = self.text[at];
            if byte == quote {
                if self.text.get(at + 1) == Some(&quote) {
                    at += 2;
                    continue;
                }
                self.at = at + 1;
                return true;
            }
            at += if backslash && byte == b'\\' { 2 } else { 1 };
        }
        self.at = self.text.len();
        false
    }

    /// A string constant goes on after white space that holds a newline (`quotecontinue`); what
    /// stands between may hold `--` comments, never block comments.
    fn string_continues(&self) -> Option<usize> {
        let mut probe = self.clone();
        let mut newline = false;
        loop {
            match (probe.peek(0), probe.peek(1)) {
                (b'\n' | b'\r', _) => {
                    newline = true;
                    probe.at += 1;
                }
                (b' ' | b'\t' | 0x0b | 0x0c, _) => probe.at += 1,
                (b'-', b'-') => probe.skip_line(),
                (b'\'', _) if newline => return Some(probe.at),
                _ => return None,
            }
        }
    }

    fn string(&mut self, mut kind: TokenKind, backslash: bool) -> TokenKind {
        loop {
            if !self.skip_quoted(b'\'', backslash) {
                return TokenKind::Unterminated;
            }
            let Some(at) = self.string_continues() else { return kind };
            self.at = at;
            if kind == TokenKind::String {
                kind = TokenKind::EscapeString;
            }
        }
    }

    fn quoted_ident(&mut self) -> TokenKind {
        if self.skip_quoted(b'"', false) { TokenKind::QuotedIdent } else { TokenKind::Unterminated }
    }

    fn word(&mut self) -> TokenKind {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|byte| !GOES_ON[usize::from(*byte)]).unwrap_or(rest.len());
        TokenKind::Word
    }

    /// What begins with a letter: a prefixed string, or a word.
    fn letter(&mut self) -> TokenKind {
        match self.peek(1) {
            b'\'' => self.prefixed(),
            b'&' => self.prefixed_by_two(),
            _ => self.word(),
        }
    }

    /// What has a quote behind its first letter.
    fn prefixed(&mut self) -> TokenKind {
        let (kind, backslash) = match self.peek(0) {
            b'e' | b'E' => (TokenKind::EscapeString, true),
            b'b' | b'B' | b'x' | b'X' => (TokenKind::BitString, false),
            b'n' | b'N' => (TokenKind::String, false),
            _ => return self.word(),
        };
        self.at += 1;
        self.string(kind, backslash)
    }

    /// What has an `&` behind its first letter.
    fn prefixed_by_two(&mut self) -> TokenKind {
        match (self.peek(0), self.peek(2)) {
            (b'u' | b'U', b'\'') => {
                self.at += 2;
                self.string(TokenKind::EscapeString, false)
            }
            (b'u' | b'U', b'"') => {
                self.at += 2;
                self.quoted_ident()
            }
            _ => self.word(),
        }
    }

    /// `$1`, `$tag$…$tag$`, or a `$` that nothing explains.
    fn dollar(&mut self) -> TokenKind {
        if self.peek(1).is_ascii_digit() {
            self.at += 2;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return TokenKind::Param;
        }
        let mut end = self.at + 1;
        if self.text.get(end).is_some_and(|b| is_ident_start(*b)) {
            while self.text.get(end).is_some_and(|b| is_ident_start(*b) || b.is_ascii_digit()) {
                end += 1;
            }
        }
        if self.text.get(end) != Some(&b'$') {
            self.at += 1;
            return TokenKind::Other;
        }
        let tag = &self.text[self.at..=end];
        let body = end + 1;
        match find(&self.text[body..], tag) {
            Some(offset) => {
                self.at = body + offset + tag.len();
                TokenKind::DollarString
            }
            None => {
                self.at = self.text.len();
                TokenKind::Unterminated
            }
        }
    }

    fn number(&mut self) -> TokenKind {
        if self.peek(0) == b'0' && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b') {
            let digits = |b: u8| b.is_ascii_hexdigit() || b == b'_';
            if digits(self.peek(2)) {
                self.at += 2;
                while digits(self.peek(0)) {
                    self.at += 1;
                }
                return TokenKind::Number;
            }
        }
        self.decimal_digits();
        // `1..10` is a number, `..`, and a number.
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.decimal_digits();
        }
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.decimal_digits();
            }
        }
        TokenKind::Number
    }

    fn decimal_digits(&mut self) {
        while self.peek(0).is_ascii_digit() || (self.peek(0) == b'_' && self.peek(1).is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// The longest run of operator characters, cut before a comment; a trailing `+` or `-` belongs
    /// to it only if it holds one of the characters that SQL's own operators do not have.
    fn operator(&mut self) -> TokenKind {
        let start = self.at;
        let mut end = start;
        while self.text.get(end).is_some_and(|b| is_operator(*b)) {
            let next = self.text.get(end + 1);
            let comment = matches!((self.text[end], next), (b'-', Some(b'-')) | (b'/', Some(b'*')));
            if comment && end > start {
                break;
            }
            end += 1;
        }
        let unusual = |b: &u8| matches!(b, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
        while end - start > 1
            && matches!(self.text[end - 1], b'+' | b'-')
            && !self.text[start..end - 1].iter().any(unusual)
        {
            end -= 1;
        }
        self.at = end;
        TokenKind::Operator
    }

    fn punct(&mut self) -> TokenKind {
        let long = matches!((self.peek(0), self.peek(1)), (b':', b':' | b'=') | (b'.', b'.'));
        self.at += if long { 2 } else { 1 };
        TokenKind::Punct
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if !self.skip_blank() {
            let start = self.at;
            self.at = self.text.len();
            return Some(Token { kind: TokenKind::Unterminated, start, end: self.at });
        }
        let start = self.at;
        let kind = match *self.text.get(start)? {
            b'\'' => self.string(TokenKind::String, false),
            b'"' => self.quoted_ident(),
            b'$' => self.dollar(),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b',' | b'(' | b')' | b'[' | b']' | b';' | b':' | b'.' => self.punct(),
            byte if is_ident_start(byte) => self.letter(),
            byte if is_operator(byte) => self.operator(),
            _ => {
                self.at += 1;
                TokenKind::Other
            }
        };
        self.at = self.at.min(self.text.len());
        Some(Token { kind, start, end: self.at })
    }
}

/// By byte: whether a word goes on with it.
static GOES_ON: [bool; 256] = {
    let mut all = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = is_ident_continue(byte as u8);
        byte += 1;
    }
    all
};

const fn is_ident_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_ident_continue(byte: u8) -> bool {
    is_ident_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    // Every tag begins with `$`: skip to the next one instead of comparing windows.
    let mut at = 0;
    while let Some(offset) = text.get(at..)?.iter().position(|b| *b == b'$') {
        at += offset;
        if text[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{TokenKind::*, *};

    fn lex(text: &str) -> Vec<(TokenKind, &str)> {
        Lexer::new(text.as_bytes()).map(|t| (t.kind, &text[t.start..t.end])).collect()
    }

    #[test]
    fn tokens() {
        let cases: &[(&str, &[(TokenKind, &str)])] = &[
            ("", &[]),
            (" \t\r\n-- nothing", &[]),
            ("/* a /* b */ ; */ x", &[(Word, "x")]),
            ("/* open /* */", &[(Unterminated, "/* open /* */")]),
            ("a--b\nc", &[(Word, "a"), (Word, "c")]),
            ("a_1$é", &[(Word, "a_1$é")]),
            ("'it''s'", &[(String, "'it''s'")]),
            (r"'a\' x", &[(String, r"'a\'"), (Word, "x")]),
            (r"e'a\'' x", &[(EscapeString, r"e'a\''"), (Word, "x")]),
            ("'open", &[(Unterminated, "'open")]),
            (r"E'open\", &[(Unterminated, r"E'open\")]),
            ("'a'\n  'b' x", &[(EscapeString, "'a'\n  'b'"), (Word, "x")]),
            ("'a' -- c\n 'b'", &[(EscapeString, "'a' -- c\n 'b'")]),
            ("'a' 'b'", &[(String, "'a'"), (String, "'b'")]),
            ("E'a'\n'\\'b'", &[(EscapeString, "E'a'\n'\\'b'")]),
            ("B'01' x'ff' N'n'", &[(BitString, "B'01'"), (BitString, "x'ff'"), (String, "N'n'")]),
            ("U&'d\\0061' U&\"x\"", &[(EscapeString, "U&'d\\0061'"), (QuotedIdent, "U&\"x\"")]),
            ("\"a\"\"b\" \"c", &[(QuotedIdent, "\"a\"\"b\""), (Unterminated, "\"c")]),
            ("$$a;b$$", &[(DollarString, "$$a;b$$")]),
            ("$x$ $$ $y$ $x$ z", &[(DollarString, "$x$ $$ $y$ $x$"), (Word, "z")]),
            ("$x$ $X$", &[(Unterminated, "$x$ $X$")]),
            ("a$$b", &[(Word, "a$$b")]),
            ("$1$2", &[(Param, "$1"), (Param, "$2")]),
            ("$", &[(Other, "$")]),
            (
                "1 1.5 .5 1. 1e10 1E-3 0xFf 1_000",
                &[
                    (Number, "1"),
                    (Number, "1.5"),
                    (Number, ".5"),
                    (Number, "1."),
                    (Number, "1e10"),
                    (Number, "1E-3"),
                    (Number, "0xFf"),
                    (Number, "1_000"),
                ],
            ),
            ("1..2", &[(Number, "1"), (Punct, ".."), (Number, "2")]),
            ("1e", &[(Number, "1"), (Word, "e")]),
            ("a::int", &[(Word, "a"), (Punct, "::"), (Word, "int")]),
            ("a=-1", &[(Word, "a"), (Operator, "="), (Operator, "-"), (Number, "1")]),
            ("a@-1", &[(Word, "a"), (Operator, "@-"), (Number, "1")]),
            ("a+/*c*/b", &[(Word, "a"), (Operator, "+"), (Word, "b")]),
            ("a->>'b'", &[(Word, "a"), (Operator, "->>"), (String, "'b'")]),
            ("a<--c\nb", &[(Word, "a"), (Operator, "<"), (Word, "b")]),
            (
                "f(x)[1];",
                &[
                    (Word, "f"),
                    (Punct, "("),
                    (Word, "x"),
                    (Punct, ")"),
                    (Punct, "["),
                    (Number, "1"),
                    (Punct, "]"),
                    (Punct, ";"),
                ],
            ),
            ("\\ {", &[(Other, "\\"), (Other, "{")]),
        ];
        for (text, expected) in cases {
            assert_eq!(&lex(text), expected, "{text}");
        }
    }
}

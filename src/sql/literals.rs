//! The literals of a text, by their place among each other.

use std::borrow::Cow;

use super::lexer::{Lexer, Token, TokenKind};

/// A literal's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal<'t> {
    /// As it is spelt.
    Number(&'t str),
    /// What stands between the quotes, without their doubling.
    String(Cow<'t, str>),
}

/// Whether such a token is a literal.
pub(super) fn is_literal(kind: TokenKind) -> bool {
    use TokenKind::{BitString, DollarString, EscapeString, Number, String};
    matches!(kind, String | DollarString | EscapeString | BitString | Number)
}

/// The literal with this ordinal; `None` for one whose value is not simply its bytes, and where there is none.
pub fn literal(text: &[u8], ordinal: usize) -> Option<Literal<'_>> {
    let token = Lexer::new(text).filter(|token| is_literal(token.kind)).nth(ordinal)?;
    let spelt = std::str::from_utf8(token.bytes(text)).ok()?;
    match token.kind {
        TokenKind::Number => Some(Literal::Number(spelt)),
        TokenKind::String => {
            let inner = spelt.strip_prefix(['n', 'N']).unwrap_or(spelt).strip_prefix('\'')?.strip_suffix('\'')?;
            let has_quotes = inner.contains("''");
            Some(Literal::String(if has_quotes { inner.replace("''", "'").into() } else { inner.into() }))
        }
        TokenKind::DollarString => {
            let tag = spelt.split_inclusive('$').take(2).map(str::len).sum();
            Some(Literal::String(spelt.get(tag..spelt.len().checked_sub(tag)?)?.into()))
        }
        _ => None,
    }
}

/// Whether `$1` (with `index` 0) and so on stands in more than one place.
pub fn names_parameter_twice(text: &[u8], index: usize) -> bool {
    let name = format!("${}", index + 1);
    let is_it = |token: &Token| token.kind == TokenKind::Param && token.bytes(text) == name.as_bytes();
    Lexer::new(text).filter(is_it).nth(1).is_some()
}

/// How many stand before byte `end`, which is outside any token.
pub(super) fn literals_before(text: &[u8], end: usize) -> usize {
    if end == 0 {
        return 0;
    }
    Lexer::new(text.get(..end).unwrap_or(text)).filter(|token| is_literal(token.kind)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_their_place() {
        let text = b"SELECT 'it''s', -1.5, $1, $$a$b$$, N'n', E'x', '' FROM t WHERE $q$$$q$ = 0x1F";
        let string = |text: &'static str| Some(Literal::String(text.into()));
        let expected = [
            string("it's"),
            Some(Literal::Number("1.5")),
            string("a$b"),
            string("n"),
            None,
            string(""),
            string("$"),
            Some(Literal::Number("0x1F")),
            None,
        ];
        for (ordinal, expected) in expected.into_iter().enumerate() {
            assert_eq!(literal(text, ordinal), expected, "{ordinal}");
        }
        assert_eq!(literals_before(text, 20), 2);
    }
}

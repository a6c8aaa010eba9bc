//! A statement's expressions with the shards' columns in them.

use std::ops::Range;

use super::super::super::lexer::TokenKind;
use super::super::super::tokens::fold;
use super::super::layout::Reader;
use super::super::sources::{Column, Sources};
use super::last::Piece;

/// What is grouped by: one of the shards' columns.
#[derive(Debug)]
pub(super) struct Group {
    /// Which of them, from 0.
    pub(super) at: usize,
    /// The column of a table that it is.
    pub(super) column: Option<Column>,
    /// Of the expression.
    pub(super) tokens: Range<usize>,
}

/// What stands for what.
pub(super) struct Splicer<'s, 'q> {
    pub(super) reader: Reader<'s>,
    pub(super) sources: &'s Sources<'q>,
    pub(super) groups: &'s [Group],
    /// Instead of these tokens.
    pub(super) instead: Vec<(Range<usize>, Piece)>,
}

impl Splicer<'_, '_> {
    /// The tokens, with columns for all that can be told to be one of them.
    pub(super) fn pieces(&self, tokens: Range<usize>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut at = tokens.start;
        while at < tokens.end {
            if self.is_apart(at) && at > tokens.start {
                text.push(' ');
            }
            match self.column_at(at, &tokens) {
                Some((piece, end)) => {
                    pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                    pieces.push(piece);
                    at = end;
                }
                None => {
                    let said = self.reader.tokens.get(at).map(|token| token.bytes(self.reader.text));
                    text.push_str(&String::from_utf8_lossy(said.unwrap_or_default()));
                    at += 1;
                }
            }
        }
        pieces.push(Piece::Text(text.into()));
        pieces
    }

    /// Whether there is something between this token and the one in front of it.
    fn is_apart(&self, at: usize) -> bool {
        let before = at.checked_sub(1).and_then(|before| self.reader.tokens.get(before));
        before.zip(self.reader.tokens.get(at)).is_none_or(|(before, token)| before.end < token.start)
    }

    /// What stands for the tokens from here on, and where they end.
    fn column_at(&self, at: usize, within: &Range<usize>) -> Option<(Piece, usize)> {
        let is_here = |tokens: &Range<usize>| tokens.start == at && tokens.end <= within.end;
        if let Some((tokens, piece)) = self.instead.iter().find(|(tokens, _)| is_here(tokens)) {
            return Some((piece.clone(), tokens.end));
        }
        let expressions = self.groups.iter().filter(|group| group.column.is_none());
        let mut expressions: Vec<&Group> = expressions.filter(|group| self.is_expression(group, at, within)).collect();
        expressions.sort_by_key(|group| group.tokens.len());
        if let Some(group) = expressions.pop() {
            return Some((Piece::Column(group.at), at + group.tokens.len()));
        }
        let (parts, end) = self.name_at(at, within)?;
        let column = self.sources.column_named(&parts)?;
        let group = self.groups.iter().find(|group| group.column.as_ref() == Some(&column))?;
        Some((Piece::Column(group.at), end))
    }

    /// A name that may be a column's, with what is in front of it by dots.
    fn name_at(&self, at: usize, within: &Range<usize>) -> Option<(Vec<Box<str>>, usize)> {
        let is_dot = |at: usize| self.reader.is_punct(at, b".");
        let before = at.checked_sub(1).filter(|before| *before >= within.start);
        // `extract(year FROM …)`
        let is_field = before.is_some_and(|open| {
            self.reader.is_punct(open, b"(")
                && open.checked_sub(1).is_some_and(|function| self.reader.is(function, "extract"))
        });
        if before.is_some_and(is_dot) || is_field {
            return None;
        }
        let part = |at: usize| fold(self.reader.text, self.reader.tokens.get(at)?);
        let mut parts = vec![part(at)?];
        let mut end = at + 1;
        while is_dot(end) {
            parts.push(part(end + 1)?);
            end += 2;
        }
        let next = self.reader.tokens.get(end).filter(|_| end < within.end);
        let is_other = next.is_some_and(|next| {
            // A call, or a literal of a type.
            self.reader.is_punct(end, b"(")
                || matches!(next.kind, TokenKind::String | TokenKind::EscapeString | TokenKind::DollarString)
        });
        (!is_other).then_some((parts, end))
    }

    /// Whether the group's expression stands here, and is a whole one here too.
    fn is_expression(&self, group: &Group, at: usize, within: &Range<usize>) -> bool {
        let end = at + group.tokens.len();
        if end > within.end || !self.are_alike(group.tokens.clone(), at) {
            return false;
        }
        let is_punct = |at: usize, all: &[&[u8]]| all.iter().any(|punct| self.reader.is_punct(at, punct));
        let begins = at == within.start || is_punct(at - 1, &[b"(", b","]);
        let ends = end == within.end || is_punct(end, &[b")", b","]);
        let is_behind_dot = at > within.start && is_punct(at - 1, &[b"."]);
        begins && ends || !is_behind_dot && self.is_primary(group.tokens.clone())
    }

    /// A call, or something in parentheses: one whole, whatever stands beside it.
    fn is_primary(&self, tokens: Range<usize>) -> bool {
        let is_name = |at: usize| fold(self.reader.text, &self.reader.tokens[at]).is_some();
        let mut open = tokens.start;
        while open + 1 < tokens.end && (is_name(open) || self.reader.is_punct(open, b".")) {
            open += 1;
        }
        self.reader.is_punct(open, b"(") && self.reader.behind_parenthesis(open) == Some(tokens.end)
    }

    fn are_alike(&self, tokens: Range<usize>, at: usize) -> bool {
        tokens.enumerate().all(|(offset, token)| {
            let (Some(one), Some(other)) = (self.reader.tokens.get(token), self.reader.tokens.get(at + offset)) else {
                return false;
            };
            match (fold(self.reader.text, one), fold(self.reader.text, other)) {
                (Some(one), Some(other)) => one == other,
                (None, None) => one.bytes(self.reader.text) == other.bytes(self.reader.text),
                _ => false,
            }
        })
    }
}

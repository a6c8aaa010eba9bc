//! Some of an INSERT's rows: the text with the others blanked out, so that what a server says of a place in it is true of
//! the whole text as well.

use std::ops::Range;

use super::lexer::{Lexer, TokenKind};

/// The text of an `INSERT … VALUES (…), (…)`, of so many rows, with only those that `keeps` says, by their number from 0.
/// Each character that goes becomes one blank. `None` where the rows are not found, or none is kept.
pub fn with_rows(text: &str, count: usize, keeps: impl Fn(usize) -> bool) -> Option<String> {
    let (rows, commas) = rows(text.as_bytes())?;
    if rows.len() != count {
        return None;
    }
    let first = (0..count).find(|number| keeps(*number))?;
    let mut goes = vec![false; text.len()];
    for (number, row) in rows.into_iter().enumerate() {
        goes[row].fill(!keeps(number));
    }
    // Each but the first row that stays has one in front of it.
    for (number, comma) in commas.into_iter().enumerate() {
        goes[comma] = number < first || !keeps(number + 1);
    }
    let shown = |(at, character)| if goes[at] && character != '\n' { ' ' } else { character };
    Some(text.char_indices().map(shown).collect())
}

/// Where the rows stand with their parentheses, and the commas between them.
fn rows(text: &[u8]) -> Option<(Vec<Range<usize>>, Vec<usize>)> {
    let (mut rows, mut commas) = (Vec::new(), Vec::new());
    let (mut depth, mut begins, mut is_among) = (0usize, 0, false);
    for token in Lexer::new(text) {
        let bytes = token.bytes(text);
        match (token.kind, bytes) {
            (TokenKind::Punct, b"(" | b"[") => {
                if depth == 0 {
                    begins = token.start;
                }
                depth += 1;
            }
            (TokenKind::Punct, b")" | b"]") => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && is_among {
                    rows.push(begins..token.end);
                }
            }
            _ if depth > 0 => {}
            (TokenKind::Punct, b",") if is_among => commas.push(token.start),
            (TokenKind::Word, word) if word.eq_ignore_ascii_case(b"values") && rows.is_empty() => is_among = true,
            // ON CONFLICT, RETURNING, or the end.
            _ if is_among => break,
            _ => {}
        }
    }
    (rows.len() == commas.len() + 1).then_some((rows, commas))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_blanked_out() {
        let kept = |text: &str, count, keep: &[usize]| with_rows(text, count, |number| keep.contains(&number));
        for (text, count, keep, expected) in [
            ("INSERT INTO t VALUES (1), (2), (3)", 3, &[0][..], Some("INSERT INTO t VALUES (1)          ")),
            ("INSERT INTO t VALUES (1), (2), (3)", 3, &[1], Some("INSERT INTO t VALUES      (2)     ")),
            ("INSERT INTO t VALUES (1), (2), (3)", 3, &[0, 2], Some("INSERT INTO t VALUES (1)     , (3)")),
            ("INSERT INTO t VALUES (1), (2), (3)", 3, &[1, 2], Some("INSERT INTO t VALUES      (2), (3)")),
            (
                "insert into t (a, b) values ('),(', (1)), ('ä', 2) on conflict (a, b) do nothing returning (a), (b)",
                2,
                &[0],
                Some(
                    "insert into t (a, b) values ('),(', (1))           on conflict (a, b) do nothing returning (a), (b)",
                ),
            ),
            ("INSERT INTO t VALUES (1),\n (2)", 2, &[1], Some("INSERT INTO t VALUES     \n (2)")),
            ("INSERT INTO t VALUES (1), (2)", 2, &[], None),
            ("INSERT INTO t VALUES (1), (2)", 3, &[0], None),
            ("INSERT INTO t SELECT 1", 1, &[0], None),
            ("INSERT INTO t VALUES (1", 1, &[0], None),
        ] {
            assert_eq!(kept(text, count, keep).as_deref(), expected, "{text} {keep:?}");
        }
    }
}

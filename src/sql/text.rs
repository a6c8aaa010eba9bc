//! A text → its [`Analysis`].

use super::{
    commands::Commands,
    hint::hints,
    split::Splitter,
    statement::{Analysis, Kind, Pin, PrimaryCause, Statement},
};

/// Bytes of one text that the parser may see. What is longer is understood by its tokens: the parser's
/// tree of a long flat expression is deep, and dropping it would overflow the stack.
pub const MAX_PARSED_BYTES: usize = 32 * 1024;

/// What is kept of a text that names very many things.
const MAX_TWO_PART_NAMES: usize = 100;

/// Statements of one text that get a summary each; the others share an opaque one.
const MAX_STATEMENTS: usize = 64 * 1024;

/// What the text says, without a cache.
pub fn analyse(text: &str) -> Analysis {
    analyse_bytes(text.as_bytes())
}

/// What the text says, in whatever encoding it is: what is not UTF-8 becomes names that no catalog has.
pub fn analyse_bytes(text: &[u8]) -> Analysis {
    let mut commands = Commands { text, budget: MAX_PARSED_BYTES };
    let mut statements = Vec::new();
    for part in Splitter::new(text) {
        if statements.len() == MAX_STATEMENTS {
            statements.push(opaque());
            break;
        }
        let mut statement = commands.understand(&part);
        if statement.changes_settings {
            statement.two_part_names = two_part_names(&text[part.span.clone()]);
        }
        statements.push(statement);
    }
    Analysis::new(statements).with_hints(hints(text))
}

/// All that looks like `word.word`, also within constants, in lower case.
fn two_part_names(text: &[u8]) -> Box<[Box<str>]> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.') || *byte >= 128;
    let words = text.split(|byte| !is_word(byte)).filter_map(|word| std::str::from_utf8(word).ok());
    let is_name = |part: &str| part.starts_with(|first: char| !first.is_ascii_digit() && first != '$');
    let names = words.filter(|word| word.contains('.') && word.split('.').all(is_name));
    let mut names: Vec<Box<str>> = names.map(|name| name.to_ascii_lowercase().into()).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(MAX_TWO_PART_NAMES);
    names.into()
}

/// Of a text that nobody here has read: rows may have been written and settings changed.
pub fn unread() -> Analysis {
    Analysis::new([anything(PrimaryCause::Utility)])
}

/// Anything may have happened.
fn opaque() -> Statement {
    anything(PrimaryCause::Unparsed).with_pin(Some(Pin::Library))
}

fn anything(cause: PrimaryCause) -> Statement {
    let mut statement = Statement::new(Kind::Utility, Some(cause));
    statement.changes_settings = true;
    statement
}

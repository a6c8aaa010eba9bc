//! A text → its [`Analysis`].

use super::{
    commands::Commands,
    split::Splitter,
    statement::{Analysis, Kind, Pin, PrimaryCause, Statement},
};

/// Bytes of one text that the parser may see. What is longer is understood by its tokens: the parser's
/// tree of a long flat expression is deep, and dropping it would overflow the stack.
pub const MAX_PARSED_BYTES: usize = 32 * 1024;

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
        statements.push(commands.understand(&part));
    }
    Analysis::new(statements)
}

/// Anything may have happened.
fn opaque() -> Statement {
    let mut opaque = Statement::new(Kind::Utility, Some(PrimaryCause::Unparsed)).with_pin(Some(Pin::Library));
    opaque.changes_settings = true;
    opaque
}

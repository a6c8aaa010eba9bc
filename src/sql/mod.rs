//! Text → [`Analysis`]: what a statement reads, writes, locks, calls and sets.

mod statement;

pub use statement::*;

//! What each statement has cost: calls, rows, time, where it ran and why, by its text without literals.
//!
//! The table has a fixed number of slots. Which slot a statement has is noted in its
//! [`Analysis`](crate::sql::Analysis), so that counting one is a handful of additions and takes no lock. When all
//! slots are taken the least used make room; what was counted for them goes on under [`OTHERS`], so that the
//! sums over all rows are always those of all statements, by each reason.

mod slot;
mod table;

pub use slot::{Occurrence, Row};
pub use table::{NOT_READ, OTHERS, Place, StatementTable};

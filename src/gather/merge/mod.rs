//! The rows of several shards in one order: pure, without servers and clients.
//!
//! Which statements may be answered in this way is decided elsewhere ([`crate::sql::merge`]); here is what their answers look
//! like ([`RowShape`]), and which of two rows comes first ([`Order`]).

mod array;
mod numeric;
mod order;
mod row;
mod values;

#[cfg(test)]
mod tests;

pub use array::Array;
pub use order::{Misordered, Order};
pub use row::{RowShape, Unmergeable, cut};

//! The config file: its schema, defaults, checks, and the messages for what is wrong in it.

mod schema;
mod secret;

pub use schema::*;
pub use secret::Secret;

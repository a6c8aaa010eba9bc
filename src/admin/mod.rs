//! What operators see and do: the admin database, and the HTTP pages.
//!
//! Reads what the other parts publish, and acts by their public means. It asks no server anything.

mod act;
mod command;
pub mod console;
pub mod http;
mod show;
mod table;

pub use command::{Command, CommandError};
pub use show::{ACTIONS, SHOWS, Show};
pub use table::{Column, Kind};

//! The command line: one file a subcommand.

pub mod check;
pub mod demo;
pub mod run;
mod succession;

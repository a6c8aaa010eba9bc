//! The command line: one file a subcommand.

pub mod check;
pub mod demo;
mod descriptors;
pub mod run;
mod succession;

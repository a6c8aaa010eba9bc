//! The command line: one file a subcommand.

pub mod check;
mod connect;
mod connection_string;
pub mod coordinator;
pub mod demo;
mod descriptors;
pub mod explain;
mod offline;
mod passfile;
mod print;
pub mod run;
pub mod shards;
mod succession;
pub mod top;

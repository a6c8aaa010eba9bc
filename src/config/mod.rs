//! The config file: its schema, defaults, checks, and the messages for what is wrong in it.
//!
//! A file is read whole: either there is a [`Config`] in which everything holds that `schema` says, or
//! there are all of its mistakes at once, each with its line and column. Nothing else of the program
//! ever sees a half-valid config, and no secret's text is in any message.
//!
//! The way of a text: `document` finds values with their positions, `values`, `address` and
//! `credentials` understand single ones, `sections` and `lists` put them together and hold them to the
//! rules, `keys` says once what keys there are.

mod address;
mod audit;
mod choices;
mod coordinator;
mod credentials;
mod document;
mod encryption;
mod error;
mod keys;
mod lists;
mod load;
mod reload;
mod rules;
mod schema;
mod secret;
mod sections;
mod table_name;
mod tables;
mod values;
mod warnings;
mod watch;

#[cfg(test)]
mod tests;

pub use error::{ConfigErrors, Mistake, Place, nearest};
pub use rules::{AddressPattern, Candidate, DatabasePattern, NamePattern, Network, Pattern, Rule, RuleTls};
pub use schema::*;
pub use secret::Secret;
pub use sections::HINTS;
pub use table_name::{TableName, UnfitTableName};
pub use warnings::Warning;
pub use watch::{ConfigWatcher, WatchError};

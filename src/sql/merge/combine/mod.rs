//! Reads whose rows are made of rows of several shards: aggregates, groups, DISTINCT and UNION without the shard key.
//!
//! Each shard answers for its own rows, and what they say is handed to one PostgreSQL, as arrays, with the client's own
//! statement over it: types, rounding, comparison and order are PostgreSQL's, not an imitation. Where all aggregates can be
//! put together from what they are for a part of the rows, as in a parallel plan, a shard sends one row for each of its groups;
//! otherwise the rows that they are made of.
//!
//! What is spliced into the statement are columns that it cannot name by itself. If something in it was not understood here,
//! a name is left that means nothing there, and PostgreSQL refuses it before anything was told to the client.

mod calls;
mod grouped;
mod last;
mod splice;
mod whole;

pub(super) use grouped::grouped;
pub use last::Shown;
pub(super) use whole::{distinct, sorted, union};

use super::layout::{Element, Ending, Reader};
use last::Piece;

/// How what the shards say is put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combine {
    /// To be tried in this order: the types of the columns say which of them will do.
    pub ways: Box<[Steps]>,
}

/// What the shards are asked, and what PostgreSQL makes of their answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// What each shard is sent. It has the client's parameters.
    pub partial: Box<str>,
    is_distinct: bool,
    /// The select list; none: the first of the shards' columns as they are.
    items: Option<Box<[Box<[Piece]>]>>,
    /// From GROUP BY on.
    tail: Box<[Piece]>,
}

/// ORDER BY and what comes behind it; `by`: what an element sorts by.
fn end(
    reader: Reader<'_>,
    text: &str,
    ending: &Ending,
    by: impl Fn(&Element) -> Option<Vec<Piece>>,
) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let put = |pieces: &mut Vec<Piece>, said: String| pieces.push(Piece::Text(said.into()));
    for (number, element) in ending.order.iter().enumerate() {
        put(&mut pieces, if number == 0 { " ORDER BY " } else { ", " }.to_owned());
        pieces.extend(by(element)?);
        if !element.way.is_empty() {
            put(&mut pieces, format!(" {}", reader.said(text, &element.way)?));
        }
    }
    if !ending.limit.is_empty() {
        put(&mut pieces, format!(" {}", reader.said(text, &ending.limit)?));
    }
    Some(pieces)
}

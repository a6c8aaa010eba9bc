//! The rows of several servers on their way to one client.
//!
//! From a server no more is read than its buffer takes, and none of it is taken while the client has more than [`MAX_AHEAD`]
//! bytes to take still: the slowest sets the pace, and memory is bounded by one buffer, or one row where that is longer, for
//! each server.

use std::cmp::Ordering;

use super::super::Fault;
use super::super::everywhere::Why;
use super::part::Part;
use super::parts::{Ending, Parts, misordered};
use super::question::Question;
use super::request::Request;
use crate::gather::merge::{Misordered, Order, RowShape, Unmergeable};
use crate::sql::Merge;
use crate::wire::ErrorReply;
use crate::wire::backend;
use crate::wire::frontend::put;

/// How much the client may have to take still before the servers have to wait, in bytes.
const MAX_AHEAD: usize = 64 * 1024;

/// Rows that the client has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) rows: u64,
    /// It wanted no more of them for now.
    pub(super) is_suspended: bool,
}

/// Rows on their way.
#[derive(Debug)]
pub(super) struct Stream<'c, 'l> {
    parts: &'c mut Parts<'l>,
    request: &'c Request,
    order: Option<Order>,
    /// How many columns the client gets.
    columns: usize,
    to_pass_over: u64,
    limit: Option<u64>,
    given: u64,
}

impl<'c, 'l> Stream<'c, 'l> {
    /// Has all servers answer, and the client get the rows.
    pub(super) async fn run(
        parts: &'c mut Parts<'l>,
        request: &'c Request,
        merge: &Merge,
        is_utf8: bool,
    ) -> Result<Result<Given, Ending>, Fault> {
        let question = Question { text: merge.text.as_bytes(), types: &request.types, parameters: &request.parameters };
        parts.sorting = merge.sort.len();
        let (to_pass_over, limit) = (request.offset, request.limit);
        let mut stream = Self { parts, request, order: None, columns: 0, to_pass_over, limit, given: 0 };
        let asked = if merge.sort.is_empty() {
            stream.ask_at_once(question);
            Ok(())
        } else {
            stream.ask_sorted(question, merge, is_utf8).await?
        };
        match asked {
            Ok(()) => stream.give().await,
            Err(ending) => Ok(Err(ending)),
        }
    }

    /// Asks the servers something else, whose rows are the client's.
    pub(super) fn of(parts: &'c mut Parts<'l>, request: &'c Request, question: Question<'_>) -> Self {
        parts.list.iter_mut().for_each(Part::forget);
        let mut stream = Self { parts, request, order: None, columns: 0, to_pass_over: 0, limit: None, given: 0 };
        stream.ask_at_once(question);
        stream
    }

    /// Rows in any order: one round trip.
    fn ask_at_once(&mut self, question: Question<'_>) {
        self.parts.ask(&[question.parse(), question.execute(&self.request.formats, true)].concat());
    }

    /// First it must be known what the rows are sorted by.
    async fn ask_sorted(
        &mut self,
        question: Question<'_>,
        merge: &Merge,
        is_utf8: bool,
    ) -> Result<Result<(), Ending>, Fault> {
        self.parts.ask(&question.describe());
        if let Some(ending) = self.parts.finish(|_| Ok(())).await? {
            return Ok(Err(ending));
        }
        let shape = match self.parts.shape() {
            Ok(Some(shape)) => shape,
            Ok(None) => return Ok(Err(Ending::Unmergeable(Unmergeable::Malformed))),
            Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
        };
        match Order::new(&merge.sort, &shape, is_utf8) {
            Ok(order) => self.order = Some(order),
            Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
        }
        let columns = shape.len().saturating_sub(self.parts.sorting);
        let wanted = &self.request.formats;
        if wanted.len() > 1 && wanted.len() != columns {
            // PostgreSQL's own error for it would count other columns.
            return Ok(Err(Ending::Failed {
                why: Why::Told(ErrorReply::error(
                    "08P01",
                    format!("bind message has {} result formats but query has {columns} columns", wanted.len()),
                )),
                is_worth_another: None,
            }));
        }
        let of = |at: usize| if wanted.len() > 1 { wanted.get(at) } else { wanted.first() };
        let mut formats: Vec<[u8; 2]> = (0..columns).map(|at| of(at).copied().unwrap_or([0, 0])).collect();
        formats.resize(shape.len(), [0, 1]);
        self.parts.ask(&question.execute(&formats, false));
        Ok(Ok(()))
    }

    /// Gives the client what comes.
    pub(super) async fn give(&mut self) -> Result<Result<Given, Ending>, Fault> {
        let mut shape = None;
        loop {
            if let Some(ending) = self.parts.hear()? {
                return Ok(Err(ending));
            }
            if shape.is_none() {
                match self.parts.shape() {
                    Ok(Some(known)) => match self.parts.shown.clone() {
                        Some(shown) if known.has_types_of(&shown) => shape = Some(shown),
                        Some(_) => return Ok(Err(Ending::Unmergeable(Unmergeable::Differ))),
                        None => shape = Some(known),
                    },
                    Ok(None) => {}
                    Err(unmergeable) => return Ok(Err(Ending::Unmergeable(unmergeable))),
                }
                self.columns = shape.as_ref().map_or(0, RowShape::len).saturating_sub(self.parts.sorting);
                let told = self.request.told;
                if shape.as_ref().is_some_and(|shape| told != 0 && shape.digest(self.columns) != told) {
                    // asyncpg and JDBC prepare anew, and say nothing, where an error comes from this function.
                    let changed = ErrorReply::error("0A000", "cached plan must not change result type");
                    let why = Why::Told(changed.routine("RevalidateCachedQuery"));
                    return Ok(Err(Ending::Failed { why, is_worth_another: None }));
                }
            }
            if let Some(shape) = &shape {
                let given = match self.order.is_some() {
                    true => self.give_sorted(shape),
                    false => Ok(self.give_any(shape)),
                };
                match given {
                    Ok(None) => {}
                    Ok(Some(given)) => {
                        self.begin(shape);
                        return Ok(Ok(given));
                    }
                    Err(Misordered) => return Ok(Err(misordered())),
                }
            }
            self.parts.wait().await?;
        }
    }

    /// What comes in front of the first row, once.
    fn begin(&mut self, shape: &RowShape) {
        if std::mem::replace(&mut self.parts.has_begun, true) {
            return;
        }
        let out = &mut self.parts.client.output;
        if self.request.parses {
            put(out, backend::tag::PARSE_COMPLETE, &[]);
        }
        if !self.request.is_simple() {
            put(out, backend::tag::BIND_COMPLETE, &[]);
        }
        if self.request.describes {
            shape.put(self.columns, &self.request.formats, out);
        }
    }

    /// Whether the client has all that it wants, and how.
    fn enough(&self) -> Option<Given> {
        let is_suspended = self.request.most > 0 && self.given >= u64::from(self.request.most);
        let is_over = self.limit.is_some_and(|limit| self.given >= limit);
        (is_suspended || is_over).then_some(Given { rows: self.given, is_suspended })
    }

    fn end(&self) -> Option<Given> {
        let has_more = |part: &Part| part.has_more() || part.head.is_some();
        (!self.parts.list.iter().any(has_more)).then_some(Given { rows: self.given, is_suspended: false })
    }

    /// Rows as they come.
    fn give_any(&mut self, shape: &RowShape) -> Option<Given> {
        let mut at = 0;
        loop {
            if let Some(given) = self.enough() {
                return Some(given);
            }
            if self.parts.client.output.len() > MAX_AHEAD {
                return None;
            }
            let Some(part) = self.parts.list.get_mut(at) else { return self.end() };
            if self.to_pass_over > 0 {
                if part.take_row(None) {
                    self.to_pass_over -= 1
                } else {
                    at += 1
                }
                continue;
            }
            let before = self.parts.client.output.len();
            if !part.take_row(Some(&mut self.parts.client.output)) {
                at += 1;
                continue;
            }
            if !self.parts.has_begun {
                let row = self.parts.client.output.split_off(before);
                self.begin(shape);
                self.parts.client.output.unsplit(row);
            }
            self.given += 1;
        }
    }

    /// A row has been passed on, or over.
    fn count(&mut self) {
        if self.to_pass_over > 0 {
            self.to_pass_over -= 1;
        } else {
            self.given += 1;
        }
    }

    /// The first row of all, again and again.
    fn give_sorted(&mut self, shape: &RowShape) -> Result<Option<Given>, Misordered> {
        let Some(order) = self.order.clone() else { return Ok(None) };
        loop {
            if let Some(given) = self.enough() {
                return Ok(Some(given));
            }
            if self.parts.client.output.len() > MAX_AHEAD {
                return Ok(None);
            }
            let mut first: Option<usize> = None;
            for at in 0..self.parts.list.len() {
                let part = &mut self.parts.list[at];
                if !part.find_head(self.columns, &order)? {
                    if part.has_more() {
                        // What it has next may be the first of all.
                        return Ok(None);
                    }
                    continue;
                }
                first = match first {
                    Some(best) => {
                        let ordering = order.compare(&self.parts.list[at].values, &self.parts.list[best].values)?;
                        Some(if ordering == Ordering::Less { at } else { best })
                    }
                    None => Some(at),
                };
            }
            let Some(at) = first else { return Ok(self.end()) };
            let is_passed_over = self.to_pass_over > 0;
            if !is_passed_over {
                self.begin(shape);
            }
            let columns = self.columns;
            self.parts.list[at].take_head(columns, (!is_passed_over).then_some(&mut self.parts.client.output));
            self.count();
        }
    }
}

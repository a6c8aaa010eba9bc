//! Whether the answer to one SELECT is nothing but its answers on all shards, put together; and how they are put together:
//! as they come ([`Merge`]), or by PostgreSQL once more, where rows of several shards make one row of the answer
//! ([`Combine`]).
//!
//! The client's own text is cut and spliced, never written anew from the parser's tree. `None` is always right: whoever asks
//! has another way. `Some` is a promise that the rows are those that one PostgreSQL with all rows would give, in an order that
//! it could give.

mod combine;
mod layout;
mod order;
mod select;
mod sources;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{Expr, LimitClause, Query, Select, SetExpr, Statement as Tree, Value, ValueWithSpan};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

pub use combine::{Combine, Shown, Steps};

use super::commands::is_shallow;
use super::lexer::Token;
use super::statement::Name;
use super::text::MAX_PARSED_BYTES;
use super::tree::RECURSION_LIMIT;
use layout::{Layout, tokens_of};
use select::Answers;
use sources::Sources;

/// Where the rows of a table are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// By the values of these columns, which are never NULL.
    ByKey(Box<[Box<str>]>),
    /// The same on every shard.
    Everywhere,
    /// Somewhere else, or it is not known.
    Elsewhere,
}

/// What is to be known of tables and functions. What is not known is to be denied.
pub trait Tables {
    /// Where a table's rows are.
    fn rows(&self, table: &Name) -> Rows;

    /// Whether the table has such a column.
    fn has_column(&self, table: &Name, column: &str) -> bool;

    /// Whether values of two columns that `=` takes for equal are placed alike.
    fn are_placed_alike(&self, one: (&Name, &str), other: (&Name, &str)) -> bool;

    /// Whether the column is a text that is sorted by its bytes.
    fn is_bytewise(&self, table: &Name, column: &str) -> bool;

    /// Whether the function is PostgreSQL's own, and gives the same on every shard.
    fn is_even(&self, function: &Name) -> bool;
}

/// How shards' answers make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathering {
    /// Their rows are its rows.
    Merge(Merge),
    /// What they say is put together by PostgreSQL.
    Combine(Combine),
}

/// How shards' rows are put into one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// What each shard is sent.
    pub text: Box<str>,
    /// What its rows are sorted by: each has a column of its own, behind those that the client has asked for.
    pub sort: Box<[SortKey]>,
    /// How many rows the client wants, of all of them; each shard gives no fewer of its own.
    pub limit: Count,
    /// How many of all rows are passed over.
    pub offset: Count,
    /// Where the order of their types, or collations, is not known: by PostgreSQL's.
    pub otherwise: Option<Combine>,
    edits: Box<[Edit]>,
}

/// One element of ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// DESC
    pub is_descending: bool,
    /// NULLS FIRST, also where that is not said.
    pub nulls_first: bool,
    /// If it is a text, its bytes are compared.
    pub is_bytewise: bool,
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// It is not said.
    Unsaid,
    /// At most the greatest `bigint`.
    Number(u64),
    /// By its place, from 0.
    Parameter(usize),
}

/// Something in the client's text that each shard gets otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    /// In the client's text, in bytes.
    replaced: Range<usize>,
    by: Box<str>,
}

impl Merge {
    /// What stands at a place of the shards' text (in characters, from 1, as in errors) in the client's own; `None` for
    /// what it has not said.
    pub fn place_in(&self, own: &str, place: usize) -> Option<usize> {
        let at = self.text.char_indices().nth(place.checked_sub(1)?).map_or(self.text.len(), |(at, _)| at);
        let (mut before, mut at_own) = (0, at);
        for edit in &self.edits {
            // Where it begins in the shards' text.
            let start = edit.replaced.start + before - self.edits_before(edit);
            if at < start {
                break;
            }
            if at < start + edit.by.len() {
                return None;
            }
            before += edit.by.len();
            at_own = at - before + self.edits_before(edit) + edit.replaced.len();
        }
        own.get(..at_own).map(|passed| passed.chars().count() + 1)
    }

    /// How many bytes of the client's text the edits in front of one replace.
    fn edits_before(&self, edit: &Edit) -> usize {
        let before = self.edits.iter().take_while(|other| other.replaced.start < edit.replaced.start);
        before.map(|other| other.replaced.len()).sum()
    }
}

/// How the answers to this text are put together; `None` where that is not certain.
pub fn gathering(text: &[u8], tables: &dyn Tables) -> Option<Gathering> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_PARSED_BYTES)?;
    let tokens = tokens_of(text)?;
    if !is_shallow(text.as_bytes(), &tokens) {
        return None;
    }
    // A parser of somebody else's, over bytes that a client chose: its panic is a text not parsed.
    catch_unwind(AssertUnwindSafe(|| plan(text, tokens, tables))).ok().flatten()
}

fn plan(text: &str, tokens: Vec<Token>, tables: &dyn Tables) -> Option<Gathering> {
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(RECURSION_LIMIT);
    let trees = parser.try_with_sql(text).ok()?.parse_statements().ok()?;
    let [Tree::Query(query)] = trees.as_slice() else { return None };
    if !select::is_plain_query(query) {
        return None;
    }
    let SetExpr::Select(select) = &*query.body else { return combine::union(query, text, &tokens, tables) };
    let layout = Layout::of(text, tokens)?;
    if !select::is_plain(select) || select.projection.len() != layout.items.len() {
        return None;
    }
    let sources = Sources::of(&select.from, select.selection.as_ref(), tables)?;
    match select::answers(Some(query), select, &sources, tables)? {
        Answers::Rows => merge(query, select, &sources, &layout, text).map(Gathering::Merge),
        Answers::Overlapping => combine::distinct(query, select, &sources, &layout, text).map(Gathering::Combine),
        Answers::Grouped { aggregates } => combine::grouped(query, select, &sources, &layout, text)
            .filter(|grouped| grouped.calls == aggregates)
            .map(|grouped| Gathering::Combine(grouped.combine)),
    }
}

fn merge(query: &Query, select: &Select, sources: &Sources<'_>, layout: &Layout, text: &str) -> Option<Merge> {
    let (sort, columns) = order::order(query, select, sources, layout, text)?;
    let mut edits = Vec::new();
    if !columns.is_empty() {
        edits.push(Edit { replaced: layout.list_end..layout.list_end, by: columns.into() });
    }
    let (limit, offset) = counts(query)?;
    edits.extend(limit_edit(layout, limit, offset)?);
    let shards_text: Box<str> = splice(text, &edits).into();
    let otherwise = if sort.is_empty() { None } else { combine::sorted(layout, text, &shards_text) };
    Some(Merge { text: shards_text, sort: sort.into(), limit, offset, otherwise, edits: edits.into() })
}

fn splice(text: &str, edits: &[Edit]) -> String {
    let mut spliced = String::with_capacity(text.len() + 64);
    let mut copied = 0;
    for edit in edits {
        spliced.push_str(&text[copied..edit.replaced.start]);
        spliced.push_str(&edit.by);
        copied = edit.replaced.end;
    }
    spliced.push_str(&text[copied..]);
    spliced
}

/// LIMIT (or FETCH) and OFFSET.
fn counts(query: &Query) -> Option<(Count, Count)> {
    let (limit, offset) = match &query.limit_clause {
        None => (Count::Unsaid, Count::Unsaid),
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            (count(limit.as_ref())?, count(offset.as_ref().map(|offset| &offset.value))?)
        }
        Some(_) => return None,
    };
    match &query.fetch {
        None => Some((limit, offset)),
        Some(fetch) if !fetch.with_ties && !fetch.percent && limit == Count::Unsaid => {
            // FETCH FIRST ROW
            fetch.quantity.as_ref().and_then(|quantity| Some((count(Some(quantity))?, offset)))
        }
        Some(_) => None,
    }
}

fn count(expr: Option<&Expr>) -> Option<Count> {
    match expr {
        None => Some(Count::Unsaid),
        Some(Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. })) => {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse().ok().filter(|number| is_plain && i64::try_from(*number).is_ok());
            number.map(Count::Number)
        }
        Some(Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. })) => {
            let number: usize = name.strip_prefix('$')?.parse().ok()?;
            number.checked_sub(1).map(Count::Parameter)
        }
        Some(_) => None,
    }
}

/// Each shard passes over nothing, and gives as many rows as may be wanted of it. Parameters stay where they are named:
/// without them the server could not tell their types.
fn limit_edit(layout: &Layout, limit: Count, offset: Count) -> Option<Option<Edit>> {
    let spelt = |count| match count {
        Count::Unsaid => None,
        Count::Number(number) => Some(format!("{number}::bigint")),
        Count::Parameter(index) => Some(format!("${}::bigint", index + 1)),
    };
    let by = match (spelt(limit), spelt(offset)) {
        (_, None) => return Some(None),
        (None, Some(offset)) => format!("OFFSET ({offset} * 0)"),
        (Some(limit), Some(offset)) => format!("LIMIT ({limit} + {offset})"),
    };
    let replaced = layout.limit()?;
    Some(Some(Edit { replaced, by: by.into() }))
}

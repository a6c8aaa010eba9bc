//! Calls of aggregates in a text.
//!
//! <https://www.postgresql.org/docs/current/sql-expressions.html#SYNTAX-AGGREGATES>

use std::ops::Range;

use super::super::super::functions::is_aggregate;
use super::super::super::lexer::TokenKind;
use super::super::super::tokens::fold;
use super::super::layout::Reader;

/// A call of an aggregate, by its tokens.
#[derive(Debug)]
pub(super) struct Call {
    /// All of it, with FILTER.
    pub(super) tokens: Range<usize>,
    pub(super) name: Box<str>,
    pub(super) is_distinct: bool,
    /// Between the parentheses, without DISTINCT and ORDER BY.
    pub(super) inside: Range<usize>,
    /// None of `count(*)`.
    pub(super) arguments: Vec<Range<usize>>,
    /// The expressions of its ORDER BY.
    pub(super) order: Vec<Range<usize>>,
    /// That is in WITHIN GROUP: the arguments are one value for the whole group.
    pub(super) is_within: bool,
    /// The condition of FILTER.
    pub(super) filter: Option<Range<usize>>,
}

/// All calls in these tokens; `None` where one is not understood.
pub(super) fn calls(reader: Reader<'_>, tokens: Range<usize>) -> Option<Vec<Call>> {
    let mut found = Vec::new();
    let mut at = tokens.start;
    while at < tokens.end {
        match name_at(reader, at) {
            Some(name) => {
                let call = call(reader, at, name)?;
                at = call.tokens.end;
                found.push(call);
            }
            None => at += 1,
        }
    }
    Some(found)
}

/// The name of an aggregate that is called here. The schema in front of it stays where it is.
fn name_at(reader: Reader<'_>, at: usize) -> Option<Box<str>> {
    let name = fold(reader.text, reader.tokens.get(at)?)?;
    (reader.is_punct(at + 1, b"(") && is_aggregate(&name)).then_some(name)
}

fn call(reader: Reader<'_>, start: usize, name: Box<str>) -> Option<Call> {
    let mut end = reader.behind_parenthesis(start + 1)?;
    let (mut first, close) = (start + 2, end - 1);
    let is_distinct = reader.is(first, "distinct");
    first += usize::from(is_distinct || reader.is(first, "all"));
    let order_at = outermost_before(reader, first, close, |at| reader.is(at, "order") && reader.is(at + 1, "by"));
    let inside = first..order_at.unwrap_or(close);
    let is_star = inside.len() == 1 && is_star(reader, inside.start);
    let arguments = if is_star || inside.is_empty() { Vec::new() } else { reader.split(inside.clone())? };
    let order = order_at.map(|at| reader.order(at + 2..close)).unwrap_or(Some(Vec::new()))?;
    let mut order: Vec<_> = order.into_iter().map(|element| element.expression).collect();
    let is_within = reader.is(end, "within") && reader.is(end + 1, "group");
    if is_within {
        let behind = reader.behind_parenthesis(end + 2)?;
        order.extend(reader.order(end + 5..behind - 1)?.into_iter().map(|element| element.expression));
        end = behind;
    }
    let mut filter = None;
    if reader.is(end, "filter") {
        let behind = reader.behind_parenthesis(end + 1)?;
        filter = Some(end + 3..behind - 1);
        end = behind;
    }
    let is_named = |at: usize| reader.is(at, "variadic") || is_operator(reader, at, &["=>", ":="]);
    let is_known = !reader.is(end, "over") && !(start..close).any(is_named);
    is_known.then_some(Call { tokens: start..end, name, is_distinct, inside, arguments, order, is_within, filter })
}

fn outermost_before(reader: Reader<'_>, start: usize, end: usize, is_it: impl Fn(usize) -> bool) -> Option<usize> {
    reader.outermost(start, is_it).filter(|at| *at < end)
}

fn is_star(reader: Reader<'_>, at: usize) -> bool {
    is_operator(reader, at, &["*"])
}

fn is_operator(reader: Reader<'_>, at: usize, which: &[&str]) -> bool {
    reader.tokens.get(at).is_some_and(|token| {
        matches!(token.kind, TokenKind::Operator | TokenKind::Punct)
            && which.iter().any(|operator| token.bytes(reader.text) == operator.as_bytes())
    })
}

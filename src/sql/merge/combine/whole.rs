//! DISTINCT and UNION: each shard's answer is whole in itself, and the same row may be in several. And rows whose order
//! only PostgreSQL knows.

use std::ops::Range;

use sqlparser::ast::{Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier};

use super::super::super::lexer::{Token, TokenKind};
use super::super::layout::{Element, Ending, Layout, Reader};
use super::super::select::{Answers, answers, is_plain, is_plain_query};
use super::super::sources::Sources;
use super::super::{Count, Gathering, Merge, Tables};
use super::last::Piece;
use super::{Combine, Steps, end};

/// `SELECT DISTINCT`
pub(in super::super) fn distinct(
    query: &Query,
    select: &Select,
    sources: &Sources<'_>,
    layout: &Layout,
    text: &str,
) -> Option<Combine> {
    let reader = Reader { text: text.as_bytes(), tokens: &layout.tokens };
    let ending = &layout.ending;
    if query.order_by.is_none() != ending.order.is_empty() {
        return None;
    }
    let is_plain = select
        .projection
        .iter()
        .all(|item| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }));
    let place = |expression: &Range<usize>| {
        let known = |item: &Range<usize>| {
            let tokens = layout.without_alias(text, item).unwrap_or_else(|| item.clone());
            let column = |tokens: &Range<usize>| sources.column_named(&name_of(reader, tokens.clone())?);
            let said = |tokens: &Range<usize>| layout.text(text, tokens);
            [item, &tokens].iter().any(|item| {
                said(item) == said(expression) || column(item).is_some_and(|one| Some(one) == column(expression))
            })
        };
        layout.items.iter().position(known).filter(|_| is_plain)
    };
    steps(reader, text, ending, true, place)
}

/// Rows with columns behind them that tell their order.
pub(in super::super) fn sorted(layout: &Layout, text: &str, partial: &str) -> Option<Combine> {
    let reader = Reader { text: text.as_bytes(), tokens: &layout.tokens };
    let ending = &layout.ending;
    let place = |element: &Element| ending.order.iter().position(|other| other.expression == element.expression);
    let tail = end(reader, text, ending, |element| Some(vec![Piece::Behind(place(element)?)]))?;
    // Without a semicolon, and what is behind it.
    let behind = text.len() - layout.tokens.last()?.end;
    let partial = partial.get(..partial.len().checked_sub(behind)?)?.into();
    let steps = Steps { partial, is_distinct: false, items: None, tail: tail.into() };
    Some(Combine { ways: [steps].into() })
}

/// SELECTs with UNION or UNION ALL between them.
pub(in super::super) fn union(query: &Query, text: &str, tokens: &[Token], tables: &dyn Tables) -> Option<Gathering> {
    let is_distinct = match &*query.body {
        SetExpr::SetOperation { set_quantifier, .. } => is_distinct(*set_quantifier)?,
        _ => return None,
    };
    check(&query.body, is_distinct, tables)?;
    let reader = Reader { text: text.as_bytes(), tokens };
    let ending = Ending::of(reader, reader.body_end(0))?;
    if query.order_by.is_none() != ending.order.is_empty() {
        return None;
    }
    if !is_distinct && ending.order.is_empty() && ending.limit.is_empty() {
        let unsaid = Count::Unsaid;
        let merge = Merge {
            text: text.into(),
            sort: Box::default(),
            limit: unsaid,
            offset: unsaid,
            otherwise: None,
            edits: Box::default(),
        };
        return Some(Gathering::Merge(merge));
    }
    steps(reader, text, &ending, is_distinct, |_| None).map(Gathering::Combine)
}

fn is_distinct(quantifier: SetQuantifier) -> Option<bool> {
    match quantifier {
        SetQuantifier::None | SetQuantifier::Distinct => Some(true),
        SetQuantifier::All => Some(false),
        _ => None,
    }
}

/// Whether each shard can answer it for its own rows. Where all are compared at last, it does not matter what was compared
/// before.
fn check(body: &SetExpr, is_distinct_at_last: bool, tables: &dyn Tables) -> Option<()> {
    match body {
        SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, right } => {
            if is_distinct(*set_quantifier)? && !is_distinct_at_last {
                return None;
            }
            check(left, is_distinct_at_last, tables)?;
            check(right, is_distinct_at_last, tables)
        }
        SetExpr::Query(query) => {
            let is_bare = query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
            if is_bare && is_plain_query(query) { check(&query.body, is_distinct_at_last, tables) } else { None }
        }
        SetExpr::Select(select) if is_plain(select) => {
            let sources = Sources::of(&select.from, select.selection.as_ref(), tables)?;
            match answers(None, select, &sources, tables)? {
                Answers::Rows => Some(()),
                Answers::Overlapping if is_distinct_at_last => Some(()),
                Answers::Overlapping | Answers::Grouped { .. } => None,
            }
        }
        _ => None,
    }
}

/// `place`: which element of the select list an expression of ORDER BY is.
fn steps(
    reader: Reader<'_>,
    text: &str,
    ending: &Ending,
    is_distinct: bool,
    place: impl Fn(&Range<usize>) -> Option<usize>,
) -> Option<Combine> {
    let tail = end(reader, text, ending, |element| {
        let expression = &element.expression;
        let first = reader.tokens.get(expression.start);
        let is_number = expression.len() == 1 && first.is_some_and(|first| first.kind == TokenKind::Number);
        let placed = place(expression);
        Some(vec![match Ending::bare_name(reader, element) {
            Some(name) => Piece::Name { name, otherwise: placed },
            None if is_number => Piece::Text(reader.said(text, expression)?.into()),
            None => Piece::Column(placed?),
        }])
    })?;
    let partial = reader.said(text, &(0..ending.body_end))?.into();
    let steps = Steps { partial, is_distinct, items: None, tail: tail.into() };
    Some(Combine { ways: [steps].into() })
}

/// The parts of a name, where the tokens are nothing else.
fn name_of(reader: Reader<'_>, tokens: Range<usize>) -> Option<Vec<Box<str>>> {
    let parts = tokens.clone().step_by(2).map(|at| reader.name(at));
    let are_dots = tokens.skip(1).step_by(2).all(|at| reader.is_punct(at, b"."));
    parts.collect::<Option<Vec<_>>>().filter(|_| are_dots)
}

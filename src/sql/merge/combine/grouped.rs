//! Aggregates and groups whose rows are on several shards.

use std::ops::Range;

use sqlparser::ast::{Distinct, Expr, GroupByExpr, Query, Select, SelectItem, Value, ValueWithSpan};

use super::super::super::lexer::TokenKind;
use super::super::super::tree::folded;
use super::super::layout::{Ending, Layout, Reader};
use super::super::select::{item_expr, uniquely_aliased};
use super::super::sources::Sources;
use super::calls::{Call, calls};
use super::last::{Folded, Piece};
use super::splice::{Group, Splicer};
use super::{Combine, Steps, end};

/// A plan, and how many calls of aggregates it has seen.
pub(in super::super) struct Grouped {
    pub(in super::super) combine: Combine,
    pub(in super::super) calls: usize,
}

/// Aggregates of which that of all rows is the same aggregate over those of the parts.
const SAME: &[&str] = &["bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "every", "max", "min"];

/// Syntax in which a name is not only that of a value, but is written.
const WRITE_NAMES: &[&str] = &["xmlattributes", "xmlelement", "xmlforest", "xmlpi", "xmltable"];

/// The text that is taken apart.
#[derive(Clone, Copy)]
struct Source<'s, 'q> {
    text: &'s str,
    layout: &'s Layout,
    reader: Reader<'s>,
    sources: &'s Sources<'q>,
    ending: &'s Ending,
}

/// Of such a SELECT.
pub(in super::super) fn grouped(
    query: &Query,
    select: &Select,
    sources: &Sources<'_>,
    layout: &Layout,
    text: &str,
) -> Option<Grouped> {
    let reader = Reader { text: text.as_bytes(), tokens: &layout.tokens };
    let ending = &layout.ending;
    let source = Source { text, layout, reader, sources, ending };
    if (0..layout.tokens.len()).any(|at| WRITE_NAMES.iter().any(|name| reader.is(at, name))) {
        return None;
    }
    let is_wild = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    if select.projection.iter().any(is_wild) || query.order_by.is_none() != ending.order.is_empty() {
        return None;
    }
    let items: Vec<Range<usize>> = select
        .projection
        .iter()
        .zip(&layout.items)
        .map(|(item, tokens)| match item {
            SelectItem::ExprWithAlias { .. } => layout.without_alias(text, tokens),
            _ => Some(tokens.clone()),
        })
        .collect::<Option<_>>()?;
    let groups = groups(select, &items, source)?;
    let mut found = Vec::new();
    let order = ending.order.iter().map(|element| element.expression.clone());
    for tokens in items.iter().cloned().chain(layout.having.clone()).chain(order) {
        found.extend(calls(reader, tokens)?);
    }
    let is_distinct = matches!(select.distinct, Some(Distinct::Distinct));
    let mut ways = Vec::new();
    for way in [Way::Folded, Way::Rows] {
        ways.extend(source.steps(way, is_distinct, &items, &groups, &found));
    }
    Some(Grouped { combine: Combine { ways: ways.into() }, calls: found.len() })
}

/// What GROUP BY means.
fn groups(select: &Select, items: &[Range<usize>], source: Source<'_, '_>) -> Option<Vec<Group>> {
    let GroupByExpr::Expressions(exprs, _) = &select.group_by else { return None };
    if exprs.len() != source.layout.groups.len() {
        return None;
    }
    let mut groups = Vec::new();
    for (at, (expr, tokens)) in exprs.iter().zip(&source.layout.groups).enumerate() {
        let (expr, tokens) = match expr {
            Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. }) => {
                let item = digits.parse::<usize>().ok()?.checked_sub(1)?;
                (item_expr(select.projection.get(..=item)?)?, items.get(item)?)
            }
            Expr::Identifier(ident) if source.sources.column(expr).is_none() => {
                let item = uniquely_aliased(&folded(ident), select, source.sources)?;
                (item_expr(select.projection.get(..=item)?)?, items.get(item)?)
            }
            Expr::Tuple(_) | Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => return None,
            _ => (expr, tokens),
        };
        groups.push(Group { at, column: source.sources.column(expr), tokens: source.unwrapped(tokens.clone()) });
    }
    Some(groups)
}

/// What the shards send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A row for each group, with the aggregates of its rows there.
    Folded,
    /// The rows that the aggregates are made of.
    Rows,
}

/// The columns that the shards send.
#[derive(Default)]
struct Columns {
    expressions: Vec<Box<str>>,
    /// Those that are grouped by.
    keys: Vec<usize>,
}

impl Columns {
    fn add(&mut self, expression: String) -> usize {
        let known = self.expressions.iter().position(|known| **known == *expression);
        known.unwrap_or_else(|| {
            self.expressions.push(expression.into());
            self.expressions.len() - 1
        })
    }

    fn add_key(&mut self, expression: String) -> usize {
        let at = self.add(expression);
        if !self.keys.contains(&at) {
            self.keys.push(at);
        }
        at
    }
}

impl Source<'_, '_> {
    fn said(&self, tokens: &Range<usize>) -> Option<&str> {
        self.reader.said(self.text, tokens)
    }

    /// Without parentheses around all of it.
    fn unwrapped(&self, mut tokens: Range<usize>) -> Range<usize> {
        while self.reader.is_punct(tokens.start, b"(")
            && self.reader.behind_parenthesis(tokens.start) == Some(tokens.end)
            && tokens.len() > 2
        {
            tokens = tokens.start + 1..tokens.end - 1;
        }
        tokens
    }

    fn steps(
        &self,
        way: Way,
        is_distinct: bool,
        items: &[Range<usize>],
        groups: &[Group],
        calls: &[Call],
    ) -> Option<Steps> {
        let mut columns = Columns::default();
        let mut own = Vec::new();
        for group in groups {
            let at = columns.add_key(self.said(&group.tokens)?.to_owned());
            own.push(Group { at, column: group.column.clone(), tokens: group.tokens.clone() });
        }
        let mut instead = Vec::new();
        for call in calls {
            match way {
                // What is filtered out in one part may be in another.
                Way::Folded if call.is_distinct && call.filter.is_some() => return None,
                Way::Folded if call.is_distinct => self.keep(call, &mut instead, |said| columns.add_key(said))?,
                Way::Folded => {
                    let piece = self.fold(call, &mut columns)?;
                    instead.push((call.tokens.clone(), Piece::Folded(piece)));
                }
                Way::Rows => self.keep(call, &mut instead, |said| columns.add(said))?,
            }
        }
        if columns.expressions.is_empty() {
            // Of what is only counted something must come.
            columns.add("true".to_owned());
        }
        let splicer = Splicer { reader: self.reader, sources: self.sources, groups: &own, instead };
        Some(Steps {
            partial: self.partial(way, &columns)?.into(),
            is_distinct,
            items: Some(items.iter().map(|item| splicer.pieces(item.clone()).into()).collect()),
            tail: self.tail(&splicer, &own)?.into(),
        })
    }

    /// Each shard's part.
    fn partial(&self, way: Way, columns: &Columns) -> Option<String> {
        let list: Vec<String> = columns.expressions.iter().map(|said| format!("({said})")).collect();
        let mut partial = format!("SELECT {} {}", list.join(", "), self.said(&self.layout.source)?);
        if way == Way::Folded && !columns.keys.is_empty() {
            let keys: Vec<String> = columns.keys.iter().map(|at| (at + 1).to_string()).collect();
            partial.push_str(&format!("\nGROUP BY {}", keys.join(", ")));
        }
        Some(partial)
    }

    /// A column for each argument, and for whatever else the call needs of each row.
    fn keep(
        &self,
        call: &Call,
        instead: &mut Vec<(Range<usize>, Piece)>,
        mut add: impl FnMut(String) -> usize,
    ) -> Option<()> {
        let arguments = if call.is_within { &[][..] } else { &call.arguments };
        for tokens in arguments.iter().chain(&call.order).chain(&call.filter) {
            if !self.is_constant(tokens) {
                let at = add(self.said(tokens)?.to_owned());
                instead.push((tokens.clone(), Piece::Column(at)));
            }
        }
        Some(())
    }

    fn is_constant(&self, tokens: &Range<usize>) -> bool {
        let alone = self.reader.tokens.get(tokens.start).filter(|_| tokens.len() == 1);
        alone.is_some_and(|token| {
            !matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdent)
                || ["true", "false", "null"].iter().any(|constant| self.reader.is(tokens.start, constant))
        })
    }

    /// The aggregate of all rows, from those of the parts.
    fn fold(&self, call: &Call, columns: &mut Columns) -> Option<Folded> {
        if call.is_within || !call.order.is_empty() {
            return None;
        }
        let filter = match &call.filter {
            Some(condition) => format!(" FILTER (WHERE {})", self.said(condition)?),
            None => String::new(),
        };
        let inside = self.said(&call.inside)?;
        let of = |function: &str| format!("pg_catalog.{function}({inside}){filter}");
        match (&*call.name, call.arguments.len()) {
            ("count", 0 | 1) => Some(Folded::Count(columns.add(of("count")))),
            ("sum", 1) => Some(Folded::Sum(columns.add(of("sum")))),
            ("avg", 1) => Some(Folded::Average { sum: columns.add(of("sum")), count: columns.add(of("count")) }),
            (name, 1) if SAME.contains(&name) => {
                Some(Folded::Same { function: name.into(), column: columns.add(of(name)) })
            }
            _ => None,
        }
    }

    /// From GROUP BY on, over all that the shards have sent.
    fn tail(&self, splicer: &Splicer<'_, '_>, groups: &[Group]) -> Option<Vec<Piece>> {
        let mut tail = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            tail.push(Piece::Text(if number == 0 { " GROUP BY " } else { ", " }.into()));
            tail.push(Piece::Column(group.at));
        }
        if let Some(having) = &self.layout.having {
            tail.push(Piece::Text(" HAVING ".into()));
            tail.extend(splicer.pieces(having.clone()));
        }
        tail.extend(end(self.reader, self.text, self.ending, |element| {
            let spliced = splicer.pieces(element.expression.clone());
            let Some(name) = Ending::bare_name(self.reader, element) else { return Some(spliced) };
            // First of all it is what a column of the answer is called.
            let otherwise = spliced.iter().find_map(|piece| match piece {
                Piece::Column(at) => Some(*at),
                _ => None,
            });
            Some(vec![Piece::Name { name, otherwise }])
        })?);
        Some(tail)
    }
}

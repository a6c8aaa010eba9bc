//! What a SELECT must be, and what its expressions may hold, so that each shard can answer for its own rows; and what is
//! to be done with their answers.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, Query, Select, SelectFlavor, SelectItem, SelectItemQualifiedWildcardKind,
    Value, ValueWithSpan, Visit, Visitor, WildcardAdditionalOptions, WindowType,
};

use super::super::functions::{is_aggregate, is_syntax, is_window, tells_the_time_or_place};
use super::super::tree::{folded, name_of};
use super::Tables;
use super::sources::{Column, Sources};

/// What the shards' answers are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// Rows of the answer.
    Rows,
    /// The same row may be in several.
    Overlapping,
    /// Rows of several belong to one group.
    Grouped {
        /// How many calls of aggregates there are.
        aggregates: usize,
    },
}

/// Whether the query has, around its body, nothing but what is looked at in this room.
pub(super) fn is_plain_query(query: &Query) -> bool {
    query.with.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty()
}

/// Likewise one SELECT.
pub(super) fn is_plain(select: &Select) -> bool {
    let select_is = select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty();
    let end_is = select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && select.flavor == SelectFlavor::Standard;
    select_is && end_is && select.projection.iter().all(is_plain_item)
}

fn is_plain_item(item: &SelectItem) -> bool {
    let is_bare = |options: &WildcardAdditionalOptions| {
        options.opt_ilike.is_none()
            && options.opt_exclude.is_none()
            && options.opt_except.is_none()
            && options.opt_replace.is_none()
            && options.opt_rename.is_none()
            && options.opt_alias.is_none()
    };
    match item {
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => true,
        SelectItem::Wildcard(options) => is_bare(options),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            is_bare(options) && name.0.len() == 1
        }
        _ => false,
    }
}

/// What the shards' answers to this SELECT are; `query` is all of it, with its ORDER BY, unless it is one of several.
pub(super) fn answers(
    query: Option<&Query>,
    select: &Select,
    sources: &Sources<'_>,
    tables: &dyn Tables,
) -> Option<Answers> {
    let most_queries = usize::from(query.is_some());
    let mut walker = Walker { sources, tables, most_queries, aggregates: 0, has_window: false };
    let walked = match query {
        Some(query) => query.visit(&mut walker),
        None => select.visit(&mut walker),
    };
    if walked.is_break() {
        return None;
    }
    let groups = match &select.group_by {
        GroupByExpr::Expressions(groups, modifiers) if modifiers.is_empty() => groups,
        _ => return None,
    };
    let is_grouped = !groups.is_empty() || walker.aggregates > 0 || select.having.is_some();
    let columns: Vec<Column> = groups.iter().filter_map(|group| group_column(group, select, sources)).collect();
    if is_grouped && !sources.are_together(&columns) {
        let is_known = !walker.has_window && !matches!(select.distinct, Some(Distinct::On(_)));
        return is_known.then_some(Answers::Grouped { aggregates: walker.aggregates });
    }
    let (distinct, otherwise): (Vec<Column>, _) = match &select.distinct {
        None | Some(Distinct::All) => return Some(Answers::Rows),
        Some(Distinct::On(list)) => (list.iter().filter_map(|expr| sources.column(expr)).collect(), None),
        Some(Distinct::Distinct) => {
            let items = select.projection.iter();
            (items.flat_map(|item| columns_of(item, sources)).collect(), Some(Answers::Overlapping))
        }
    };
    if sources.are_together(&distinct) { Some(Answers::Rows) } else { otherwise }
}

/// In GROUP BY a name is first of all that of a table's column.
fn group_column(group: &Expr, select: &Select, sources: &Sources<'_>) -> Option<Column> {
    if let Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. }) = group {
        let at = digits.parse::<usize>().ok()?.checked_sub(1)?;
        return sources.column(item_expr(select.projection.get(..=at)?)?);
    }
    if let Some(column) = sources.column(group) {
        return Some(column);
    }
    let Expr::Identifier(ident) = group else { return None };
    let at = uniquely_aliased(&folded(ident), select, sources)?;
    sources.column(item_expr(select.projection.get(..=at)?)?)
}

/// The one element of the select list that has this alias, where no table has such a column.
pub(super) fn uniquely_aliased(name: &str, select: &Select, sources: &Sources<'_>) -> Option<usize> {
    let is_it = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => *folded(alias) == *name,
        _ => false,
    };
    let mut aliased = (0..select.projection.len()).filter(|at| select.projection.get(*at).is_some_and(is_it));
    let first = aliased.next()?;
    (aliased.next().is_none() && !sources.has_any(name)).then_some(first)
}

/// The expression of the last of these, where none of them stands for several.
pub(super) fn item_expr(items: &[SelectItem]) -> Option<&Expr> {
    let exprs = items.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    exprs.collect::<Option<Vec<_>>>()?.pop()
}

fn columns_of(item: &SelectItem, sources: &Sources<'_>) -> Vec<Column> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            sources.column(expr).into_iter().collect()
        }
        SelectItem::Wildcard(_) => sources.keys_of(None),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
            name_of(name).map(|name| sources.keys_of(Some(&name.name))).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

struct Walker<'w, 'q> {
    sources: &'w Sources<'q>,
    tables: &'w dyn Tables,
    most_queries: usize,
    aggregates: usize,
    has_window: bool,
}

impl Visitor for Walker<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        match self.most_queries.checked_sub(1) {
            Some(more) => {
                self.most_queries = more;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let is_fine = match expr {
            Expr::Function(function) => self.call(function).is_some(),
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => false,
            // A table's name is a whole row, and `t.f` may be a call of a function. What is no name at all every shard
            // refuses.
            Expr::Identifier(ident) => self.sources.has_any(&folded(ident)) || !self.sources.has_table(&folded(ident)),
            Expr::CompoundIdentifier(_) => self.sources.column(expr).is_some(),
            _ => true,
        };
        if is_fine { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

impl Walker<'_, '_> {
    fn call(&mut self, function: &Function) -> Option<()> {
        let name = name_of(&function.name)?;
        if function.name.0.len() > 2 || function.uses_odbc_syntax {
            return None;
        }
        let is_even = if name.schema.is_none() && is_syntax(&name.name) {
            !tells_the_time_or_place(&name.name)
        } else {
            self.tables.is_even(&name)
        };
        if !is_even {
            return None;
        }
        match &function.over {
            Some(WindowType::WindowSpec(window)) if window.window_name.is_none() => {
                self.has_window = true;
                let by: Vec<Column> = window.partition_by.iter().filter_map(|by| self.sources.column(by)).collect();
                self.sources.are_together(&by).then_some(())
            }
            Some(_) => None,
            None if is_window(&name.name) && !is_aggregate(&name.name) => None,
            None => {
                let is_one = is_aggregate(&name.name) || !function.within_group.is_empty() || function.filter.is_some();
                self.aggregates += usize::from(is_one);
                Some(())
            }
        }
    }
}

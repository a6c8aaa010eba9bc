//! ORDER BY: what each of its elements means, as PostgreSQL finds that out, and the columns that show it.
//!
//! <https://www.postgresql.org/docs/current/sql-select.html#SQL-ORDERBY>, `findTargetlistEntrySQL92` in
//! <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/parser/parse_clause.c>

use std::fmt::Write as _;

use sqlparser::ast::{
    DataType, Distinct, Expr, Ident, ObjectName, OrderByExpr, OrderByKind, OrderBySort, Query, Select, SelectItem,
    Value, ValueWithSpan,
};

use super::super::tree::{folded, name_of};
use super::SortKey;
use super::layout::Layout;
use super::select::item_expr;
use super::sources::Sources;

/// What one element sorts by.
enum Sorted<'q> {
    /// An element of the select list.
    Item(usize, &'q Expr),
    /// An expression over the tables' columns.
    Own(&'q Expr),
}

/// The keys, and the text of the columns for the end of the select list.
pub(super) fn order(
    query: &Query,
    select: &Select,
    sources: &Sources<'_>,
    layout: &Layout,
    text: &str,
) -> Option<(Vec<SortKey>, String)> {
    let elements: &[OrderByExpr] = match &query.order_by {
        None => &[],
        Some(order) if order.interpolate.is_none() => match &order.kind {
            OrderByKind::Expressions(elements) => elements,
            OrderByKind::All(_) => return None,
        },
        Some(_) => return None,
    };
    if elements.len() != layout.ending.order.len() {
        return None;
    }
    let is_distinct = matches!(select.distinct, Some(Distinct::Distinct));
    let (mut keys, mut columns) = (Vec::new(), String::new());
    for (number, (element, laid_out)) in elements.iter().zip(&layout.ending.order).enumerate() {
        if element.with_fill.is_some() || element.options.nulls_first.is_some() != laid_out.places_nulls {
            return None;
        }
        let is_descending = match &element.options.sort {
            None | Some(OrderBySort::Asc) => false,
            Some(OrderBySort::Desc) => true,
            Some(OrderBySort::Using(_)) => return None,
        };
        let (expr, span) = match sorted(&element.expr, select, sources)? {
            // With DISTINCT PostgreSQL refuses it, and would not any more if it were selected.
            Sorted::Own(_) if is_distinct => return None,
            Sorted::Own(expr) => (expr, laid_out.expression.clone()),
            Sorted::Item(at, expr) => {
                let item = layout.items.get(at)?;
                let is_aliased = matches!(select.projection.get(at), Some(SelectItem::ExprWithAlias { .. }));
                (expr, if is_aliased { layout.without_alias(text, item)? } else { item.clone() })
            }
        };
        // No column of the client's is called that.
        write!(columns, ", ({}) AS \"pgsluice sort {}\"", layout.text(text, &span)?, number + 1).ok()?;
        keys.push(SortKey {
            is_descending,
            nulls_first: element.options.nulls_first.unwrap_or(is_descending),
            is_bytewise: is_bytewise(expr, sources),
        });
    }
    Some((keys, columns))
}

fn sorted<'q>(expr: &'q Expr, select: &'q Select, sources: &Sources<'_>) -> Option<Sorted<'q>> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. }) => {
            let at = digits.parse::<usize>().ok()?.checked_sub(1)?;
            Some(Sorted::Item(at, item_expr(select.projection.get(..=at)?)?))
        }
        // Another constant, which PostgreSQL refuses.
        Expr::Value(ValueWithSpan { value, .. }) if !matches!(value, Value::Placeholder(_)) => None,
        Expr::Identifier(ident) => by_name(ident, expr, select, sources),
        _ => Some(Sorted::Own(expr)),
    }
}

/// A bare name is first of all that of an element of the select list.
fn by_name<'q>(ident: &Ident, expr: &'q Expr, select: &'q Select, sources: &Sources<'_>) -> Option<Sorted<'q>> {
    let name = folded(ident);
    let (mut named, mut has_wildcard) = (None, false);
    for (at, item) in select.projection.iter().enumerate() {
        let (called, item) = match item {
            SelectItem::ExprWithAlias { expr, alias } => (Called::Name(folded(alias)), expr),
            SelectItem::UnnamedExpr(expr) => (called(expr), expr),
            _ => {
                has_wildcard = true;
                continue;
            }
        };
        let is_it = match called {
            Called::Name(called) | Called::Weakly(called) => called == name,
            Called::ByType if !TYPE_NAMES.contains(&&*name) => false,
            Called::Nothing => false,
            Called::ByType | Called::Uncertain => return None,
        };
        match named {
            _ if !is_it => {}
            None => named = Some((at, item)),
            Some((_, other)) if other == item => {}
            Some(_) => return None,
        }
    }
    match named {
        Some(_) if has_wildcard && sources.has_any(&name) => None,
        Some((at, item)) => Some(Sorted::Item(at, item)),
        None => Some(Sorted::Own(expr)),
    }
}

/// How PostgreSQL calls a column without an alias.
enum Called {
    Name(Box<str>),
    /// Within another expression it counts for nothing.
    Weakly(Box<str>),
    /// By a type of the system's; likewise.
    ByType,
    /// `?column?`
    Nothing,
    Uncertain,
}

/// What types of the system's that a cast can name are called.
const TYPE_NAMES: &[&str] = &[
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "daterange",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int4range",
    "int8",
    "int8range",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "uuid",
    "varbit",
    "varchar",
    "xml",
];

/// `FigureColname` in <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/parser/parse_target.c>, as far
/// as it is simple.
fn called(expr: &Expr) -> Called {
    match expr {
        Expr::Identifier(ident) => Called::Name(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map_or(Called::Uncertain, |last| Called::Name(folded(last))),
        Expr::Nested(inner) => called(inner),
        Expr::Collate { expr, .. } => called(expr),
        Expr::Function(function) => name_of(&function.name).map_or(Called::Uncertain, |name| Called::Name(name.name)),
        Expr::Extract { .. } => Called::Name("extract".into()),
        Expr::AtTimeZone { .. } => Called::Name("timezone".into()),
        Expr::Array(_) => Called::Name("array".into()),
        Expr::Case { else_result, .. } => match else_result.as_deref().map(called) {
            Some(strong @ (Called::Name(_) | Called::Uncertain)) => strong,
            _ => Called::Weakly("case".into()),
        },
        Expr::Cast { expr, data_type, .. } => match called(expr) {
            strong @ (Called::Name(_) | Called::Uncertain) => strong,
            _ => called_by(data_type),
        },
        Expr::TypedString(typed) => called_by(&typed.data_type),
        Expr::Value(ValueWithSpan { value: Value::Boolean(_), .. }) => Called::ByType,
        Expr::Value(_)
        | Expr::BinaryOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::InList { .. }
        | Expr::Between { .. }
        | Expr::Like { .. } => Called::Nothing,
        _ => Called::Uncertain,
    }
}

fn called_by(data_type: &DataType) -> Called {
    match data_type {
        DataType::Custom(name, _) => name_of(name).map_or(Called::Uncertain, |name| Called::Weakly(name.name)),
        // Of an array the element's.
        DataType::Array(_) => Called::Uncertain,
        _ => Called::ByType,
    }
}

fn is_bytewise(expr: &Expr, sources: &Sources<'_>) -> bool {
    match expr {
        Expr::Nested(inner) => is_bytewise(inner, sources),
        Expr::Collate { collation, .. } => is_c(collation),
        _ => sources.column(expr).is_some_and(|column| sources.is_bytewise(&column)),
    }
}

fn is_c(collation: &ObjectName) -> bool {
    name_of(collation).is_some_and(|name| {
        collation.0.len() <= 2
            && name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
            && matches!(&*name.name, "C" | "POSIX")
    })
}

//! The parser's tree → [`Uses`].
//!
//! Values flow where SQL guarantees it: a condition of WHERE or of an inner join holds for all tables of
//! its query; of an outer join's condition only the side that may be missing is restricted by it; a
//! sub-query's condition restricts the sub-query's own tables, and may compare them with outer ones. A
//! condition under OR, NOT or in a function says nothing.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{
    ArrayElemTypeDef, AssignmentTarget, BinaryOperator, DataType, Expr, FromTable, Ident, Insert as InsertTree, Join,
    JoinConstraint, JoinOperator, Merge, MergeAction, MergeClauseKind, MergeInsertKind, MergeUpdateKind, ObjectName,
    OnConflictAction, OnInsert, Query, Select, SelectItem, SetExpr, Statement as Tree, TableAlias, TableFactor,
    TableObject, TableWithJoins, UnaryOperator, UpdateTableFromKind, Value, ValueWithSpan, Visit, Visitor,
};
use sqlparser::tokenizer::Location;

use super::ctes::Ctes;
use super::lexer::Lexer;
use super::literals::is_literal;
use super::statement::Name;
use super::tree::{folded, name_of};
use super::uses::{Access, Assignment, CastType, Fact, Insert, Operand, TableUse, Uses};

/// Reads a whole statement. `sql` is what the parser was given, `base` how many literals stand before it in the text.
pub(super) fn relate(tree: &Tree, sql: &str, base: usize) -> Uses {
    let mut relater = Relater { literals: places_of_literals(sql), base, ..Relater::default() };
    let _ = tree.visit(&mut relater);
    Uses {
        tables: relater.tables.into(),
        facts: relater.facts.into(),
        inserts: relater.inserts.into(),
        assignments: relater.assignments.into(),
    }
}

/// Line and column of each literal, as the parser counts them: in characters, from 1.
fn places_of_literals(sql: &str) -> Vec<(u64, u64)> {
    let mut places = Vec::new();
    let (mut line, mut column, mut at) = (1, 1, 0);
    for token in Lexer::new(sql.as_bytes()).filter(|token| is_literal(token.kind)) {
        for character in sql.get(at..token.start).unwrap_or_default().chars() {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        at = token.start;
        places.push((line, column));
    }
    places
}

#[derive(Default)]
struct Relater {
    literals: Vec<(u64, u64)>,
    base: usize,
    tables: Vec<TableUse>,
    facts: Vec<Fact>,
    inserts: Vec<Insert>,
    assignments: Vec<Assignment>,
    ctes: Ctes,
    /// What is named in each FROM around the place that is walked, the innermost last.
    frames: Vec<Vec<Named>>,
    /// Names that have their use already.
    seen: Vec<*const ObjectName>,
    /// What a query that is still to be walked gives its rows to.
    takers: HashMap<*const Select, Taker>,
}

/// Something in FROM.
struct Named {
    schema: Option<Box<str>>,
    name: Box<str>,
    /// Of a table; none for what has columns of its own making.
    table: Option<usize>,
}

/// Who takes a query's rows.
enum Taker {
    /// INSERT … SELECT.
    Insert { table: usize, columns: Option<Box<[Box<str>]>> },
    /// `column IN (SELECT …)`.
    In(Vec<(usize, Box<str>)>),
}

/// Columns that one reference may mean: one of each table that it could be in.
type Columns = Vec<(usize, Box<str>)>;

impl Visitor for Relater {
    type Break = ();

    fn pre_visit_statement(&mut self, tree: &Tree) -> ControlFlow<()> {
        self.frames.push(Vec::new());
        match tree {
            Tree::Insert(insert) => self.insert(insert),
            Tree::Update(update) => {
                let target = self.target(&update.table);
                if let Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) = &update.from {
                    from.iter().for_each(|tables| drop(self.tables_of(tables)));
                }
                self.conditions(update.selection.as_ref());
                if let Some(target) = target {
                    self.assign(target, &update.assignments);
                }
            }
            Tree::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                for tables in from {
                    self.target(tables);
                }
                delete.using.iter().flatten().for_each(|tables| drop(self.tables_of(tables)));
                self.conditions(delete.selection.as_ref());
            }
            Tree::Merge(merge) => self.merge(merge),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_statement(&mut self, _: &Tree) -> ControlFlow<()> {
        self.frames.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.ctes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.ctes.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.frames.push(Vec::new());
        select.from.iter().for_each(|tables| drop(self.tables_of(tables)));
        self.conditions(select.selection.as_ref());
        match self.takers.remove(&(&raw const *select)) {
            Some(Taker::Insert { table, columns }) => {
                let row = self.projected(select);
                self.inserts.push(Insert { table, columns, rows: [row.into()].into(), are_rows_whole: false });
            }
            Some(Taker::In(columns)) => {
                let row = self.projected(select);
                if let [value @ Operand::Column { .. }] = &*row {
                    columns.into_iter().for_each(|(table, column)| self.fact(table, column, vec![value.clone()]));
                }
            }
            None => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<()> {
        self.frames.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            // A function.
            self.seen.push(&raw const *name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.table(relation, Access::Read);
        ControlFlow::Continue(())
    }
}

impl Relater {
    /// The use of a table, where the name is one's and has no use yet.
    fn table(&mut self, relation: &ObjectName, access: Access) -> Option<usize> {
        let place = &raw const *relation;
        if self.seen.contains(&place) {
            return None;
        }
        self.seen.push(place);
        let name = name_of(relation)?;
        if access == Access::Read && self.ctes.has(&name) {
            return None;
        }
        self.tables.push(TableUse { relation: name, access });
        Some(self.tables.len() - 1)
    }

    fn name_in_from(&mut self, name: Name, alias: Option<&TableAlias>, table: Option<usize>) {
        let Some(frame) = self.frames.last_mut() else { return };
        match alias {
            // Its columns have other names then.
            Some(alias) if !alias.columns.is_empty() => {
                frame.push(Named { schema: None, name: folded(&alias.name), table: None });
            }
            Some(alias) => frame.push(Named { schema: None, name: folded(&alias.name), table }),
            None => frame.push(Named { schema: name.schema, name: name.name, table }),
        }
    }

    /// The table that UPDATE or DELETE changes.
    fn target(&mut self, tables: &TableWithJoins) -> Option<usize> {
        let TableFactor::Table { name, alias, .. } = &tables.relation else { return None };
        let table = self.table(name, Access::Change);
        self.name_in_from(name_of(name)?, alias.as_ref(), table);
        table
    }

    /// The tables of one element of FROM.
    fn tables_of(&mut self, tables: &TableWithJoins) -> Vec<usize> {
        let mut all = self.factor(&tables.relation);
        for join in &tables.joins {
            let right = self.factor(&join.relation);
            self.join(join, &all, &right);
            all.extend(right);
        }
        all
    }

    fn factor(&mut self, factor: &TableFactor) -> Vec<usize> {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let table = self.table(name, Access::Read);
                if let Some(named) = name_of(name) {
                    self.name_in_from(named, alias.as_ref(), table);
                }
                table.into_iter().collect()
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.tables_of(table_with_joins),
            TableFactor::NestedJoin { table_with_joins, alias: Some(alias) } => {
                // Its tables' names are hidden by the alias.
                self.frames.push(Vec::new());
                let tables = self.tables_of(table_with_joins);
                self.frames.pop();
                self.name_in_from(Name { schema: None, name: folded(&alias.name) }, None, None);
                tables
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::Table { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. } => {
                let name = alias.as_ref().map_or_else(|| "".into(), |alias| folded(&alias.name));
                self.name_in_from(Name { schema: None, name }, None, None);
                Vec::new()
            }
            _ => {
                self.name_in_from(Name { schema: None, name: "".into() }, None, None);
                Vec::new()
            }
        }
    }

    fn join(&mut self, join: &Join, left: &[usize], right: &[usize]) {
        let both = || left.iter().chain(right).copied().collect::<Vec<_>>();
        let (constraint, restricted) = match &join.join_operator {
            JoinOperator::Join(constraint) | JoinOperator::Inner(constraint) | JoinOperator::CrossJoin(constraint) => {
                (constraint, both())
            }
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => (constraint, right.to_vec()),
            JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => (constraint, left.to_vec()),
            _ => return,
        };
        match constraint {
            JoinConstraint::On(condition) => self.conjunction(condition, &restricted),
            JoinConstraint::Using(columns) => {
                for column in columns.iter().filter_map(name_of) {
                    let pairs = left.iter().flat_map(|left| right.iter().map(move |right| (*left, *right)));
                    for (left, right) in pairs.collect::<Vec<_>>() {
                        let one = vec![(left, column.name.clone())];
                        self.equal(one, vec![(right, column.name.clone())], &restricted);
                    }
                }
            }
            JoinConstraint::Natural | JoinConstraint::None => {}
        }
    }

    /// WHERE of the innermost query.
    fn conditions(&mut self, condition: Option<&Expr>) {
        let Some(condition) = condition else { return };
        let frame = self.frames.last().map(Vec::as_slice).unwrap_or_default();
        let all: Vec<usize> = frame.iter().filter_map(|named| named.table).collect();
        self.conjunction(condition, &all);
    }

    /// A condition that must be true; tables that are not `restricted` may have rows for which it is not.
    fn conjunction(&mut self, condition: &Expr, restricted: &[usize]) {
        // A chain of ANDs is deep to the left.
        let mut rest = vec![condition];
        while let Some(condition) = rest.pop() {
            match condition {
                Expr::Nested(inner) => rest.push(inner),
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => rest.extend([&**left, &**right]),
                Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => self.equality(left, right, restricted),
                Expr::InList { expr, list, negated: false } => self.one_of(expr, list, restricted),
                Expr::InSubquery { expr, subquery, negated: false } => {
                    let columns = restrict(self.columns(expr), restricted);
                    if let (false, Some(select)) = (columns.is_empty(), plain_select(subquery)) {
                        self.takers.insert(&raw const *select, Taker::In(columns));
                    }
                }
                Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => self.any(left, right, restricted),
                _ => {}
            }
        }
    }

    fn equality(&mut self, left: &Expr, right: &Expr, restricted: &[usize]) {
        if let (Some(left), Some(right)) = (row(left), row(right)) {
            if left.len() == right.len() {
                left.iter().zip(right).for_each(|(left, right)| self.equality(left, right, restricted));
            }
            return;
        }
        let (left_columns, right_columns) = (self.columns(left), self.columns(right));
        match (left_columns.is_empty(), right_columns.is_empty()) {
            (false, false) => self.equal(left_columns, right_columns, restricted),
            (false, true) => self.is_one_of(restrict(left_columns, restricted), &[right]),
            (true, false) => self.is_one_of(restrict(right_columns, restricted), &[left]),
            (true, true) => {}
        }
    }

    fn equal(&mut self, left: Columns, right: Columns, restricted: &[usize]) {
        for (table, column) in &left {
            for (other, other_column) in &right {
                for ((to, to_column), (from, from_column)) in
                    [((table, column), (other, other_column)), ((other, other_column), (table, column))]
                {
                    if restricted.contains(to) {
                        let value = Operand::Column { table: *from, column: from_column.clone() };
                        self.fact(*to, to_column.clone(), vec![value]);
                    }
                }
            }
        }
    }

    fn one_of(&mut self, expr: &Expr, list: &[Expr], restricted: &[usize]) {
        let Some(columns) = row(expr) else {
            let columns = restrict(self.columns(expr), restricted);
            return self.is_one_of(columns, &list.iter().collect::<Vec<_>>());
        };
        let rows: Vec<Vec<&Expr>> = list.iter().filter_map(row).collect();
        if rows.len() != list.len() || rows.iter().any(|row| row.len() != columns.len()) {
            return;
        }
        for (index, column) in columns.iter().enumerate() {
            let values: Vec<&Expr> = rows.iter().filter_map(|row| row.get(index).copied()).collect();
            let columns = restrict(self.columns(column), restricted);
            self.is_one_of(columns, &values);
        }
    }

    fn any(&mut self, left: &Expr, right: &Expr, restricted: &[usize]) {
        let columns = restrict(self.columns(left), restricted);
        match without_parentheses(right) {
            Expr::Array(array) => self.is_one_of(columns, &array.elem.iter().collect::<Vec<_>>()),
            Expr::Cast { expr, data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(..)), .. } => {
                self.any_of_parameter(columns, expr);
            }
            other => self.any_of_parameter(columns, other),
        }
    }

    fn any_of_parameter(&mut self, columns: Columns, array: &Expr) {
        if let Operand::Parameter { index, cast: None } = self.operand(array) {
            let values = vec![Operand::Elements { index }];
            columns.into_iter().for_each(|(table, column)| self.fact(table, column, values.clone()));
        }
    }

    fn is_one_of(&mut self, columns: Columns, values: &[&Expr]) {
        if columns.is_empty() {
            return;
        }
        let values: Vec<Operand> = values.iter().map(|value| self.operand(value)).collect();
        if values.contains(&Operand::Unknown) {
            return;
        }
        columns.into_iter().for_each(|(table, column)| self.fact(table, column, values.clone()));
    }

    fn fact(&mut self, table: usize, column: Box<str>, values: Vec<Operand>) {
        if !values.is_empty() {
            self.facts.push(Fact { table, column, values: values.into() });
        }
    }

    /// The columns that a reference may mean; none for what is no reference, or one to something else than a table.
    fn columns(&self, expr: &Expr) -> Columns {
        match without_parentheses(expr) {
            Expr::Identifier(ident) => {
                let column = folded(ident);
                // Where the innermost FROM has it not, an outer one's is meant: of that nothing is concluded.
                let frame = self.frames.last().map(Vec::as_slice).unwrap_or_default();
                frame.iter().filter_map(|named| Some((named.table?, column.clone()))).collect()
            }
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<Box<str>> = parts.iter().map(folded).collect();
                let (schema, table, column) = match &*parts {
                    [table, column] => (None, table, column),
                    [.., schema, table, column] => (Some(schema), table, column),
                    _ => return Columns::new(),
                };
                let is_it = |named: &&Named| {
                    named.name == *table
                        && schema.is_none_or(|schema| named.schema.as_ref().is_none_or(|known| known == schema))
                };
                let named = self.frames.iter().rev().find_map(|frame| frame.iter().find(is_it));
                named.and_then(|named| named.table).map(|table| (table, column.clone())).into_iter().collect()
            }
            _ => Columns::new(),
        }
    }

    fn operand(&self, expr: &Expr) -> Operand {
        match without_parentheses(expr) {
            Expr::Value(value) => self.value(value, false, None),
            Expr::TypedString(typed) => match cast_type(&typed.data_type) {
                Some(cast) => self.value(&typed.value, false, Some(cast)),
                None => Operand::Unknown,
            },
            Expr::Identifier(Ident { value, quote_style: None, .. }) if value.eq_ignore_ascii_case("default") => {
                Operand::Default
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match without_parentheses(expr) {
                Expr::Value(value @ ValueWithSpan { value: Value::Number(..), .. }) => self.value(value, true, None),
                _ => Operand::Unknown,
            },
            Expr::Cast { expr, data_type, .. } => match (self.operand(expr), cast_type(data_type)) {
                (Operand::Literal { ordinal, is_negative, cast: None }, Some(to)) => {
                    let is_number = is_negative || is_number(expr);
                    // A number's text is another one than the literal's.
                    match is_number && to != CastType::Number {
                        true => Operand::Unknown,
                        false => Operand::Literal { ordinal, is_negative, cast: Some(to) },
                    }
                }
                (Operand::Parameter { index, cast: None }, Some(to)) => Operand::Parameter { index, cast: Some(to) },
                (Operand::Null, _) => Operand::Null,
                _ => Operand::Unknown,
            },
            _ => match &*self.columns(expr) {
                [(table, column)] => Operand::Column { table: *table, column: column.clone() },
                _ => Operand::Unknown,
            },
        }
    }

    fn value(&self, value: &ValueWithSpan, is_negative: bool, cast: Option<CastType>) -> Operand {
        match &value.value {
            Value::Placeholder(name) => match name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) {
                Some(number @ 1..) => Operand::Parameter { index: number - 1, cast },
                _ => Operand::Unknown,
            },
            Value::Null => Operand::Null,
            Value::Number(..) | Value::SingleQuotedString(_) | Value::DollarQuotedString(_) => {
                let Location { line, column } = value.span.start;
                match self.literals.binary_search(&(line, column)) {
                    Ok(index) => Operand::Literal { ordinal: self.base + index, is_negative, cast },
                    Err(_) => Operand::Unknown,
                }
            }
            _ => Operand::Unknown,
        }
    }

    fn projected(&self, select: &Select) -> Vec<Operand> {
        let value = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(self.operand(expr)),
            // How many columns stand for it is not known.
            _ => None,
        };
        select.projection.iter().map_while(value).collect()
    }

    fn insert(&mut self, insert: &InsertTree) {
        let TableObject::TableName(name) = &insert.table else { return };
        let Some(table) = self.table(name, Access::Insert) else { return };
        let columns: Vec<Box<str>> = insert.columns.iter().filter_map(first_part).collect();
        let columns = (!columns.is_empty()).then(|| columns.into());
        match insert.source.as_deref() {
            // DEFAULT VALUES.
            None => self.inserts.push(Insert { table, columns, rows: [Box::default()].into(), are_rows_whole: true }),
            Some(source) => self.insert_from(source, table, columns),
        }
        if let Some(OnInsert::OnConflict(conflict)) = &insert.on
            && let OnConflictAction::DoUpdate(update) = &conflict.action
        {
            self.assign(table, &update.assignments);
        }
    }

    fn insert_from(&mut self, source: &Query, table: usize, columns: Option<Box<[Box<str>]>>) {
        match body(source) {
            SetExpr::Values(values) => {
                let row = |row: &Vec<Expr>| row.iter().map(|value| self.operand(value)).collect();
                let rows = values.rows.iter().map(|values| row(&values.content)).collect();
                self.inserts.push(Insert { table, columns, rows, are_rows_whole: true });
            }
            SetExpr::Select(select) => drop(self.takers.insert(&raw const **select, Taker::Insert { table, columns })),
            _ => self.inserts.push(Insert { table, columns, rows: [Box::default()].into(), are_rows_whole: false }),
        }
    }

    fn assign(&mut self, table: usize, assignments: &[sqlparser::ast::Assignment]) {
        for assignment in assignments {
            let columns: Vec<&ObjectName> = match &assignment.target {
                AssignmentTarget::ColumnName(name) => vec![name],
                AssignmentTarget::Tuple(names) => names.iter().collect(),
            };
            let value = match &assignment.target {
                AssignmentTarget::ColumnName(_) => self.operand(&assignment.value),
                AssignmentTarget::Tuple(_) => Operand::Unknown,
            };
            for column in columns.into_iter().filter_map(first_part) {
                if is_itself(&column, &assignment.value) {
                    continue;
                }
                self.assignments.push(Assignment { table, column, value: value.clone() });
            }
        }
    }

    fn merge(&mut self, merge: &Merge) {
        let TableFactor::Table { name, alias, .. } = &merge.table else { return };
        let Some(table) = self.table(name, Access::Change) else { return };
        if let Some(named) = name_of(name) {
            self.name_in_from(named, alias.as_ref(), Some(table));
        }
        self.factor(&merge.source);
        let spares_unmatched =
            merge.clauses.iter().all(|clause| clause.clause_kind != MergeClauseKind::NotMatchedBySource);
        if spares_unmatched {
            self.conjunction(&merge.on, &[table]);
        }
        for clause in &merge.clauses {
            match &clause.action {
                MergeAction::Update(update) => match &update.kind {
                    MergeUpdateKind::Set(assignments) => self.assign(table, assignments),
                    MergeUpdateKind::Wildcard => {}
                },
                MergeAction::Insert(insert) => {
                    let columns: Vec<Box<str>> = insert.columns.iter().filter_map(first_part).collect();
                    let columns = (!columns.is_empty()).then(|| columns.into());
                    let are_rows_whole = matches!(insert.kind, MergeInsertKind::Values(_));
                    let rows = match &insert.kind {
                        MergeInsertKind::Values(values) => {
                            let row = |row: &Vec<Expr>| row.iter().map(|value| self.operand(value)).collect();
                            values.rows.iter().map(|values| row(&values.content)).collect()
                        }
                        MergeInsertKind::Row | MergeInsertKind::Wildcard => [Box::default()].into(),
                    };
                    self.inserts.push(Insert { table, columns, rows, are_rows_whole });
                }
                _ => {}
            }
        }
    }
}

fn restrict(columns: Columns, restricted: &[usize]) -> Columns {
    columns.into_iter().filter(|(table, _)| restricted.contains(table)).collect()
}

fn without_parentheses(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

fn is_number(expr: &Expr) -> bool {
    matches!(without_parentheses(expr), Expr::Value(ValueWithSpan { value: Value::Number(..), .. }))
}

/// `(a, b)` or `ROW(a, b)`.
fn row(expr: &Expr) -> Option<Vec<&Expr>> {
    match expr {
        Expr::Tuple(elements) => Some(elements.iter().collect()),
        _ => None,
    }
}

fn body(query: &Query) -> &SetExpr {
    let mut body = &*query.body;
    while let SetExpr::Query(inner) = body {
        body = &inner.body;
    }
    body
}

fn plain_select(query: &Query) -> Option<&Select> {
    match body(query) {
        SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// Of `column` or `column.field` the column.
fn first_part(name: &ObjectName) -> Option<Box<str>> {
    name.0.first().and_then(|part| part.as_ident()).map(folded)
}

/// `SET a = a`, or in ON CONFLICT `SET a = EXCLUDED.a`: where the row is it belongs with either.
fn is_itself(column: &str, value: &Expr) -> bool {
    match without_parentheses(value) {
        Expr::Identifier(ident) => *folded(ident) == *column,
        Expr::CompoundIdentifier(parts) => match &**parts {
            [table, other] => *folded(other) == *column && *folded(table) == *"excluded",
            _ => false,
        },
        _ => false,
    }
}

/// A type such that a cast to it leaves a value of it what it is.
fn cast_type(data_type: &DataType) -> Option<CastType> {
    match data_type {
        DataType::SmallInt(None)
        | DataType::Int2(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Int4(None)
        | DataType::BigInt(None)
        | DataType::Int8(None)
        | DataType::Numeric(sqlparser::ast::ExactNumberInfo::None)
        | DataType::Decimal(sqlparser::ast::ExactNumberInfo::None) => Some(CastType::Number),
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => Some(CastType::Text),
        DataType::Uuid => Some(CastType::Uuid),
        DataType::Date => Some(CastType::Date),
        DataType::Bytea => Some(CastType::Bytea),
        DataType::Timestamp(None, sqlparser::ast::TimezoneInfo::WithTimeZone | sqlparser::ast::TimezoneInfo::Tz) => {
            Some(CastType::Timestamptz)
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "relate_tests.rs"]
mod tests;

//! The tables of one SELECT, and whether all rows that meet in its joins are on one shard.
//!
//! A row of a join lies where its tables' rows lie. Tables whose rows are by a key meet their like only by equality of the
//! whole key; tables that are whole everywhere may meet anything, but must not be what an outer join keeps: each shard would
//! show the row that has found nothing.

use sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, ObjectName, TableFactor, TableWithJoins,
};

use super::super::statement::Name;
use super::super::tree::{folded, name_of};
use super::{Rows, Tables};

/// A column of one of the tables.
pub(super) type Column = (usize, Box<str>);

/// One place in FROM where a table is named.
struct Source<'q> {
    factor: &'q TableFactor,
    table: Name,
    /// What it is called in the rest of the query.
    alias: Box<str>,
    has_alias: bool,
    rows: Rows,
}

/// All of FROM.
pub(super) struct Sources<'q> {
    tables: &'q dyn Tables,
    list: Vec<Source<'q>>,
    /// Columns that stand for two, and so go by their name alone.
    using: Vec<Box<str>>,
    /// Some table that stands to the left of a join may have no row in it.
    may_lack_left: bool,
    /// Those whose keys tell where a row is, and are never missing in one.
    solid: Vec<usize>,
}

/// What one element of FROM comes to.
enum Side {
    /// The same rows on every shard.
    Everywhere,
    /// Each row on one shard: where the key of `all` of them says that is not NULL; that of `solid` ones never is.
    Spread { solid: Vec<usize>, all: Vec<usize> },
}

type Pairs = Vec<(Column, Column)>;

impl<'q> Sources<'q> {
    /// `None` where rows of several shards may meet, or where that is not certain.
    pub(super) fn of(from: &'q [TableWithJoins], condition: Option<&'q Expr>, tables: &'q dyn Tables) -> Option<Self> {
        let mut sources = Self { tables, list: Vec::new(), using: Vec::new(), may_lack_left: false, solid: Vec::new() };
        for element in from {
            sources.collect(element)?;
        }
        let known: Pairs = condition.map(|condition| sources.pairs(condition)).unwrap_or_default();
        let mut all = Side::Everywhere;
        for element in from {
            let side = sources.chain(&element.relation, &element.joins, &known)?;
            all = sources.inner(all, side, &known)?;
        }
        match all {
            Side::Everywhere => None,
            Side::Spread { solid, .. } => {
                sources.solid = solid;
                Some(sources)
            }
        }
    }

    fn collect(&mut self, element: &'q TableWithJoins) -> Option<()> {
        self.collect_factor(&element.relation)?;
        for join in &element.joins {
            if join.global {
                return None;
            }
            self.collect_factor(&join.relation)?;
            if let Some(JoinConstraint::Using(columns)) = constraint(&join.join_operator) {
                self.using.extend(columns.iter().filter_map(name_of).map(|column| column.name));
            }
            self.may_lack_left |= matches!(
                join.join_operator,
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_)
            );
        }
        Some(())
    }

    fn collect_factor(&mut self, factor: &'q TableFactor) -> Option<()> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.collect(table_with_joins),
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                let table = table_name(name)?;
                let rows = self.tables.rows(&table);
                if rows == Rows::Elsewhere || alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
                    return None;
                }
                let called = alias.as_ref().map(|alias| folded(&alias.name));
                let has_alias = called.is_some();
                let alias = called.unwrap_or_else(|| table.name.clone());
                self.list.push(Source { factor, table, alias, has_alias, rows });
                Some(())
            }
            _ => None,
        }
    }

    /// A factor with the joins behind it, from the left.
    fn chain(&self, first: &TableFactor, joins: &[Join], known: &Pairs) -> Option<Side> {
        let Some((last, before)) = joins.split_last() else { return self.factor(first, known) };
        let own = |left: &Side, right: &Side| self.pairs_of(constraint(&last.join_operator)?, left, right);
        match &last.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => {
                // What holds for the joined rows holds for each side's rows that are among them.
                let mut held = known.clone();
                held.extend(self.pairs_of_on(&last.join_operator));
                let (left, right) = (self.chain(first, before, &held)?, self.factor(&last.relation, &held)?);
                held.extend(own(&left, &right)?);
                held.extend(self.pairs_of_rows(before));
                self.inner(left, right, &held)
            }
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => {
                let left = self.chain(first, before, known)?;
                let right = self.factor(&last.relation, &self.pairs_of_on(&last.join_operator))?;
                let pairs = own(&left, &right)?;
                self.outer(left, right, &pairs)
            }
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => {
                let left = self.chain(first, before, &self.pairs_of_on(&last.join_operator))?;
                let right = self.factor(&last.relation, known)?;
                let pairs = own(&left, &right)?;
                self.outer(right, left, &pairs)
            }
            // What USING makes of the two columns is of neither side.
            JoinOperator::FullOuter(constraint) if !matches!(constraint, JoinConstraint::Using(_)) => {
                let (left, right) = (self.chain(first, before, &Pairs::new())?, self.factor(&last.relation, &vec![])?);
                let pairs = own(&left, &right)?;
                self.full(left, right, &pairs)
            }
            _ => None,
        }
    }

    fn factor(&self, factor: &TableFactor, known: &Pairs) -> Option<Side> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            return self.chain(&table_with_joins.relation, &table_with_joins.joins, known);
        }
        let at = self.list.iter().position(|source| std::ptr::eq(source.factor, factor))?;
        match self.list.get(at)?.rows {
            Rows::Everywhere => Some(Side::Everywhere),
            Rows::ByKey(_) => Some(Side::Spread { solid: vec![at], all: vec![at] }),
            Rows::Elsewhere => None,
        }
    }

    fn inner(&self, left: Side, right: Side, pairs: &Pairs) -> Option<Side> {
        match (left, right) {
            (Side::Everywhere, other) | (other, Side::Everywhere) => Some(other),
            (Side::Spread { mut solid, mut all }, Side::Spread { solid: others, all: all_others }) => {
                self.meet(&all, &all_others, pairs).then(|| {
                    solid.extend(others);
                    all.extend(all_others);
                    Side::Spread { solid, all }
                })
            }
        }
    }

    /// All rows of `kept` stay, whatever they find.
    fn outer(&self, kept: Side, other: Side, pairs: &Pairs) -> Option<Side> {
        match (kept, other) {
            (Side::Everywhere, Side::Spread { .. }) => None,
            (kept, Side::Everywhere) => Some(kept),
            (Side::Spread { solid, mut all }, Side::Spread { all: others, .. }) => {
                self.meet(&all, &others, pairs).then(|| {
                    all.extend(others);
                    Side::Spread { solid, all }
                })
            }
        }
    }

    fn full(&self, left: Side, right: Side, pairs: &Pairs) -> Option<Side> {
        match (left, right) {
            (Side::Everywhere, Side::Everywhere) => Some(Side::Everywhere),
            (Side::Spread { mut all, .. }, Side::Spread { all: others, .. }) => {
                self.meet(&all, &others, pairs).then(|| {
                    all.extend(others);
                    Side::Spread { solid: Vec::new(), all }
                })
            }
            _ => None,
        }
    }

    /// Whether rows meet only where the whole keys of a table of either side are equal.
    fn meet(&self, left: &[usize], right: &[usize], pairs: &Pairs) -> bool {
        let meets = |one: usize, other: usize| {
            let (Some(key), Some(other_key)) = (self.key(one), self.key(other)) else { return false };
            let parts = key.iter().zip(other_key);
            key.len() == other_key.len()
                && parts.fold(true, |all, (part, other_part)| {
                    all && self.are_equal(&(one, part.clone()), &(other, other_part.clone()), pairs)
                })
        };
        left.iter().any(|one| right.iter().any(|other| meets(*one, *other)))
    }

    /// By a chain of equalities, none of which may take two values for one that are placed apart.
    fn are_equal(&self, one: &Column, other: &Column, pairs: &Pairs) -> bool {
        let mut reached = vec![one];
        let mut next = 0;
        while let Some(column) = reached.get(next).copied() {
            if column == other {
                return true;
            }
            for (left, right) in pairs {
                let neighbour = if left == column {
                    right
                } else if right == column {
                    left
                } else {
                    continue;
                };
                if !reached.contains(&neighbour) && self.are_placed_alike(column, neighbour) {
                    reached.push(neighbour);
                }
            }
            next += 1;
        }
        false
    }

    fn are_placed_alike(&self, one: &Column, other: &Column) -> bool {
        let (Some(table), Some(other_table)) = (self.list.get(one.0), self.list.get(other.0)) else { return false };
        self.tables.are_placed_alike((&table.table, &one.1), (&other_table.table, &other.1))
    }

    fn key(&self, at: usize) -> Option<&[Box<str>]> {
        match &self.list.get(at)?.rows {
            Rows::ByKey(key) => Some(key),
            _ => None,
        }
    }

    fn pairs_of_on(&self, operator: &JoinOperator) -> Pairs {
        match constraint(operator) {
            Some(JoinConstraint::On(condition)) => self.pairs(condition),
            _ => Pairs::new(),
        }
    }

    /// What holds for all rows of a chain of joins.
    fn pairs_of_rows(&self, joins: &[Join]) -> Pairs {
        let mut pairs = Pairs::new();
        for join in joins.iter().rev() {
            match &join.join_operator {
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => {
                    pairs.extend(self.pairs_of_on(&join.join_operator));
                }
                // Its own condition holds only where it has found something.
                JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => {}
                _ => break,
            }
        }
        pairs
    }

    fn pairs_of(&self, constraint: &JoinConstraint, left: &Side, right: &Side) -> Option<Pairs> {
        match constraint {
            JoinConstraint::On(condition) => Some(self.pairs(condition)),
            JoinConstraint::None => Some(Pairs::new()),
            JoinConstraint::Natural => None,
            JoinConstraint::Using(columns) => {
                let mut pairs = Pairs::new();
                for column in columns.iter().filter_map(name_of) {
                    let of = |side: &Side| match side {
                        Side::Everywhere => None,
                        Side::Spread { all, .. } => all.iter().copied().find(|at| self.has_column(*at, &column.name)),
                    };
                    if let (Some(left), Some(right)) = (of(left), of(right)) {
                        pairs.push(((left, column.name.clone()), (right, column.name.clone())));
                    }
                }
                Some(pairs)
            }
        }
    }

    /// Columns that are equal wherever the condition is true.
    fn pairs(&self, condition: &Expr) -> Pairs {
        let mut pairs = Pairs::new();
        let mut rest = vec![condition];
        while let Some(condition) = rest.pop() {
            match condition {
                Expr::Nested(inner) => rest.push(inner),
                Expr::BinaryOp { left, op: BinaryOperator::And, right } => rest.extend([&**left, &**right]),
                Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match (&**left, &**right) {
                    (Expr::Tuple(left), Expr::Tuple(right)) if left.len() == right.len() => {
                        let both = left.iter().zip(right);
                        pairs.extend(both.filter_map(|(left, right)| Some((self.column(left)?, self.column(right)?))));
                    }
                    (left, right) => {
                        pairs.extend(self.column(left).and_then(|left| Some((left, self.column(right)?))));
                    }
                },
                _ => {}
            }
        }
        pairs
    }

    /// The column of a table that a reference means, where that is certain.
    pub(super) fn column(&self, expr: &Expr) -> Option<Column> {
        match expr {
            Expr::Nested(inner) => self.column(inner),
            Expr::Identifier(ident) => self.column_named(&[folded(ident)]),
            Expr::CompoundIdentifier(parts) => self.column_named(&parts.iter().map(folded).collect::<Vec<_>>()),
            _ => None,
        }
    }

    /// The same, of the parts of a name.
    pub(super) fn column_named(&self, parts: &[Box<str>]) -> Option<Column> {
        let (schema, alias, name) = match parts {
            [name] => {
                let mut having = (0..self.list.len()).filter(|at| self.has_column(*at, name));
                let first = having.next()?;
                let is_merged = self.using.contains(name) && !self.may_lack_left;
                return (having.next().is_none() || is_merged).then(|| (first, name.clone()));
            }
            [alias, name] => (None, alias, name),
            [schema, alias, name] => (Some(schema), alias, name),
            _ => return None,
        };
        let is_it = |source: &Source<'_>| {
            source.alias == *alias
                && schema.is_none_or(|schema| !source.has_alias && source.table.schema.as_ref() == Some(schema))
        };
        let mut found = (0..self.list.len()).filter(|at| self.list.get(*at).is_some_and(is_it));
        let at = found.next()?;
        (found.next().is_none() && self.has_column(at, name)).then(|| (at, name.clone()))
    }

    /// Whether some table has such a column.
    pub(super) fn has_any(&self, name: &str) -> bool {
        (0..self.list.len()).any(|at| self.has_column(at, name))
    }

    /// Whether that is what a table is called.
    pub(super) fn has_table(&self, alias: &str) -> bool {
        self.list.iter().any(|source| *source.alias == *alias)
    }

    fn has_column(&self, at: usize, name: &str) -> bool {
        self.list.get(at).is_some_and(|source| self.tables.has_column(&source.table, name))
    }

    /// Whether this column is sorted by the bytes of its values.
    pub(super) fn is_bytewise(&self, column: &Column) -> bool {
        self.list.get(column.0).is_some_and(|source| self.tables.is_bytewise(&source.table, &column.1))
    }

    /// The columns that `alias.*` stands for, or all of them, as far as they are keys.
    pub(super) fn keys_of(&self, alias: Option<&str>) -> Vec<Column> {
        let sources = self.list.iter().enumerate();
        let named = sources.filter(|(_, source)| alias.is_none_or(|alias| *source.alias == *alias));
        let keys = named.flat_map(|(at, _)| self.key(at).unwrap_or_default().iter().map(move |key| (at, key.clone())));
        keys.collect()
    }

    /// Whether rows that agree in all of these columns are on one shard.
    pub(super) fn are_together(&self, columns: &[Column]) -> bool {
        let has = |at: usize, part: &str| columns.iter().any(|column| column.0 == at && *column.1 == *part);
        self.solid
            .iter()
            .any(|at| self.key(*at).is_some_and(|key| !key.is_empty() && key.iter().all(|part| has(*at, part))))
    }
}

fn table_name(name: &ObjectName) -> Option<Name> {
    if name.0.len() > 2 { None } else { name_of(name) }
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

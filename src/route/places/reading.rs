//! What whoever puts several shards' answers together ([`crate::sql::merge`]) has to know of one database.

use super::{Column, Distribution, Placement, Table};
use crate::sql::{Catalog, Name, Rows, Tables};

/// Of one database.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'d> {
    /// Where its rows are.
    pub distribution: &'d Distribution,
    /// Its functions.
    pub catalog: &'d Catalog,
}

impl Reading<'_> {
    fn table(&self, name: &Name) -> Option<&Table> {
        self.distribution.table(name).ok().flatten()
    }

    fn column(&self, table: &Name, column: &str) -> Option<&Column> {
        self.table(table)?.columns.iter().find(|known| *known.name == *column)
    }
}

impl Tables for Reading<'_> {
    /// A view may gather rows that are on several shards.
    fn rows(&self, table: &Name) -> Rows {
        match self.table(table) {
            Some(Table { placement: Placement::Key(parts), is_table: true, .. })
                if parts.iter().all(|part| part.column.is_ok()) =>
            {
                Rows::ByKey(parts.iter().map(|part| part.name.clone()).collect())
            }
            Some(Table { placement: Placement::Reference, is_table: true, .. }) => Rows::Everywhere,
            _ => Rows::Elsewhere,
        }
    }

    fn has_column(&self, table: &Name, column: &str) -> bool {
        self.column(table, column).is_some()
    }

    fn are_placed_alike(&self, (table, column): (&Name, &str), (other, other_column): (&Name, &str)) -> bool {
        let key = |table, column| self.column(table, column).and_then(|column| column.key);
        match (key(table, column), key(other, other_column)) {
            (Some(one), Some(other)) => one.is_placed_as(other),
            _ => false,
        }
    }

    fn is_bytewise(&self, table: &Name, column: &str) -> bool {
        self.column(table, column).is_some_and(|column| column.is_bytewise)
    }

    fn is_even(&self, function: &Name) -> bool {
        self.catalog.is_even(function)
    }
}

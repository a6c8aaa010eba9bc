//! Where the tables' rows are: the config's `[[tables]]`, what one database's catalog says of them, and its bucket map.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Unplaced;
use crate::shard::{KeyColumn, Versions};
use crate::sql::Name;

/// Of one database.
#[derive(Debug, Clone, Default)]
pub struct Distribution {
    tables: HashMap<Box<str>, Vec<Table>, RandomState>,
    /// Where no bucket map was stored yet, no row with a key can be placed.
    pub versions: Versions,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `None`: in any schema.
    pub schema: Option<Box<str>>,
    /// The last part of its name.
    pub name: Box<str>,
    /// Its columns in their order; empty where it is not there (yet).
    pub columns: Box<[Column]>,
    /// Where its rows are.
    pub placement: Placement,
    /// It is a table, and not a view or the like.
    pub is_table: bool,
}

/// One of a table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As PostgreSQL keeps it.
    pub name: Box<str>,
    /// As a column that rows can be placed by, where it can be one.
    pub key: Option<KeyColumn>,
    /// A row that does not give it a value gets one that another server would not have given.
    pub is_made_up: bool,
    /// A row that does not give it a value gets one that places the row on the shard where that happens.
    pub draws_keys: bool,
    /// A text that is sorted by its bytes.
    pub is_bytewise: bool,
}

/// Where a table's rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// By the values of these columns.
    Key(Box<[KeyPart]>),
    /// On every shard.
    Reference,
    /// On this shard.
    Shard(Arc<str>),
}

/// One column of a shard key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPart {
    /// As PostgreSQL keeps it.
    pub name: Box<str>,
    /// Its type; or why it places nothing.
    pub column: Result<KeyColumn, Box<str>>,
}

impl Distribution {
    /// Of these tables.
    pub fn new(tables: impl IntoIterator<Item = Table>, versions: impl Into<Versions>) -> Self {
        let mut named: HashMap<Box<str>, Vec<Table>, RandomState> = HashMap::default();
        for table in tables {
            named.entry(table.name.clone()).or_default().push(table);
        }
        Self { tables: named, versions: versions.into() }
    }

    /// The same, but for these tables: all that are declared under their names.
    #[must_use]
    pub fn with(&self, tables: impl IntoIterator<Item = Table>) -> Self {
        let changed = Self::new(tables, Versions::default()).tables;
        let mut all = self.clone();
        all.tables.extend(changed);
        all
    }

    /// A table; `None` for those of the system, which are everywhere.
    ///
    /// # Errors
    /// It is not declared.
    pub fn table(&self, name: &Name) -> Result<Option<&Table>, Unplaced> {
        if is_of_the_system(name) {
            return Ok(None);
        }
        let tables = self.tables.get(&name.name).map(Vec::as_slice).unwrap_or_default();
        let is_it = |table: &&Table| match (&table.schema, &name.schema) {
            (Some(declared), Some(named)) => declared == named,
            _ => true,
        };
        tables.iter().find(is_it).map(Some).ok_or_else(|| Unplaced::Undeclared(name.clone()))
    }

    /// All of them, in no order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values().flatten()
    }
}

/// Its contents do not depend on the application's rows, or tell of one server.
fn is_of_the_system(name: &Name) -> bool {
    match name.schema.as_deref() {
        Some(schema) => matches!(schema, "pg_catalog" | "information_schema" | "pgsluice"),
        None => name.name.starts_with("pg_"),
    }
}

//! What the shards say of one table, held against each other. Pure.
//!
//! A table is served only where every shard has it with the same columns in the same order and orders texts in the same
//! way: postgres_fdw leaves comparisons and sorting to the shards, and takes their word for it.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::catalog::{Column, Reader, Relation, ShardCatalog};
use super::names;
use super::quote::qualified;
use crate::config::{Config, Placement, TableName};

/// Why something cannot be served. Nothing is changed then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// PostgreSQL would cut the names off that are made of it.
    #[error("the name of shard {shard} is too long for the names of its schema and server: at most 48 characters")]
    ShardName {
        /// The shard.
        shard: String,
    },
    /// Texts may be in another order there.
    #[error("the databases' {what} differs: {one} on shard {here}, {other} on shard {there}; make them alike")]
    Locale {
        /// `LC_COLLATE`, `collation version` …
        what: String,
        /// On the coordinator's shard.
        one: String,
        /// The coordinator's shard.
        here: String,
        /// There.
        other: String,
        /// Another shard.
        there: String,
    },
    /// A collation has the same name and orders otherwise.
    #[error("the collation of {table}, column {column} differs: {one} on shard {here}, {other} on shard {there}")]
    Collation {
        /// The table, as SQL.
        table: String,
        /// The column.
        column: String,
        /// What it is.
        one: String,
        /// Where.
        here: String,
        /// What it is there.
        other: String,
        /// Where that is.
        there: String,
    },
    /// One name would have two meanings.
    #[error(
        "the name {name} is declared in several schemas ({schemas}), and could mean only one of them in a statement over several shards; \
         rename one, or declare \"schema.name\" of the one that is used"
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// The schemas.
        schemas: String,
    },
    /// It is on some of its shards only.
    #[error("{table} is on shard {here} and not on shard {there}")]
    Missing {
        /// The table, as SQL.
        table: String,
        /// A shard that has it.
        here: String,
        /// One that has not.
        there: String,
    },
    /// No table.
    #[error("{table} is {what} on shard {shard}; only tables can be declared")]
    NoTable {
        /// The relation, as SQL.
        table: String,
        /// `a view` …
        what: &'static str,
        /// Where.
        shard: String,
    },
    /// The view would show all rows.
    #[error(
        "{table} has row level security on shard {shard}, which a view of all shards' rows would bypass; it cannot be served: \
         take it out of [[tables]], or disable its row level security"
    )]
    RowSecurity {
        /// The table, as SQL.
        table: String,
        /// Where.
        shard: String,
    },
    /// Grants are missing.
    #[error("{account} may not read {table} on shard {shard}: GRANT pg_read_all_data TO {account}")]
    Unreadable {
        /// The table, as SQL.
        table: String,
        /// Where.
        shard: String,
        /// Who.
        account: String,
    },
    /// Columns differ.
    #[error("{table}, column {number} differs: {one} on shard {here}, {other} on shard {there}")]
    Column {
        /// The table, as SQL.
        table: String,
        /// From 1, in the table's order, without dropped ones.
        number: usize,
        /// Its definition, or `none`.
        one: String,
        /// Where.
        here: String,
        /// Its definition there, or `none`.
        other: String,
        /// Where that is.
        there: String,
    },
}

/// A table whose rows are to be had on the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Where it lies, in the config's order.
    pub(super) shards: Vec<String>,
    /// Who may read it everywhere, sorted; without the account that asked.
    pub(super) readers: Vec<Reader>,
}

/// The tables that the coordinator has to have, sorted by name, and those that are declared and nowhere in this database.
pub(super) fn tables(
    config: &Config,
    coordinator: &str,
    catalogs: &[ShardCatalog],
) -> Result<(Vec<Table>, Vec<String>), Vec<Problem>> {
    let mut problems: Vec<Problem> = (config.shards.iter())
        .filter(|shard| !names::fits(&shard.name))
        .map(|shard| Problem::ShardName { shard: shard.name.clone() })
        .collect();
    locales(coordinator, catalogs, &mut problems);
    let mut schemas: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut found, mut nowhere) = (BTreeMap::new(), Vec::new());
    for declared in &config.tables {
        let on = |catalog: &&ShardCatalog| match &declared.placement {
            Placement::Key(_) | Placement::Reference => true,
            Placement::Shard(shard) => catalog.shard == *shard,
        };
        // The coordinator's own definition comes first where it has one.
        let mut places: Vec<&ShardCatalog> = catalogs.iter().filter(on).collect();
        places.sort_by_key(|catalog| catalog.shard != coordinator);
        let relations = places.iter().flat_map(|catalog| &catalog.relations).filter(|it| is_named(it, &declared.name));
        let named: BTreeSet<_> = relations.map(|relation| (relation.name.clone(), relation.schema.clone())).collect();
        for (name, schema) in &named {
            schemas.entry(name.clone()).or_default().insert(schema.clone());
        }
        let is_whole = match &declared.placement {
            Placement::Reference => true,
            Placement::Shard(shard) => shard == coordinator,
            Placement::Key(_) => false,
        };
        if is_whole {
            continue;
        }
        if named.is_empty() {
            nowhere.push(declared.name.to_string());
        }
        for (name, schema) in named {
            if let Some(table) = table(&schema, &name, &places, &mut problems) {
                found.insert(name, table);
            } else {
                found.remove(&name);
            }
        }
    }
    for (name, schemas) in schemas.into_iter().filter(|(name, schemas)| schemas.len() > 1 && found.contains_key(name)) {
        let schemas = schemas.into_iter().collect::<Vec<_>>().join(", ");
        problems.push(Problem::Ambiguous { name, schemas });
    }
    let mut tables: Vec<Table> = found.into_values().collect();
    for table in &mut tables {
        table.shards.sort_by_key(|name| config.shards.iter().position(|shard| shard.name == *name));
    }
    if problems.is_empty() { Ok((tables, nowhere)) } else { Err(problems) }
}

fn is_named(relation: &Relation, name: &TableName) -> bool {
    relation.name == name.name && name.schema.as_ref().is_none_or(|schema| *schema == relation.schema)
}

fn locales(coordinator: &str, catalogs: &[ShardCatalog], problems: &mut Vec<Problem>) {
    let Some(own) = catalogs.iter().find(|catalog| catalog.shard == coordinator) else { return };
    for catalog in catalogs {
        for ((what, one), (_, other)) in own.locale.iter().zip(&catalog.locale).filter(|(one, other)| one.1 != other.1)
        {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            problems.push(Problem::Locale {
                what: what.clone(),
                one: shown(one),
                here: coordinator.to_owned(),
                other: shown(other),
                there: catalog.shard.clone(),
            });
        }
    }
}

/// One table on all of its shards, the first of which gives the definition; `None` where something is wrong with it.
fn table(schema: &str, name: &str, places: &[&ShardCatalog], problems: &mut Vec<Problem>) -> Option<Table> {
    let before = problems.len();
    let sql = qualified(schema, name);
    let find = |catalog: &ShardCatalog| {
        catalog.relations.iter().find(|relation| relation.name == name && relation.schema == schema).cloned()
    };
    let found: Vec<(&ShardCatalog, Option<Relation>)> =
        places.iter().map(|catalog| (*catalog, find(catalog))).collect();
    let (here, first) = found.iter().find_map(|(catalog, found)| Some((*catalog, found.as_ref()?)))?;
    for (catalog, relation) in &found {
        let (table, shard) = (sql.clone(), catalog.shard.clone());
        let Some(relation) = relation else {
            problems.push(Problem::Missing { table, here: here.shard.clone(), there: shard });
            continue;
        };
        if let Some(what) = no_table(relation.kind) {
            problems.push(Problem::NoTable { table, what, shard });
            continue;
        }
        if relation.row_security {
            problems.push(Problem::RowSecurity { table: table.clone(), shard: shard.clone() });
        }
        if !relation.readable {
            problems.push(Problem::Unreadable { table, shard, account: catalog.account.clone() });
        }
        columns((here, first), (catalog, relation), problems);
    }
    let relations: Vec<&Relation> = found.iter().filter_map(|(_, relation)| relation.as_ref()).collect();
    let readers = readers(&relations.iter().map(|relation| &*relation.readers).collect::<Vec<_>>());
    (problems.len() == before).then(|| Table {
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns: first.columns.clone(),
        shards: places.iter().map(|catalog| catalog.shard.clone()).collect(),
        readers: readers.into_iter().filter(|reader| reader.role.as_ref() != Some(&here.account)).collect(),
    })
}

fn no_table(kind: char) -> Option<&'static str> {
    match kind {
        'v' => Some("a view"),
        'm' => Some("a materialized view"),
        'f' => Some("a foreign table"),
        _ => None,
    }
}

fn columns(
    (here, one): (&ShardCatalog, &Relation),
    (there, other): (&ShardCatalog, &Relation),
    problems: &mut Vec<Problem>,
) {
    let names = || (one.sql(), here.shard.clone(), there.shard.clone());
    for number in 0..one.columns.len().max(other.columns.len()) {
        let (a, b) = (one.columns.get(number), other.columns.get(number));
        let shown = |column: Option<&Column>| column.map_or_else(|| "none".to_owned(), Column::definition);
        let (table, here, there) = names();
        if shown(a) != shown(b) {
            problems.push(Problem::Column { table, number: number + 1, one: shown(a), here, other: shown(b), there });
            // Behind a column that is missing or too many all others would differ.
            return;
        }
        let (Some(a), Some(b)) = (a, b) else { return };
        if a.collation_is != b.collation_is {
            let shown = |column: &Column| column.collation_is.clone().unwrap_or_else(|| "the database's".to_owned());
            let column = a.name.clone();
            problems.push(Problem::Collation { table, column, one: shown(a), here, other: shown(b), there });
        }
    }
}

/// Who may read on each shard, by a grant to himself or to everybody.
fn readers(shards: &[&[Reader]]) -> Vec<Reader> {
    let may = |reader: &Reader, there: &[Reader]| {
        there.iter().any(|other| {
            (other.role.is_none() || other.role == reader.role)
                && (other.column.is_none() || other.column == reader.column)
        })
    };
    let all: BTreeSet<Reader> = shards.iter().flat_map(|readers| readers.iter().cloned()).collect();
    let everywhere: Vec<Reader> =
        all.into_iter().filter(|reader| shards.iter().all(|there| may(reader, there))).collect();
    let is_said =
        |reader: &Reader| everywhere.iter().any(|other| other != reader && may(reader, std::slice::from_ref(other)));
    everywhere.iter().filter(|reader| !is_said(reader)).cloned().collect()
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;

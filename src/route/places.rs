//! On which shards the rows are that a statement wants.
//!
//! Takes what the text says ([`Uses`]), where the tables' rows are ([`Distribution`]) and the values of literals
//! and parameters, and follows each sharded table's key to its values. A table that is not declared, a key
//! that cannot be read, a row whose key is not known: each is an error with its own words, never a guess.

use std::collections::HashMap;

use crate::shard::{BucketMap, Charset, KeyColumn, KeyDigest, KeyHasher, KeyValue, SqlType};
use crate::sql::{Access, CastType, Fact, Insert, Literal, Name, Operand, Uses, literal};

/// Combinations of a key's values that are looked at one by one; more count as being on all shards.
const MAX_KEYS: usize = 1000;

/// How far a key is followed from table to table.
const MAX_STEPS: usize = 32;

/// Where the tables' rows are: the config's `[[tables]]`, and what the catalog says of them.
#[derive(Debug, Default)]
pub struct Distribution {
    tables: HashMap<Box<str>, Vec<Table>>,
}

/// One table.
#[derive(Debug, Clone)]
pub struct Table {
    /// `None`: in any schema.
    pub schema: Option<Box<str>>,
    /// Its columns in their order; empty while the catalog is not known.
    pub columns: Box<[Box<str>]>,
    /// Where its rows are.
    pub placement: Placement,
}

/// Where a table's rows are.
#[derive(Debug, Clone)]
pub enum Placement {
    /// By the values of these columns.
    Key(Box<[KeyPart]>),
    /// On every shard.
    Reference,
    /// On this shard: its place in the topology.
    Shard(usize),
}

/// One column of a shard key.
#[derive(Debug, Clone)]
pub struct KeyPart {
    /// As PostgreSQL keeps the name.
    pub name: Box<str>,
    /// Its type; `Err`: why it cannot be used, or is not known.
    pub column: Result<KeyColumn, Box<str>>,
}

/// Which shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Any will do.
    Any,
    /// This one, and no other.
    One(usize),
    /// Several, or it is not known that it is one: why, in words.
    Several(String),
}

/// Why it cannot be said where a statement belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplaced {
    /// Not in the config.
    Undeclared(Name),
    /// A row is put in, and its key is not in the statement.
    NoKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A row is put in with NULL in its key.
    NullKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A value of a key cannot be read with certainty.
    Value {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
        /// Why.
        why: String,
    },
    /// A column of the key is set to something that may lie elsewhere.
    MovesRow {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
}

/// Values of one execution: the text that its literals are in, and its parameters.
#[derive(Debug, Clone, Copy)]
pub struct Values<'v> {
    /// The statement's text.
    pub text: &'v [u8],
    /// What stands for `$1` and so on.
    pub parameters: &'v [Parameter<'v>],
    /// How texts are encoded.
    pub charset: Charset,
}

/// One parameter of the extended protocol.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'v> {
    /// As `Parse` has declared it; 0: left to the server.
    pub oid: u32,
    /// In binary format.
    pub is_binary: bool,
    /// `None` is NULL.
    pub value: Option<&'v [u8]>,
}

/// Where a statement belongs that says this of its rows.
///
/// # Errors
/// It cannot be said, in a way that would be wrong to pass over.
pub fn places(
    uses: &Uses,
    distribution: &Distribution,
    map: &BucketMap,
    values: Values<'_>,
) -> Result<Places, Unplaced> {
    let search = Search { uses, distribution, map, values };
    let mut all = Places::Any;
    for (index, used) in uses.tables.iter().enumerate() {
        let found = search.place_of_use(index, &used.relation, used.access)?;
        all = all.and(found);
    }
    search.check_assignments()?;
    Ok(all)
}

impl Places {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, other) => other,
            (other, Self::Any) => other,
            (Self::One(one), Self::One(other)) if one == other => Self::One(one),
            (Self::Several(why), _) | (_, Self::Several(why)) => Self::Several(why),
            (Self::One(_), Self::One(_)) => Self::Several("its rows are on several shards".to_owned()),
        }
    }
}

struct Search<'s> {
    uses: &'s Uses,
    distribution: &'s Distribution,
    map: &'s BucketMap,
    values: Values<'s>,
}

/// What is known of one column of a key at one place.
enum Found<'s> {
    /// One of these; NULLs, which equal nothing, are left out.
    Values(Vec<KeyValue<'s>>),
    /// Anything.
    Anything,
}

impl<'s> Search<'s> {
    fn table(&self, name: &Name) -> Result<Option<&'s Table>, Unplaced> {
        if is_of_the_system(name) {
            return Ok(None);
        }
        let tables = self.distribution.tables.get(&name.name).map(Vec::as_slice).unwrap_or_default();
        let is_it = |table: &&Table| match (&table.schema, &name.schema) {
            (Some(declared), Some(named)) => declared == named,
            _ => true,
        };
        tables.iter().find(is_it).map(Some).ok_or_else(|| Unplaced::Undeclared(name.clone()))
    }

    fn place_of_use(&self, index: usize, name: &Name, access: Access) -> Result<Places, Unplaced> {
        let Some(table) = self.table(name)? else { return Ok(Places::Any) };
        match (&table.placement, access) {
            (Placement::Shard(shard), _) => Ok(Places::One(*shard)),
            (Placement::Reference, Access::Read) => Ok(Places::Any),
            (Placement::Reference, _) => Ok(Places::Several(format!("{name} is whole on every shard"))),
            (Placement::Key(parts), Access::Insert) => self.place_of_rows(index, name, table, parts),
            (Placement::Key(parts), _) => self.place_of_key(index, name, parts),
        }
    }

    /// Rows that are read or changed.
    fn place_of_key(&self, index: usize, name: &Name, parts: &[KeyPart]) -> Result<Places, Unplaced> {
        let mut columns = Vec::with_capacity(parts.len());
        for part in parts {
            match self.find(index, &part.name, part, name, MAX_STEPS)? {
                Found::Values(values) => columns.push(values),
                Found::Anything => {
                    return Ok(Places::Several(format!("no value of {} is given for {name}", part.name)));
                }
            }
        }
        Ok(self.place_of_combinations(name, &columns))
    }

    fn place_of_combinations(&self, name: &Name, columns: &[Vec<KeyValue<'_>>]) -> Places {
        let count = columns.iter().try_fold(1usize, |count, values| count.checked_mul(values.len()));
        match count {
            // No row has NULL for a key's value.
            Some(0) => return Places::Any,
            Some(1..=MAX_KEYS) => {}
            _ => return Places::Several(format!("more than {MAX_KEYS} keys are given for {name}")),
        }
        let mut places = Places::Any;
        let mut chosen = vec![0; columns.len()];
        loop {
            let mut hasher = KeyHasher::new();
            chosen.iter().zip(columns).filter_map(|(at, values)| values.get(*at)).for_each(|value| hasher.add(value));
            places = places.and(self.place_of_digest(name, &hasher.finish()));
            if matches!(places, Places::Several(_)) || !advance(&mut chosen, columns) {
                return places;
            }
        }
    }

    fn place_of_digest(&self, digest: &KeyDigest) -> Places {
        Places::One(self.map.shard_of(digest))
    }

    /// Rows that are put in: each has a key of its own.
    fn place_of_rows(&self, index: usize, name: &Name, table: &Table, parts: &[KeyPart]) -> Result<Places, Unplaced> {
        let mut inserts = self.uses.inserts.iter().filter(|insert| insert.table == index).peekable();
        if inserts.peek().is_none() {
            // COPY … FROM.
            return Ok(Places::Several(format!("which rows are put into {name} is not in the statement")));
        }
        let mut places = Places::Any;
        for insert in inserts {
            for row in &insert.rows {
                let mut values = Vec::with_capacity(parts.len());
                for part in parts {
                    match self.value_of_row(name, table, part, insert, row)? {
                        Found::Values(found) => values.push(found),
                        Found::Anything => {
                            return Ok(Places::Several(format!("the rows that are put into {name} come from several shards")));
                        }
                    }
                }
                places = places.and(self.place_of_combinations(name, &values));
            }
        }
        Ok(places)
    }

    fn value_of_row(
        &self,
        name: &Name,
        table: &Table,
        part: &KeyPart,
        insert: &Insert,
        row: &'s [Operand],
    ) -> Result<Found<'s>, Unplaced> {
        let columns = insert.columns.as_deref().unwrap_or(&table.columns);
        let at = columns.iter().position(|column| *column == part.name);
        let no_key = || Unplaced::NoKey { table: name.clone(), column: part.name.clone() };
        match at.and_then(|at| row.get(at)) {
            None | Some(Operand::Unknown | Operand::Elements { .. }) => Err(no_key()),
            Some(Operand::Null) => Err(Unplaced::NullKey { table: name.clone(), column: part.name.clone() }),
            Some(Operand::Column { table, column }) => self.find(*table, column, part, name, MAX_STEPS),
            Some(value) => match self.value(value, part, name)? {
                Some(value) => Ok(Found::Values(vec![value])),
                None => Err(Unplaced::NullKey { table: name.clone(), column: part.name.clone() }),
            },
        }
    }

    /// The values that a column has at one place, as values of the key's column `part`.
    fn find(
        &self,
        table: usize,
        column: &str,
        part: &KeyPart,
        name: &Name,
        steps: usize,
    ) -> Result<Found<'s>, Unplaced> {
        let is_about_it = |fact: &&Fact| fact.table == table && *fact.column == *column;
        for fact in self.uses.facts.iter().filter(is_about_it) {
            let found = match &*fact.values {
                [Operand::Column { table: other, column: other_column }] => match steps.checked_sub(1) {
                    Some(left) => self.find(*other, other_column, part, name, left)?,
                    None => Found::Anything,
                },
                values => self.all(values, part, name)?,
            };
            if let Found::Values(_) = found {
                return Ok(found);
            }
        }
        Ok(Found::Anything)
    }

    fn all(&self, values: &'s [Operand], part: &KeyPart, name: &Name) -> Result<Found<'s>, Unplaced> {
        let mut all = Vec::with_capacity(values.len());
        for value in values {
            match value {
                Operand::Column { .. } | Operand::Elements { .. } | Operand::Unknown => return Ok(Found::Anything),
                value => all.extend(self.value(value, part, name)?),
            }
        }
        Ok(Found::Values(all))
    }
}

/// The next combination; false after the last.
fn advance(chosen: &mut [usize], columns: &[Vec<KeyValue<'_>>]) -> bool {
    for (at, values) in chosen.iter_mut().zip(columns) {
        *at += 1;
        if *at < values.len() {
            return true;
        }
        *at = 0;
    }
    false
}

//! On which shards the rows are that a statement wants.
//!
//! Takes what the text says ([`Uses`]), where the tables' rows are ([`Distribution`]) and the values of literals
//! and parameters, and follows each sharded table's key to its values. A table that is not declared, a key
//! that cannot be read, a row whose key is not known: each is an error with its own words, never a guess.

mod array;
mod distribution;
mod drawn;
mod reading;
mod unplaced;
mod value;
mod written;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

pub use array::texts as text_array;
pub use distribution::{Column, Distribution, KeyPart, Placement, Table};
pub use drawn::Lot;
pub use reading::Reading;
pub use unplaced::Unplaced;
pub use value::{Parameter, Values};

use std::borrow::Cow;
use std::sync::Arc;

use drawn::draws_key;

use crate::shard::{KeyDigest, KeyHasher, KeyValue, Moving};
use crate::sql::{Access, Fact, Insert, Name, Operand, Uses};

/// Combinations of a key's values that are looked at one by one; more count as being on several shards.
const MAX_KEYS: usize = 1000;

/// How far a key is followed from table to table.
const MAX_STEPS: usize = 32;

/// Which shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Any will do.
    Any,
    /// This one, and no other.
    One(Arc<str>),
    /// Several, or it is not known that it is one.
    Several {
        /// What each of them has to do with the others.
        spread: Spread,
        /// Why, in words.
        why: Cow<'static, str>,
    },
}

/// What a statement for several shards does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// It changes reference tables, which are to be the same everywhere.
    Same,
    /// It puts rows into one sharded table, each with its key: each shard takes its own ([`places_of_rows`]).
    Rows,
    /// It changes rows of one sharded table, which have nothing to do with each other: each shard changes its own.
    Own,
    /// It is a COPY from the client: what is put into the table comes only when it runs.
    Copied {
        /// Each row is for every shard, and not for one.
        is_same: bool,
    },
    /// Rows of several shards are read, or wanted together.
    Mixed,
}

/// Where a statement belongs that says this of its rows.
///
/// # Errors
/// It cannot be said, in a way that would be wrong to pass over.
pub fn places(uses: &Uses, distribution: &Distribution, values: Values<'_>) -> Result<Places, Unplaced> {
    let search = Search { uses, distribution, values };
    let mut all = Places::Any;
    for (index, used) in uses.tables.iter().enumerate() {
        all = all.and(search.place_of_use(index, &used.relation, used.access)?);
    }
    if all == Places::Any && search.draws_keys() {
        all = Places::One(search.drawn()?);
    }
    search.check_assignments(&all)?;
    if let Places::Several { spread, .. } = &mut all {
        *spread = search.spread()?;
    }
    Ok(all)
}

/// The shard of each row that such a statement puts in ([`Spread::Rows`]), in the text's order.
///
/// # Errors
/// A row cannot be placed.
pub fn places_of_rows(
    uses: &Uses,
    distribution: &Distribution,
    values: Values<'_>,
) -> Result<Option<Vec<Arc<str>>>, Unplaced> {
    let [insert] = &*uses.inserts else { return Ok(None) };
    Search { uses, distribution, values }.rows_of(insert)
}

impl Places {
    fn several(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Several { spread: Spread::Mixed, why: why.into() }
    }

    /// Both belong together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, other) => other,
            (other, Self::Any) => other,
            (Self::One(one), Self::One(other)) if one == other => Self::One(one),
            (Self::One(one), Self::One(other)) => {
                Self::several(format!("its rows are on the shards \"{one}\" and \"{other}\""))
            }
            (several @ Self::Several { .. }, _) | (_, several) => several,
        }
    }
}

struct Search<'s> {
    uses: &'s Uses,
    distribution: &'s Distribution,
    values: Values<'s>,
}

/// What is known of one column of a key at one place.
enum Found<'s> {
    /// One of these; NULLs, which equal nothing, are left out.
    Values(Vec<KeyValue<'s>>),
    Anything,
}

/// What is known of a table.
enum Known<'s> {
    System,
    /// The session's own, on this shard.
    Temporary(&'s Arc<str>),
    Declared(&'s Table),
}

impl<'s> Search<'s> {
    fn table(&self, name: &Name) -> Result<Known<'s>, Unplaced> {
        match (self.distribution.table(name), self.values.temporary) {
            (Ok(Some(table)), _) => Ok(Known::Declared(table)),
            (Ok(None), _) => Ok(Known::System),
            (Err(Unplaced::Undeclared(_)), Some(shard)) => Ok(Known::Temporary(shard)),
            (Err(unplaced), _) => Err(unplaced),
        }
    }

    /// One of [[tables]].
    fn declared(&self, name: &Name) -> Result<Option<&'s Table>, Unplaced> {
        Ok(match self.table(name)? {
            Known::Declared(table) => Some(table),
            Known::System | Known::Temporary(_) => None,
        })
    }

    fn place_of_use(&self, index: usize, name: &Name, access: Access) -> Result<Places, Unplaced> {
        let table = match self.table(name)? {
            Known::System => return Ok(Places::Any),
            Known::Temporary(shard) => return Ok(Places::One(Arc::clone(shard))),
            Known::Declared(table) => table,
        };
        match (&table.placement, access) {
            (Placement::Shard(shard), _) => Ok(Places::One(Arc::clone(shard))),
            (Placement::Reference, Access::Read) => Ok(Places::Any),
            (Placement::Reference, _) => Ok(Places::several(format!("\"{name}\" is whole on every shard"))),
            (Placement::Key(parts), Access::Insert) => self.place_of_rows(index, name, table, parts),
            (Placement::Key(parts), Access::Change) if self.puts_rows_into(index) => {
                // MERGE.
                Ok(self.place_of_key(index, name, parts)?.and(self.place_of_rows(index, name, table, parts)?))
            }
            (Placement::Key(parts), _) => self.place_of_key(index, name, parts),
        }
    }

    fn puts_rows_into(&self, index: usize) -> bool {
        self.uses.inserts.iter().any(|insert| insert.table == index)
    }

    /// Rows that are read or changed.
    fn place_of_key(&self, index: usize, name: &Name, parts: &[KeyPart]) -> Result<Places, Unplaced> {
        let mut columns = Vec::with_capacity(parts.len());
        for part in parts {
            match self.find(index, &part.name, part, name, MAX_STEPS)? {
                Found::Values(values) => columns.push(values),
                Found::Anything => {
                    return Ok(Places::several(format!("it gives no value of \"{}\" for \"{name}\"", part.name)));
                }
            }
        }
        self.place_of_combinations(name, &columns)
    }

    fn place_of_combinations(&self, name: &Name, columns: &[Vec<KeyValue<'_>>]) -> Result<Places, Unplaced> {
        if self.distribution.versions.in_force.is_none() {
            return Err(Unplaced::NoMap);
        }
        if let [values] = columns
            && let [value] = &**values
        {
            let mut hasher = KeyHasher::new();
            hasher.add(value);
            return self.shard_of(name, &hasher.finish()).map(Places::One);
        }
        let count = columns.iter().try_fold(1usize, |count, values| count.checked_mul(values.len()));
        match count {
            // No row has NULL for a key's value.
            Some(0) => return Ok(Places::Any),
            Some(1..=MAX_KEYS) => {}
            _ => return Ok(Places::several(format!("it gives more than {MAX_KEYS} keys for \"{name}\""))),
        }
        let mut places = Places::Any;
        let mut chosen = vec![0; columns.len()];
        loop {
            let mut hasher = KeyHasher::new();
            chosen.iter().zip(columns).filter_map(|(at, values)| values.get(*at)).for_each(|value| hasher.add(value));
            places = places.and(Places::One(self.shard_of(name, &hasher.finish())?));
            if matches!(places, Places::Several { .. }) || !advance(&mut chosen, columns) {
                return Ok(places);
            }
        }
    }

    fn shard_of(&self, name: &Name, key: &KeyDigest) -> Result<Arc<str>, Unplaced> {
        let versions = &self.distribution.versions;
        let index = versions.place(key).map_err(|Moving| Unplaced::Moving { table: name.clone() })?;
        let shard = versions.in_force.as_ref().zip(index).and_then(|(map, index)| map.shards().get(index));
        shard.map(|shard| Arc::clone(&shard.name)).ok_or(Unplaced::NoMap)
    }

    /// Whether each row that is put in has its place.
    fn are_rows_placed(&self, index: usize) -> bool {
        let [insert] = &*self.uses.inserts else { return false };
        insert.table == index && insert.rows.len() > 1 && self.rows_of(insert).is_ok_and(|rows| rows.is_some())
    }

    /// The shard of each row; `None` where one of them is not for one shard alone.
    fn rows_of(&self, insert: &Insert) -> Result<Option<Vec<Arc<str>>>, Unplaced> {
        let Some(used) = self.uses.tables.get(insert.table) else { return Ok(None) };
        let name = &used.relation;
        let Some(table) = self.declared(name)? else { return Ok(None) };
        let Placement::Key(parts) = &table.placement else { return Ok(None) };
        let mut places = Vec::with_capacity(insert.rows.len());
        for row in &insert.rows {
            match self.place_of_row(name, table, parts, insert, row)? {
                Places::One(shard) => places.push(shard),
                Places::Any if draws_key(table, insert, row) => places.push(self.drawn()?),
                Places::Any | Places::Several { .. } => return Ok(None),
            }
        }
        Ok(Some(places))
    }

    fn place_of_row(
        &self,
        name: &Name,
        table: &Table,
        parts: &[KeyPart],
        insert: &Insert,
        row: &'s [Operand],
    ) -> Result<Places, Unplaced> {
        if draws_key(table, insert, row) {
            return Ok(Places::Any);
        }
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            match self.value_of_row(name, table, part, insert, row)? {
                Found::Values(found) => values.push(found),
                Found::Anything => {
                    let why = format!("the rows that are put into \"{name}\" come from several shards");
                    return Ok(Places::several(why));
                }
            }
        }
        self.place_of_combinations(name, &values)
    }

    /// Rows that are put in: each has a key of its own.
    fn place_of_rows(&self, index: usize, name: &Name, table: &Table, parts: &[KeyPart]) -> Result<Places, Unplaced> {
        let mut inserts = self.uses.inserts.iter().filter(|insert| insert.table == index).peekable();
        if inserts.peek().is_none() {
            // COPY … FROM.
            return Ok(Places::several(format!("which rows are put into \"{name}\" is not in the statement")));
        }
        let mut places = Places::Any;
        for insert in inserts {
            for row in &insert.rows {
                places = places.and(self.place_of_row(name, table, parts, insert, row)?);
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
        let at = match &insert.columns {
            Some(columns) => columns.iter().position(|column| *column == part.name),
            None => table.columns.iter().position(|column| column.name == part.name),
        };
        match at.and_then(|at| row.get(at)) {
            None | Some(Operand::Unknown | Operand::Default | Operand::Elements { .. }) => {
                Err(Unplaced::NoKey { table: name.clone(), column: part.name.clone() })
            }
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
                    Some(left) if self.compares_alike(*other, other_column, part) => {
                        self.find(*other, other_column, part, name, left)?
                    }
                    _ => Found::Anything,
                },
                values => self.all(values, part, name)?,
            };
            if let Found::Values(_) = found {
                return Ok(found);
            }
        }
        Ok(Found::Anything)
    }

    /// Whether a column elsewhere, where it equals the key's column, has its value in the same form.
    fn compares_alike(&self, table: usize, column: &str, part: &KeyPart) -> bool {
        let Some(used) = self.uses.tables.get(table) else { return false };
        let known = self.declared(&used.relation).ok().flatten();
        let of_table = known.and_then(|table| table.columns.iter().find(|known| *known.name == *column));
        match (of_table.and_then(|column| column.key), &part.column) {
            (Some(other), Ok(this)) => this.is_placed_as(other),
            _ => false,
        }
    }

    fn all(&self, values: &'s [Operand], part: &KeyPart, name: &Name) -> Result<Found<'s>, Unplaced> {
        let mut all = Vec::with_capacity(values.len());
        for value in values {
            match value {
                Operand::Column { .. } | Operand::Unknown | Operand::Default => return Ok(Found::Anything),
                Operand::Elements { index } => all.extend(self.elements(*index, part, name)?),
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

//! On which shards the rows are that a statement wants.
//!
//! Takes what the text says ([`Uses`]), where the tables' rows are ([`Distribution`]) and the values of literals
//! and parameters, and follows each sharded table's key to its values. A table that is not declared, a key
//! that cannot be read, a row whose key is not known: each is an error with its own words, never a guess.

mod array;
mod distribution;
mod reading;
mod value;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

pub use array::texts as text_array;
pub use distribution::{Column, Distribution, KeyPart, Placement, Table};
pub use reading::Reading;
pub use value::{Parameter, Values};

use std::borrow::Cow;
use std::sync::Arc;

use crate::shard::{BucketMap, KeyDigest, KeyHasher, KeyValue};
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

/// Why it cannot be said where a statement belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// Not in the config.
    #[error("where the rows of \"{0}\" are is not known")]
    Undeclared(Name),
    /// What the config says of a table cannot be: the key's column is not there, or of a type that places nothing.
    #[error("the rows of \"{table}\" cannot be placed: {why}")]
    Unfit {
        /// The table.
        table: Name,
        /// Why.
        why: String,
    },
    /// No bucket map was stored in this database.
    #[error("this database has no bucket map yet")]
    NoMap,
    /// A row is put in, and its key is not in the statement.
    #[error("the value of \"{column}\", by which the rows of \"{table}\" are placed, is not in the statement")]
    NoKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A row of a reference table gets a value that would be another one on each shard.
    #[error("\"{column}\" of \"{table}\" would have another value on each shard: its default is not a constant")]
    Varies {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A row is put in with NULL in its key.
    #[error("null value in column \"{column}\", by which the rows of \"{table}\" are placed")]
    NullKey {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
    /// A value of a key cannot be read with certainty.
    #[error("a value of \"{column}\", by which the rows of \"{table}\" are placed, cannot be read: {why}")]
    Value {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
        /// Why.
        why: String,
    },
    /// A column of the key is set to something that may lie elsewhere.
    #[error("setting \"{column}\", by which the rows of \"{table}\" are placed, would move them to another shard")]
    MovesRow {
        /// The table.
        table: Name,
        /// The column.
        column: Box<str>,
    },
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
                    return Ok(Places::several(format!("it gives no value of \"{}\" for \"{name}\"", part.name)));
                }
            }
        }
        self.place_of_combinations(name, &columns)
    }

    fn place_of_combinations(&self, name: &Name, columns: &[Vec<KeyValue<'_>>]) -> Result<Places, Unplaced> {
        let map = self.distribution.map.as_deref().ok_or(Unplaced::NoMap)?;
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
            places = places.and(Places::One(shard_of(map, &hasher.finish())));
            if matches!(places, Places::Several { .. }) || !advance(&mut chosen, columns) {
                return Ok(places);
            }
        }
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
            None | Some(Operand::Unknown | Operand::Elements { .. }) => {
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
                Operand::Column { .. } | Operand::Unknown => return Ok(Found::Anything),
                Operand::Elements { index } => all.extend(self.elements(*index, part, name)?),
                value => all.extend(self.value(value, part, name)?),
            }
        }
        Ok(Found::Values(all))
    }

    /// What is set in a row must leave it on its shard, which is `place`.
    fn check_assignments(&self, place: &Places) -> Result<(), Unplaced> {
        for assignment in &self.uses.assignments {
            let Some(used) = self.uses.tables.get(assignment.table) else { continue };
            let Some(table) = self.declared(&used.relation)? else { continue };
            let Placement::Key(parts) = &table.placement else { continue };
            let is_own = |value: &Operand| {
                matches!(value, Operand::Column { table, column }
                    if *table == assignment.table && *column == assignment.column)
            };
            if parts.iter().all(|part| part.name != assignment.column) || is_own(&assignment.value) {
                continue;
            }
            if self.place_after(assignment.table, &used.relation, parts)?.as_ref() != Some(place) {
                return Err(Unplaced::MovesRow { table: used.relation.clone(), column: assignment.column.clone() });
            }
        }
        Ok(())
    }

    /// Where a table's rows are when all that is set is set; `None` where that is not known.
    fn place_after(&self, index: usize, name: &Name, parts: &[KeyPart]) -> Result<Option<Places>, Unplaced> {
        let mut columns = Vec::with_capacity(parts.len());
        for part in parts {
            let set = self.uses.assignments.iter().filter(|set| set.table == index && set.column == part.name);
            let mut values = set.map(|set| &set.value).peekable();
            if values.peek().is_none() {
                match self.find(index, &part.name, part, name, MAX_STEPS)? {
                    Found::Values(found) => columns.push(found),
                    Found::Anything => return Ok(None),
                }
                continue;
            }
            let mut found = Vec::new();
            for value in values {
                match value {
                    Operand::Column { .. } | Operand::Elements { .. } | Operand::Unknown | Operand::Null => {
                        return Ok(None);
                    }
                    value => found.extend(self.value(value, part, name)?),
                }
            }
            columns.push(found);
        }
        self.place_of_combinations(name, &columns).map(Some)
    }

    /// Rows of reference tables must come with the same values everywhere.
    fn check_defaults(&self) -> Result<(), Unplaced> {
        for insert in &self.uses.inserts {
            let Some(used) = self.uses.tables.get(insert.table) else { continue };
            let Some(table) = self.declared(&used.relation)? else { continue };
            for (place, column) in table.columns.iter().enumerate().filter(|(_, column)| column.is_made_up) {
                let at = match &insert.columns {
                    Some(columns) => columns.iter().position(|named| *named == column.name),
                    None => Some(place),
                };
                // What is not known may be DEFAULT.
                let is_given = |row: &[Operand]| {
                    at.and_then(|at| row.get(at)).is_some_and(|value| !matches!(value, Operand::Unknown))
                };
                if !insert.rows.iter().all(|row| is_given(row)) {
                    return Err(Unplaced::Varies { table: used.relation.clone(), column: column.name.clone() });
                }
            }
        }
        Ok(())
    }

    /// What a statement for several shards does there.
    fn spread(&self) -> Result<Spread, Unplaced> {
        let (mut sharded, mut own, mut references, mut elsewhere, mut put_in) = (0, 0, 0, 0, 0);
        let is_copied = |index: usize| self.uses.inserts.iter().all(|insert| insert.table != index);
        for (index, used) in self.uses.tables.iter().enumerate() {
            if used.access == Access::Insert && is_copied(index) {
                // COPY … FROM.
                let table = self.declared(&used.relation)?;
                let is_same = table.is_some_and(|table| table.placement == Placement::Reference);
                return Ok(Spread::Copied { is_same });
            }
            let known = self.table(&used.relation)?;
            elsewhere += usize::from(matches!(known, Known::Temporary(_)));
            let Known::Declared(table) = known else { continue };
            match &table.placement {
                Placement::Key(_) => {
                    sharded += 1;
                    own += usize::from(used.access == Access::Change);
                    put_in += usize::from(used.access == Access::Insert && self.are_rows_placed(index));
                }
                Placement::Reference => references += usize::from(used.access != Access::Read),
                Placement::Shard(_) => elsewhere += 1,
            }
        }
        if let (0, 1.., 0) = (sharded, references, elsewhere) {
            self.check_defaults()?;
        }
        Ok(match (sharded, own, references, elsewhere) {
            (0, 0, 1.., 0) => Spread::Same,
            (1, 1, 0, 0) => Spread::Own,
            (1, 0, 0, 0) if put_in == 1 => Spread::Rows,
            _ => Spread::Mixed,
        })
    }
}

fn shard_of(map: &BucketMap, key: &KeyDigest) -> Arc<str> {
    map.shards().get(map.shard_of(key)).map_or_else(|| "".into(), |shard| Arc::clone(&shard.name))
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

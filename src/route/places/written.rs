//! What a statement does to rows: whether they stay where they belong, and what each shard has to do with the others.

use super::{Found, KeyPart, Known, MAX_STEPS, Placement, Places, Search, Spread, Unplaced};
use crate::sql::{Access, Name, Operand};

impl Search<'_> {
    /// What is set in a row must leave it on its shard, which is `place`.
    pub(super) fn check_assignments(&self, place: &Places) -> Result<(), Unplaced> {
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
                    Operand::Column { .. }
                    | Operand::Elements { .. }
                    | Operand::Unknown
                    | Operand::Null
                    | Operand::Default => {
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
                let is_given = |row: &[Operand]| {
                    at.and_then(|at| row.get(at))
                        .is_some_and(|value| !matches!(value, Operand::Unknown | Operand::Default))
                };
                if !insert.rows.iter().all(|row| is_given(row)) {
                    return Err(Unplaced::Varies { table: used.relation.clone(), column: column.name.clone() });
                }
            }
        }
        Ok(())
    }

    /// What a statement for several shards does there.
    pub(super) fn spread(&self) -> Result<Spread, Unplaced> {
        let (mut sharded, mut own, mut references, mut elsewhere, mut put_in) = (0, 0, 0, 0, 0);
        let is_copied = |index: usize| !self.puts_rows_into(index);
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
                    own += usize::from(used.access == Access::Change && !self.puts_rows_into(index));
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

//! Rows whose key is made where they are put in: the default of its column gives values that belong on that very shard
//! (`pgsluice.next_key()`), so any shard will do.

use std::sync::Arc;

use super::{Placement, Search, Table, Unplaced};
use crate::shard::Bucket;
use crate::sql::{Insert, Operand};

/// Chooses a shard for rows whose keys are made where they are put in.
#[derive(Debug, Clone, Copy)]
pub struct Lot<'v> {
    /// Where the open transaction is: so it stays on one shard.
    pub here: Option<&'v Arc<str>>,
    /// Else the shard of this bucket, so that each gets as many rows as it has buckets.
    pub bucket: Bucket,
}

impl Search<'_> {
    /// Whether a row is put in that makes its own key, wherever that is.
    pub(super) fn draws_keys(&self) -> bool {
        self.uses.inserts.iter().any(|insert| {
            let used = self.uses.tables.get(insert.table);
            let table = used.and_then(|used| self.declared(&used.relation).ok().flatten());
            table.is_some_and(|table| insert.rows.iter().any(|row| draws_key(table, insert, row)))
        })
    }

    /// The shard for rows that make their own keys.
    pub(super) fn drawn(&self) -> Result<Arc<str>, Unplaced> {
        let Lot { here, bucket } = self.values.lot;
        let versions = &self.distribution.versions;
        if let Some(here) = here.filter(|here| versions.give_keys_to(here)) {
            return Ok(Arc::clone(here));
        }
        let map = versions.in_force.as_ref().ok_or(Unplaced::NoMap)?;
        let owner = versions.settled_from(bucket).and_then(|bucket| map.shards().get(map.owner(bucket)));
        owner.map(|shard| Arc::clone(&shard.name)).ok_or(Unplaced::NoMap)
    }
}

/// Whether a row that is put in gets its key where that happens ([`super::Column::draws_keys`]).
pub(super) fn draws_key(table: &Table, insert: &Insert, row: &[Operand]) -> bool {
    let Placement::Key(parts) = &table.placement else { return false };
    let [part] = &**parts else { return false };
    let Some(place) = table.columns.iter().position(|column| column.name == part.name && column.draws_keys) else {
        return false;
    };
    let at = match &insert.columns {
        Some(columns) => match columns.iter().position(|column| *column == part.name) {
            Some(at) => at,
            None => return true,
        },
        None => place,
    };
    match row.get(at) {
        Some(value) => *value == Operand::Default,
        None => insert.columns.is_none() && insert.are_rows_whole,
    }
}

//! The queries that tell where rows are: the columns of the config's `[[tables]]`, and the bucket map.
//!
//! They need no more than a login: what they read is open to all.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{Client, Row};

use super::catalog_rows::LoadError;
use crate::config::{self, Config};
use crate::route::places::{Column, Distribution, KeyPart, Placement, Table};
use crate::shard::sql::{HAS_MAPS, NEWEST_MAP, NEWEST_MAPS, UNLABELLED_PINS};
use crate::shard::{BucketMap, KeyColumn, MapError, MapParts, PinParts, Versions};
use crate::sql::{PrimaryCause, analyse};

/// Columns of all tables and views with one of the `{names}`, an array of texts, in their order, but for what stands for them
/// on a coordinator ([`crate::gather::coordinator`]). A domain is its base type. 950 and 951 are the
/// collations `"C"` and `"POSIX"`, 100 is the database's own, which is libc's unless its row says otherwise (from 15 on).
const COLUMNS: &str = "\
SELECT n.nspname, c.relname, a.attname,
       CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END AS type,
       CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS typmod,
       COALESCE(l.collisdeterministic, true) AS deterministic,
       c.relkind IN ('r', 'p') AND NOT c.relrowsecurity AS is_table,
       a.attcollation IN (950, 951) OR a.attcollation = 100 AND (
           SELECT b.datcollate IN ('C', 'POSIX') AND COALESCE(pg_catalog.to_jsonb(b) ->> 'datlocprovider', 'c') = 'c'
             FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database()) AS bytewise,
       a.attidentity <> '' AS identity,
       CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS made_by
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relname::pg_catalog.text = ANY ({names}) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pgsluice_(shard_|all$)'
 ORDER BY n.nspname, c.relname, a.attnum";

/// The OIDs of the types of whole numbers.
const WHOLE_NUMBERS: [u32; 3] = [20, 21, 23];

/// A row of what [`columns`] asks for.
#[derive(Debug)]
pub struct ColumnRow {
    /// Of the table.
    pub schema: Box<str>,
    /// The table, or view.
    pub table: Box<str>,
    /// The column.
    pub name: Box<str>,
    /// The OID of its type.
    pub type_oid: u32,
    /// As in `pg_attribute`.
    pub typmod: i32,
    /// Texts are equal where their characters are.
    pub is_deterministic: bool,
    /// See [`Table::is_table`].
    pub is_table: bool,
    /// See [`Column::is_bytewise`].
    pub is_bytewise: bool,
    /// An identity column.
    pub is_identity: bool,
    /// Its default's expression.
    pub made_by: Option<Box<str>>,
}

impl ColumnRow {
    fn read(row: &Row) -> Result<Self, LoadError> {
        Ok(Self {
            schema: row.try_get::<_, &str>("nspname")?.into(),
            table: row.try_get::<_, &str>("relname")?.into(),
            name: row.try_get::<_, &str>("attname")?.into(),
            type_oid: row.try_get("type")?,
            typmod: row.try_get("typmod")?,
            is_deterministic: row.try_get("deterministic")?,
            is_table: row.try_get("is_table")?,
            is_bytewise: row.try_get::<_, Option<bool>>("bytewise")?.unwrap_or_default(),
            is_identity: row.try_get("identity")?,
            made_by: row.try_get::<_, Option<&str>>("made_by")?.map(Into::into),
        })
    }

    fn column(self) -> (Column, Result<KeyColumn, Box<str>>) {
        let key = match (self.is_deterministic, KeyColumn::new(self.type_oid, self.typmod)) {
            (_, Err(unfit)) => Err(unfit.to_string().into()),
            (false, _) => Err("its collation is not deterministic: values that differ may be equal".into()),
            (true, Ok(key)) => Ok(key),
        };
        let made_by = self.made_by.as_deref();
        let column = Column {
            name: self.name,
            key: key.clone().ok(),
            is_made_up: self.is_identity || made_by.is_some_and(varies),
            draws_keys: WHOLE_NUMBERS.contains(&self.type_oid) && made_by.is_some_and(draws_keys),
            is_bytewise: self.is_bytewise,
        };
        (column, key)
    }
}

/// A table's columns, and of each why it could not be a key's.
type Columns = Vec<(Column, Result<KeyColumn, Box<str>>)>;

/// A table or view of one schema.
struct Found {
    schema: Box<str>,
    columns: Columns,
    /// A table, all of whose rows anybody sees who may read it.
    is_table: bool,
}

/// The query that gives the columns of all tables with one of these names: an expression for an array of texts.
pub fn columns(names: &str) -> String {
    COLUMNS.replace("{names}", names)
}

/// The declared tables, by what that query has given of them.
pub fn tables(config: &Config, rows: impl IntoIterator<Item = ColumnRow>) -> Vec<Table> {
    let mut found: HashMap<Box<str>, Vec<Found>> = HashMap::new();
    for row in rows {
        let tables = found.entry(row.table.clone()).or_default();
        if tables.last().is_none_or(|last| last.schema != row.schema) {
            tables.push(Found { schema: row.schema.clone(), columns: Vec::new(), is_table: row.is_table });
        }
        if let Some(last) = tables.last_mut() {
            last.columns.push(row.column());
        }
    }
    config.tables.iter().map(|declared| table(declared, &found)).collect()
}

/// Where this database's rows are.
///
/// # Errors
/// The server does not answer, or the map in it is not one.
pub async fn load(client: &Client, config: &Config) -> Result<Distribution, LoadError> {
    let names: Vec<&str> = config.tables.iter().map(|table| &*table.name.name).collect();
    let rows = client.query(&columns("$1"), &[&names]).await?;
    let rows = rows.iter().map(ColumnRow::read).collect::<Result<Vec<_>, _>>()?;
    Ok(Distribution::new(tables(config, rows), versions(client, UNLABELLED_PINS).await?))
}

/// Whether a default's value may be another one each time.
fn varies(expression: &str) -> bool {
    let analysis = analyse(&format!("SELECT ({expression})"));
    let is_constant = |statement: &crate::sql::Statement| {
        statement.primary != Some(PrimaryCause::Unparsed) && statement.functions.is_empty()
    };
    !analysis.statements.iter().all(is_constant)
}

/// Whether a default is `pgsluice.next_key()`, which the shards' own SQL makes, and nothing else.
fn draws_keys(expression: &str) -> bool {
    let inner = expression.strip_prefix("pgsluice.next_key('").and_then(|rest| rest.strip_suffix("'::regclass)"));
    inner.is_some_and(|sequence| !sequence.replace("''", "").contains('\''))
}

fn table(declared: &config::Table, found: &HashMap<Box<str>, Vec<Found>>) -> Table {
    let is_it = |schema: &str| declared.name.schema.as_deref().is_none_or(|declared| declared == schema);
    let named = found.get(&*declared.name.name).into_iter().flatten();
    let found: Vec<&Found> = named.filter(|found| is_it(&found.schema)).collect();
    // Of a table in several schemas, what all of them have.
    let columns: Columns = match found.split_first() {
        Some((first, others)) if others.iter().all(|other| other.columns == first.columns) => first.columns.clone(),
        _ => Vec::new(),
    };
    let part = |name: &String| KeyPart {
        name: (&**name).into(),
        column: match columns.iter().find(|(column, _)| *column.name == **name) {
            Some((_, key)) => key.clone(),
            None if columns.is_empty() => Err("there is no such table, or several that differ".into()),
            None => Err(format!("it has no column \"{name}\"").into()),
        },
    };
    let placement = match &declared.placement {
        config::Placement::Key(names) => Placement::Key(names.iter().map(part).collect()),
        config::Placement::Reference => Placement::Reference,
        config::Placement::Shard(shard) => Placement::Shard(shard.as_str().into()),
    };
    Table {
        schema: declared.name.schema.as_deref().map(Into::into),
        name: (&*declared.name.name).into(),
        columns: columns.into_iter().map(|(column, _)| column).collect(),
        placement,
        is_table: !found.is_empty() && found.iter().all(|found| found.is_table),
    }
}

/// The bucket maps that are stored there, with the pins that the query `pins` gives.
///
/// # Errors
/// The server does not answer, or what is stored is no map.
pub async fn versions(client: &Client, pins: &str) -> Result<Versions, LoadError> {
    let there = client.query_one(HAS_MAPS, &[]).await?;
    let query = match (there.try_get(0)?, there.try_get(1)?) {
        (false, _) => return Ok(Versions::default()),
        (true, false) => NEWEST_MAP,
        (true, true) => NEWEST_MAPS,
    };
    let mut versions = Versions::default();
    for row in client.query(query, &[]).await? {
        versions.known = row.try_get("version")?;
        match row.try_get("state")? {
            "in force" => versions.in_force = Some(Arc::new(map(client, &row, pins).await?)),
            "announced" => versions.announced = Some(Arc::new(map(client, &row, pins).await?)),
            _ => {}
        }
    }
    // What was announced before another version was is not heard of again.
    versions.announced = versions.announced.filter(|map| map.version() == versions.known);
    Ok(versions)
}

async fn map(client: &Client, row: &Row, pins: &str) -> Result<BucketMap, LoadError> {
    let version: i64 = row.try_get("version")?;
    let mut pinned = Vec::new();
    for row in client.query(pins, &[&version]).await? {
        let (digest, shard, label) = (row.try_get("digest")?, row.try_get("shard")?, row.try_get("label")?);
        pinned.push(PinParts { digest, shard, label });
    }
    let parts = MapParts {
        version,
        hash_version: row.try_get("hash_version")?,
        shards: row.try_get("shards")?,
        weights: row.try_get("weights")?,
        owners: row.try_get("owners")?,
        pins: pinned,
    };
    Ok(BucketMap::from_parts(parts)?)
}

impl From<MapError> for LoadError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_that_vary_are_told_from_constants() {
        for constant in ["0", "'new'::text", "NULL::integer", "true", "(-1)", "'{}'::jsonb", "ARRAY[]::text[]", "1.5"] {
            assert!(!varies(constant), "{constant}");
        }
        for varying in ["now()", "CURRENT_TIMESTAMP", "nextval('s'::regclass)", "gen_random_uuid()", "CURRENT_USER"] {
            assert!(varies(varying), "{varying}");
        }
    }
}

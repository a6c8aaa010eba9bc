//! What one shard says of the rows of a table. Reads, and never writes.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::maps::Holder;
use super::reach::told;
use crate::config::TableName;
use crate::pool::{quote_identifier as identifier, quote_literal};
use crate::shard::BucketMap;
use crate::shard::sql::bucket_expression;

/// How many of the keys of rows that are elsewhere than they should be are told.
const SHOWN_KEYS: i64 = 5;

/// What the text of a row depends on; and where policies would hide rows, an error.
const SESSION: &str = "SET row_security = off; SET search_path = ''; SET DateStyle = 'ISO, YMD'; \
    SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
    SET lc_monetary = 'C'; SET xmlbinary = 'base64'; SET default_transaction_read_only = on";

const RELATIONS: &str = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relname = $1 AND ($2::text IS NULL OR n.nspname = $2) AND c.relkind IN ('r', 'p') \
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1";

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
}

/// A key whose row is not where it belongs.
#[derive(Debug, Clone)]
pub(super) struct Strayed {
    /// By column; NULL places nothing.
    pub(super) key: Vec<Option<String>>,
    /// The shard.
    pub(super) belongs_to: Option<String>,
}

/// Rows of a sharded table.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) rows: i64,
    pub(super) misplaced: i64,
    pub(super) strayed: Vec<Strayed>,
}

/// All that is in a table, whatever the order of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) rows: i64,
    pub(super) checksum: String,
}

/// What went wrong, in the server's words.
pub(super) type Answer<T> = Result<T, String>;

impl Relation {
    /// As in SQL.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        TableName { schema: Some(self.schema.clone()), name: self.name.clone() }.to_string()
    }
}

/// Before all the others.
pub(super) async fn prepare(client: &Client) -> Answer<()> {
    client.batch_execute(SESSION).await.map_err(|error| told(&error))
}

/// Tables with this name, in the schema that it names or in any.
pub(super) async fn relations(client: &Client, name: &TableName) -> Answer<Vec<Relation>> {
    let rows = query(client, RELATIONS, &[&name.name, &name.schema]).await?;
    Ok(rows.iter().map(|row| Relation { schema: row.get(0), name: row.get(1) }).collect())
}

/// Counts rows, and those whose key, by this map, is another shard's.
pub(super) async fn placed(holder: &Holder, map: &BucketMap, relation: &Relation, columns: &[&str]) -> Answer<Placed> {
    let parts = map.to_parts();
    let subscript =
        |name: &str| map.index_of(name).ok().and_then(|index| i16::try_from(index + 1).ok()).unwrap_or_default();
    let here = subscript(&holder.name);
    let digests: Vec<_> = parts.pins.iter().map(|pin| pin.digest.clone()).collect();
    let pinned_to: Vec<_> = parts.pins.iter().map(|pin| subscript(&pin.shard)).collect();
    let arguments: [&(dyn ToSql + Sync); 4] = [&parts.owners, &here, &digests, &pinned_to];
    let placed = placed_rows(relation, columns);
    let count = format!(
        "SELECT count(*), count(*) FILTER (WHERE placed.owner IS DISTINCT FROM $2::int2) FROM ({placed}) AS placed"
    );
    let row = one(query(&holder.client, &count, &arguments).await?)?;
    let (rows, misplaced) = (row.get(0), row.get(1));
    if misplaced == 0 {
        return Ok(Placed { rows, misplaced, strayed: Vec::new() });
    }
    let strays = format!(
        "SELECT DISTINCT placed.key, placed.owner FROM ({placed}) AS placed \
         WHERE placed.owner IS DISTINCT FROM $2::int2 ORDER BY 1 LIMIT {SHOWN_KEYS}"
    );
    let strayed = query(&holder.client, &strays, &arguments).await?;
    let stray = |row: &Row| {
        let owner: Option<i16> = row.get(1);
        let index = owner.and_then(|owner| usize::try_from(owner).ok()).and_then(|owner| owner.checked_sub(1));
        let shard = index.and_then(|index| map.shards().get(index));
        Strayed { key: row.get(0), belongs_to: shard.map(|shard| shard.name.to_string()) }
    };
    Ok(Placed { rows, misplaced, strayed: strayed.iter().map(stray).collect() })
}

/// Each row's key and owner: `$1` is the owners by bucket, `$3` the digests of pinned keys and `$4` their owners.
fn placed_rows(relation: &Relation, columns: &[&str]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| format!("this_row.{}", identifier(column))).collect();
    let texts: Vec<_> = columns.iter().map(|column| format!("{column}::text")).collect();
    let components: Vec<_> = columns.iter().map(|column| format!("pgsluice.shard_key({column})")).collect();
    format!(
        "SELECT ARRAY[{texts}] AS key, coalesce(\
             CASE WHEN cardinality($3::bytea[]) > 0 THEN ($4::int2[])[\
                 array_position($3::bytea[], pgsluice.key_digest({components}))] END, \
             ($1::int2[])[{bucket} + 1]) AS owner \
         FROM {relation} AS this_row",
        texts = texts.join(", "),
        components = components.join(", "),
        bucket = bucket_expression(&columns),
        relation = relation.sql(),
    )
}

/// Counts rows, and adds up what is hashed of each.
pub(super) async fn contents(client: &Client, relation: &Relation) -> Answer<Contents> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(('x' || \"left\"(encode(sha256(convert_to((this_row.*)::text, 'UTF8')), 'hex'), 16))\
             ::bit(64)::int8::numeric), 0)::text FROM {} AS this_row",
        relation.sql()
    );
    let row = one(query(client, &sql, &[]).await?)?;
    Ok(Contents { rows: row.get(0), checksum: row.get(1) })
}

/// Counts rows.
pub(super) async fn count(client: &Client, relation: &Relation) -> Answer<i64> {
    let sql = format!("SELECT count(*) FROM {}", relation.sql());
    Ok(one(query(client, &sql, &[]).await?)?.get(0))
}

/// Counts rows with this key, its values as PostgreSQL prints them; what does not fit into a column is in no row of it.
pub(super) async fn with_key(client: &Client, relation: &Relation, columns: &[&str], key: &[String]) -> Answer<i64> {
    let is_it = |(column, value): (&&str, &String)| format!("{} = {}", identifier(column), quote_literal(value));
    let condition: Vec<_> = columns.iter().zip(key).map(is_it).collect();
    let sql = format!("SELECT count(*) FROM {} WHERE {}", relation.sql(), condition.join(" AND "));
    match client.query_one(&sql, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code() == Some(&SqlState::NUMERIC_VALUE_OUT_OF_RANGE) => Ok(0),
        Err(error) => Err(told(&error)),
    }
}

/// What pgsluice has prepared in this database more than a minute ago: gids, and their ages in seconds.
pub(super) async fn forgotten(client: &Client) -> Answer<Vec<(String, i64)>> {
    const SQL: &str = "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::int8 FROM pg_catalog.pg_prepared_xacts \
        WHERE starts_with(gid, $1) AND database = current_database() \
            AND prepared < clock_timestamp() - interval '1 minute' ORDER BY prepared, gid";
    let rows = query(client, SQL, &[&crate::commit::PREFIX]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn query(client: &Client, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Answer<Vec<Row>> {
    client.query(sql, arguments).await.map_err(|error| told(&error))
}

fn one(rows: Vec<Row>) -> Answer<Row> {
    rows.into_iter().next().ok_or_else(|| "no row came".to_owned())
}

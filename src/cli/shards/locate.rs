//! `pgsluice shards where`: the shard that a row belongs to, by the same reading of its key as for a client's statement.

use std::io::{self, Write};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::maps::versions_of;
use super::reach::{Site, told};
use crate::config::TableName;
use crate::monitor::distribution_rows;
use crate::route::places::{Distribution, KeyPart, Placement, Table};
use crate::shard::{self, Charset, KeyDigest, KeyHasher};

/// The row that is asked for.
#[derive(Debug, Clone, Args)]
pub(super) struct Wanted {
    /// The table, as in SQL: accounts, or sales.accounts.
    #[arg(short, long, value_name = "TABLE")]
    pub(super) table: TableName,
    /// The values of its shard key, one for each column, as PostgreSQL prints them.
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    pub(super) key: Vec<String>,
}

/// Where it lies.
pub(super) struct Located<'w> {
    database: String,
    wanted: &'w Wanted,
    place: Where,
}

enum Where {
    ByKey(shard::Placement),
    Everywhere(Vec<String>),
    OnOne(String),
}

/// # Errors
/// No shard can be reached, the table is not declared or not there, or the key cannot be read.
pub(super) async fn locate<'w>(site: &Site, database: &str, wanted: &'w Wanted) -> anyhow::Result<Located<'w>> {
    let client = site.any_primary(database).await?;
    let distribution = distribution_rows::load(&client, &site.config).await?;
    let table = declared(&distribution, &wanted.table)?;
    let place = match &table.placement {
        Placement::Reference => Where::Everywhere(site.config.shards.iter().map(|shard| shard.name.clone()).collect()),
        Placement::Shard(shard) => Where::OnOne(shard.to_string()),
        Placement::Key(parts) => Where::ByKey(by_key(&client, database, wanted, parts).await?),
    };
    Ok(Located { database: database.to_owned(), wanted, place })
}

pub(super) fn declared<'d>(distribution: &'d Distribution, name: &TableName) -> anyhow::Result<&'d Table> {
    let is_it = |table: &&Table| {
        let has_schema = match (&name.schema, &table.schema) {
            (Some(asked), Some(declared)) => **declared == **asked,
            _ => true,
        };
        *table.name == *name.name && has_schema
    };
    let mut found = distribution.tables().filter(is_it);
    match (found.next(), found.next()) {
        (Some(table), None) => Ok(table),
        (Some(_), Some(_)) => bail!("{name} is declared in several schemas: name it with its schema"),
        (None, _) => bail!("{name} is not in [[tables]]"),
    }
}

async fn by_key(
    client: &Client,
    database: &str,
    wanted: &Wanted,
    parts: &[KeyPart],
) -> anyhow::Result<shard::Placement> {
    let digest = digest_of(client, wanted, parts).await?;
    let Some(map) = versions_of(client).await?.in_force else {
        bail!("database \"{database}\" has no bucket map: run pgsluice shards init");
    };
    Ok(map.placement(&digest))
}

/// Reads the key, as for a client's statement.
pub(super) async fn digest_of(client: &Client, wanted: &Wanted, parts: &[KeyPart]) -> anyhow::Result<KeyDigest> {
    let names: Vec<_> = parts.iter().map(|part| &*part.name).collect();
    if names.len() != wanted.key.len() {
        let (table, given) = (&wanted.table, wanted.key.len());
        bail!(
            "the shard key of {table} is ({}): a value for each of them is needed, and {given} are given",
            names.join(", ")
        );
    }
    let encoding = client.query_one("SELECT pg_catalog.current_setting('server_encoding')", &[]).await;
    let encoding = encoding.map_err(|error| anyhow::anyhow!(told(&error)))?;
    let charset = Charset::of("UTF8", encoding.get(0));
    let mut hasher = KeyHasher::new();
    for (part, text) in parts.iter().zip(&wanted.key) {
        let of_column = || format!("column \"{}\" of {}", part.name, wanted.table);
        let column = part.column.as_ref().map_err(|why| anyhow::anyhow!("{why}")).with_context(of_column)?;
        // 0: it has no type but the column's.
        hasher.add(&column.from_text(0, text.as_bytes(), charset).with_context(of_column)?);
    }
    Ok(hasher.finish())
}

impl Located<'_> {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (database, table) = (&self.database, &self.wanted.table);
        match &self.place {
            Where::ByKey(at) => {
                let pinned = if at.pinned { ", where this key is pinned" } else { "" };
                let key = self.wanted.key.join(", ");
                writeln!(
                    out,
                    "{database}: {table} ({key}): bucket {}, shard \"{}\"{pinned}",
                    at.bucket.number(),
                    at.shard
                )
            }
            Where::Everywhere(_) => {
                writeln!(out, "{database}: {table} is a reference table: all of it is on every shard")
            }
            Where::OnOne(shard) => {
                writeln!(out, "{database}: {table} is not sharded: all of it is on shard \"{shard}\"")
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let (placement, bucket, pinned, shards) = match &self.place {
            Where::ByKey(at) => ("key", Some(at.bucket.number()), Some(at.pinned), vec![at.shard.to_string()]),
            Where::Everywhere(shards) => ("reference", None, None, shards.clone()),
            Where::OnOne(shard) => ("shard", None, None, vec![shard.clone()]),
        };
        json!({
            "database": self.database, "table": self.wanted.table.to_string(), "key": self.wanted.key,
            "placement": placement, "bucket": bucket, "pinned": pinned, "shards": shards,
        })
    }
}

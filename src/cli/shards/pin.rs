//! `pgsluice shards pin` and `unpin`: a key that lies on a shard of its own, whatever its bucket says.
//!
//! Nothing is moved. A key whose rows lie elsewhere is refused: looked at once before anybody is disturbed, and once more
//! when nobody writes them any more, which is the look that counts.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::change::Changer;
use super::locate::{self, declared, digest_of};
use super::maps::Holder;
use super::reach::Site;
use super::rows::{self, Relation};
use crate::config::TableName;
use crate::monitor::distribution_rows;
use crate::route::places::{Distribution, KeyPart, Placement};
use crate::shard::{BucketMap, KeyDigest};

/// How long others are waited for.
#[derive(Debug, Clone, Args)]
pub(super) struct Patience {
    /// How long those may go on who work by the old version of the map, in seconds. Then their connections are ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u32,
}

/// What is to lie where.
#[derive(Debug, Clone, Args)]
pub(super) struct Pinning {
    #[command(flatten)]
    key: locate::Wanted,
    /// The shard that it is to lie on.
    #[arg(long, value_name = "SHARD")]
    to: String,
    #[command(flatten)]
    patience: Patience,
}

/// What is to lie where its bucket does.
#[derive(Debug, Clone, Args)]
pub(super) struct Unpinning {
    #[command(flatten)]
    key: locate::Wanted,
    #[command(flatten)]
    patience: Patience,
}

/// What was done.
pub(super) struct Pinned<'w> {
    database: String,
    key: &'w locate::Wanted,
    version: i64,
    shard: String,
    is_pinned: bool,
    has_changed: bool,
    ended: usize,
}

/// The key, and the tables whose rows it places.
struct Keyed<'w> {
    wanted: &'w locate::Wanted,
    digest: KeyDigest,
    tables: Vec<Keys>,
}

/// A declared table, and the columns of its key.
struct Keys {
    name: TableName,
    columns: Vec<String>,
}

/// # Errors
/// The key cannot be read, or has rows elsewhere, or the map cannot be changed now.
pub(super) async fn pin<'w>(site: &Site, database: &str, pinning: &'w Pinning) -> anyhow::Result<Pinned<'w>> {
    let keyed = Keyed::read(site, database, &pinning.key).await?;
    let label = Some(pinning.key.key.join(", "));
    let next = |map: &BucketMap| match map.placement(&keyed.digest) {
        there if there.pinned && *there.shard == *pinning.to => Ok(None),
        _ => map.with_pin(keyed.digest, &pinning.to, label.clone()).map(Some).map_err(anyhow::Error::from),
    };
    keyed.change(site, database, &pinning.patience, next).await
}

/// # Errors
/// It is not pinned, or cannot be read, or has rows elsewhere, or the map cannot be changed now.
pub(super) async fn unpin<'w>(site: &Site, database: &str, unpinning: &'w Unpinning) -> anyhow::Result<Pinned<'w>> {
    let keyed = Keyed::read(site, database, &unpinning.key).await?;
    let next = |map: &BucketMap| match map.without_pin(&keyed.digest) {
        Some(next) => Ok(Some(next)),
        None => bail!("{keyed} is not pinned", keyed = keyed.shown()),
    };
    keyed.change(site, database, &unpinning.patience, next).await
}

impl<'w> Keyed<'w> {
    async fn read(site: &Site, database: &str, wanted: &'w locate::Wanted) -> anyhow::Result<Self> {
        let client = site.any_primary(database).await?;
        let distribution = distribution_rows::load(&client, &site.config).await?;
        let Placement::Key(parts) = &declared(&distribution, &wanted.table)?.placement else {
            bail!("{} has no shard key", wanted.table);
        };
        let digest = digest_of(&client, wanted, parts).await?;
        Ok(Self { wanted, digest, tables: placed_alike(&distribution, parts) })
    }

    fn shown(&self) -> String {
        format!("{} ({})", self.wanted.table, self.wanted.key.join(", "))
    }

    async fn change(
        &self,
        site: &Site,
        database: &str,
        patience: &Patience,
        next: impl Fn(&BucketMap) -> anyhow::Result<Option<BucketMap>>,
    ) -> anyhow::Result<Pinned<'w>> {
        let changer = Changer::begin(site, database).await?;
        let before = changer.map().placement(&self.digest);
        let Some(next) = next(changer.map())? else { return Ok(self.done(database, changer.map(), None)) };
        let after = next.placement(&self.digest).shard;
        let moves = before.shard != after;
        if moves {
            self.object(changer.holders(), &after).await?;
        }
        let announced = changer.announce(next, Duration::from_secs(patience.wait.into())).await?;
        if moves && let Err(objection) = self.object(announced.holders(), &after).await {
            announced.withdraw().await?;
            return Err(objection);
        }
        let ended = announced.ended;
        Ok(self.done(database, &announced.put_in_force().await?, Some(ended)))
    }

    /// Fails if the key has rows on another shard than this one.
    async fn object(&self, holders: &[Holder], shard: &str) -> anyhow::Result<()> {
        for holder in holders.iter().filter(|holder| *holder.name != *shard) {
            let looked = try_join_all(self.tables.iter().map(|table| self.rows_on(holder, table))).await;
            let looked = looked.with_context(|| format!("shard \"{}\"", holder.name))?;
            if let Some((relation, rows)) = looked.into_iter().flatten().next() {
                bail!(
                    "{} has {rows} {} in {} on shard \"{}\", and pinning moves none: copy its rows away, delete them, \
                     and put them in again through pgsluice when it is pinned",
                    self.shown(),
                    if rows == 1 { "row" } else { "rows" },
                    relation.shown(),
                    holder.name
                );
            }
        }
        Ok(())
    }

    /// Rows with the key, by table.
    async fn rows_on(&self, holder: &Holder, table: &Keys) -> anyhow::Result<Option<(Relation, i64)>> {
        for relation in rows::relations(&holder.client, &table.name).await.map_err(anyhow::Error::msg)? {
            let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
            let count = rows::with_key(&holder.client, &relation, &columns, &self.wanted.key).await;
            match count.map_err(anyhow::Error::msg)? {
                0 => {}
                rows => return Ok(Some((relation, rows))),
            }
        }
        Ok(None)
    }

    fn done(&self, database: &str, map: &BucketMap, ended: Option<usize>) -> Pinned<'w> {
        let there = map.placement(&self.digest);
        Pinned {
            database: database.to_owned(),
            key: self.wanted,
            version: map.version(),
            shard: there.shard.to_string(),
            is_pinned: there.pinned,
            has_changed: ended.is_some(),
            ended: ended.unwrap_or_default(),
        }
    }
}

/// The tables in which this key places rows: those with a key of the same classes of types.
fn placed_alike(distribution: &Distribution, parts: &[KeyPart]) -> Vec<Keys> {
    let is_alike = |one: &KeyPart, other: &KeyPart| match (&one.column, &other.column) {
        (Ok(one), Ok(other)) => one.key_type() == other.key_type(),
        _ => false,
    };
    let mut alike = Vec::new();
    for table in distribution.tables() {
        let Placement::Key(others) = &table.placement else { continue };
        if others.len() == parts.len() && others.iter().zip(parts).all(|(one, other)| is_alike(one, other)) {
            let name = TableName { schema: table.schema.as_deref().map(str::to_owned), name: table.name.to_string() };
            alike.push(Keys { name, columns: others.iter().map(|part| part.name.to_string()).collect() });
        }
    }
    alike.sort_by_key(|table| table.name.to_string());
    alike
}

impl Pinned<'_> {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (database, table, key, shard) = (&self.database, &self.key.table, self.key.key.join(", "), &self.shard);
        match (self.is_pinned, self.has_changed) {
            (true, false) => {
                return writeln!(out, "{database}: {table} ({key}) is pinned to shard \"{shard}\" already");
            }
            (true, true) => write!(out, "{database}: {table} ({key}) is pinned to shard \"{shard}\"")?,
            (false, _) => {
                write!(out, "{database}: {table} ({key}) is not pinned any more, and lies on shard \"{shard}\"")?
            }
        }
        writeln!(out, ": version {} of the bucket map", self.version)?;
        match self.ended {
            0 => Ok(()),
            1 => writeln!(out, "{database}: 1 connection that worked by an older version was ended"),
            ended => writeln!(out, "{database}: {ended} connections that worked by an older version were ended"),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "database": self.database, "table": self.key.table.to_string(), "key": self.key.key, "shard": self.shard,
            "pinned": self.is_pinned, "changed": self.has_changed, "version": self.version, "ended": self.ended,
        })
    }
}

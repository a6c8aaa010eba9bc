//! `pgsluice shards verify`: whether every row is where its key says, and whether the shards agree. Changes nothing.
//!
//! Rows are held against the newest bucket map, by the functions on the shards; what differs between shards because it is
//! being committed there just now is looked at again before it is told.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::maps::{Holder, holders, in_force};
use super::reach::Site;
use super::rows::{self, Answer, Contents, Placed, Relation, Strayed};
use crate::cli::print;
use crate::config::{Placement, Table};
use crate::shard::BucketMap;

/// Shards have no common snapshot: tables that are the same everywhere may differ for a moment.
const LOOKS: usize = 3;

const PAUSE: Duration = Duration::from_secs(1);

/// What was found in one database.
pub(super) struct Verified {
    database: String,
    version: i64,
    tables: Vec<Checked>,
    problems: Vec<String>,
}

struct Checked {
    table: String,
    placement: &'static str,
    shards: Vec<OnShard>,
}

struct OnShard {
    shard: String,
    rows: i64,
    misplaced: i64,
    strayed: Vec<Strayed>,
    /// Of a reference table.
    checksum: Option<String>,
}

/// # Errors
/// A shard cannot be reached, or there is no map.
pub(super) async fn verify(site: &Site, database: &str) -> anyhow::Result<Verified> {
    let holders = holders(site, database).await?;
    let map = in_force(&holders, database)?;
    let mut search = Search { holders: &holders, map, tables: Vec::new(), problems: Vec::new() };
    search.maps();
    search.prepare().await;
    for table in &site.config.tables {
        search.table(table).await;
    }
    let (tables, problems) = (search.tables, search.problems);
    Ok(Verified { database: database.to_owned(), version: map.version(), tables, problems })
}

struct Search<'s> {
    holders: &'s [Holder],
    map: &'s BucketMap,
    tables: Vec<Checked>,
    problems: Vec<String>,
}

impl Search<'_> {
    fn maps(&mut self) {
        let version = self.map.version();
        for holder in self.holders {
            let name = &holder.name;
            match holder.map() {
                None => self.problems.push(format!("shard \"{name}\" has no bucket map")),
                Some(map) if map.version() != version => {
                    let older = map.version();
                    self.problems.push(format!(
                        "shard \"{name}\" has version {older} of the bucket map, and {version} is in force"
                    ));
                }
                Some(map) if !is_same(map, self.map) => {
                    self.problems
                        .push(format!("shard \"{name}\" has another bucket map of version {version} than others"));
                }
                Some(_) => {}
            }
            if let Some(announced) = &holder.versions.announced {
                let newer = announced.version();
                self.problems.push(format!(
                    "shard \"{name}\": version {newer} of the bucket map is announced, and not in force: if nobody is changing it \
                     any more, pgsluice shards init takes it back"
                ));
            }
            if self.map.index_of(name).is_err() {
                self.problems.push(format!("shard \"{name}\" is not in version {version} of the bucket map"));
            }
        }
        for shard in self.map.shards() {
            if self.holders.iter().all(|holder| *holder.name != *shard.name) {
                self.problems
                    .push(format!("the bucket map has a shard \"{}\", which is not in the config", shard.name));
            }
        }
    }

    /// Prepares the sessions, and looks for what recovery has left.
    async fn prepare(&mut self) {
        self.ask("its session", async |holder| rows::prepare(&holder.client).await).await;
        let left = self.ask("its prepared transactions", async |holder| rows::forgotten(&holder.client).await).await;
        for (shard, gids) in left {
            let told =
                |(gid, age)| format!("shard \"{shard}\": {gid} has been prepared for {age} s, and is not settled");
            self.problems.extend(gids.into_iter().map(told));
        }
    }

    /// Asks every shard at the same time; those that refuse are among the problems then.
    async fn ask<T>(&mut self, what: &str, question: impl AsyncFn(&Holder) -> Answer<T>) -> Vec<(String, T)> {
        let answers = join_all(self.holders.iter().map(|holder| question(holder))).await;
        let mut all = Vec::new();
        for (holder, answer) in self.holders.iter().zip(answers) {
            match answer {
                Ok(answer) => all.push((holder.name.clone(), answer)),
                Err(error) => self.problems.push(format!("shard \"{}\": {what}: {error}", holder.name)),
            }
        }
        all
    }

    async fn table(&mut self, declared: &Table) {
        let what = declared.name.to_string();
        let found = self.ask(&what, async |holder| rows::relations(&holder.client, &declared.name).await).await;
        let all: BTreeSet<&Relation> = found.iter().flat_map(|(_, relations)| relations).collect();
        for relation in all {
            let missing: Vec<_> =
                found.iter().filter(|(_, there)| !there.contains(relation)).map(|(shard, _)| shard).collect();
            if missing.is_empty() {
                self.relation(relation, &declared.placement).await;
                continue;
            }
            for shard in missing {
                self.problems.push(format!("{} is not on shard \"{shard}\"", relation.shown()));
            }
        }
    }

    async fn relation(&mut self, relation: &Relation, placement: &Placement) {
        let table = relation.shown();
        let (placement, shards) = match placement {
            Placement::Key(columns) => ("key", self.sharded(relation, columns).await),
            Placement::Reference => ("reference", self.reference(relation).await),
            Placement::Shard(shard) => ("shard", self.on_one(relation, shard).await),
        };
        self.tables.push(Checked { table, placement, shards });
    }

    async fn sharded(&mut self, relation: &Relation, columns: &[String]) -> Vec<OnShard> {
        let (table, map) = (relation.shown(), self.map);
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let found = self.ask(&table, async |holder| rows::placed(holder, map, relation, &columns).await).await;
        let mut shards = Vec::new();
        for (shard, Placed { rows, misplaced, strayed }) in found {
            if misplaced > 0 {
                let keys: Vec<_> = strayed.iter().map(shown).collect();
                let more = if i64::try_from(keys.len()).is_ok_and(|told| told < misplaced) { ", …" } else { "" };
                self.problems.push(format!(
                    "{table} on shard \"{shard}\": {misplaced} of {rows} rows belong elsewhere: {}{more}",
                    keys.join(", ")
                ));
            }
            shards.push(OnShard { shard, rows, misplaced, strayed, checksum: None });
        }
        shards
    }

    async fn reference(&mut self, relation: &Relation) -> Vec<OnShard> {
        let table = relation.shown();
        let mut found = Vec::new();
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            found = self.ask(&table, async |holder| rows::contents(&holder.client, relation).await).await;
            if found.len() < self.holders.len() || is_uniform(&found) {
                break;
            }
        }
        if !is_uniform(&found) {
            let counts: Vec<_> = found.iter().map(|(shard, there)| format!("{} on \"{shard}\"", there.rows)).collect();
            self.problems.push(format!(
                "{table} is a reference table, and not the same everywhere: rows: {}",
                counts.join(", ")
            ));
        }
        let on_shard = |(shard, Contents { rows, checksum })| OnShard {
            shard,
            rows,
            misplaced: 0,
            strayed: Vec::new(),
            checksum: Some(checksum),
        };
        found.into_iter().map(on_shard).collect()
    }

    async fn on_one(&mut self, relation: &Relation, home: &str) -> Vec<OnShard> {
        let table = relation.shown();
        let found = self.ask(&table, async |holder| rows::count(&holder.client, relation).await).await;
        let mut shards = Vec::new();
        for (shard, rows) in found {
            let misplaced = if shard == home { 0 } else { rows };
            if misplaced > 0 {
                self.problems.push(format!("{table} on shard \"{shard}\": {rows} rows belong on shard \"{home}\""));
            }
            shards.push(OnShard { shard, rows, misplaced, strayed: Vec::new(), checksum: None });
        }
        shards
    }
}

/// But for the labels of pinned keys, which not everybody may read.
pub(super) fn is_same(one: &BucketMap, other: &BucketMap) -> bool {
    let pins = |map: &BucketMap| map.pins().into_iter().map(|pin| (pin.digest, pin.shard)).collect::<Vec<_>>();
    let (one_parts, other_parts) = (one.to_parts(), other.to_parts());
    one_parts.owners == other_parts.owners
        && one_parts.shards == other_parts.shards
        && one_parts.weights == other_parts.weights
        && pins(one) == pins(other)
}

fn is_uniform(found: &[(String, Contents)]) -> bool {
    found.windows(2).all(|pair| matches!(pair, [(_, one), (_, other)] if one == other))
}

fn shown(strayed: &Strayed) -> String {
    let values: Vec<_> = strayed.key.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    match &strayed.belongs_to {
        Some(shard) => format!("({}) on \"{shard}\"", values.join(", ")),
        None => format!("({}) nowhere", values.join(", ")),
    }
}

impl Verified {
    pub(super) fn is_right(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let database = &self.database;
        writeln!(out, "{database}: version {} of the bucket map", self.version)?;
        let row = |table: &Checked, on: &OnShard| {
            let (rows, misplaced) = (Some(on.rows.to_string()), Some(on.misplaced.to_string()));
            vec![Some(table.table.clone()), Some(table.placement.to_owned()), Some(on.shard.clone()), rows, misplaced]
        };
        let rows: Vec<_> =
            self.tables.iter().flat_map(|table| table.shards.iter().map(move |on| row(table, on))).collect();
        print::table(out, &["table", "placed by", "shard", "rows", "misplaced"], &rows)?;
        for problem in &self.problems {
            writeln!(out, "{database}: wrong: {problem}")?;
        }
        match self.problems.len() {
            0 => writeln!(out, "{database}: all is right"),
            count => writeln!(out, "{database}: wrong in {count} ways"),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let key = |strayed: &Strayed| json!({ "key": strayed.key, "belongs_to": strayed.belongs_to });
        let on_shard = |on: &OnShard| {
            json!({
                "shard": on.shard, "rows": on.rows, "misplaced": on.misplaced, "checksum": on.checksum,
                "keys": on.strayed.iter().map(key).collect::<Value>(),
            })
        };
        let table = |table: &Checked| {
            let shards = table.shards.iter().map(on_shard).collect::<Value>();
            json!({ "table": table.table, "placed_by": table.placement, "shards": shards })
        };
        json!({
            "database": self.database, "version": self.version, "right": self.is_right(),
            "tables": self.tables.iter().map(table).collect::<Value>(), "problems": self.problems,
        })
    }
}

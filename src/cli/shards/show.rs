//! `pgsluice shards show`: which shard has how much of the bucket map, and what is pinned. Changes nothing.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::maps::{Holder, holders, in_force};
use super::reach::Site;
use crate::cli::print;
use crate::shard::{BUCKETS, BucketMap, HASH_VERSION};

/// Bytes of a digest that are enough to tell keys apart.
const SHOWN_DIGITS: usize = 16;

/// What there is in one database.
pub(super) struct Shown {
    database: String,
    map: BucketMap,
    /// By shard of the config: the version that it has.
    versions: Vec<(String, Option<i64>)>,
}

/// # Errors
/// A shard cannot be reached, or there is no map.
pub(super) async fn show(site: &Site, database: &str) -> anyhow::Result<Shown> {
    let holders = holders(site, database).await?;
    let map = in_force(&holders, database)?.clone();
    let version = |holder: Holder| {
        let version = holder.map().map(BucketMap::version);
        (holder.name, version)
    };
    Ok(Shown { database: database.to_owned(), map, versions: holders.into_iter().map(version).collect() })
}

struct Line<'s> {
    shard: &'s str,
    weight: Option<u32>,
    buckets: usize,
    pins: usize,
    version: Option<i64>,
}

impl Shown {
    /// The map's shards, then those of the config that are not in it.
    fn lines(&self) -> Vec<Line<'_>> {
        let pins = self.map.pins();
        let version =
            |name: &str| self.versions.iter().find(|(known, _)| known == name).and_then(|(_, version)| *version);
        let known = self.map.shards().iter().zip(self.map.counts()).map(|(shard, buckets)| Line {
            shard: &shard.name,
            weight: Some(shard.weight),
            buckets,
            pins: pins.iter().filter(|pin| pin.shard == shard.name).count(),
            version: version(&shard.name),
        });
        let new = self.versions.iter().filter(|(name, _)| self.map.index_of(name).is_err());
        let new = new.map(|(name, version)| Line { shard: name, weight: None, buckets: 0, pins: 0, version: *version });
        known.chain(new).collect()
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let version = self.map.version();
        writeln!(out, "{}: version {version} of the bucket map, {BUCKETS} buckets", self.database)?;
        let text = |value: &dyn ToString| Some(value.to_string());
        let rows: Vec<_> = self
            .lines()
            .iter()
            .map(|line| {
                let share = format!("{:.1} %", percent(line.buckets));
                let (weight, version) =
                    (line.weight.map(|weight| weight.to_string()), line.version.map(|v| v.to_string()));
                vec![text(&line.shard), weight, text(&line.buckets), Some(share), text(&line.pins), version]
            })
            .collect();
        print::table(out, &["shard", "weight", "buckets", "share", "pinned keys", "version there"], &rows)?;
        let pins = self.map.pins();
        if !pins.is_empty() {
            let row = |pin: &crate::shard::Pin| {
                let digest = pin.digest.to_string().chars().take(SHOWN_DIGITS).collect();
                vec![pin.label.clone(), Some(pin.shard.to_string()), Some(digest)]
            };
            writeln!(out)?;
            print::table(out, &["pinned key", "shard", "digest"], &pins.iter().map(row).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    pub(super) fn to_json(&self) -> Value {
        let lines = self.lines();
        let shards = lines.iter().map(|line| {
            json!({ "name": line.shard, "weight": line.weight, "buckets": line.buckets, "pinned_keys": line.pins,
                    "version": line.version })
        });
        let pins = self.map.pins();
        let pins = pins
            .iter()
            .map(|pin| json!({ "digest": pin.digest.to_string(), "shard": &*pin.shard, "label": pin.label }));
        json!({
            "database": self.database, "version": self.map.version(), "hash_version": HASH_VERSION, "buckets": BUCKETS,
            "shards": shards.collect::<Value>(), "pinned_keys": pins.collect::<Value>(),
        })
    }
}

/// Of all buckets.
#[expect(clippy::cast_precision_loss, reason = "both are small")]
pub(super) fn percent(buckets: usize) -> f64 {
    buckets as f64 * 100.0 / BUCKETS as f64
}

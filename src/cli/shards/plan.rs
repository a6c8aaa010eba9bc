//! `pgsluice shards plan`: what would move if a shard came or went. Changes nothing.

use std::io::{self, Write};

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::maps::{holders, in_force};
use super::reach::Site;
use super::show::percent;
use crate::cli::print;
use crate::shard::{BUCKETS, Change, Plan};

/// What is planned.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("change").required(true).args(["add", "remove"]))]
pub(super) struct Wanted {
    /// A new shard's name.
    #[arg(long, value_name = "NAME")]
    add: Option<String>,
    /// Its weight beside the others'.
    #[arg(long, value_name = "W", conflicts_with = "remove", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
    /// The name of a shard that is to go.
    #[arg(long, value_name = "NAME")]
    remove: Option<String>,
}

/// The plan for one database.
pub(super) struct Planned {
    database: String,
    plan: Plan,
}

/// # Errors
/// A shard cannot be reached, there is no map, or no such change can be made of it.
pub(super) async fn plan(site: &Site, database: &str, wanted: &Wanted) -> anyhow::Result<Planned> {
    let holders = holders(site, database).await?;
    let map = in_force(&holders, database)?;
    let plan = match (&wanted.add, &wanted.remove) {
        (Some(name), _) => map.plan_add(name, wanted.weight)?,
        (None, Some(name)) => map.plan_remove(name)?,
        (None, None) => anyhow::bail!("say --add or --remove"),
    };
    Ok(Planned { database: database.to_owned(), plan })
}

impl Planned {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (version, moves) = (self.plan.base, self.plan.moves.len());
        let change = match &self.plan.change {
            Change::Add { shard, weight } => format!("with shard \"{shard}\" of weight {weight}"),
            Change::Remove { shard } => format!("without shard \"{shard}\""),
            Change::Settle { shard } => format!("with shard \"{shard}\" at its quota"),
        };
        let share = percent(moves);
        writeln!(
            out,
            "{}: version {version} of the bucket map {change}: {moves} of {BUCKETS} buckets would move ({share:.1} %)",
            self.database
        )?;
        let rows: Vec<_> = self
            .plan
            .transfers()
            .into_iter()
            .map(|((from, to), count)| {
                vec![
                    Some(from.to_owned()),
                    Some(to.to_owned()),
                    Some(count.to_string()),
                    Some(format!("{:.1} %", percent(count))),
                ]
            })
            .collect();
        print::table(out, &["from", "to", "buckets", "share"], &rows)
    }

    pub(super) fn to_json(&self) -> Value {
        let change = match &self.plan.change {
            Change::Add { shard, weight } => json!({ "add": shard, "weight": weight }),
            Change::Remove { shard } => json!({ "remove": shard }),
            Change::Settle { shard } => json!({ "settle": shard }),
        };
        let transfers = self.plan.transfers().into_iter();
        let transfers = transfers.map(|((from, to), count)| json!({ "from": from, "to": to, "buckets": count }));
        json!({
            "database": self.database, "version": self.plan.base, "change": change, "buckets": BUCKETS,
            "moves": self.plan.moves.len(), "share": self.plan.share(), "transfers": transfers.collect::<Value>(),
        })
    }
}

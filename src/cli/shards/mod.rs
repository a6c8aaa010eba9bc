//! `pgsluice shards …`: what is kept on the shards themselves, and where rows lie.
//!
//! Each command is about one database or several, and each gives its outcome as text or as JSON; all but `init`, `pin` and
//! `unpin` change nothing.

mod change;
mod init;
mod locate;
mod maps;
mod pin;
mod plan;
mod reach;
mod rows;
mod show;
mod verify;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::run::runtime;

/// Arguments of `pgsluice shards`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

/// What all of its commands take.
#[derive(Debug, Args)]
struct Common {
    /// The config file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The database; may be given several times. By default those in [[databases]].
    #[arg(short, long = "database", value_name = "NAME")]
    databases: Vec<String>,
    /// Log in to the servers as this role instead of `shards.user`; its password is taken from PGPASSWORD.
    #[arg(short = 'U', long, value_name = "ROLE")]
    user: Option<String>,
}

/// What those take that give an outcome.
#[derive(Debug, Args)]
struct Look {
    #[command(flatten)]
    common: Common,
    /// Print a JSON array, one object a database.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the schema pgsluice on every shard: the functions that place rows, the bucket map, the table of decisions.
    #[command(after_help = "Example:\n  PGPASSWORD=… pgsluice shards init -c pgsluice.toml -d shop -U postgres\n\n\
                            It can be run again at any time, and then changes nothing that is there already.\n\n\
                            Exit codes: 0 done, 1 refused or failed, 2 usage.")]
    Init(Common),
    /// Say which shard a row belongs to: its bucket, the bucket's shard, and whether the key is pinned.
    #[command(after_help = "Examples:\n  pgsluice shards where -c pgsluice.toml --table accounts 42\n  \
                            pgsluice shards where -c pgsluice.toml --table sales.visits acme 2024-01-31 --json\n\n\
                            One KEY for each column of the shard key, in its order, read as the column's type. It does not \
                            look whether there is such a row. A key that begins with - and is no number goes behind --.\n\n\
                            Exit codes: 0 said, 1 the table or the key is not one, or no shard answers, 2 usage.")]
    Where {
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        wanted: locate::Wanted,
    },
    /// Have a key lie on a shard of its own, whatever its bucket says. Its rows must be there already, or be none.
    #[command(
        after_help = "Examples:\n  PGPASSWORD=… pgsluice shards pin -c pgsluice.toml -U postgres --table accounts 42 --to c\n  \
                            pgsluice shards pin -c pgsluice.toml -U postgres --table sales.visits acme 2024-01-31 --to b --wait 60\n\n\
                            The key is pinned for all tables with a shard key of the same classes of types. No proxy writes its rows \
                            while the map is changed; other keys are not held up. Transactions that have begun before are \
                            waited for; when --wait is over, their connections are ended. The role needs what shards init needs, \
                            SELECT on the tables, and pg_read_all_stats and pg_signal_backend; a superuser does.\n\n\
                            Exit codes: 0 pinned, 1 refused or failed, 2 usage."
    )]
    Pin {
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        wanted: pin::Pinning,
    },
    /// Have a key lie where its bucket does again. Its rows must be there already, or be none.
    #[command(
        after_help = "Example:\n  PGPASSWORD=… pgsluice shards unpin -c pgsluice.toml -U postgres --table accounts 42\n\n\
                            As pgsluice shards pin.\n\n\
                            Exit codes: 0 not pinned any more, 1 refused or failed, or it was not pinned, 2 usage."
    )]
    Unpin {
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        wanted: pin::Unpinning,
    },
    /// Say which buckets would move if a shard came or went. Changes nothing.
    #[command(after_help = "Examples:\n  pgsluice shards plan -c pgsluice.toml --add d --weight 2\n  \
                            pgsluice shards plan -c pgsluice.toml --remove b --json\n\nPinned keys stay where they are: a \
                            shard that has some cannot be removed.\n\n\
                            Exit codes: 0 planned, 1 it cannot be done, or a shard does not answer, 2 usage.")]
    Plan {
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        wanted: plan::Wanted,
    },
    /// Prove that every row is where its key says, and that the shards agree. Reads every row of every declared table.
    #[command(
        after_help = "Example:\n  pgsluice shards verify -c pgsluice.toml\n\nIt looks at the bucket map (the same on \
                      all shards), sharded tables (each row on the shard of its key), reference tables (the same rows \
                      everywhere), tables of one shard (no row elsewhere), and transactions that pgsluice has prepared and \
                      not settled within a minute. The role needs SELECT on the tables.\n\n\
                      Exit codes: 0 all is right, 1 something is wrong or could not be looked at, 2 usage."
    )]
    Verify(Look),
    /// Show the bucket map: its version, the shards with their weights and buckets, and the pinned keys.
    #[command(after_help = "Examples:\n  pgsluice shards show -c pgsluice.toml\n  \
                            pgsluice shards show -c pgsluice.toml --json | jq '.[].shards'\n\nWhat pinned keys are called \
                            is shown to the owner of the schema pgsluice only.\n\n\
                            Exit codes: 0 shown, 1 there is no map, or a shard does not answer, 2 usage.")]
    Show(Look),
}

/// Does what the command says. The code is 1 if `verify` finds something wrong.
///
/// # Errors
/// The config is wrong, or a shard cannot be reached, or refuses.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        match &options.command {
            Command::Init(common) => return init::run(common).await.map(|()| ExitCode::SUCCESS),
            Command::Where { look, wanted } => {
                let found = look.each(async |site, database| locate::locate(site, database, wanted).await).await?;
                look.print(&found, locate::Located::to_json, locate::Located::write)?;
            }
            Command::Plan { look, wanted } => {
                let found = look.each(async |site, database| plan::plan(site, database, wanted).await).await?;
                look.print(&found, plan::Planned::to_json, plan::Planned::write)?;
            }
            Command::Pin { look, wanted } => {
                let done = look.each(async |site, database| pin::pin(site, database, wanted).await).await?;
                look.print(&done, pin::Pinned::to_json, pin::Pinned::write)?;
            }
            Command::Unpin { look, wanted } => {
                let done = look.each(async |site, database| pin::unpin(site, database, wanted).await).await?;
                look.print(&done, pin::Pinned::to_json, pin::Pinned::write)?;
            }
            Command::Show(look) => {
                let found = look.each(show::show).await?;
                look.print(&found, show::Shown::to_json, show::Shown::write)?;
            }
            Command::Verify(look) => {
                let found = look.each(verify::verify).await?;
                look.print(&found, verify::Verified::to_json, verify::Verified::write)?;
                if !found.iter().all(verify::Verified::is_right) {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl Look {
    /// Of all databases, one after the other.
    async fn each<T>(&self, look: impl AsyncFn(&Site, &str) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let site = Site::of(&self.common)?;
        let mut found = Vec::new();
        for database in site.databases(&self.common)? {
            found.push(look(&site, &database).await.with_context(|| format!("database \"{database}\""))?);
        }
        Ok(found)
    }

    fn print<T>(
        &self,
        found: &[T],
        to_json: impl Fn(&T) -> Value,
        write: impl Fn(&T, &mut io::StdoutLock<'static>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{:#}", found.iter().map(to_json).collect::<Value>());
        }
        found.iter().try_for_each(|one| write(one, &mut out))
    }
}

pub use init::init;
pub use reach::{Account, Site};

//! `pgsluice shards …`: what is kept on the shards themselves, and where rows lie.

mod init;
mod reach;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

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

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the schema pgsluice on every shard: the functions that place rows, the bucket map, the table of decisions.
    #[command(after_help = "Example:\n  PGPASSWORD=… pgsluice shards init -c pgsluice.toml -d shop -U postgres\n\n\
                            It can be run again at any time, and then changes nothing that is there already.")]
    Init(Common),
}

/// Does what the command says.
///
/// # Errors
/// The config is wrong, or a shard cannot be reached, or refuses.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match &options.command {
        Command::Init(common) => runtime()?.block_on(init::run(common)).map(|()| ExitCode::SUCCESS),
    }
}

pub use init::init;
pub use reach::{Account, Site};

//! The `pgsluice` command: reads the arguments and calls the subcommand.
#![warn(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgsluice::cli;

/// A PostgreSQL proxy: writes go to the primary, reads to replicas that are fresh enough.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM. SIGHUP, or a change of the file, reloads the config.
    #[command(
        after_help = "Example:\n  pgsluice run --config /etc/pgsluice/pgsluice.toml\n\nTo replace a running process \
                      without cutting a client off, with listen.takeover in the config:\n  \
                      pgsluice run --takeover --config /etc/pgsluice/pgsluice.toml"
    )]
    Run {
        /// The config file (TOML).
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Take the listening sockets over from the process that runs, which stays for the clients that it has.
        #[arg(long)]
        takeover: bool,
    },
    /// Validate a config: every mistake at once, with line and column.
    #[command(after_help = "Example:\n  pgsluice check --config pgsluice.toml\n\nExit codes: 0 valid, 1 not, 2 usage.")]
    Check {
        /// The config file (TOML).
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Print the mistakes as a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Start a local PostgreSQL cluster with pgsluice in front; Ctrl-C stops and removes all of it.
    #[command(after_help = "Example:\n  pgsluice demo --replicas 3")]
    Demo(cli::demo::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config, takeover } => cli::run::run(&config, takeover),
        Command::Check { config, json } => return cli::check::run(&config, json),
        Command::Demo(options) => cli::demo::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgsluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

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
    #[command(after_help = "Examples:\n  pgsluice demo --replicas 3\n  pgsluice demo --shards 3 --replicas 1")]
    Demo(cli::demo::Options),
    /// Say where a statement would go, and why.
    #[command(
        after_help = "Examples:\n  pgsluice explain \"SELECT * FROM accounts WHERE id = 42\" -c pgsluice.toml\n  \
                      pgsluice explain \"SELECT next_invoice()\" --connect postgresql://alice@127.0.0.1:6432/shop\n  \
                      pgsluice explain - --json -c pgsluice.toml < report.sql\n\nWith --config alone it connects to \
                      nothing, and says what it cannot know. With --connect or --live the running pgsluice answers, for a \
                      session that has seen and set nothing; the database in the connection string is the statement's. \
                      Passwords: PGPASSWORD, ~/.pgpass, the connection string, or else the config's own.\n\nExit codes: \
                      0 explained; 1 the statement could not be parsed, would be refused or has nowhere to go, or nobody \
                      answered; 2 usage."
    )]
    Explain(cli::explain::Options),
    /// Show nodes, lag, pools, clients and the hottest statements of a running pgsluice, live.
    #[command(after_help = "Examples:\n  pgsluice top -c /etc/pgsluice/pgsluice.toml\n  \
                      pgsluice top --connect postgresql://alice@127.0.0.1:6432\n  \
                      pgsluice top --json --connect postgresql://alice@127.0.0.1:6432 | jq .lag\n\nKeys: q quits; s goes \
                      through the orders of statements, and l, c, m, t, f choose load, calls, mean, total, failures; + \
                      and - change the interval; space freezes. Without a terminal it prints one reading. Passwords: \
                      PGPASSWORD, ~/.pgpass, the connection string, or else the config's own.\n\nExit codes: 0 shown, 1 \
                      nobody answered, 2 usage.")]
    Top(cli::top::Options),
    /// Prepare shards, and say where rows lie.
    Shards(cli::shards::Options),
    /// Make, keep up and check the schema on which statements over several shards run.
    #[command(subcommand)]
    Coordinator(cli::coordinator::Task),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config, takeover } => cli::run::run(&config, takeover),
        Command::Check { config, json } => return cli::check::run(&config, json),
        Command::Demo(options) => cli::demo::run(&options),
        Command::Top(options) => cli::top::run(&options),
        Command::Shards(options) => return code(cli::shards::run(&options)),
        Command::Explain(options) => return code(cli::explain::run(&options)),
        Command::Coordinator(task) => return code(cli::coordinator::run(&task)),
    };
    code(result.map(|()| ExitCode::SUCCESS))
}

fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pgsluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}

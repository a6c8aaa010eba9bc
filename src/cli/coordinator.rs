//! `pgsluice coordinator setup` and `check`: the schema on which statements over several shards run.
//!
//! Shows what differs and what is done about it, database by database; never a password.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::Config;
use crate::gather::coordinator::{self, Action, CoordinatorError, Report};

/// What `pgsluice coordinator` can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Make the coordinator's schema, or bring it up to date; with nothing to do it changes nothing.
    #[command(after_help = "Examples:\n  pgsluice coordinator setup -c pgsluice.toml\n  \
                      pgsluice coordinator setup -c pgsluice.toml --database shop --dry-run\n\nEach database is one \
                      transaction on the primary of coordinator.shard.\n\nExit codes: 0 done, 1 refused or failed, 2 usage.")]
    Setup {
        /// Where and what.
        #[command(flatten)]
        target: Target,
        /// Print the statements, without the password, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Say whether it is up to date with the config and with the shards' tables, and can read every shard.
    #[command(
        after_help = "Example:\n  pgsluice coordinator check -c pgsluice.toml\n\nExit codes: 0 up to date, 1 not, \
                      2 usage."
    )]
    Check {
        /// Where and what.
        #[command(flatten)]
        target: Target,
    },
}

/// Arguments of both.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The config file (TOML).
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// A database; may be given several times [default: those of [[databases]]]
    #[arg(short, long, value_name = "NAME")]
    pub database: Vec<String>,
    /// Print a JSON array, one object a database.
    #[arg(long)]
    pub json: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Setup,
    Rehearse,
    Check,
}

/// Does it for one database after the other. The code is 1 if one of them failed, or is not up to date.
///
/// # Errors
/// The config is bad, has no coordinator, or no database is named.
pub fn run(task: &Task) -> anyhow::Result<ExitCode> {
    let (mode, target) = match task {
        Task::Setup { target, dry_run: false } => (Mode::Setup, target),
        Task::Setup { target, dry_run: true } => (Mode::Rehearse, target),
        Task::Check { target } => (Mode::Check, target),
    };
    let config = load(&target.config)?;
    if config.coordinator.is_none() {
        bail!(CoordinatorError::NoCoordinator);
    }
    let databases = match &*target.database {
        [] => config.databases.iter().map(|database| database.name.clone()).collect(),
        named => named.to_vec(),
    };
    if databases.is_empty() {
        eprintln!("pgsluice: say --database: the config names none in [[databases]]");
        return Ok(ExitCode::from(2));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut results = Vec::new();
    for database in databases {
        let result = runtime.block_on(async {
            match mode {
                Mode::Setup => coordinator::setup(&config, &database).await,
                Mode::Rehearse => coordinator::rehearse(&config, &database).await,
                Mode::Check => coordinator::check(&config, &database).await,
            }
        });
        results.push((database, result));
    }
    let mut out = io::stdout().lock();
    if target.json {
        writeln!(out, "{:#}", Value::Array(results.iter().map(|(name, result)| object(mode, name, result)).collect()))?;
    }
    let mut is_well = true;
    for (database, result) in &results {
        is_well &= match result {
            Ok(report) => {
                if !target.json {
                    show(&mut out, mode, database, report)?;
                }
                mode != Mode::Check || report.steps.is_empty()
            }
            Err(error) => {
                // In JSON it stands already.
                for line in error.to_string().lines().filter(|_| !target.json) {
                    eprintln!("pgsluice: {database}: {line}");
                }
                false
            }
        };
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Config::load(path).map_err(anyhow::Error::msg).context("the config cannot be used")
}

/// What happened to a thing, or what is to happen.
fn verb(mode: Mode, action: Action) -> &'static str {
    match (mode, action) {
        (Mode::Check, Action::Create) => "missing",
        (Mode::Check, Action::Change) => "out of date",
        (Mode::Check, Action::Drop) => "not declared any more",
        (_, Action::Create) => "created",
        (_, Action::Change) => "changed",
        (_, Action::Drop) => "dropped",
    }
}

fn show(out: &mut impl Write, mode: Mode, database: &str, report: &Report) -> io::Result<()> {
    if mode == Mode::Rehearse {
        writeln!(out, "-- {database}")?;
        for command in &report.commands {
            writeln!(out, "{command}")?;
        }
    } else {
        for step in &report.steps {
            writeln!(out, "{database}: {}: {}", verb(mode, step.action), step.what)?;
        }
    }
    if report.steps.is_empty() {
        let prefix = if mode == Mode::Rehearse { "-- " } else { "" };
        writeln!(out, "{prefix}{database}: up to date, nothing to do")?;
    }
    for name in &report.nowhere {
        let prefix = if mode == Mode::Rehearse { "-- " } else { "" };
        writeln!(out, "{prefix}{database}: left out: {name} is in [[tables]] and not in this database")?;
    }
    Ok(())
}

fn object(mode: Mode, database: &str, result: &Result<Report, CoordinatorError>) -> Value {
    match result {
        Ok(report) => {
            let steps = report.steps.iter().map(|step| json!({ "state": verb(mode, step.action), "what": step.what }));
            let steps: Vec<Value> = steps.collect();
            let mut value = json!({ "database": database, "differences": steps, "left_out": report.nowhere });
            if mode == Mode::Rehearse {
                value["sql"] = report.commands.iter().map(ToString::to_string).collect();
            }
            value
        }
        Err(error) => json!({ "database": database, "errors": error.to_string().lines().collect::<Vec<_>>() }),
    }
}

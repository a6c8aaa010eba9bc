//! `pgsluice explain SQL`: where a statement would go, and why; of the config alone, or of a running pgsluice.

use std::io::{self, Read as _, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::{Table, Target};
use super::offline::{self, Answer};
use super::print;
use crate::config::Config;
use crate::route::Reason;
use crate::sql::{PrimaryCause, analyse};

/// What the admin database takes in one message, less the words in front of the statement.
const MAX_LIVE_BYTES: usize = 60 * 1024;

/// What is read of stdin; PostgreSQL takes no longer message.
const MAX_STDIN_BYTES: u64 = 1 << 30;

/// Arguments of `pgsluice explain`.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("where").required(true).multiple(true).args(["config", "connect"])))]
pub struct Options {
    /// The statement; "-" reads it from stdin.
    #[arg(value_name = "SQL", allow_hyphen_values = true)]
    pub sql: String,
    /// Where pgsluice is.
    #[command(flatten)]
    pub target: Target,
    /// Ask the pgsluice that runs at the config's listen.address.
    #[arg(long, requires = "config")]
    pub live: bool,
    /// The database that the statement would run in [default: the connection string's]
    #[arg(short, long, value_name = "NAME")]
    pub database: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Explains. The code is 1 for a statement that the parser could not parse, that would be refused, or that has
/// nowhere to go.
///
/// # Errors
/// There is no statement, the config is bad, or pgsluice is not to be reached.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let sql = statement(&options.sql)?;
    let config = options.target.load()?;
    let is_live = options.live || options.target.connect.is_some();
    let mut out = io::stdout().lock();
    let is_well = if is_live {
        let (database, table) = ask(options, config.as_ref(), &sql)?;
        show_live(&mut out, options.json, &database, &sql, &table)?
    } else {
        let config = config.context("offline it takes --config")?;
        let database = options.database.as_deref().unwrap_or_default();
        check_database(&config, database)?;
        let user = options.target.user.as_deref().unwrap_or_default();
        let answer = offline::explain(config, database, user, &sql)?;
        show_offline(&mut out, options.json, &sql, &answer)?
    };
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn statement(given: &str) -> anyhow::Result<String> {
    let mut sql = given.to_owned();
    if given == "-" {
        sql.clear();
        io::stdin().lock().take(MAX_STDIN_BYTES).read_to_string(&mut sql).context("stdin cannot be read")?;
    }
    if analyse(&sql).statements.is_empty() {
        bail!("there is no statement to explain");
    }
    Ok(sql)
}

fn check_database(config: &Config, database: &str) -> anyhow::Result<()> {
    let names: Vec<&str> = config.databases.iter().map(|database| database.name.as_str()).collect();
    if !database.is_empty() && !names.is_empty() && !names.contains(&database) {
        bail!("there is no database \"{database}\" here: the config's [[databases]] are {}", names.join(", "));
    }
    Ok(())
}

/// Asks a running pgsluice.
fn ask(options: &Options, config: Option<&Config>, sql: &str) -> anyhow::Result<(String, Table)> {
    if sql.len() > MAX_LIVE_BYTES {
        bail!("the statement is longer than {MAX_LIVE_BYTES} bytes, which is more than the admin database takes");
    }
    let door = options.target.resolve(config)?;
    let database = options.database.clone().or_else(|| door.database.clone()).filter(|name| name != "pgsluice");
    let database = database.context("say --database: in which the statement would run")?;
    if database.contains('"') {
        bail!("the admin database takes no name with a quotation mark in it");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let table = runtime.block_on(async {
        let desk = door.open().await?;
        desk.ask(&format!("EXPLAIN ROUTE ON \"{database}\" {sql}")).await
    })?;
    Ok((database, table))
}

fn is_unparsed(reason: Option<&str>) -> bool {
    reason == Some(Reason::Statement(PrimaryCause::Unparsed).name())
}

/// Whether all is well with the statement; a remark for whoever may have mistyped it.
fn verdict(node_or_role: Option<&str>, reason: Option<&str>) -> bool {
    if is_unparsed(reason) {
        // The answer stands on stdout all the same.
        eprintln!("pgsluice: the parser could not parse the statement; PostgreSQL itself may know more of it");
    }
    node_or_role.is_some() && !is_unparsed(reason)
}

fn show_live(out: &mut impl Write, json: bool, database: &str, sql: &str, table: &Table) -> anyhow::Result<bool> {
    let columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
    if json {
        let nodes: Vec<Value> = table.rows.iter().map(|row| object(&columns, row)).collect();
        let answer = json!({ "source": "proxy", "database": database, "statement": sql, "nodes": nodes });
        writeln!(out, "{answer:#}")?;
    } else {
        print::table(out, &columns, &table.rows)?;
    }
    let first = |name: &str| {
        let index = columns.iter().position(|column| *column == name)?;
        table.rows.first()?.get(index)?.as_deref()
    };
    Ok(verdict(first("node"), first("reason")))
}

fn object(columns: &[&str], row: &[Option<String>]) -> Value {
    let cells = columns.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), json!(cell)));
    Value::Object(cells.collect::<Map<_, _>>())
}

fn show_offline(out: &mut impl Write, json: bool, sql: &str, answer: &Answer) -> anyhow::Result<bool> {
    let decision = answer.decisions.first().context("there is no decision")?;
    if json {
        let mut value = serde_json::to_value(answer)?;
        value["source"] = "config".into();
        value["statement"] = sql.into();
        writeln!(out, "{value:#}")?;
        return Ok(verdict(decision.role, decision.reason));
    }
    let rows: Vec<Vec<Option<String>>> = answer
        .decisions
        .iter()
        .map(|each| {
            let cells = [Some(each.when), Some(each.role.unwrap_or("nowhere")), each.reason, Some(&*each.considered)];
            cells.map(|cell| cell.map(str::to_owned)).to_vec()
        })
        .collect();
    print::table(out, &["when", "goes to", "reason", "considered"], &rows)?;
    writeln!(out, "\nShard {}: {}", answer.shard, answer.candidates.join(", "))?;
    writeln!(out, "Not known without the servers:")?;
    for note in &answer.not_known {
        writeln!(out, "  - {note}")?;
    }
    Ok(verdict(decision.role, decision.reason))
}

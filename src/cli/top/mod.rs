//! `pgsluice top`: nodes, lag, pools, clients and the hottest statements of a running pgsluice, live in a terminal, or
//! once for a script. It looks only, over the admin database, and a role of `admin.stats` is enough.

mod draw;
mod reading;
mod screen;
mod view;

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use self::draw::{one_line, seconds};
use self::reading::{Reading, Tables};
use self::view::{Order, View};
use super::connect::Target;
use super::print;

/// Statements that are printed once.
const PRINTED: usize = 20;

/// Characters of a statement that are printed.
const PRINTED_TEXT: usize = 160;

/// Arguments of `pgsluice top`.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("where").required(true).multiple(true).args(["config", "connect"])))]
pub struct Options {
    /// Where pgsluice is.
    #[command(flatten)]
    pub target: Target,
    /// How often it is read; keys + and - change that.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print one reading and exit, as without a terminal.
    #[arg(long)]
    pub once: bool,
    /// Print one reading as a JSON object and exit.
    #[arg(long)]
    pub json: bool,
}

/// Shows it.
///
/// # Errors
/// pgsluice is not to be reached at first, or does not let the user in; or the terminal cannot be used.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = options.target.load()?;
    let door = options.target.resolve(config.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(async {
        let desk = door.open().await?;
        if !options.once && !options.json && io::stdout().is_terminal() {
            return screen::show(door, desk, options.interval).await;
        }
        let mut tables = Tables::begin(&desk).await?;
        tables.refresh(&desk).await?;
        let mut out = io::stdout().lock();
        if options.json {
            writeln!(out, "{:#}", tables.json(&door.address))?;
        } else {
            let mut view = View::new(door.address, options.interval);
            view.order = Order::Total;
            view.take(Reading::of(&tables, Instant::now()));
            print(&mut out, &view)?;
        }
        Ok(())
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval =
        humantime::parse_duration(text).map_err(|error| format!("{error}; expected a time such as 500ms or 2s"))?;
    let limits = Duration::from_millis(100)..=Duration::from_secs(60);
    if limits.contains(&interval) { Ok(interval) } else { Err("expected 100ms to 60s".to_owned()) }
}

/// One reading as text.
fn print(out: &mut impl Write, view: &View) -> io::Result<()> {
    let Some(reading) = &view.reading else { return Ok(()) };
    let some = |text: String| (!text.is_empty()).then_some(text);
    writeln!(out, "{} at {}\n", reading.version, view.address)?;
    let nodes: Vec<_> = reading
        .nodes
        .iter()
        .map(|node| {
            let lag = node.lag.map(seconds).or_else(|| (node.role == "replica").then(|| "unknown".to_owned()));
            let behind = node.lag_bytes.map(|bytes| bytes.to_string());
            let [shard, name, role, state] =
                [&node.shard, &node.name, &node.role, &node.state].map(|text| some(text.clone()));
            vec![shard, name, role, state, some(node.reason.clone()), lag, behind, Some(node.outstanding.to_string())]
        })
        .collect();
    print::table(out, &["shard", "node", "role", "state", "reason", "lag", "lag_bytes", "running"], &nodes)?;
    let clients = reading.clients.by_state.iter().map(|(state, count)| format!("{count} {state}"));
    let clients: Vec<String> = clients.chain([format!("{} pinned", reading.clients.pinned)]).collect();
    writeln!(out, "\nclients: {} ({})\n", reading.clients.all(), clients.join(", "))?;
    let pools: Vec<_> = reading
        .pools
        .iter()
        .map(|pool| {
            let [node, database, user] = [&pool.node, &pool.database, &pool.user].map(|text| some(text.clone()));
            let counts = [pool.used, pool.connections, pool.size, pool.waiting].map(|count| Some(count.to_string()));
            [vec![node, database, user], counts.to_vec()].concat()
        })
        .collect();
    print::table(out, &["node", "database", "user", "used", "open", "size", "waiting"], &pools)?;
    let [primary, replica] = reading.routes;
    writeln!(out, "\nstatements: {} ({primary} on the primary, {replica} on replicas)\n", primary + replica)?;
    let statements: Vec<_> = view
        .hottest()
        .iter()
        .take(PRINTED)
        .map(|hot| {
            let statement = hot.statement;
            let text: String = one_line(&statement.text).chars().take(PRINTED_TEXT).collect();
            let counts = [statement.calls, statement.rows].map(|count| Some(count.to_string()));
            let times = [statement.total, statement.mean].map(|time| Some(seconds(time)));
            let share = Some(format!("{:.0} %", statement.replica_share * 100.0));
            let ends = [statement.heals, statement.failures].map(|count| Some(count.to_string()));
            [counts.to_vec(), times.to_vec(), vec![share], ends.to_vec(), vec![some(text)]].concat()
        })
        .collect();
    let columns = ["calls", "rows", "total", "mean", "replicas", "heals", "failed", "statement"];
    print::table(out, &columns, &statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_as_text() {
        let mut view = View::new("127.0.0.1:6432".to_owned(), Duration::from_secs(1));
        view.order = Order::Total;
        view.take(Reading::of(&reading::tests::example(40), Instant::now()));
        let mut out = Vec::new();
        print(&mut out, &view).expect("printed");
        let text = String::from_utf8(out).expect("text");
        for line in [
            "pgsluice 1.2.3 at 127.0.0.1:6432",
            " main  | 10.0.0.2:5432 | replica | up      |        | 12.5 ms |      2048 |       1",
            " main  | 10.0.0.3:5432 | replica | ejected | lag    | unknown |           |       0",
            "clients: 3 (1 active, 2 idle, 1 pinned)",
            " 10.0.0.2:5432 | app      | app  |   20 |   20 |   20 |       4",
            "statements: 45 (5 on the primary, 40 on replicas)",
        ] {
            assert!(text.lines().any(|there| there == line), "{line:?} in:\n{text}");
        }
        let update = text.find("UPDATE accounts").expect("the update");
        assert!(update < text.find("SELECT * FROM accounts").expect("the select"), "the dearest first:\n{text}");
    }

    #[test]
    fn intervals() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "1", "1ms", "1h"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}

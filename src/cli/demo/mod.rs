//! `pgsluice demo`: a real local cluster with pgsluice in front, to look at and to break. Several of them are shards
//! ([`shards`]).

mod shards;
mod tour;

use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use clap::Args;

use super::run::{Server, end_signal, runtime};
use crate::config::{Config, ConfigWatcher, LogFormat};
use crate::demo::{Binaries, Cluster, ClusterOptions, Description, proxy_config};

/// Arguments of `pgsluice demo`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Clusters, each of them a shard. With more than one there is a small sample schema, too.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub shards: u8,
    /// Streaming replicas beside the primary, of each shard.
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub replicas: u8,
    /// A setting of the PostgreSQL servers (`--set max_prepared_transactions=10`); may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Only the PostgreSQL servers, without pgsluice in front.
    #[arg(long)]
    pub no_proxy: bool,
    /// Print one line of JSON instead of text: addresses, users and passwords.
    #[arg(long)]
    pub json: bool,
}

/// Starts all of it, says what to try, and removes it when SIGINT or SIGTERM comes.
///
/// # Errors
/// No PostgreSQL is there, or something does not start.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.shards > 1 {
        return runtime()?.block_on(shards::run(options));
    }
    runtime()?.block_on(async {
        let end = end_signal()?;
        tokio::pin!(end);
        eprintln!("Starting one primary and {} replicas …", options.replicas);
        let with_replicas = ClusterOptions::with_replicas(options.replicas.into());
        let cluster = tokio::select! {
            cluster = Cluster::start(ClusterOptions { settings: options.settings.clone(), ..with_replicas }) => cluster?,
            () = &mut end => return Ok(()),
        };
        if options.no_proxy {
            show(&cluster, None, options.json)?;
            end.await;
        } else {
            serve(&cluster, options.json, end).await?;
        }
        cluster.shutdown().await.context("the cluster did not stop as it should")
    })
}

/// `NAME=VALUE`
fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected NAME=VALUE, such as max_connections=500".to_owned()),
    }
}

async fn serve(cluster: &Cluster, json: bool, end: impl Future<Output = ()>) -> anyhow::Result<()> {
    let path = cluster.folder().join("pgsluice.toml");
    std::fs::write(&path, proxy_config(cluster, "[log]\nlevel = \"info\""))?;
    let watcher = ConfigWatcher::new(&path)?;
    let config = Config::load(&path)?;
    let logs = crate::telemetry::logs::init(LogFormat::Text, &config.log.level)?;
    let server = Server::start(config, None).await?;
    show(cluster, Some((&server, &path)), json)?;
    server.run(&path, watcher, &logs, end).await
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    cluster: Description,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgsluice: Option<Endpoints<'a>>,
}

#[derive(serde::Serialize)]
struct Endpoints<'a> {
    address: String,
    http: String,
    config: &'a Path,
    pid: u32,
}

fn show(cluster: &Cluster, proxy: Option<(&Server, &Path)>, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let pgsluice = proxy.map(|(server, config)| Endpoints {
            address: server.address.to_string(),
            http: server.http_address.to_string(),
            config,
            pid: std::process::id(),
        });
        serde_json::to_writer(&mut out, &Shown { cluster: cluster.describe(), pgsluice })?;
        writeln!(out)?;
    } else {
        write!(out, "{}", text(cluster, proxy))?;
    }
    Ok(out.flush()?)
}

fn text(cluster: &Cluster, proxy: Option<(&Server, &Path)>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for server in cluster.servers() {
        let _ = writeln!(text, "{}  {}  log {}", server.name(), server.address(), server.log_file().display());
    }
    let superuser = &cluster.options().superuser;
    let url_of = |server: &crate::demo::Server| {
        format!("postgresql://{}:{}@{}/postgres", superuser.user, superuser.password, server.address())
    };
    let Some((server, config)) = proxy else {
        let _ = writeln!(text, "\n  {} '{}'\n\nCtrl-C stops and removes all of it.", psql(), url_of(cluster.primary()));
        return text;
    };
    let options = cluster.options();
    let url =
        format!("postgresql://{}:{}@{}/{}", options.app.user, options.app.password, server.address, options.database);
    let psql = psql();
    let _ = write!(
        text,
        "
pgsluice is ready. Connect through it as to any PostgreSQL:

  {psql} '{url}'

Metrics: http://{http}/metrics
Config:  {config} (edit it: changes are taken over at once)

Three things to try, in another terminal. First give it these names:

   export APP='{url}'
   export METRICS='http://{http}/metrics'
",
        http = server.http_address,
        config = config.display(),
    );
    if let Some(replica) = cluster.replicas().first() {
        let _ = writeln!(text, "   export REPLICA='{}'", url_of(replica));
    }
    let _ = write!(
        text,
        "
1. See where statements go, and why.
   {psql} \"$APP\" -c 'CREATE TABLE IF NOT EXISTS notes (id bigint GENERATED ALWAYS AS IDENTITY, body text)'
   {psql} \"$APP\" -c \"INSERT INTO notes (body) VALUES ('hello')\" -c 'SELECT * FROM notes'
   {psql} \"$APP\" -c 'SELECT * FROM notes'
   curl -s \"$METRICS\" | grep '^pgsluice_statements_total.* [1-9]'
   The first read came right behind a write in the same session: the primary answered it (not_fresh), because no
   replica was known yet to have that write. The second one is a new session's: a replica answered (fresh_replica).
",
    );
    if !cluster.replicas().is_empty() {
        let _ = write!(
            text,
            "
2. Let a replica fall behind, and watch it leave: replica_ejected says why, and so does the log here.
   {psql} \"$REPLICA\" -c 'SELECT pg_wal_replay_pause()'
   {psql} \"$APP\" -c \"INSERT INTO notes (body) SELECT 'more' FROM generate_series(1, 1000)\"
   sleep 1; curl -s \"$METRICS\" | grep -E '^pgsluice_replica_(lag_seconds|ejected.* 1$)'

3. Read your own write all the same, then let the replica catch up and come back.
   {psql} \"$APP\" -c \"INSERT INTO notes (body) VALUES ('mine')\" -c \"SELECT * FROM notes WHERE body = 'mine'\"
   {psql} \"$REPLICA\" -c 'SELECT pg_wal_replay_resume()'
   sleep 3; curl -s \"$METRICS\" | grep -E '^pgsluice_replica_(lag_seconds|ejected.* 1$)'
",
        );
    }
    text.push_str("\nCtrl-C stops and removes all of it.\n");
    text
}

/// psql as the shell finds it, or else the one beside the servers' programs.
fn psql() -> String {
    let is_on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("psql").is_file()));
    let beside = || Binaries::find().ok().filter(|binaries| binaries.has("psql")).map(|binaries| binaries.path("psql"));
    match is_on_path {
        true => None,
        false => beside(),
    }
    .map_or_else(|| "psql".to_owned(), |path| path.display().to_string())
}

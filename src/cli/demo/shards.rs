//! `pgsluice demo --shards N`: N clusters with the same roles, one of them the coordinator, and a small schema that was
//! made and filled through pgsluice itself.
//!
//! Whatever does not work here would not work for a newcomer: so an error ends the demo, and is told.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::{Endpoints, Options, tour};
use crate::cli::run::{Server, end_signal};
use crate::cli::shards::{Account, Site, init};
use crate::config::{Config, ConfigWatcher, LogFormat, Secret};
use crate::demo::{Cluster, ClusterOptions, Description, sharded_config};
use crate::gather::coordinator;

/// What the shards are called, in order.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Where the sample's rows are; the first shard is the coordinator.
const SECTIONS: &str = r#"[[tables]]
name = "accounts"
shard_key = "id"

# On the same shard as its account, so that both can be joined there.
[[tables]]
name = "entries"
shard_key = "account"

[[tables]]
name = "currencies"
reference = true

[coordinator]
shard = "a"

[log]
level = "info"
"#;

const SCHEMA: [&str; 3] = [
    "CREATE TABLE currencies (code char(3) PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, currency char(3) NOT NULL REFERENCES currencies, \
     balance numeric NOT NULL DEFAULT 0)",
    "CREATE TABLE entries (account bigint NOT NULL REFERENCES accounts, number int NOT NULL, amount numeric NOT NULL, \
     PRIMARY KEY (account, number))",
];

const CURRENCIES: &str = "INSERT INTO currencies VALUES ('EUR', 'Euro'), ('USD', 'US dollar'), ('JPY', 'Yen')";

/// Of the accounts, one after the other.
const OWNERS: [&str; 20] = [
    "Ada", "Boris", "Chioma", "Dmitri", "Elif", "Farah", "Gustav", "Hana", "Ivan", "Jun", "Kofi", "Lena", "Mei",
    "Noor", "Olu", "Petra", "Quentin", "Rosa", "Sven", "Tala",
];

/// Their numbers.
pub(super) fn accounts() -> impl Iterator<Item = i64> {
    (1..).take(OWNERS.len())
}

/// How long pgsluice may take to read a new table's columns.
const READ_LIMIT: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(50);

/// Starts all of it, says what to try, and removes it when SIGINT or SIGTERM comes.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let end = end_signal()?;
    tokio::pin!(end);
    eprintln!("Starting {} shards, each one primary and {} replicas …", options.shards, options.replicas);
    let with_replicas = ClusterOptions::with_replicas(options.replicas.into());
    let wanted = ClusterOptions { settings: options.settings.clone(), ..with_replicas };
    let starts = (0..options.shards).map(|_| Cluster::start(wanted.clone()));
    let clusters = tokio::select! {
        clusters = try_join_all(starts) => clusters?,
        () = &mut end => return Ok(()),
    };
    let shards: Vec<(&str, &Cluster)> = NAMES.into_iter().zip(&clusters).collect();
    if options.no_proxy {
        show(&shards, None, options.json)?;
        end.await;
    } else {
        serve(&shards, options.json, end).await?;
    }
    let ends = clusters.into_iter().map(Cluster::shutdown);
    try_join_all(ends).await.map(drop).context("a cluster did not stop as it should")
}

async fn serve(shards: &[(&str, &Cluster)], json: bool, end: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Some((_, first)) = shards.first() else { return Ok(()) };
    let sections = format!("[[databases]]\nname = {:?}\n\n{SECTIONS}", first.options().database);
    let path = first.folder().join("pgsluice.toml");
    std::fs::write(&path, sharded_config(shards, &sections))?;
    prepare(shards, &path).await?;
    let watcher = ConfigWatcher::new(&path)?;
    let config = Config::load(&path)?;
    let logs = crate::telemetry::logs::init(LogFormat::Text, &config.log.level)?;
    let server = Server::start(config, None).await?;
    let endpoints =
        Addresses { address: server.address.to_string(), http: server.http_address.to_string(), config: path.clone() };
    let ready = server.wait_until_ready();
    let serving = server.run(&path, watcher, &logs, end);
    tokio::pin!(serving);
    let filled = async {
        ready.await?;
        fill(first, &endpoints).await
    };
    tokio::select! {
        // It was told to end.
        served = &mut serving => return served,
        filled = filled => filled?,
    }
    show(shards, Some(&endpoints), json)?;
    serving.await
}

/// Where pgsluice is.
pub(super) struct Addresses {
    pub(super) address: String,
    pub(super) http: String,
    pub(super) config: PathBuf,
}

/// What the shards need before pgsluice serves them: docs/sharding.md, "Set it up".
async fn prepare(shards: &[(&str, &Cluster)], path: &Path) -> anyhow::Result<()> {
    let grants = shards.iter().map(|(_, cluster)| async {
        let (app, monitor) = (&cluster.options().app.user, &cluster.options().monitor.user);
        cluster.primary().sql(&format!("GRANT {app}, pg_read_all_data TO {monitor}")).await
    });
    try_join_all(grants).await?;
    let Some((_, first)) = shards.first() else { return Ok(()) };
    let options = first.options();
    let (user, password) = (options.superuser.user.clone(), options.superuser.password.clone());
    let site =
        Site { config: Config::load(path)?, account: Some(Account { user, password: Some(Secret::new(password)) }) };
    init(&site, &options.database).await.context("the shards cannot be prepared")?;
    let (monitor, database) = (&options.monitor.user, &options.database);
    let superuser = &options.superuser;
    let client = connect(&url(&superuser.user, &superuser.password, &first.primary().address(), database)).await?;
    let prepare = format!(
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {monitor}; \
         GRANT CREATE ON DATABASE {database} TO {monitor}"
    );
    client.batch_execute(&prepare).await.context("the coordinator cannot be prepared")
}

/// Makes the sample schema and its rows through pgsluice, then what the coordinator needs to read them.
async fn fill(first: &Cluster, endpoints: &Addresses) -> anyhow::Result<()> {
    let (app, database) = (&first.options().app, &first.options().database);
    let client = connect(&url(&app.user, &app.password, &endpoints.address, database)).await?;
    for statement in SCHEMA {
        client.batch_execute(statement).await.context("the sample schema cannot be made")?;
    }
    place(&client, CURRENCIES).await?;
    for ((id, owner), currency) in accounts().zip(OWNERS).zip(["EUR", "USD", "JPY"].into_iter().cycle()) {
        place(&client, &format!("INSERT INTO accounts VALUES ({id}, '{owner}', '{currency}', 100)")).await?;
        place(&client, &format!("INSERT INTO entries VALUES ({id}, 1, 120), ({id}, 2, -20)")).await?;
    }
    let config = Config::load(&endpoints.config)?;
    coordinator::setup(&config, database).await.map(drop).context("the coordinator cannot be set up")
}

/// Runs a statement that is refused as long as pgsluice has not read its table's columns: a moment.
async fn place(client: &Client, sql: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + READ_LIMIT;
    loop {
        match client.batch_execute(sql).await {
            Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) && Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            outcome => return outcome.with_context(|| format!("the sample's rows cannot be written: {sql}")),
        }
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

pub(super) fn url(user: &str, password: &str, address: &str, database: &str) -> String {
    format!("postgresql://{user}:{password}@{address}/{database}")
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    shards: Vec<Shard<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgsluice: Option<Endpoints<'a>>,
}

#[derive(serde::Serialize)]
struct Shard<'a> {
    name: &'a str,
    #[serde(flatten)]
    cluster: Description,
}

fn show(shards: &[(&str, &Cluster)], proxy: Option<&Addresses>, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let pgsluice = proxy.map(|at| Endpoints {
            address: at.address.clone(),
            http: at.http.clone(),
            config: &at.config,
            pid: std::process::id(),
        });
        let shards = shards.iter().map(|(name, cluster)| Shard { name, cluster: cluster.describe() }).collect();
        serde_json::to_writer(&mut out, &Shown { shards, pgsluice })?;
        writeln!(out)?;
    } else {
        write!(out, "{}", tour::text(shards, proxy)?)?;
    }
    Ok(out.flush()?)
}

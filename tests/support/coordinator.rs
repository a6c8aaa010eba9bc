//! Several shards, `pgsluice coordinator` with a config of them, and clients.

use std::process::Stdio;

use pgsluice::demo::{Cluster, ClusterOptions};
use pgsluice::gather::coordinator::VIEWS;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{DEADLINE, connect};

/// The application's database on every shard.
pub const DATABASE: &str = "app";

/// What a DBA gives the account; docs/coordinator.md says the same.
pub const ON_EVERY_SHARD: &str = "GRANT pg_read_all_data TO pgsluice; \
    DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind') THEN \
        ALTER ROLE pgsluice SET restrict_nonsystem_relation_kind = 'view'; END IF; END $$";
pub const ON_THE_COORDINATOR: &str = "CREATE EXTENSION postgres_fdw; \
    GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO pgsluice; GRANT CREATE ON DATABASE app TO pgsluice";

/// Shards `a`, `b` …, each a cluster of its own, and a config for them.
pub struct Shards {
    pub clusters: Vec<Cluster>,
    /// Further lines of each of `[[shards]]`.
    pub lines: String,
    folder: TempDir,
}

/// What `pgsluice` said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Shards {
    /// With so many replicas each. The servers log what they would log of DDL on a careful site.
    pub async fn start(replicas: &[usize]) -> Self {
        Self::start_with(replicas.iter().map(|replicas| ClusterOptions::with_replicas(*replicas))).await
    }

    pub async fn start_with(options: impl Iterator<Item = ClusterOptions>) -> Self {
        let started = options.map(|options| Cluster::start(options.setting("log_statement", "ddl")));
        let clusters: Vec<Cluster> = futures_util::future::try_join_all(started).await.expect("the clusters start");
        let shards = Self { clusters, lines: String::new(), folder: tempfile::tempdir().expect("a folder") };
        for shard in 0..shards.clusters.len() {
            shards.superuser(shard, ON_EVERY_SHARD).await;
        }
        shards
    }

    fn name(shard: usize) -> char {
        ['a', 'b', 'c'][shard]
    }

    pub fn config(&self, tables: &str) -> String {
        let mut text = format!(
            "[auth]\nmethod = \"trust\"\n[[databases]]\nname = \"{DATABASE}\"\n[coordinator]\nshard = \"a\"\n{tables}"
        );
        for (shard, cluster) in self.clusters.iter().enumerate() {
            // Replicas first: it is not the order that tells the primary.
            let nodes = cluster.servers().iter().rev().map(|server| format!("\"{}\"", server.address()));
            let nodes = nodes.collect::<Vec<_>>().join(", ");
            let (name, password) = (Self::name(shard), &cluster.options().monitor.password);
            text +=
                &format!("[[shards]]\nname = \"{name}\"\nnodes = [{nodes}]\npassword = \"{password}\"\n{}", self.lines);
        }
        text
    }

    /// `pgsluice coordinator …` with these `[[tables]]`.
    pub async fn run(&self, tables: &str, arguments: &[&str]) -> Said {
        self.run_with(&self.config(tables), arguments).await
    }

    /// `pgsluice coordinator …` with this config. No password is ever in what it says.
    pub async fn run_with(&self, config: &str, arguments: &[&str]) -> Said {
        let file = self.folder.path().join("pgsluice.toml");
        std::fs::write(&file, config).expect("the config is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        command.arg("coordinator").args(arguments).arg("--config").arg(&file);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(DEADLINE, output).await.expect("it ends").expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) };
        for cluster in &self.clusters {
            let password = &cluster.options().monitor.password;
            assert!(!said.out.contains(password) && !said.err.contains(password), "{}{}", said.out, said.err);
        }
        said
    }

    pub async fn setup(&self, tables: &str) -> String {
        let said = self.run(tables, &["setup"]).await;
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        said.out
    }

    pub async fn refused(&self, tables: &str) -> String {
        let said = self.run(tables, &["setup"]).await;
        assert_eq!((said.code, &*said.out), (1, ""), "{}", said.err);
        said.err
    }

    pub async fn superuser(&self, shard: usize, sql: &str) {
        let primary = self.clusters[shard].primary();
        primary.sql_in(DATABASE, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// On every shard, as the application's user, who owns the tables.
    pub async fn everywhere(&self, sql: &str) {
        for shard in 0..self.clusters.len() {
            self.app(shard).await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    pub async fn login(&self, shard: usize, user: &str, password: &str, database: &str) -> Client {
        let url = format!("postgresql://{user}:{password}@{}/{database}", self.clusters[shard].primary().address());
        connect(&url).await
    }

    pub async fn app(&self, shard: usize) -> Client {
        let app = &self.clusters[shard].options().app;
        self.login(shard, &app.user, &app.password, DATABASE).await
    }

    /// A client of the coordinator who sees all rows.
    pub async fn coordinator(&self) -> Client {
        let client = self.app(0).await;
        client.batch_execute(&format!("SET search_path = {VIEWS}, public")).await.unwrap();
        client
    }

    /// No server has written a password to its log.
    pub fn check_logs(&self) {
        for (shard, cluster) in self.clusters.iter().enumerate() {
            let log = std::fs::read_to_string(&cluster.describe().servers[0].log_file).expect("the log");
            assert!(shard > 0 || log.contains("CREATE USER MAPPING"), "DDL is logged: {log}");
            // The roles were made with their passwords, before there was anything of pgsluice.
            let ours: Vec<&str> = log.lines().filter(|line| !line.contains("CREATE ROLE")).collect();
            for other in &self.clusters {
                assert!(!ours.join("\n").contains(&other.options().monitor.password), "{log}");
            }
        }
    }

    pub async fn stop(self) {
        for cluster in self.clusters {
            cluster.shutdown().await.expect("the cluster stops");
        }
    }
}

pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The first column's lines.
pub async fn lines(client: &Client, sql: &str) -> String {
    rows(client, sql).await.into_iter().filter_map(|row| row.into_iter().next()?).collect::<Vec<_>>().join("\n")
}

pub async fn sqlstate(client: &Client, sql: &str) -> String {
    let error = client.simple_query(sql).await.expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

//! Several shards with the real binary in front of them.

use pgsluice::cli::shards::{Account, Site, init};
use pgsluice::config::{Config, Secret};
use pgsluice::demo::{Cluster, ClusterOptions, Server, sharded_config};
use pgsluice::gather::coordinator::setup;

use super::raw;
use super::{ProxyProcess, connect};

/// Names of shards, in order.
pub const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Clusters with the same roles, each a shard, and a proxy in front of them. All end with it.
pub struct Shards {
    pub clusters: Vec<Cluster>,
    pub proxy: ProxyProcess,
    config: Config,
}

impl Shards {
    /// So many, without replicas; `sections` are further lines of the config, such as `[[tables]]`.
    pub async fn start(count: usize, sections: &str) -> Self {
        Self::start_with(count, ClusterOptions::with_replicas(0), sections).await
    }

    pub async fn start_with(count: usize, options: ClusterOptions, sections: &str) -> Self {
        let starts = (0..count).map(|_| Cluster::start(options.clone()));
        let clusters: Vec<Cluster> = futures_util::future::try_join_all(starts).await.expect("the clusters start");
        for cluster in &clusters {
            let (app, monitor) = (&options.app.user, &options.monitor.user);
            // Recovery finishes what the application has prepared.
            cluster.primary().sql(&format!("GRANT {app} TO {monitor}")).await.expect("granted");
        }
        let named: Vec<(&str, &Cluster)> = NAMES.into_iter().zip(&clusters).collect();
        let text = sharded_config(&named, sections);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pgsluice.toml");
        std::fs::write(&path, &text).expect("the config is written");
        let (user, password) = (options.superuser.user.clone(), options.superuser.password.clone());
        let account = Some(Account { user, password: Some(Secret::new(password)) });
        let config = Config::load(&path).expect("a valid config");
        let site = Site { config: config.clone(), account };
        init(&site, &options.database).await.expect("the shards are prepared");
        let proxy = ProxyProcess::start_with_config(&text).await;
        for cluster in &clusters {
            let node = format!("node=\"{}\"", cluster.primary().address());
            proxy.wait_for_metric("pgsluice_node_up", &[&node, "role=\"primary\""], |value| value == 1.0).await;
            for replica in cluster.replicas() {
                proxy.wait_admitted(&replica.address()).await;
            }
        }
        Self { clusters, proxy, config }
    }

    /// Makes the coordinator's schema for the tables that there are now.
    pub async fn coordinate(&self) {
        let options = self.options();
        let (monitor, database) = (&options.monitor.user, &options.database);
        for cluster in &self.clusters {
            let grant = format!("GRANT pg_read_all_data TO {monitor}");
            cluster.primary().sql(&grant).await.expect("granted");
        }
        let prepare = format!(
            "CREATE EXTENSION IF NOT EXISTS postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {monitor}; \
             GRANT CREATE ON DATABASE {database} TO {monitor}"
        );
        self.superuser(0).await.batch_execute(&prepare).await.expect("prepared");
        setup(&self.config, database).await.expect("the coordinator is set up");
    }

    fn options(&self) -> &ClusterOptions {
        self.clusters[0].options()
    }

    /// The primary of the shard with this number.
    pub fn primary(&self, shard: usize) -> &Server {
        self.clusters[shard].primary()
    }

    pub fn url(&self) -> String {
        let options = self.options();
        format!(
            "postgresql://{}:{}@{}/{}",
            options.app.user, options.app.password, self.proxy.address, options.database
        )
    }

    /// A client of the application's user, through the proxy.
    pub async fn client(&self) -> tokio_postgres::Client {
        connect(&self.url()).await
    }

    /// A client of frames.
    pub async fn raw(&self) -> raw::Raw {
        let options = self.options();
        let (user, password) = (options.app.user.as_str(), options.app.password.as_str());
        let address = self.proxy.address.as_str();
        let login = raw::Login { address, user, password, database: &options.database, minor: 0, settings: &[] };
        raw::Raw::connect(&login).await
    }

    /// A client of the application's user, on a shard's primary itself.
    pub async fn direct(&self, shard: usize) -> tokio_postgres::Client {
        let options = self.options();
        let address = self.primary(shard).address();
        let (user, password) = (&options.app.user, &options.app.password);
        connect(&format!("postgresql://{user}:{password}@{address}/{}", options.database)).await
    }

    /// Likewise of the superuser.
    pub async fn superuser(&self, shard: usize) -> tokio_postgres::Client {
        let options = self.options();
        let (account, address) = (&options.superuser, self.primary(shard).address());
        connect(&format!("postgresql://{}:{}@{address}/{}", account.user, account.password, options.database)).await
    }

    /// The same query on each shard: the first column of the first row, as text.
    pub async fn on_each(&self, sql: &str) -> Vec<String> {
        let mut all = Vec::new();
        for shard in 0..self.clusters.len() {
            let client = self.direct(shard).await;
            let row = client.query_one(&format!("SELECT ({sql})::text"), &[]).await.expect("a row");
            all.push(row.get::<_, Option<String>>(0).unwrap_or_default());
        }
        all
    }

    /// How many rows a table has on all of them together. Each lies where PostgreSQL's own functions say, and nothing is
    /// prepared any more.
    pub async fn count(&self, table: &str, key: &str) -> i64 {
        for (shard, name) in NAMES.into_iter().enumerate().take(self.clusters.len()) {
            let place = format!("pgsluice.shard_of_key(pgsluice.shard_key({key}))");
            let sql = format!("SELECT count(*) FROM {table} WHERE {place} <> '{name}'");
            let wrong: i64 = self.direct(shard).await.query_one(&sql, &[]).await.unwrap().get(0);
            assert_eq!(wrong, 0, "{table} on {name}");
        }
        let prepared = self.on_each("SELECT count(*) FROM pg_prepared_xacts").await;
        assert!(prepared.iter().all(|count| count == "0"), "{prepared:?}");
        let each = self.on_each(&format!("SELECT count(*) FROM {table}")).await;
        each.iter().map(|count| count.parse::<i64>().unwrap()).sum()
    }

    pub async fn stop(self) {
        self.proxy.stop().await;
        for cluster in self.clusters {
            cluster.shutdown().await.expect("the cluster stops");
        }
    }
}

/// The SQLSTATE; empty where the server did not say one.
pub fn code(error: &tokio_postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

//! A real cluster with the real binary in front of it, for integration tests.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod audit_log;
pub mod certificates;
pub mod coordinator;
pub mod pgbench;
pub mod raw;
pub mod readers;
pub mod server_log;
pub mod shards;
pub mod unruly;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice::demo::{Cluster, ClusterOptions, proxy_config};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// How long a condition may take to come true before the test has failed. Generous: timing decides nothing.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A cluster and a proxy in front of it. Both end with it.
pub struct Stand {
    pub cluster: Cluster,
    pub proxy: ProxyProcess,
}

impl Stand {
    /// With this many replicas, and further lines for the proxy's config.
    pub async fn start(replicas: usize, sections: &str) -> Self {
        Self::start_with(ClusterOptions::with_replicas(replicas), sections).await
    }

    pub async fn start_with(options: ClusterOptions, sections: &str) -> Self {
        let cluster = Cluster::start(options).await.expect("the cluster starts");
        let config = proxy_config(&cluster, sections);
        Self::in_front_of(cluster, &config).await
    }

    /// With further lines for `[listen]`, which every config has already.
    pub async fn start_listening(replicas: usize, listen: &str, sections: &str) -> Self {
        let cluster = Cluster::start(ClusterOptions::with_replicas(replicas)).await.expect("the cluster starts");
        let config = proxy_config(&cluster, sections).replacen("[listen]\n", &format!("[listen]\n{listen}"), 1);
        Self::in_front_of(cluster, &config).await
    }

    async fn in_front_of(cluster: Cluster, config: &str) -> Self {
        let proxy = ProxyProcess::start_with_config(config).await;
        proxy.wait_for_metric("pgsluice_node_up", &["role=\"primary\""], |value| value == 1.0).await;
        for replica in cluster.replicas() {
            proxy.wait_admitted(&replica.address()).await;
        }
        Self { cluster, proxy }
    }

    /// The servers' major version.
    pub fn server_major(&self) -> u32 {
        pgsluice::demo::Binaries::find().expect("the servers' binaries").major()
    }

    /// A connection string for the application's user, through the proxy.
    pub fn url(&self) -> String {
        let options = self.cluster.options();
        format!(
            "postgresql://{}:{}@{}/{}",
            options.app.user, options.app.password, self.proxy.address, options.database
        )
    }

    /// The same for the superuser.
    pub fn superuser_url(&self) -> String {
        let options = self.cluster.options();
        format!(
            "postgresql://{}:{}@{}/{}",
            options.superuser.user, options.superuser.password, self.proxy.address, options.database
        )
    }

    /// How the application's user logs in through the proxy, for [`raw::Raw`].
    pub fn login(&self) -> raw::Login<'_> {
        self.login_at(&self.proxy.address)
    }

    /// The same at another address, such as a server's own.
    pub fn login_at<'a>(&'a self, address: &'a str) -> raw::Login<'a> {
        let options = self.cluster.options();
        let (user, password) = (options.app.user.as_str(), options.app.password.as_str());
        raw::Login { address, user, password, database: &options.database, minor: 0, settings: &[] }
    }

    /// A client of frames, through the proxy.
    pub async fn raw(&self) -> raw::Raw {
        raw::Raw::connect(&self.login()).await
    }

    /// A client of the application's user.
    pub async fn client(&self) -> tokio_postgres::Client {
        connect(&self.url()).await
    }

    pub async fn stop(self) {
        self.proxy.stop().await;
        self.cluster.shutdown().await.expect("the cluster stops");
    }
}

/// Connects, and drives the connection in the background.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    try_connect(url).await.expect("the client connects")
}

pub async fn try_connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// `pgsluice run`, as a process of its own.
pub struct ProxyProcess {
    child: Child,
    pub address: String,
    pub http: String,
    pub config: PathBuf,
    pub log: PathBuf,
    folder: Arc<tempfile::TempDir>,
}

impl ProxyProcess {
    pub async fn start(cluster: &Cluster, sections: &str) -> Self {
        Self::start_with_config(&proxy_config(cluster, sections)).await
    }

    pub async fn start_with_config(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("pgsluice.toml");
        std::fs::write(&config, text).expect("the config is written");
        Self::launch(Arc::new(folder), config, "pgsluice.log", &[], None).await
    }

    /// Another process with the same config, which takes over from this one.
    pub async fn take_over(&self, log: &str) -> Self {
        Self::launch(Arc::clone(&self.folder), self.config.clone(), log, &["--takeover"], None).await
    }

    /// Likewise; and it tells how it is doing on a socket like systemd's.
    pub async fn take_over_notifying(&self, log: &str, notify: &Path) -> Self {
        let (folder, config) = (Arc::clone(&self.folder), self.config.clone());
        Self::launch(folder, config, log, &["--takeover"], Some(notify)).await
    }

    async fn launch(
        folder: Arc<tempfile::TempDir>,
        config: PathBuf,
        log: &str,
        arguments: &[&str],
        notify: Option<&Path>,
    ) -> Self {
        let log = folder.path().join(log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        let mut child = command
            .args(["run", "--config"])
            .arg(&config)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("pgsluice starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut file = std::fs::File::create(&log).expect("a log");
        let mut seen = String::new();
        let (address, http) = loop {
            let line = tokio::time::timeout(DEADLINE, lines.next_line())
                .await
                .unwrap_or_else(|_| panic!("pgsluice does not serve:\n{seen}"))
                .expect("its log is read")
                .unwrap_or_else(|| panic!("pgsluice ended:\n{seen}"));
            seen.push_str(&line);
            seen.push('\n');
            if line.contains("pgsluice serves") {
                break (field(&line, "address="), field(&line, "http="));
            }
        };
        tokio::spawn(async move {
            use std::io::Write;
            let _ = file.write_all(seen.as_bytes());
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = writeln!(file, "{line}");
            }
        });
        Self { child, address, http, config, log, folder }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("pgsluice runs")).expect("a pid")
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("the signal is sent");
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it ever was, or since [`Self::reset_peak_memory`].
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The peak is from now on counted anew.
    pub fn reset_peak_memory(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("the peak is reset");
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find(|line| line.starts_with(name)).expect("its memory");
        line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Waits until it has ended by itself; its exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("pgsluice ends").expect("its status").code()
    }

    /// SIGTERM, and the end.
    pub async fn stop(mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(self.wait().await, Some(0), "{}", self.log_text());
    }

    /// A page of its HTTP server: status line and all.
    pub async fn http_get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.expect("HTTP connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer is read");
        answer
    }

    /// The sum of all series of a metric that carry these labels (`name="value"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let page = self.http_get("/metrics").await;
        let matching = page.lines().filter(|line| {
            let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
            let base = series.split('{').next().unwrap_or_default();
            base == name && labels.iter().all(|label| series.contains(label))
        });
        let values: Vec<f64> = matching.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until such a sum satisfies a condition.
    pub async fn wait_for_metric(&self, name: &str, labels: &[&str], accept: impl Fn(f64) -> bool) -> f64 {
        let start = Instant::now();
        loop {
            let value = self.metric(name, labels).await;
            if let Some(value) = value.filter(|value| accept(*value)) {
                return value;
            }
            assert!(start.elapsed() < DEADLINE, "{name}{labels:?} is {value:?}; log:\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a replica is given reads.
    pub async fn wait_admitted(&self, node: &str) {
        let node = format!("node=\"{node}\"");
        self.wait_for_metric("pgsluice_node_up", &[&node, "role=\"replica\""], |value| value == 1.0).await;
        self.wait_for_metric("pgsluice_replica_ejected", &[&node], |value| value == 0.0).await;
    }

    /// Waits until a replica is given no reads; why is a label of `pgsluice_replica_ejected`.
    pub async fn wait_ejected(&self, node: &str) {
        let node = format!("node=\"{node}\"");
        self.wait_for_metric("pgsluice_replica_ejected", &[&node], |value| value > 0.0).await;
    }

    /// Statements so far, with these labels.
    pub async fn statements(&self, labels: &[&str]) -> f64 {
        self.metric("pgsluice_statements_total", labels).await.unwrap_or(0.0)
    }

    /// Changes the config's file as an editor would.
    pub fn rewrite_config(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.config).expect("the config is read");
        let new = self.config.with_extension("new");
        std::fs::write(&new, change(text)).expect("the config is written");
        std::fs::rename(&new, &self.config).expect("the config is replaced");
    }
}

fn field(line: &str, name: &str) -> String {
    let rest = line.split(name).nth(1).expect("the field is logged");
    rest.split_whitespace().next().expect("it has a value").to_owned()
}

/// Whether a program is on the path.
pub fn has_program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| Path::new(&folder).join(name).exists()))
}

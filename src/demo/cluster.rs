//! A primary and its streaming replicas.
//!
//! [`Cluster::start`] makes the primary with `initdb`, then all replicas at once with
//! `pg_basebackup` (or the functions under it, where that program is missing), each with a replication slot, so that a replica that was away for long can come
//! back. The order of the fields matters: servers end before their folder goes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::account::Account;
use super::basebackup::{self, Replication};
use super::binaries::Binaries;
use super::error::DemoError;
use super::guard::Home;
use super::options::{ClusterOptions, Credentials, Description, ServerRole};
use super::server::{HOST, Server, Site, StopMode, port_was_taken};
use super::settings::{PG_HBA, conninfo_value, identifier, literal, postgresql_conf};
use super::{port, wait};

/// The role that replicas connect with.
const REPLICATOR: &str = "replicator";

/// Ports that one server tries before giving up.
const PORT_TRIES: usize = 10;

/// A running cluster. Dropping it ends the servers at once and removes all files; that blocks for the
/// fraction of a second that this takes.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    home: Home,
    options: ClusterOptions,
    version: String,
}

impl Cluster {
    /// Finds the binaries, builds the cluster, and waits until every replica streams and has all that was
    /// written so far.
    ///
    /// # Errors
    /// What [`Binaries::find`] and [`Account::find`] say; [`DemoError::Program`] and
    /// [`DemoError::Exited`] with PostgreSQL's own output. Nothing is left behind then.
    pub async fn start(options: ClusterOptions) -> Result<Self, DemoError> {
        Self::start_with(Binaries::find()?, options).await
    }

    /// As [`Cluster::start`], with binaries that were found already.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(binaries: Binaries, options: ClusterOptions) -> Result<Self, DemoError> {
        let account = Account::find()?;
        if !account.may_enter(binaries.dir()) {
            let path = binaries.dir().to_owned();
            return Err(DemoError::Unreachable { account: account.name().to_owned(), path });
        }
        let version = binaries.version().to_owned();
        let home = Home::new(&account)?;
        let builder = Builder::new(binaries, account, &home, &options)?;
        let primary = builder.primary().await?;
        let replicas = try_join_all((1..=options.replicas).map(|n| builder.replica(n, &primary))).await?;
        let servers = std::iter::once(primary).chain(replicas).collect();
        let cluster = Self { servers, home, options, version };
        cluster.wait_replicated().await?;
        Ok(cluster)
    }

    /// The server that was the primary at the start.
    pub fn primary(&self) -> &Server {
        &self.servers[0]
    }

    /// The servers that were replicas at the start.
    pub fn replicas(&self) -> &[Server] {
        &self.servers[1..]
    }

    /// All servers, the first primary first.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// One server: 0 is the first primary.
    ///
    /// # Errors
    /// [`DemoError::NoSuchServer`].
    pub fn server(&self, index: usize) -> Result<&Server, DemoError> {
        self.servers.get(index).ok_or(DemoError::NoSuchServer { index, count: self.servers.len() })
    }

    /// What it was started with, passwords included.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// All that is needed to connect.
    pub fn describe(&self) -> Description {
        Description {
            version: self.version.clone(),
            database: self.options.database.clone(),
            superuser: self.options.superuser.clone(),
            monitor: self.options.monitor.clone(),
            app: self.options.app.clone(),
            servers: self.servers.iter().map(Server::describe).collect(),
        }
    }

    /// Waits until every replica that runs has replayed the primary's insert position of now.
    ///
    /// A record of its own is written and flushed after that position: WAL that no commit has
    /// flushed may otherwise stay on the primary for ever, and a position at the start of a page may include
    /// the header of a page that nothing was written to.
    ///
    /// # Errors
    /// [`DemoError::Timeout`] when a replica is frozen or its replay is paused.
    pub async fn wait_replicated(&self) -> Result<(), DemoError> {
        let rows = self
            .primary()
            .sql(
                "SET synchronous_commit = local; SELECT pg_current_wal_insert_lsn(); \
                 SELECT pg_logical_emit_message(true, 'pgsluice', 'flush')",
            )
            .await?;
        let lsn = rows.into_iter().flatten().flatten().next().unwrap_or_default();
        let reached = format!("SELECT pg_last_wal_replay_lsn() >= {}::pg_lsn", literal(&lsn));
        for replica in self.replicas().iter().filter(|replica| replica.is_running()) {
            let what = format!("{} to replay {lsn}", replica.name());
            wait::until(&what, || replica.holds(&reached)).await?;
        }
        Ok(())
    }

    /// Ends all servers and removes all files. Nothing is saved.
    ///
    /// # Errors
    /// [`DemoError::Io`] when the folder cannot be removed.
    pub async fn shutdown(mut self) -> Result<(), DemoError> {
        self.begin_end();
        for server in &self.servers {
            server.stop(StopMode::Immediate).await?;
        }
        self.servers.clear();
        self.home.remove()
    }

    /// Tells all servers before any is waited for.
    fn begin_end(&self) {
        self.servers.iter().for_each(Server::begin_end);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.begin_end();
    }
}

/// Builds servers in a home.
struct Builder<'a> {
    site: Arc<Site>,
    home: &'a Home,
    options: &'a ClusterOptions,
    replicator: Credentials,
}

impl<'a> Builder<'a> {
    fn new(
        binaries: Binaries,
        account: Account,
        home: &'a Home,
        options: &'a ClusterOptions,
    ) -> Result<Self, DemoError> {
        let socket_dir = home.folder("socket", &account)?;
        let credentials = vec![options.superuser.clone(), options.monitor.clone(), options.app.clone()];
        let site = Site { binaries, account, base: home.path().to_owned(), socket_dir, credentials };
        Ok(Self { site: Arc::new(site), home, options, replicator: Credentials::random(REPLICATOR) })
    }

    async fn primary(&self) -> Result<Server, DemoError> {
        let name = "node0";
        let data_dir = self.home.folder(name, &self.site.account)?;
        self.initdb(&data_dir).await?;
        write(&data_dir.join("pg_hba.conf"), PG_HBA)?;
        let mut settings = self.certificate(&data_dir)?;
        settings.extend_from_slice(&self.options.settings);
        write(&data_dir.join("postgresql.conf"), &postgresql_conf(&self.site.socket_dir, &settings))?;
        let primary = self.start(name, ServerRole::Primary).await?;
        self.create_roles(&primary).await?;
        Ok(primary)
    }

    /// Puts the certificate where replicas get it with their base backup; the settings that use it.
    fn certificate(&self, data_dir: &Path) -> Result<Vec<(String, String)>, DemoError> {
        let Some(certificate) = &self.options.certificate else { return Ok(Vec::new()) };
        let mut settings = vec![("ssl".to_owned(), "on".to_owned())];
        let files = [("server.crt", Some(&certificate.cert)), ("server.key", Some(&certificate.key))];
        for (name, content) in files.into_iter().chain([("root.crt", certificate.client_ca.as_ref())]) {
            let Some(content) = content else { continue };
            let path = data_dir.join(name);
            write(&path, content)?;
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&path, private).map_err(DemoError::io(format!("protect {}", path.display())))?;
            self.site.account.give(&path)?;
            if name == "root.crt" {
                settings.push(("ssl_ca_file".to_owned(), name.to_owned()));
            }
        }
        Ok(settings)
    }

    async fn initdb(&self, data_dir: &Path) -> Result<(), DemoError> {
        let password_file = self.home.path().join("password");
        write(&password_file, &self.options.superuser.password)?;
        self.site.account.give(&password_file)?;
        let mut command = self.command("initdb");
        command
            .arg("-D")
            .arg(data_dir)
            .args(["-U", &self.options.superuser.user])
            .args(["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg("--pwfile")
            .arg(&password_file);
        run("initdb", command).await?;
        fs::remove_file(&password_file).map_err(DemoError::io("remove the password's file"))
    }

    async fn create_roles(&self, primary: &Server) -> Result<(), DemoError> {
        let ClusterOptions { monitor, app, database, .. } = self.options;
        let roles = [(monitor, "IN ROLE pg_monitor"), (app, ""), (&self.replicator, "REPLICATION")];
        for (role, attributes) in roles {
            let (name, password) = (identifier(&role.user), literal(&role.password));
            primary.sql(&format!("CREATE ROLE {name} LOGIN {attributes} PASSWORD {password}")).await?;
        }
        let (database, owner) = (identifier(database), identifier(&app.user));
        primary.sql(&format!("CREATE DATABASE {database} OWNER {owner}")).await.map(drop)
    }

    async fn replica(&self, number: usize, primary: &Server) -> Result<Server, DemoError> {
        let name = format!("node{number}");
        // The slot exists, and reserves WAL, before the backup begins: `pg_basebackup --create-slot` makes it
        // later, and the checkpoint of another replica's backup could remove WAL in between.
        primary.sql(&format!("SELECT pg_create_physical_replication_slot({}, true)", literal(&name))).await?;
        let data_dir = self.home.folder(&name, &self.site.account)?;
        if self.site.binaries.has("pg_basebackup") {
            self.base_backup(&data_dir, primary, &name).await?;
        } else {
            self.low_level_backup(&data_dir, primary, &name).await?;
        }
        self.start(&name, ServerRole::Replica).await
    }

    async fn base_backup(&self, data_dir: &Path, primary: &Server, slot: &str) -> Result<(), DemoError> {
        let mut command = self.command("pg_basebackup");
        // The password goes through the environment: arguments are for all to see in `ps`.
        command
            .env("PGPASSWORD", &self.replicator.password)
            .arg("-D")
            .arg(data_dir)
            .args(["-h", HOST, "-p", &primary.port().to_string(), "-U", REPLICATOR])
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .args(["--write-recovery-conf", "--slot", slot]);
        run("pg_basebackup", command).await
    }

    async fn low_level_backup(&self, data_dir: &Path, primary: &Server, slot: &str) -> Result<(), DemoError> {
        let (user, password) = (conninfo_value(REPLICATOR), conninfo_value(&self.replicator.password));
        let conninfo = format!("host={HOST} port={} user={user} password={password}", primary.port());
        let replication = Replication { conninfo: &conninfo, slot };
        basebackup::copy(primary, self.site.binaries.major(), &self.site.account, data_dir, replication).await
    }

    /// Starts a server on a free port, and on another one when somebody else was quicker.
    async fn start(&self, name: &str, role: ServerRole) -> Result<Server, DemoError> {
        let mut tries = 1;
        loop {
            let server = Server::new(&self.site, name, role, port::free()?);
            match server.start().await {
                Ok(()) => return Ok(server),
                Err(error) if tries < PORT_TRIES && port_was_taken(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        self.site.account.command(self.site.binaries.path(program), self.home.path())
    }
}

/// Runs a program to its end; its output is for the error. It is killed if the caller loses interest.
async fn run(program: &'static str, command: Command) -> Result<(), DemoError> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = wait::bounded(&format!("{program} to end"), command.output())
        .await?
        .map_err(DemoError::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Err(DemoError::Program { program, status: output.status, output: text })
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(path, text).map_err(DemoError::io(format!("write {}", path.display())))
}

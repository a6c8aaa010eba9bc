//! One PostgreSQL server: a postmaster that is this process's own child.
//!
//! Invariant: the child is reaped before the server counts as not running, and dropping a `Server`
//! ends its processes. `pg_ctl` is not used: PIDs must be known, and a test must be able to do
//! to a server whatever can happen to one.

mod memory;
mod postmaster;
mod query;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;

use self::postmaster::Postmaster;
pub use self::query::Rows;
use super::account::Account;
use super::binaries::Binaries;
use super::error::DemoError;
use super::options::{Credentials, ServerDescription, ServerRole};
use super::settings::conninfo_value;
use super::{process, wait};

/// Always the loopback.
pub(super) const HOST: &str = "127.0.0.1";

/// Lines of a log that an error shows.
const LOG_LINES: usize = 12;

/// What PostgreSQL logs when its port is taken.
const PORT_TAKEN: &str = "Address already in use";

/// How `pg_ctl stop` calls the three ways to end a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// SIGTERM: waits until every client has left.
    Smart,
    /// SIGINT: rolls back and disconnects the clients, then writes a checkpoint.
    Fast,
    /// SIGQUIT: no checkpoint, so the next start recovers as from a crash.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::SIGTERM,
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// What all servers of a cluster have in common.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) binaries: Binaries,
    pub(super) account: Account,
    pub(super) base: PathBuf,
    pub(super) socket_dir: PathBuf,
    /// The superuser first.
    pub(super) credentials: Vec<Credentials>,
}

/// A server of a cluster. All methods take `&self`, so that several tasks can handle one.
#[derive(Debug)]
pub struct Server {
    site: Arc<Site>,
    name: String,
    role: ServerRole,
    port: u16,
    data_dir: PathBuf,
    log_file: PathBuf,
    postmaster: Postmaster,
}

impl Server {
    /// A server that does not run yet, over `site`'s folder for `name`.
    pub(super) fn new(site: &Arc<Site>, name: &str, role: ServerRole, port: u16) -> Self {
        Self {
            site: Arc::clone(site),
            name: name.to_owned(),
            role,
            port,
            data_dir: site.base.join(name),
            log_file: site.base.join(format!("{name}.log")),
            postmaster: Postmaster::default(),
        }
    }

    /// `node0` for the first primary, `node1` and so on for the replicas; also the `cluster_name`, hence
    /// the `application_name` of a replica in `pg_stat_replication`, and the name of its slot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address without the port.
    pub fn host(&self) -> &str {
        HOST
    }

    /// The TCP port. It stays the same over stops and starts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The folder of the Unix socket, where every local user is trusted.
    pub fn socket_dir(&self) -> &Path {
        &self.site.socket_dir
    }

    /// The log of all its runs. It lies beside the data directory, so that a base backup does not copy it.
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// The postmaster's process, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.pid()
    }

    /// Whether the postmaster is there, be it frozen.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// A libpq connection string for TCP, with the password if `user` is one that the cluster made.
    pub fn conninfo(&self, user: &str, dbname: &str) -> String {
        let (user_value, dbname) = (conninfo_value(user), conninfo_value(dbname));
        let mut text = format!("host={HOST} port={} user={user_value} dbname={dbname}", self.port);
        if let Some(known) = self.site.credentials.iter().find(|known| known.user == user) {
            text.push_str(" password=");
            text.push_str(&conninfo_value(&known.password));
        }
        text
    }

    /// How to reach it, for a [`super::Description`].
    pub fn describe(&self) -> ServerDescription {
        ServerDescription {
            name: self.name.clone(),
            role: self.role,
            host: HOST.to_owned(),
            port: self.port,
            address: self.address(),
            data_dir: self.data_dir.clone(),
            socket_dir: self.site.socket_dir.clone(),
            log_file: self.log_file.clone(),
            pid: self.pid(),
        }
    }

    /// Starts it, for the first time or again after a stop or a kill, and waits until it answers.
    ///
    /// # Errors
    /// [`DemoError::AlreadyRunning`], [`DemoError::Exited`] with the end of the log when it gives
    /// up, [`DemoError::Timeout`].
    pub async fn start(&self) -> Result<(), DemoError> {
        let before = self.log_text().len();
        self.postmaster.spawn(&self.name, self.command()?)?;
        wait::until(&format!("{} to accept connections", self.name), || async {
            if let Some(status) = self.postmaster.exit_status() {
                let log = self.log_text();
                let log = tail(log.get(before..).unwrap_or_default());
                return Err(DemoError::Exited { server: self.name.clone(), status, log });
            }
            Ok(self.sql("SELECT 1").await.is_ok())
        })
        .await
    }

    fn command(&self) -> Result<std::process::Command, DemoError> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)
            .map_err(DemoError::io(format!("open {}", self.log_file.display())))?;
        let errors = log.try_clone().map_err(DemoError::io("share the log"))?;
        let mut command = self.site.account.command(self.site.binaries.path("postgres"), &self.site.base);
        command
            .arg("-D")
            .arg(&self.data_dir)
            .args(["-p", &self.port.to_string()])
            .args(["-c", &format!("cluster_name={}", self.name)])
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .stderr(errors);
        Ok(command)
    }

    fn log_text(&self) -> String {
        fs::read(&self.log_file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Stops it and waits until it has ended. One that does not run is stopped already.
    ///
    /// # Errors
    /// [`DemoError::Timeout`], for instance when a smart stop waits for a client.
    pub async fn stop(&self, mode: StopMode) -> Result<(), DemoError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::send(pid, mode.signal())?;
        self.ended().await
    }

    async fn ended(&self) -> Result<(), DemoError> {
        wait::until(&format!("{} to end", self.name), || async { Ok(!self.is_running()) }).await
    }

    /// Sends a signal to the postmaster alone.
    ///
    /// # Errors
    /// [`DemoError::NotRunning`], [`DemoError::Signal`].
    pub fn signal(&self, signal: Signal) -> Result<(), DemoError> {
        process::send(self.running_pid()?, signal)
    }

    /// Sends a signal to the postmaster, then to every child of it, those included that it makes meanwhile.
    /// SIGSTOP freezes the whole server (its kernel still accepts connections, nothing answers
    /// them), SIGCONT thaws it.
    ///
    /// # Errors
    /// [`DemoError::NotRunning`], [`DemoError::Signal`].
    pub fn signal_all(&self, signal: Signal) -> Result<(), DemoError> {
        signal_family(self.running_pid()?, signal).map(drop)
    }

    fn running_pid(&self) -> Result<u32, DemoError> {
        self.pid().ok_or_else(|| DemoError::NotRunning(self.name.clone()))
    }

    /// Kills the postmaster and all its children with SIGKILL, and waits until they are gone. The
    /// postmaster is frozen first, so that it neither forks nor cleans up.
    ///
    /// # Errors
    /// [`DemoError::NotRunning`], [`DemoError::Timeout`].
    pub async fn kill(&self) -> Result<(), DemoError> {
        let pid = self.running_pid()?;
        let family = signal_family(pid, Signal::SIGSTOP)?;
        for member in &family {
            process::send(*member, Signal::SIGKILL)?;
        }
        self.ended().await?;
        let what = format!("the processes of {} to be gone", self.name);
        wait::until(&what, || async { Ok(!family.iter().any(|member| process::is_alive(*member))) }).await
    }

    /// Starts an immediate stop without waiting, also of a frozen server.
    pub(super) fn begin_end(&self) {
        let Some(pid) = self.pid() else { return };
        let _ = process::send(pid, Signal::SIGQUIT);
        let _ = signal_family(pid, Signal::SIGCONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.begin_end();
        self.postmaster.end();
        memory::release(&self.data_dir, &self.site.account);
    }
}

/// Sends a signal to a process and its children; returns all of them, the parent first.
fn signal_family(parent: u32, signal: Signal) -> Result<Vec<u32>, DemoError> {
    process::send(parent, signal)?;
    let mut family = vec![parent];
    let mut seen = HashSet::from([parent]);
    loop {
        let new: Vec<u32> = process::children(parent).into_iter().filter(|pid| seen.insert(*pid)).collect();
        if new.is_empty() {
            return Ok(family);
        }
        for pid in &new {
            process::send(*pid, signal)?;
        }
        family.extend(new);
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Whether a start failed because somebody else has the port.
pub(super) fn port_was_taken(error: &DemoError) -> bool {
    matches!(error, DemoError::Exited { log, .. } if log.contains(PORT_TAKEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines() {
        let log: String = (1..=20).map(|n| format!("line {n}\n")).collect();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), LOG_LINES);
        assert!(tail.starts_with("line 9\n") && tail.ends_with("line 20"));
        assert_eq!(super::tail("one\n"), "one");
        assert_eq!(super::tail(""), "");
    }
}

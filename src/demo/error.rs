//! What can go wrong while a cluster is built or handled.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a local cluster could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No folder with all the binaries that are needed.
    #[error(
        "no PostgreSQL server binaries found (looked in {looked}): install PostgreSQL 14 or newer \
         (Debian and Ubuntu: `apt-get install postgresql`), or set PGSLUICE_PG_BIN to the folder that holds initdb and postgres"
    )]
    NoBinaries {
        /// The places that were tried, with what is missing in each.
        looked: String,
    },
    /// `PGSLUICE_PG_BIN` names a folder that does not hold the binaries.
    #[error("PGSLUICE_PG_BIN is {dir:?}, but there is no {missing} in it", dir = .dir.display())]
    WrongBinaries {
        /// The folder.
        dir: PathBuf,
        /// The binary that is not there.
        missing: &'static str,
    },
    /// The binaries are of a version that is not supported, or say nothing that we understand.
    #[error("{dir:?} holds {version:?}; PostgreSQL 14 or newer is needed", dir = .dir.display())]
    UnsupportedVersion {
        /// The folder.
        dir: PathBuf,
        /// What `postgres --version` printed.
        version: String,
    },
    /// Root without an account to step down to.
    #[error("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody` to run it as")]
    NoAccount,
    /// The account cannot get at a folder.
    #[error("PostgreSQL runs as {account:?} here, which may not enter {path:?}", path = .path.display())]
    Unreachable {
        /// The account's name.
        account: String,
        /// The folder.
        path: PathBuf,
    },
    /// No folder for temporary data that suits.
    #[error("no folder for temporary data that the account of PostgreSQL can use (tried {tried}); set TMPDIR")]
    NoTempDir {
        /// The folders that were tried.
        tried: String,
    },
    /// File or process trouble.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that prepares a server failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// A server ended while it was being started.
    #[error("server {server} ended at once ({status}); the end of its log:\n{log}")]
    Exited {
        /// The server's name.
        server: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The server's process is not there.
    #[error("server {0} is not running")]
    NotRunning(String),
    /// The server's process is there already.
    #[error("server {0} is running already")]
    AlreadyRunning(String),
    /// There are not as many servers.
    #[error("there is no server {index}: this cluster has {count}")]
    NoSuchServer {
        /// The server asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A condition did not come true.
    #[error("waited {seconds} s for {what} in vain")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A server refused a statement or a connection.
    #[error("server {server}: {message}")]
    Sql {
        /// The server's name.
        server: String,
        /// PostgreSQL's own words.
        message: String,
        /// The driver's error, for its SQLSTATE.
        source: tokio_postgres::Error,
    },
    /// A signal could not be sent.
    #[error("cannot send {signal} to process {pid}: {source}")]
    Signal {
        /// The signal's name.
        signal: &'static str,
        /// The process.
        pid: u32,
        /// What the system said.
        source: nix::Error,
    },
}

impl DemoError {
    /// Wraps an I/O error with what was being done, as in "cannot WHAT: …".
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

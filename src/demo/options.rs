//! What a cluster is to be like, and what it turned out to be.

use std::fmt;
use std::path::PathBuf;

use rand::distr::{Alphanumeric, SampleString};
use serde::Serialize;

const PASSWORD_LENGTH: usize = 24;

/// A role's name and password. `Debug` keeps the password to itself; `Serialize` does not, since
/// a [`Description`] is there to be connected with.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Credentials {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Credentials {
    /// A role with a given password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }

    /// A role with a random password.
    pub fn random(user: impl Into<String>) -> Self {
        Self::new(user, Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What servers encrypt with: the contents of PEM files.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The certificate, with its chain.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// Whose clients' certificates are taken, if any are asked for.
    pub client_ca: Option<String>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

/// What a cluster is to be like. The default has two replicas and random passwords.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many streaming replicas.
    pub replicas: usize,
    /// Further settings for `postgresql.conf` of every server; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
    /// With it the servers have `ssl = on`; it lies in their data directories as `server.crt`, `server.key` and
    /// `root.crt`. By default they have none.
    pub certificate: Option<ServerCertificate>,
    /// The superuser that `initdb` makes.
    pub superuser: Credentials,
    /// The proxy's own account: member of `pg_monitor`.
    pub monitor: Credentials,
    /// The application's account: an ordinary login, and the owner of `database`.
    pub app: Credentials,
    /// The application's database.
    pub database: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            replicas: 2,
            settings: Vec::new(),
            certificate: None,
            superuser: Credentials::random("postgres"),
            monitor: Credentials::random("pgsluice"),
            app: Credentials::random("app"),
            database: "app".to_owned(),
        }
    }
}

impl ClusterOptions {
    /// The default with this many replicas.
    pub fn with_replicas(replicas: usize) -> Self {
        Self { replicas, ..Self::default() }
    }

    /// Adds a setting for `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// The part that a server was given at the start. A promotion later on does not show here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerRole {
    /// Takes writes.
    Primary,
    /// Replays the primary's WAL.
    Replica,
}

/// All that is needed to connect to a running cluster, for printing as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// What `postgres --version` says.
    pub version: String,
    /// The application's database.
    pub database: String,
    /// The superuser.
    pub superuser: Credentials,
    /// The proxy's own account.
    pub monitor: Credentials,
    /// The application's account.
    pub app: Credentials,
    /// The servers, the primary first.
    pub servers: Vec<ServerDescription>,
}

/// One server of a [`Description`].
#[derive(Debug, Clone, Serialize)]
pub struct ServerDescription {
    /// `node0` and so on; also its `cluster_name` and `application_name` as a replica.
    pub name: String,
    /// The part that it was given.
    pub role: ServerRole,
    /// Always the loopback.
    pub host: String,
    /// TCP port, and the number in the socket's name.
    pub port: u16,
    /// `host:port`.
    pub address: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The folder of the Unix socket.
    pub socket_dir: PathBuf,
    /// Where the server logs.
    pub log_file: PathBuf,
    /// The postmaster, when it runs.
    pub pid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_differ_and_are_not_in_debug_output() {
        let (one, two) = (ClusterOptions::default(), ClusterOptions::default());
        assert_ne!(one.app, two.app);
        assert!(!format!("{one:?}").contains(&one.app.password));
    }

    #[test]
    fn settings_are_kept_in_order() {
        let options = ClusterOptions::with_replicas(1).setting("a", "1").setting("a", "2");
        assert_eq!(options.replicas, 1);
        assert_eq!(options.settings, [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]);
    }
}

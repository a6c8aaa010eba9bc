//! How the command line reaches a running pgsluice: its admin database, as any client would.
//!
//! Where and as whom is taken from a connection string, and what that leaves open from libpq's environment variables,
//! the password file, and the config, in this order. Passwords are in no message.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config as Driver, SimpleQueryMessage};

use super::connection_string::{Parts, TlsParts, split};
use super::passfile::{self, Sought};
use crate::admin::console::DATABASE;
use crate::config::{Config, Password};
use crate::tls::{DriverTls, Outbound, SslMode};

/// How long connecting, or an answer, may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Where a running pgsluice is, and who asks.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Connection string of a running pgsluice, as psql takes it: postgresql://alice@127.0.0.1:6432
    #[arg(long, value_name = "URL")]
    pub connect: Option<String>,
    /// The config file (TOML).
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log in as this role of admin.stats or admin.admins [default: the connection string's, PGUSER, or the first that
    /// the config names]
    #[arg(short = 'U', long, value_name = "ROLE")]
    pub user: Option<String>,
}

impl Target {
    /// The config, where one is named.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> anyhow::Result<Option<Config>> {
        Ok(self.config.as_deref().map(Config::load).transpose()?)
    }

    /// Where to connect, and as whom.
    ///
    /// # Errors
    /// The connection string is none, or nothing says where pgsluice is.
    pub fn resolve(&self, config: Option<&Config>) -> anyhow::Result<Door> {
        let Parts { text, tls } = split(self.connect.as_deref().unwrap_or_default());
        let mut driver: Driver = text.parse().map_err(|error| anyhow!("--connect: {}", told(&error)))?;
        if driver.get_hosts().is_empty() {
            match config.filter(|_| self.connect.is_none()) {
                Some(config) => listen_address(config, &mut driver)?,
                None => drop(driver.host("127.0.0.1")),
            }
        }
        if driver.get_ports().is_empty() {
            driver.port(config.map_or(6432, |config| config.listen.address.port()));
        }
        let user = self.user.clone().or_else(|| driver.get_user().map(str::to_owned));
        let user = user.or_else(|| std::env::var("PGUSER").ok()).or_else(|| of_config(config)).or_else(system_user);
        let user = user.context("nobody to log in as: say --user")?;
        let database = driver.get_dbname().map(str::to_owned);
        driver.user(&user).dbname(DATABASE).application_name("pgsluice").connect_timeout(LIMIT);
        let address = address(&driver);
        let mut remark = None;
        if driver.get_password().is_none() {
            let (password, problem) = password(&driver, &user, config);
            remark = problem;
            if let Some(password) = password {
                driver.password(password);
            }
        }
        let tls = outbound(tls)?;
        Ok(Door { driver, tls: Arc::new(tls), address, user, database, remark })
    }
}

/// Where a running pgsluice is reached.
pub struct Door {
    driver: Driver,
    tls: Arc<Outbound>,
    /// `host:port`
    pub address: String,
    /// Who logs in.
    pub user: String,
    /// The database that the connection string names: the application's, not the one that is connected to.
    pub database: Option<String>,
    /// Why the password file was left alone.
    remark: Option<String>,
}

impl Door {
    /// Logs in to the admin database.
    ///
    /// # Errors
    /// It is not to be reached, or does not let this user in.
    pub async fn open(&self) -> anyhow::Result<Desk> {
        let refused = |error: &tokio_postgres::Error| {
            let remark = self.remark.as_ref().map_or_else(String::new, |remark| format!(" ({remark})"));
            let hint = match error.code().map(tokio_postgres::error::SqlState::code) {
                Some("42501" | "3D000") => "; admin.stats in pgsluice's config says who may look",
                None if told(error).contains("password missing") => {
                    "; give it by PGPASSWORD, by ~/.pgpass, or in the connection string"
                }
                _ => "",
            };
            anyhow!("{} as \"{}\": {}{hint}{remark}", self.address, self.user, told(error))
        };
        let mut driver = self.driver.clone();
        let tls = DriverTls(Arc::clone(&self.tls));
        driver.ssl_mode(tls.mode());
        let connected = tokio::time::timeout(LIMIT, driver.connect(tls)).await;
        let connected = connected.map_err(|_| anyhow!("{}: no answer within {LIMIT:?}", self.address))?;
        let (client, connection) = connected.map_err(|error| refused(&error))?;
        tokio::spawn(async { drop(connection.await) });
        Ok(Desk { client })
    }
}

/// A connection to the admin database.
pub struct Desk {
    client: Client,
}

impl Desk {
    /// The rows of a command that shows something.
    ///
    /// # Errors
    /// The connection is lost, or the command is refused.
    pub async fn ask(&self, command: &str) -> anyhow::Result<Table> {
        let answered = tokio::time::timeout(LIMIT, self.client.simple_query(command)).await;
        let messages = answered
            .map_err(|_| anyhow!("no answer within {LIMIT:?}"))?
            .map_err(|error| anyhow!("{}", told(&error)))?;
        let mut table = Table::default();
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    table.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    table.rows.push((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(table)
    }
}

/// What a command shows; `None` is NULL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The header.
    pub columns: Vec<String>,
    /// Each as long as the header.
    pub rows: Vec<Vec<Option<String>>>,
}

/// The driver's error with what the server has said, in one line.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        let more = [server.detail(), server.hint()].into_iter().flatten().map(|text| format!(" {text}"));
        return format!("{}{}", server.message(), more.collect::<String>());
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn listen_address(config: &Config, driver: &mut Driver) -> anyhow::Result<()> {
    let address = config.listen.address;
    if address.port() == 0 {
        bail!("listen.address has port 0, any free port: say --connect with the one that the log names");
    }
    let host = match (address.ip().is_unspecified(), address.is_ipv4()) {
        (true, true) => "127.0.0.1".to_owned(),
        (true, false) => "::1".to_owned(),
        _ => address.ip().to_string(),
    };
    driver.host(host).port(address.port());
    Ok(())
}

fn of_config(config: Option<&Config>) -> Option<String> {
    let admin = &config?.admin;
    admin.stats.iter().chain(&admin.admins).next().cloned()
}

fn system_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

fn address(driver: &Driver) -> String {
    let port = driver.get_ports().first().copied().unwrap_or(6432);
    match driver.get_hosts().first() {
        Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]:{port}"),
        Some(Host::Tcp(host)) => format!("{host}:{port}"),
        Some(Host::Unix(folder)) => format!("{}:{port}", folder.display()),
        None => format!("127.0.0.1:{port}"),
    }
}

/// From the environment, the password file, or the config; and why the second was left alone.
fn password(driver: &Driver, user: &str, config: Option<&Config>) -> (Option<String>, Option<String>) {
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return (Some(password), None);
    }
    let host = match driver.get_hosts().first() {
        Some(Host::Tcp(host)) => host.as_str(),
        _ => "localhost",
    };
    let port = driver.get_ports().first().copied().unwrap_or(6432);
    let (found, problem) = passfile::look_up(Sought { host, port, database: DATABASE, user });
    if let Some(found) = found {
        return (Some(found.expose().to_owned()), problem);
    }
    let of_config =
        config.and_then(|config| match &config.auth.users.iter().find(|known| known.name == user)?.password {
            Password::Plain(secret) => Some(secret.expose().to_owned()),
            Password::Verifier(_) => None,
        });
    (of_config, problem)
}

fn outbound(parts: TlsParts) -> anyhow::Result<Outbound> {
    let from = |value: Option<String>, variable: &str| value.or_else(|| std::env::var(variable).ok());
    let mode = match from(parts.mode, "PGSSLMODE").as_deref() {
        Some("disable") => SslMode::Disable,
        None | Some("prefer" | "allow") => SslMode::Prefer,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => bail!("sslmode \"{other}\": expected disable, prefer, require, verify-ca or verify-full"),
    };
    let [root, cert, key] = [(parts.root_cert, "PGSSLROOTCERT"), (parts.cert, "PGSSLCERT"), (parts.key, "PGSSLKEY")]
        .map(|(value, variable)| from(value, variable).map(PathBuf::from));
    if mode >= SslMode::VerifyCa && root.is_none() {
        bail!("sslmode verify-ca and verify-full need sslrootcert, in the connection string or as PGSSLROOTCERT");
    }
    Outbound::load(mode, root.as_deref().filter(|path| *path != Path::new("")), cert.as_ref().zip(key.as_ref()))
        .map_err(|problems| {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.path.display(), problem.problem)).collect();
            anyhow!("{}", lines.join("; "))
        })
}

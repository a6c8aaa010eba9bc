//! Speaks to the servers: reads the shards' catalogs and the coordinator's state, and carries a plan out.
//!
//! Everything on the coordinator is one transaction. A password travels as a parameter, never in a statement's text,
//! which a server may log.

use futures_util::future::try_join_all;
use serde::de::DeserializeOwned;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use super::catalog::{self, ShardCatalog};
use super::compare::{self, Table};
use super::error::CoordinatorError;
use super::foreign::Wanted;
use super::names;
use super::plan::{Command, Plan, Step, make_extension};
use super::quote::{literal, qualified};
use super::state::{self, Found, FoundSchema, FoundServer, option};
use crate::config::{Config, Placement, Secret, Shard};
use crate::monitor::connect_driver;

const APPLICATION_NAME: &str = "pgsluice coordinator setup";

/// Two setups at a time would make the same things. The key is `pgsluice` in ASCII.
const BEGIN: &str = "BEGIN; SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = '10s'; \
                     SELECT pg_advisory_xact_lock(8099569364512629605)";

/// A superuser's statements need not be logged, whatever the server logs otherwise. Others have no say in it.
const QUIET: &str = "SELECT set_config(s.name, s.value, true) FROM (VALUES ('log_statement', 'none'), \
    ('log_min_duration_statement', '-1'), ('log_min_duration_sample', '-1'), ('log_parameter_max_length', '0')) AS s (name, value) \
    WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper)";

/// Where the password stands for the time of the transaction.
const SETTING: &str = "pgsluice.coordinator_password";

/// What was found in one database, and what was, or is to be, done about it.
#[derive(Debug)]
pub struct Report {
    /// What differs; empty: all is as it should be.
    pub steps: Vec<Step>,
    /// The statements for that, in order.
    pub commands: Vec<Command>,
    /// Declared tables that this database does not have.
    pub nowhere: Vec<String>,
}

/// Makes the coordinator's schema what the config and the shards' tables ask for, in one transaction.
///
/// # Errors
/// Anything of [`CoordinatorError`]; then nothing was changed.
pub async fn setup(config: &Config, database: &str) -> Result<Report, CoordinatorError> {
    let survey = Survey::take(config, database).await?;
    for command in &survey.report.commands {
        survey.run(command).await?;
    }
    survey.probe().await?;
    survey.ask("COMMIT").await?;
    Ok(survey.report)
}

/// What [`setup`] would do. Changes nothing.
///
/// # Errors
/// As [`setup`], but for what only doing it would show.
pub async fn rehearse(config: &Config, database: &str) -> Result<Report, CoordinatorError> {
    Ok(Survey::take(config, database).await?.report)
}

/// What [`setup`] would do, and if that is nothing, whether the coordinator can read every shard. Changes nothing.
///
/// # Errors
/// As [`setup`].
pub async fn check(config: &Config, database: &str) -> Result<Report, CoordinatorError> {
    let survey = Survey::take(config, database).await?;
    if survey.report.steps.is_empty() {
        survey.probe().await?;
    }
    Ok(survey.report)
}

/// The coordinator in an open transaction, and what is to be done there.
struct Survey {
    shard: String,
    account: String,
    client: Client,
    tables: Vec<Table>,
    report: Report,
}

impl Survey {
    async fn take(config: &Config, database: &str) -> Result<Self, CoordinatorError> {
        let shard = config.coordinator.as_ref().map(|coordinator| &coordinator.shard);
        let shard = config.shards.iter().find(|other| Some(&other.name) == shard);
        let shard = shard.ok_or(CoordinatorError::NoCoordinator)?;
        let catalogs = try_join_all(config.shards.iter().map(|shard| read_shard(config, shard, database))).await?;
        let (mut tables, nowhere) =
            compare::tables(config, &shard.name, &catalogs).map_err(CoordinatorError::Problems)?;
        let coordinator = Server::open(config, shard, database).await?;
        coordinator.run(BEGIN).await?;
        coordinator.keep_known_roles(&mut tables).await?;
        let wanted = Wanted::new(config, &shard.user, database, &tables);
        let found = coordinator.state(&wanted).await?;
        let Plan { steps, commands } = Plan::new(&wanted, &found, database)?;
        let report = Report { steps, commands, nowhere };
        let (shard, account) = (shard.name.clone(), shard.user.clone());
        Ok(Self { shard, account, client: coordinator.client, tables, report })
    }

    async fn ask(&self, sql: &str) -> Result<(), CoordinatorError> {
        self.client.batch_execute(sql).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: Error) -> CoordinatorError {
        CoordinatorError::Ask { shard: self.shard.clone(), source }
    }

    async fn run(&self, command: &Command) -> Result<(), CoordinatorError> {
        let done = match command {
            Command::Sql(text) => self.client.batch_execute(text).await,
            Command::Password { before, password } => self.give_password(before, password).await,
        };
        let refused = |source: Error| CoordinatorError::Refused { command: command.to_string(), source };
        let is_extension = matches!(command, Command::Sql(text) if text.starts_with("CREATE EXTENSION"));
        done.map_err(|source| match source.code() {
            Some(code) if is_extension && *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                CoordinatorError::NotPermitted { account: self.account.clone(), needed: make_extension(&self.account) }
            }
            _ => refused(source),
        })
    }

    /// The text of what the server runs at its top level has no password in it.
    async fn give_password(&self, before: &str, password: &Secret) -> Result<(), Error> {
        self.client.batch_execute(QUIET).await?;
        self.client.execute("SELECT set_config($1, $2, true)", &[&SETTING, &password.expose()]).await?;
        let body = format!(
            "BEGIN EXECUTE {} || quote_literal(current_setting({})) || ')'; END",
            literal(before),
            literal(SETTING)
        );
        self.client.batch_execute(&format!("DO {}", literal(&body))).await?;
        self.client.execute("SELECT set_config($1, '', true)", &[&SETTING]).await.map(drop)
    }

    /// Has the coordinator log in to every shard that it has tables of.
    async fn probe(&self) -> Result<(), CoordinatorError> {
        let mut probed: Vec<&str> = Vec::new();
        for table in &self.tables {
            for shard in &table.shards {
                if probed.contains(&&**shard) {
                    continue;
                }
                probed.push(shard);
                let sql = format!("SELECT FROM {} LIMIT 0", qualified(&names::schema(shard), &table.name));
                let unreachable = |source| CoordinatorError::Unreachable { shard: shard.clone(), source };
                self.client.batch_execute(&sql).await.map_err(unreachable)?;
            }
        }
        Ok(())
    }
}

async fn read_shard(config: &Config, shard: &Shard, database: &str) -> Result<ShardCatalog, CoordinatorError> {
    let server = Server::open(config, shard, database).await?;
    server.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog").await?;
    let names: Vec<&str> = (config.tables.iter())
        .filter(|table| !matches!(&table.placement, Placement::Shard(other) if *other != shard.name))
        .map(|table| &*table.name.name)
        .collect();
    let rows = server.rows("SELECT current_setting('server_version_num')::int", &[]).await?;
    let version: i32 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(|source| server.failed(source))?;
    let mut locale = Vec::new();
    for row in server.rows(&catalog::locale_sql(version), &[]).await? {
        for (index, column) in row.columns().iter().enumerate() {
            locale.push((column.name().to_owned(), row.try_get(index).map_err(|source| server.failed(source))?));
        }
    }
    let relations = server.json(&catalog::relations_sql(), &[&names]).await?;
    Ok(ShardCatalog { shard: shard.name.clone(), account: shard.user.clone(), locale, relations })
}

/// The primary of a shard.
struct Server {
    shard: String,
    client: Client,
}

impl Server {
    async fn open(config: &Config, shard: &Shard, database: &str) -> Result<Self, CoordinatorError> {
        let mut driver = tokio_postgres::Config::new();
        driver.user(&shard.user).dbname(database).application_name(APPLICATION_NAME);
        driver.connect_timeout(config.pool.connect_timeout).target_session_attrs(TargetSessionAttrs::ReadWrite);
        for node in &shard.nodes {
            driver.host(&node.host).port(node.port);
        }
        if let Some(password) = &shard.password {
            driver.password(password.expose());
        }
        match connect_driver(&driver, &shard.outbound).await {
            Ok((client, _)) => Ok(Self { shard: shard.name.clone(), client }),
            Err(source) => Err(CoordinatorError::Connect { shard: shard.name.clone(), source }),
        }
    }

    fn failed(&self, source: Error) -> CoordinatorError {
        CoordinatorError::Ask { shard: self.shard.clone(), source }
    }

    async fn run(&self, sql: &str) -> Result<(), CoordinatorError> {
        self.client.batch_execute(sql).await.map_err(|source| self.failed(source))
    }

    async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, CoordinatorError> {
        self.client.query(sql, parameters).await.map_err(|source| self.failed(source))
    }

    /// Rows of one column, which is JSON.
    async fn json<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<T>, CoordinatorError> {
        let read = |row: tokio_postgres::Row| {
            let text: &str = row.try_get(0).map_err(|source| self.failed(source))?;
            serde_json::from_str(text).map_err(|source| CoordinatorError::Answer { shard: self.shard.clone(), source })
        };
        self.rows(sql, parameters).await?.into_iter().map(read).collect()
    }

    /// A role of another shard only cannot log in here, nor be granted anything.
    async fn keep_known_roles(&self, tables: &mut [Table]) -> Result<(), CoordinatorError> {
        let roles: Vec<String> =
            tables.iter().flat_map(|table| &table.readers).filter_map(|reader| reader.role.clone()).collect();
        let mut known: Vec<String> = Vec::new();
        for row in self.rows("SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)", &[&roles]).await? {
            known.push(row.try_get(0).map_err(|source| self.failed(source))?);
        }
        for table in tables {
            table.readers.retain(|reader| reader.role.as_ref().is_none_or(|role| known.contains(role)));
        }
        Ok(())
    }

    async fn state(&self, wanted: &Wanted) -> Result<Found, CoordinatorError> {
        let rights = self.json(state::RIGHTS, &[]).await?.into_iter().next().unwrap_or_default();
        let mut found = Found { rights, ..Found::default() };
        let names: Vec<&str> = wanted.servers.iter().map(|server| &*server.name).collect();
        for row in self.rows(&state::servers_sql(), &[&names]).await? {
            let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<_, Vec<String>>(2)?));
            let (name, comment, options): (String, _, _) = read().map_err(|source| self.failed(source))?;
            let options = options.iter().map(|text| option(text)).collect();
            found.servers.insert(name, FoundServer { comment, options, mappings: Default::default() });
        }
        self.mappings(&mut found).await?;
        let names: Vec<&str> = wanted.schemas.iter().map(|schema| &*schema.name).collect();
        let schemas: Vec<FoundSchema> = self.json(&state::schemas_sql(), &[&names]).await?;
        found.schemas = schemas.into_iter().map(|schema| (schema.name.clone(), schema)).collect();
        let names: Vec<&str> = found.schemas.keys().map(String::as_str).collect();
        found.relations = self.json(&state::relations_sql(), &[&names]).await?;
        Ok(found)
    }

    async fn mappings(&self, found: &mut Found) -> Result<(), CoordinatorError> {
        let names: Vec<&str> = found.servers.keys().map(String::as_str).collect();
        for row in self.rows(state::MAPPINGS, &[&names]).await? {
            let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<_, Vec<String>>(2)?));
            let (server, user, options): (String, String, _) = read().map_err(|source| self.failed(source))?;
            let options = options.iter().map(|text| option(text)).map(|(name, value)| (name, Secret::new(value)));
            if let Some(server) = found.servers.get_mut(&server) {
                server.mappings.insert(user, options.collect());
            }
        }
        Ok(())
    }
}

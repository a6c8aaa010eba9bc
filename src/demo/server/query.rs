//! Asking a server something, as its superuser.
//!
//! Every call makes a connection of its own over the Unix socket: a server may have been killed,
//! restarted or frozen since the last one.

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::Server;
use crate::demo::error::DemoError;
use crate::demo::wait;

/// Rows of text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// The database that every cluster has.
const MAINTENANCE_DB: &str = "postgres";

impl Server {
    /// Runs one or more statements in the database `postgres` and returns the rows of all of them.
    ///
    /// # Errors
    /// [`DemoError::Sql`] with PostgreSQL's words, [`DemoError::Timeout`] when there is no answer.
    pub async fn sql(&self, text: &str) -> Result<Rows, DemoError> {
        self.sql_in(MAINTENANCE_DB, text).await
    }

    /// Runs one or more statements in a database and returns the rows of all of them.
    ///
    /// # Errors
    /// As [`Server::sql`].
    pub async fn sql_in(&self, dbname: &str, text: &str) -> Result<Rows, DemoError> {
        let what = format!("{} to answer {text:?}", self.name);
        wait::bounded(&what, self.ask(dbname, text)).await?.map_err(|source| self.sql_error(source))
    }

    /// A connection to the database `postgres` for several calls, for what lasts as long as a session.
    pub(in crate::demo) async fn session(&self) -> Result<ServerSession<'_>, DemoError> {
        let what = format!("{} to accept a session", self.name);
        let connected = wait::bounded(&what, self.config(MAINTENANCE_DB).connect(NoTls)).await?;
        let (client, connection) = connected.map_err(|source| self.sql_error(source))?;
        tokio::spawn(connection);
        Ok(ServerSession { server: self, client })
    }

    fn config(&self, dbname: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.site.socket_dir).port(self.port).dbname(dbname);
        if let Some(superuser) = self.site.credentials.first() {
            config.user(&superuser.user);
        }
        config
    }

    async fn ask(&self, dbname: &str, text: &str) -> Result<Rows, tokio_postgres::Error> {
        let (client, connection) = self.config(dbname).connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let answer = client.simple_query(text).await;
        drop(client);
        let _ = connection.await;
        Ok(answer?.iter().filter_map(row).collect())
    }

    fn sql_error(&self, source: tokio_postgres::Error) -> DemoError {
        let message = source.as_db_error().map_or_else(|| source.to_string(), ToString::to_string);
        DemoError::Sql { server: self.name.clone(), message, source }
    }

    /// Whether one statement's single value is true. NULL and no row are not.
    pub(in crate::demo) async fn holds(&self, text: &str) -> Result<bool, DemoError> {
        let rows = self.sql(text).await?;
        Ok(rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some("t")))
    }

    /// Pauses replay on a replica, and waits until it has stopped.
    ///
    /// # Errors
    /// [`DemoError::Sql`] on a primary, [`DemoError::Timeout`].
    pub async fn pause_replay(&self) -> Result<(), DemoError> {
        self.sql("SELECT pg_wal_replay_pause()").await?;
        let paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
        wait::until(&format!("replay on {} to pause", self.name), || self.holds(paused)).await
    }

    /// Lets replay go on.
    ///
    /// # Errors
    /// [`DemoError::Sql`] on a primary.
    pub async fn resume_replay(&self) -> Result<(), DemoError> {
        self.sql("SELECT pg_wal_replay_resume()").await.map(drop)
    }
}

/// See [`Server::session`].
pub(in crate::demo) struct ServerSession<'a> {
    server: &'a Server,
    client: tokio_postgres::Client,
}

impl ServerSession<'_> {
    /// As [`Server::sql`], always on this connection.
    pub(in crate::demo) async fn sql(&self, text: &str) -> Result<Rows, DemoError> {
        let what = format!("{} to answer {text:?}", self.server.name);
        let answer = wait::bounded(&what, self.client.simple_query(text)).await?;
        let answer = answer.map_err(|source| self.server.sql_error(source))?;
        Ok(answer.iter().filter_map(row).collect())
    }
}

fn row(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    }
}

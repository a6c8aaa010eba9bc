//! Users that the config's file does not name, looked up on the servers with `auth.query`.
//!
//! What was found is kept for `auth.query_cache`, what was not found or could not be asked for a second,
//! and never more of them than [`MOST_USERS`]. Of many logins of one user at once one asks, and the others
//! wait for its answer. Only verifiers are taken: no password comes this way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::types::{FromSql, Type};

use super::catalog_rows::LoadError;
use super::catalogs::{Connection, connect, server_for};
use super::poll::chain;
use crate::config::Config;
use crate::topology::SharedTopology;
use crate::wire::scram::Verifier;

/// Users that are remembered, there or not.
const MOST_USERS: usize = 10_000;

/// Lookups under way at a time; further ones wait.
const MOST_LOOKUPS: usize = 8;

/// How long it is remembered that there is no such user, or that nobody could be asked; and for how long a
/// verifier is not looked up again, however many logins fail with it.
const SHORT_WHILE: Duration = Duration::from_secs(1);

/// `NAMEDATALEN - 1`: no role has a longer name.
const LONGEST_NAME: usize = 63;

/// Looks users up.
pub struct UserLookup {
    config: Arc<ArcSwap<Config>>,
    topology: SharedTopology,
    found: Cache<String, Found>,
    connection: Mutex<Option<Arc<Connection>>>,
    permits: Semaphore,
}

/// The servers cannot be asked; why stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("users cannot be looked up on the servers at the moment")]
pub struct LookupFailed;

/// What was learnt of one user.
#[derive(Clone)]
struct Found {
    /// `None`: nobody who may log in with a password.
    verifier: Result<Option<Arc<Verifier>>, LookupFailed>,
    at: Instant,
    until: Instant,
}

/// Why a lookup has brought nothing.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("cannot connect: {0}")]
    Connect(#[from] LoadError),
    #[error("auth.query failed: {}", chain(.0))]
    Query(#[from] tokio_postgres::Error),
    #[error("no answer in time (pool.connect_timeout)")]
    Timeout,
    #[error(
        "auth.query returns {0} columns; it has to return the name, the verifier and, if you like, until when it is valid"
    )]
    Columns(usize),
    #[error("auth.query returns {0} rows for one name")]
    Rows(usize),
}

impl std::fmt::Debug for UserLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserLookup").field("users", &self.found.len()).finish_non_exhaustive()
    }
}

impl UserLookup {
    /// Asks the servers that `topology` knows, as the config then in force says.
    pub fn new(config: Arc<ArcSwap<Config>>, topology: SharedTopology) -> Self {
        Self {
            config,
            topology,
            found: Cache::new(MOST_USERS),
            connection: Mutex::default(),
            permits: Semaphore::new(MOST_LOOKUPS),
        }
    }

    /// The user's verifier; `None` where there is no such user, or none that may log in with a password.
    ///
    /// # Errors
    /// The servers cannot be asked.
    pub async fn find(&self, user: &str) -> Result<Option<Arc<Verifier>>, LookupFailed> {
        if user.len() > LONGEST_NAME || self.config.load().auth.query.is_none() {
            return Ok(None);
        }
        loop {
            let mut is_new = false;
            let lookup = async {
                is_new = true;
                Ok::<_, Infallible>(self.look_up(user).await)
            };
            let Ok(found) = self.found.get_or_insert_async(user, lookup).await;
            if is_new || Instant::now() < found.until {
                return found.verifier;
            }
            self.found.remove_if(user, |known| known.until <= Instant::now());
        }
    }

    /// A login has failed with what is remembered of the user: it may have been changed since.
    pub fn doubt(&self, user: &str) {
        self.found.remove_if(user, |known| known.at.elapsed() >= SHORT_WHILE);
    }

    /// Forgets everything: another query may find others.
    pub fn clear(&self) {
        self.found.clear();
    }

    async fn look_up(&self, user: &str) -> Found {
        let config = self.config.load_full();
        let limit = config.pool.connect_timeout;
        let asked = tokio::time::timeout(limit, async {
            // Never closed, so it is always granted.
            let _permit = self.permits.acquire().await;
            self.ask(&config, user).await
        });
        let now = Instant::now();
        let result = asked.await.unwrap_or(Err(LookupError::Timeout));
        let (verifier, keep) = match result {
            Ok(Some((verifier, valid_for))) => {
                let keep = config.auth.query_cache.min(valid_for.unwrap_or(Duration::MAX));
                (Ok(Some(verifier)), keep)
            }
            Ok(None) => (Ok(None), SHORT_WHILE.min(config.auth.query_cache)),
            Err(error) => {
                tracing::warn!(?user, %error, "a user cannot be looked up");
                (Err(LookupFailed), SHORT_WHILE)
            }
        };
        Found { verifier, at: now, until: now + keep }
    }

    /// The verifier, and for how long it stays valid where that ends.
    async fn ask(&self, config: &Config, user: &str) -> Result<Option<(Arc<Verifier>, Option<Duration>)>, LookupError> {
        let Some(query) = &config.auth.query else { return Ok(None) };
        let connection = self.connect(config).await?;
        let rows = connection.client.query(query, &[&user]).await?;
        let row = match &*rows {
            [] => return Ok(None),
            [row] if (2..=3).contains(&row.len()) => row,
            [row] => return Err(LookupError::Columns(row.len())),
            rows => return Err(LookupError::Rows(rows.len())),
        };
        if row.try_get::<_, Option<&str>>(0)? != Some(user) {
            return Ok(None);
        }
        let Some(text) = row.try_get::<_, Option<&str>>(1)? else { return Ok(None) };
        let Some(verifier) = Verifier::read(text) else {
            tracing::warn!(
                ?user,
                "what auth.query returns for this user is no SCRAM-SHA-256 verifier: nobody can log in with it"
            );
            return Ok(None);
        };
        let valid_until = if row.len() == 3 { row.try_get::<_, Option<Moment>>(2)? } else { None };
        let Some(until) = valid_until else { return Ok(Some((Arc::new(verifier), None))) };
        // By the server's clock, which set it.
        let now: Moment = connection.client.query_one("SELECT pg_catalog.clock_timestamp()", &[]).await?.try_get(0)?;
        let left = u64::try_from(until.0.saturating_sub(now.0)).ok().filter(|left| *left > 0);
        Ok(left.map(|left| (Arc::new(verifier), Some(Duration::from_micros(left)))))
    }

    /// The connection that is kept, or a new one where it is not to the server that is to be asked.
    async fn connect(&self, config: &Config) -> Result<Arc<Connection>, LookupError> {
        let (node, mut login) = server_for(config, &self.topology).ok_or(LoadError::NoServer)?;
        if let Some(database) = &config.auth.query_database {
            login = login.to_database(database);
        }
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| connection.is_to(&node, &login)) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(connect(node, login).await?);
        *kept = Some(Arc::clone(&connection));
        Ok(connection)
    }
}

/// A `timestamptz`: microseconds since 2000, with the infinities at the ends.
struct Moment(i64);

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }
}

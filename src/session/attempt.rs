//! One client's try to log in: what is known of it, which rule it falls under, and what is counted, logged
//! and remembered when it fails.
//!
//! Names come from strangers: in the log they stand in quotes, with everything that is not printable escaped.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::auth::Rejection;
use crate::audit::{Event, Name};
use crate::config::{AuthMethod, Candidate, Config};
use crate::proxy::Proxy;
use crate::telemetry::metrics::LoginOutcome;
use crate::wire::ErrorReply;
use crate::wire::startup::Request;

/// A try to log in.
#[derive(Debug)]
pub(super) struct Attempt {
    peer: SocketAddr,
    address: IpAddr,
    user: Option<Box<str>>,
    database: Option<Box<str>>,
    is_throttled: bool,
}

impl Attempt {
    /// Of somebody who has not said anything yet.
    pub(super) fn from(peer: SocketAddr) -> Self {
        Self { peer, address: peer.ip().to_canonical(), user: None, database: None, is_throttled: false }
    }

    /// How the client is to be checked.
    pub(super) fn method(
        &mut self,
        proxy: &Proxy,
        config: &Config,
        request: &Request,
        is_encrypted: bool,
    ) -> Result<AuthMethod, Rejection> {
        self.user = Some(request.user.as_str().into());
        self.database = Some(request.database.as_str().into());
        let database = (!request.is_physical_replication()).then_some(request.database.as_str());
        let candidate = Candidate { user: &request.user, database, address: self.address, is_encrypted };
        match config.auth.method_for(candidate) {
            None => Err(refused(false, candidate)),
            Some(AuthMethod::Reject) => Err(refused(true, candidate)),
            Some(AuthMethod::ScramSha256) => self.check_failures(proxy, config).map(|()| AuthMethod::ScramSha256),
            Some(method) => Ok(method),
        }
    }

    /// Whoever has failed too often is not asked.
    fn check_failures(&mut self, proxy: &Proxy, config: &Config) -> Result<(), Rejection> {
        let wait = proxy.throttle.wait(self.address, config.auth.max_failures, Instant::now());
        let Some(wait) = wait else { return Ok(()) };
        self.is_throttled = true;
        let seconds = wait.as_secs() + 1;
        Err(Rejection::Told(
            ErrorReply::fatal("28000", "too many failed logins from this address")
                .hint(format!("Try again in {seconds} seconds (auth.max_failures).")),
        ))
    }

    /// What this refusal counts as.
    pub(super) fn outcome(&self, reply: &ErrorReply) -> LoginOutcome {
        match reply.sqlstate {
            _ if self.is_throttled => LoginOutcome::Throttled,
            "28P01" => LoginOutcome::Failed,
            "28000" if self.user.is_some() => LoginOutcome::Rejected,
            "53300" => LoginOutcome::TooMany,
            "57014" => LoginOutcome::Timeout,
            "28000" | "08P01" | "0A000" | "22023" | "3D000" | "42601" | "42704" => LoginOutcome::Invalid,
            _ => LoginOutcome::Unavailable,
        }
    }

    /// Counts, logs and remembers that the client was refused. Returns how long it is to wait for the answer.
    pub(super) fn refused(&self, proxy: &Proxy, outcome: LoginOutcome, reply: &ErrorReply) -> Duration {
        proxy.metrics.logins(outcome).increment(1);
        let name = |name: &Option<Box<str>>| name.as_deref().map(Name::from);
        proxy.audit.tell(Event::LoginRefused {
            user: name(&self.user),
            database: name(&self.database),
            client: Some(self.peer),
            sqlstate: reply.sqlstate,
            message: reply.message.clone(),
        });
        let address = self.address;
        let [user, database] = [&self.user, &self.database].map(|name| name.as_deref().unwrap_or_default());
        let (sqlstate, reason, outcome_name) = (reply.sqlstate, &reply.message, outcome.name());
        match outcome {
            // Many at a time, and nothing is known of them.
            LoginOutcome::CrowdedOut => tracing::debug!(%address, outcome = outcome_name, "login refused"),
            _ => tracing::info!(%address, ?user, ?database, sqlstate, ?reason, outcome = outcome_name, "login refused"),
        }
        if outcome != LoginOutcome::Failed {
            return Duration::ZERO;
        }
        let config = proxy.config.load();
        proxy.throttle.note_failure(self.address, config.auth.max_failures, Instant::now());
        config.auth.failure_delay
    }
}

/// As PostgreSQL words it, with the config's key for its file.
/// <https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/libpq/auth.c>, `ClientAuthentication`
fn refused(is_explicit: bool, candidate: Candidate<'_>) -> Rejection {
    let Candidate { user, database, address, is_encrypted } = candidate;
    let encryption = if is_encrypted { "SSL encryption" } else { "no encryption" };
    let (what, from) = match (is_explicit, database) {
        (true, Some(_)) => ("auth.rules rejects connection for", ""),
        (true, None) => ("auth.rules rejects replication connection for", ""),
        (false, Some(_)) => ("no auth.rules entry for", ""),
        (false, None) => ("no auth.rules entry for", "replication connection from "),
    };
    let database = database.map_or_else(String::new, |database| format!(", database \"{database}\""));
    let message = format!("{what} {from}host \"{address}\", user \"{user}\"{database}, {encryption}");
    Rejection::Told(ErrorReply::fatal("28000", message))
}

//! The time that a client may take: for a statement, idle in a transaction, idle at all; and its user's pace.
//!
//! A session reads its limits from the config once, and again after a reload: a statement costs one atomic load,
//! and a limit that is not set costs nothing more.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::attach::cancelled;
use super::relay::Outcome;
use super::{Fault, Session};
use crate::audit::Event;
use crate::config::Config;
use crate::telemetry::metrics::CutCause;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// One session's limits; `None` is none.
#[derive(Debug, Default)]
pub(super) struct SessionLimits {
    /// Of the config that they were read from.
    generation: Option<usize>,
    statement: Option<Duration>,
    idle_in_transaction: Option<Duration>,
    idle: Option<Duration>,
    per_second: Option<u32>,
}

impl SessionLimits {
    fn read(config: &Config, user: &str, generation: usize) -> Self {
        let own = config.auth.users.iter().find(|known| known.name == user);
        let limits = &config.limits;
        let set = |time: Duration| (!time.is_zero()).then_some(time);
        let per_second = own.and_then(|own| own.statements_per_second).unwrap_or(limits.statements_per_second);
        Self {
            generation: Some(generation),
            statement: set(own.and_then(|own| own.statement_timeout).unwrap_or(limits.statement_timeout)),
            idle_in_transaction: set(limits.idle_in_transaction_session_timeout),
            idle: set(limits.idle_session_timeout),
            per_second: (per_second > 0).then_some(per_second),
        }
    }

    /// The time of one statement, for whoever tells that it was over.
    pub(super) fn statement_seconds(&self) -> f64 {
        self.statement.unwrap_or_default().as_secs_f64()
    }

    /// When the time of so many statements is over, if they begin now.
    ///
    /// As PostgreSQL's own `statement_timeout`: each statement of one text, and each `Execute` of a pipeline, has the whole
    /// time. But a server tells what it has done when it has done all, or when its buffer is full, so it is all of
    /// them together that are timed. A commit has no limit: to cancel one that waits for a synchronous standby would not undo
    /// it, and would only give up what the standby is there for.
    /// <https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-STATEMENT-TIMEOUT>
    pub(super) fn deadline(&self, statements: usize) -> Option<Instant> {
        let time = self.statement?.checked_mul(u32::try_from(statements).ok().filter(|count| *count > 0)?)?;
        Instant::now().checked_add(time)
    }
}

/// How long a client may be silent, and what it is told when it was for longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    limit: Duration,
    cause: CutCause,
    sqlstate: &'static str,
    message: &'static str,
}

impl Patience {
    /// Returns when it is over.
    pub(super) async fn end(self) -> (CutCause, ErrorReply) {
        tokio::time::sleep(self.limit).await;
        (self.cause, ErrorReply::fatal(self.sqlstate, self.message))
    }
}

impl Session {
    /// Takes over what the config now says.
    pub(super) fn refresh_limits(&mut self) {
        let generation = self.proxy.generation.load(Ordering::Acquire);
        if self.limits.generation != Some(generation) {
            self.config = self.proxy.config.load_full();
            self.limits = SessionLimits::read(&self.config, &self.identity.user, generation);
        }
    }

    /// How long this client may take until its next message.
    pub(super) fn patience(&self) -> Option<Patience> {
        // In the middle of a pipeline PostgreSQL's clocks do not run either.
        if self.in_batch {
            return None;
        }
        let of = |limit: Option<Duration>, cause, sqlstate, message| {
            limit.map(|limit| Patience { limit, cause, sqlstate, message })
        };
        match self.status {
            TransactionStatus::Idle => {
                let message = "terminating connection due to idle-session timeout";
                of(self.limits.idle, CutCause::IdleSession, "57P05", message)
            }
            _ => {
                let message = "terminating connection due to idle-in-transaction timeout";
                of(self.limits.idle_in_transaction, CutCause::IdleInTransaction, "25P03", message)
            }
        }
    }

    /// When the user's pace allows so many statements; `None`: now.
    pub(super) fn turn(&self, count: usize) -> Option<Instant> {
        let turn = self.membership.as_ref()?.reserve(count, self.limits.per_second?)?;
        self.proxy.metrics.rate_limited_statements.increment(u64::try_from(count).unwrap_or(u64::MAX));
        Some(turn)
    }

    /// Waits until then.
    pub(super) async fn keep_pace(&mut self, turn: Instant) -> Result<(), ErrorReply> {
        // Somebody else may need it meanwhile.
        self.unpark();
        self.overhead.pause();
        let wait = tokio::time::sleep_until(turn.into());
        let result = if self.server.is_some() {
            // Requests to cancel go to its server, which has nothing to cancel now.
            wait.await;
            Ok(())
        } else {
            self.registration.unless_cancelled(wait).await.map_err(cancelled)
        };
        self.overhead.go_on();
        result
    }

    /// From now on the time of what is sent runs: of so many statements.
    pub(super) fn start_clock(&mut self, statements: usize) {
        self.deadline = self.limits.statement.and_then(|_| self.limits.deadline(statements + self.ledger.unanswered()));
        if let Some(server) = &mut self.server {
            server.is_timed_out = false;
        }
    }

    /// It has been answered, or will not be; whether the server was asked to cancel it.
    pub(super) fn stop_clock(&mut self) -> bool {
        self.deadline = None;
        self.server.as_ref().is_some_and(|server| server.is_timed_out)
    }

    /// The request to cancel must not hit what comes next.
    pub(super) async fn settled(&self, outcome: Result<Outcome, Fault>) -> Result<Outcome, Fault> {
        self.registration.settle().await;
        outcome
    }

    /// The time is over: the server is asked to cancel, and what it then says is put in other words.
    pub(super) fn time_out(&mut self) {
        self.deadline = None;
        let Some(server) = &mut self.server else { return };
        server.is_timed_out = true;
        let node = (&server.checkout.node.name).into();
        self.proxy.metrics.statement_timeouts.increment(1);
        self.proxy.audit.tell(Event::StatementTimedOut {
            who: self.who(),
            node,
            limit_seconds: self.limits.statement_seconds(),
            text: self.text_under_way(),
        });
        self.registration.cancel_statement();
    }
}

/// What PostgreSQL says when its own `statement_timeout` is over.
pub(super) fn timed_out() -> ErrorReply {
    ErrorReply::error("57014", "canceling statement due to statement timeout")
}

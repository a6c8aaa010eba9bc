//! A transaction that turns out to belong elsewhere before it has run anything.
//!
//! BEGIN must be answered at once, so it goes where its own modes say. When the next statement says
//! otherwise (`SET TRANSACTION READ ONLY` on the primary, or something on a replica that only the
//! primary can do), nothing has been read or locked yet: the transaction is begun anew on the
//! other side by the client's own texts, and nobody can tell the difference.
//!
//! A snapshot is exported by the primary and imported there (`pg_export_snapshot`, `SET TRANSACTION SNAPSHOT`), so that
//! those who share one meet on one server: the jobs of `pg_dump -j`, each with a read-only transaction of its own.

use std::sync::Arc;

use super::exchange::{Purpose, Sent};
use super::place::Place;
use super::relay::{Outcome, Until};
use super::understand::Understood;
use super::{Audience, Fault, Session};
use crate::config::PoolMode;
use crate::route::{Demand, Reason, RouteSetting};
use crate::sql::{Analysis, Kind, Statement, TransactionModes};
use crate::topology::Role;
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::put_query;

/// Texts that a transaction can have been opened with and still be begun anew.
const MAX_TEXTS: usize = 8;

/// How the open transaction was begun, for as long as nothing but its modes has followed.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// The text that is under way, if that is a lone BEGIN or sets nothing but modes.
    pub(super) sent: Option<Box<[u8]>>,
    /// The texts that have begun the transaction: BEGIN, and those that have set modes. None, where it is too late.
    begun: Vec<Box<[u8]>>,
    /// One of the texts asks for what a standby refuses (SERIALIZABLE, READ WRITE), whatever the others say.
    primary_only: bool,
}

/// Whether it can be repeated elsewhere as a part of a transaction's beginning.
pub(super) fn opens(statement: &Statement) -> bool {
    match statement.kind {
        Kind::Begin(_) => true,
        // Of a snapshot it cannot: it lives in one server.
        Kind::SetTransaction(_) => statement.primary.is_none(),
        _ => false,
    }
}

/// "cannot set transaction read-write mode during recovery", "cannot use serializable mode in a hot standby".
fn is_refused_by_standby(modes: TransactionModes) -> bool {
    modes.read_only == Some(false) || modes.serializable == Some(true)
}

impl Opening {
    /// What was executed, and how it ended.
    pub(super) fn follow(&mut self, executed: &[Arc<Analysis>], failed: bool, status: TransactionStatus) {
        let sent = self.sent.take();
        if status != TransactionStatus::Transaction || failed {
            *self = Self::default();
            return;
        }
        for statement in executed.iter().flat_map(|analysis| &analysis.statements) {
            match (&statement.kind, &sent) {
                (Kind::Begin(modes), Some(text)) => {
                    self.begun = vec![text.clone()];
                    self.primary_only = is_refused_by_standby(*modes);
                }
                (Kind::SetTransaction(modes), Some(text)) if (1..MAX_TEXTS).contains(&self.begun.len()) => {
                    self.begun.push(text.clone());
                    self.primary_only |= is_refused_by_standby(*modes);
                }
                _ => *self = Self::default(),
            }
        }
    }
}

impl Session {
    /// Begins the open transaction anew elsewhere; see [`Session::other_side`].
    pub(super) async fn relocate(&mut self, demand: Demand) -> Result<(), Fault> {
        let place = self.server.as_ref().map_or(Place::Any, |server| Place::One(Arc::clone(&server.shard)));
        self.begin_anew(demand, place).await
    }

    /// Whether nothing has been run in the open transaction but what has begun it.
    pub(super) fn has_only_begun(&self) -> bool {
        !self.opening.begun.is_empty() && !self.in_batch
    }

    /// Where it belongs when it is begun anew for these messages: as [`Session::other_side`] will find.
    pub(super) fn side_to_begin_on(&self, role: Role, understood: &Understood) -> Demand {
        self.other_side(understood).unwrap_or(match role {
            Role::Replica => Demand::Replica(Reason::ReadOnlyTransaction),
            _ => Demand::Primary(Reason::Transaction),
        })
    }

    pub(super) async fn begin_anew(&mut self, demand: Demand, place: Place) -> Result<(), Fault> {
        let texts = std::mem::take(&mut self.opening.begun);
        self.run_own(b"ROLLBACK").await?;
        self.release().await;
        self.status = TransactionStatus::Idle;
        self.reach(demand, place).await?;
        for text in &texts {
            self.run_own(text).await?;
        }
        self.status = TransactionStatus::Transaction;
        self.opening.begun = texts;
        Ok(())
    }

    /// Where the open transaction is to be begun anew, where what comes needs that and nothing has been run.
    pub(super) fn other_side(&self, understood: &Understood) -> Option<Demand> {
        self.opening.begun.first()?;
        let role = self.server.as_ref()?.role;
        if self.config.pool.mode == PoolMode::Session {
            return None;
        }
        if self.wish_for(understood).route != RouteSetting::Auto
            || !self.pins.is_empty()
            || self.in_batch
            || !understood.waits
        {
            return None;
        }
        let mut statements = understood.analyses.iter().flat_map(|analysis| &analysis.statements);
        let imports = |statement: &Statement| matches!(statement.kind, Kind::SetTransaction(_)) && !opens(statement);
        if statements.clone().any(imports) {
            return (role == Role::Replica).then_some(Demand::Primary(Reason::Transaction));
        }
        let modes = statements.find_map(|statement| match statement.kind {
            Kind::SetTransaction(modes) => Some(modes),
            _ => None,
        });
        let to_primary = Some(Demand::Primary(Reason::Transaction));
        match (role, modes, understood.demand) {
            (Role::Primary, Some(TransactionModes { read_only: Some(true), serializable }), _) => {
                let stays =
                    self.opening.primary_only || serializable == Some(true) || self.is_serializable_by_default();
                (!stays).then_some(Demand::Replica(Reason::ReadOnlyTransaction))
            }
            (Role::Replica, Some(modes), _) => to_primary.filter(|_| is_refused_by_standby(modes)),
            (Role::Replica, None, Demand::Primary(Reason::Statement(_))) => to_primary,
            _ => None,
        }
    }

    /// Runs a statement of which the client sees nothing. It must succeed: the client's transaction depends on it.
    async fn run_own(&mut self, sql: &[u8]) -> Result<(), Fault> {
        self.put(|out| put_query(out, sql));
        self.expect(Sent::Query, Audience::Proxy(Purpose::Housekeeping));
        let outcome = self.relay(Until::Answered).await?;
        match (outcome, self.tally.own_failure.take()) {
            (Outcome::Done, None) => Ok(()),
            _ => Err(Fault::Fatal(ErrorReply::fatal("08006", "the transaction could not be begun on another server"))),
        }
    }
}

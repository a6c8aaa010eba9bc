//! A transaction that goes on from one shard to another.
//!
//! The session has one server connection in its hands at a time, [`Session::server`]; those of the same transaction's
//! other shards wait in [`Across`]. When a statement is for a shard that is not among them yet, the transaction is begun
//! there as it stands here: with the same modes, the same savepoints and settings. Whatever speaks of the
//! transaction itself (SAVEPOINT, SET) is repeated on all. How it ends is agreed upon in [`super::agree`].

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use super::hand::first_text;
use super::made::Made;
use super::place::Place;
use super::understand::Understood;
use super::{Attached, Fault, Session};
use crate::commit::TransactionId;
use crate::route::{Demand, Reason};
use crate::sql::{Analysis, Kind, Setting, Statement};
use crate::topology::Role;
use crate::wire::ErrorReply;
use crate::wire::backend::{TransactionStatus, error_field, sqlstate};

/// Savepoints and settings of one transaction that are remembered for the shards that it has not come to.
const MAX_CONTROLS: usize = 1000;

/// How the open transaction was begun, as the text that begins it likewise.
const MODES: &str = "SELECT 'BEGIN ISOLATION LEVEL ' OPERATOR(pg_catalog.||) \
     pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.||) \
     CASE pg_catalog.current_setting('transaction_read_only') WHEN 'on' THEN ' READ ONLY' ELSE ' READ WRITE' END \
     OPERATOR(pg_catalog.||) \
     CASE pg_catalog.current_setting('transaction_deferrable') WHEN 'on' THEN ' DEFERRABLE' ELSE '' END";

/// How long a statement may wait for a lock in a transaction over several shards: those that wait for each other on
/// different servers are seen by neither. A client's own `lock_timeout` counts instead.
const BOUND_WAITS: &str = "SELECT pg_catalog.set_config('lock_timeout', '10s', true) \
     WHERE pg_catalog.current_setting('lock_timeout') OPERATOR(pg_catalog.=) '0'";

/// What the session has of the open transaction besides its server connection.
#[derive(Debug, Default)]
pub(super) struct Across {
    /// Its other shards.
    pub(super) others: Vec<Attached>,
    /// What has been said of the transaction itself, in order.
    controls: Vec<Box<[u8]>>,
    /// Of the messages under way.
    controls_under_way: Vec<Box<[u8]>>,
    /// Something of that sort was said together with other things, and cannot be repeated alone.
    is_entangled: bool,
    /// The shard that the open transaction has named by `SET pgsluice.shard`.
    pub(super) named_shard: Option<Box<str>>,
    /// Something has run in the open transaction that may have written.
    pub(super) has_written: bool,
    /// What its own DDL has made of the tables.
    pub(super) made: Made,
    /// The session's token, as it was last asked for.
    pub(super) token: String,
    /// Transactions that are committed and not yet carried out, by shard.
    pub(super) unsettled: BTreeMap<Arc<str>, TransactionId>,
}

impl Across {
    const NOTHING: &Self = &Self {
        others: Vec::new(),
        controls: Vec::new(),
        controls_under_way: Vec::new(),
        is_entangled: false,
        named_shard: None,
        has_written: false,
        made: Made::Nothing,
        token: String::new(),
        unsettled: BTreeMap::new(),
    };
}

/// An [`Across`] that takes no memory until something is put into it: with one shard nothing ever is.
#[derive(Debug, Default)]
pub(super) struct MaybeAcross(Option<Box<Across>>);

impl MaybeAcross {
    /// To change what there is, if there is anything.
    pub(super) fn existing(&mut self) -> Option<&mut Across> {
        self.0.as_deref_mut()
    }
}

impl Deref for MaybeAcross {
    type Target = Across;

    fn deref(&self) -> &Across {
        self.0.as_deref().unwrap_or(Across::NOTHING)
    }
}

impl DerefMut for MaybeAcross {
    fn deref_mut(&mut self) -> &mut Across {
        self.0.get_or_insert_default()
    }
}

/// What a text says of the transaction itself.
enum Control {
    Nothing,
    /// And of nothing else.
    All,
    Some,
}

impl Control {
    fn of(analysis: &Analysis) -> Self {
        let is_control = |kind: &Kind| {
            matches!(
                kind,
                Kind::Savepoint { .. }
                    | Kind::Set(Setting::Session { .. } | Setting::Local { .. } | Setting::Reset { .. })
            )
        };
        let count = analysis.statements.iter().filter(|statement| is_control(&statement.kind)).count();
        let is_opaque = analysis.statements.iter().any(|statement| statement.changes_settings);
        match count {
            0 if is_opaque => Self::Some,
            0 => Self::Nothing,
            _ if count == analysis.statements.len() => Self::All,
            _ => Self::Some,
        }
    }
}

impl Session {
    /// A text is about to run: remembers what it says of the transaction.
    pub(super) fn note_control(&mut self, analysis: &Analysis, text: &[u8]) {
        if !self.is_sharded {
            return;
        }
        for statement in &analysis.statements {
            if let Kind::Set(Setting::Session { name, value } | Setting::Local { name, value }) = &statement.kind
                && **name == *"pgsluice.shard"
            {
                let named = value.as_deref().and_then(Setting::constant_value).unwrap_or_default();
                self.across.named_shard = Some(named.into());
            }
        }
        match Control::of(analysis) {
            Control::Nothing => {}
            Control::All => self.across.controls_under_way.push(text.into()),
            Control::Some => self.across.is_entangled |= self.status != TransactionStatus::Idle,
        }
    }

    /// Whether the messages that were answered were all there is: no transaction, no other shard, nothing said of either.
    pub(super) fn is_alone(&self) -> bool {
        let across = &self.across;
        let is_plain = |server: &Attached| server.views_over.is_none() && !server.waits_are_bounded;
        self.status == TransactionStatus::Idle
            && !self.in_batch
            && self.bound.is_empty()
            && across.others.is_empty()
            && across.controls.is_empty()
            && across.controls_under_way.is_empty()
            && across.named_shard.is_none()
            && !across.is_entangled
            && !across.has_written
            && self.server.as_ref().is_none_or(is_plain)
    }

    /// The messages are answered: what they said of the transaction is said on its other shards, too.
    pub(super) async fn follow_transaction(&mut self) -> Result<(), Fault> {
        if self.in_batch {
            return Ok(());
        }
        self.leave_coordinator().await?;
        let said = std::mem::take(&mut self.across.controls_under_way);
        match self.status {
            TransactionStatus::Idle => {
                if let Some(server) = &mut self.server {
                    server.waits_are_bounded = false;
                }
                self.leave_others().await;
            }
            TransactionStatus::Failed => {}
            TransactionStatus::Transaction => {
                for text in said {
                    self.repeat(&text).await?;
                    self.across.controls.push(text);
                }
            }
        }
        Ok(())
    }

    async fn repeat(&mut self, text: &[u8]) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(text);
        let runs = self.across.others.iter_mut().map(|other| other.run_own(&text));
        match join_all(runs).await.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(error) => Err(Fault::Fatal(
                ErrorReply::fatal("08006", format!("the transaction cannot go on on all of its shards: {error}"))
                    .detail("It was rolled back on all of them."),
            )),
        }
    }

    /// The transaction is over here: ends it on the other shards, where nothing is to be kept of it.
    pub(super) async fn leave_others(&mut self) {
        let mut others = std::mem::take(&mut self.across.others);
        if !others.is_empty() {
            // A request to cancel what ran on one of them must not hit whoever gets it next.
            self.registration.settle().await;
        }
        let ended = join_all(others.iter_mut().map(|other| other.run_own("ROLLBACK"))).await;
        for (other, ended) in others.into_iter().zip(ended) {
            match ended {
                Ok(_) => self.part_with(other),
                Err(_) => self.note_seen_on(&other),
            }
        }
        if let Some(across) = self.across.existing() {
            (across.controls, across.is_entangled, across.has_written) = (Vec::new(), false, false);
            across.named_shard = None;
        }
        self.bound.clear();
    }

    /// What runs next may write: whatever is no read for sure, and no word about the transaction alone.
    pub(super) fn note_writes(&mut self, understood: &Understood) {
        let is_word = |statement: &Statement| {
            matches!(statement.kind, Kind::Begin(_) | Kind::Savepoint { .. } | Kind::SetTransaction(_) | Kind::Set(_))
        };
        let begins = || understood.statements().any(|statement| matches!(statement.kind, Kind::Begin(_)));
        let may_write = match understood.demand {
            Demand::Replica(_) => false,
            // Behind a BEGIN in the same messages nobody has looked at the rest.
            Demand::Primary(Reason::Transaction | Reason::Serializable) if !begins() => false,
            Demand::Primary(_) => !understood.statements().all(is_word),
        };
        let is_new = self.status == TransactionStatus::Idle;
        self.across.has_written = may_write || self.across.has_written && !is_new;
    }

    /// Shards on which something that this session has committed may not be seen yet.
    pub(super) fn unsettled_shards(&self) -> Vec<Arc<str>> {
        self.across.unsettled.keys().cloned().collect()
    }

    /// What was said of the transaction is not said after all.
    pub(super) fn forget_controls_under_way(&mut self) {
        self.across.controls_under_way.clear();
    }

    /// What was read there must not be unseen again.
    pub(super) fn note_seen_on(&mut self, server: &Attached) {
        let now = Instant::now();
        let horizon = self.horizons.of(&server.shard);
        match server.role {
            Role::Replica => horizon.saw_replica(&server.checkout.node, server.checkout.incarnation, now, None),
            _ => horizon.saw_primary(now, None),
        }
    }

    /// Gives back the connection of a transaction that is over.
    pub(super) fn part_with(&mut self, mut server: Attached) {
        self.note_seen_on(&server);
        if !self.across.controls.is_empty() {
            // It may have been set there; nobody's process ID.
            server.checkout.touched_by = Some(0);
        }
        server.checkout.give_back();
    }

    /// Goes to a shard with the open transaction.
    pub(super) async fn join(&mut self, shard: &Arc<str>) -> Result<Result<(), ErrorReply>, Fault> {
        if let Some(at) = self.across.others.iter().position(|other| other.shard == *shard) {
            self.swap(at);
            return Ok(Ok(()));
        }
        if let Err(reply) = self.may_join() {
            return Ok(Err(reply));
        }
        let Some(here) = &mut self.server else { return Ok(Err(ErrorReply::error("08006", "no server is held"))) };
        let role = here.role;
        let modes = match here.run_own(&format!("{MODES}; {BOUND_WAITS}")).await {
            Ok(own) => {
                here.waits_are_bounded |= own.rows.len() > 1;
                own.rows.first().and_then(|row| first_text(row)).unwrap_or("BEGIN").to_owned()
            }
            Err(_) => return Err(Fault::ServerLost(None)),
        };
        let demand = match role {
            Role::Replica => Demand::Replica(Reason::ReadOnlyTransaction),
            _ => Demand::Primary(Reason::Transaction),
        };
        let here = self.server.take();
        self.status = TransactionStatus::Idle;
        let opened = self.open(shard, demand, &modes).await?;
        self.status = TransactionStatus::Transaction;
        match opened {
            Ok(()) => self.across.others.extend(here),
            Err(_) => {
                self.server = here;
                self.be_cancelled_here();
            }
        }
        Ok(opened)
    }

    fn may_join(&self) -> Result<(), ErrorReply> {
        let refused =
            |detail: String| ErrorReply::error("0A000", "the transaction cannot go on on another shard").detail(detail);
        if let Some(pin) = self.pins.first().filter(|_| self.status_before != TransactionStatus::Idle) {
            return Err(refused(format!("This session is pinned to one server by {}.", pin.name())));
        }
        if self.across.is_entangled {
            return Err(refused(
                "Savepoints or settings of it came together with other statements, and cannot be repeated there."
                    .into(),
            )
            .hint("Send SAVEPOINT, SET and the like in messages of their own."));
        }
        if self.across.controls.len() > MAX_CONTROLS {
            return Err(refused(format!("It has set more than {MAX_CONTROLS} savepoints and settings.")));
        }
        Ok(())
    }

    /// Begins a transaction on a shard, where this session holds no connection now, and holds that one then.
    pub(super) async fn open(
        &mut self,
        shard: &Arc<str>,
        demand: Demand,
        begin: &str,
    ) -> Result<Result<(), ErrorReply>, Fault> {
        let understood = Understood { place: Place::One(Arc::clone(shard)), ..Understood::nothing(demand) };
        if let Err(reply) = self.reach_for(&understood).await? {
            return Ok(Err(reply));
        }
        let Some(server) = &mut self.server else { return Ok(Err(ErrorReply::error("08006", "no server is held"))) };
        let mut begun = server.run_own(&format!("{begin}; {BOUND_WAITS}")).await;
        server.waits_are_bounded = begun.as_ref().is_ok_and(|own| !own.rows.is_empty());
        for control in &self.across.controls {
            if begun.is_ok() {
                begun = server.run_own(&String::from_utf8_lossy(control)).await;
            }
        }
        if let Err(error) = begun {
            let name = Arc::clone(&server.checkout.node.name);
            self.server = None;
            return Ok(Err(ErrorReply::error("08006", format!("no transaction could be begun on {name}: {error}"))));
        }
        Ok(Ok(()))
    }

    fn swap(&mut self, at: usize) {
        if let (Some(here), Some(other)) = (&mut self.server, self.across.others.get_mut(at)) {
            std::mem::swap(here, other);
        }
        self.be_cancelled_here();
    }

    /// A cancel request is for what runs here.
    pub(super) fn be_cancelled_here(&self) {
        if let Some(server) = &self.server {
            self.registration.set(&server.checkout);
        }
    }
}

/// What a statement is told whose wait for a lock is over: `None` where it was not for that.
pub(super) fn deadlock(waits_are_bounded: bool, body: &[u8]) -> Option<ErrorReply> {
    // NOWAIT has the same SQLSTATE, from other functions.
    let is_timeout = sqlstate(body) == b"55P03" && error_field(body, b'R') == Some(b"ProcessInterrupts");
    (waits_are_bounded && is_timeout).then(|| {
        ErrorReply::error("40P01", "deadlock suspected")
            .detail(
                "The statement has waited for a lock too long, in a transaction over several shards: none of them could see \
                 whether others wait for each other in a circle.",
            )
            .hint("Run the transaction again. SET lock_timeout changes how long it waits.")
    })
}

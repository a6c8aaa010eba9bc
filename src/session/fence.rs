//! Routing and the connection that is used agree on the bucket map.
//!
//! A connection to a primary is registered on its server under a version of the map (`pgsluice.register`), and carries
//! only what was routed by that version or a newer one: whoever changes the map waits until nobody is registered under an
//! older one ([`crate::cli::shards`]). Registering tells of versions that this process has not heard of; then the map is
//! read anew, and the messages are routed anew, before anything was sent. While a transaction or a pipeline is open its
//! connections cannot be registered anew: it goes on by the version that it has begun with, and the change waits for it.
//!
//! What this costs a statement is one comparison of two numbers. Replicas take no writes, and are not registered.

use std::sync::Arc;
use std::time::Duration;

use super::bring::Brought;
use super::exchange::{Purpose, Sent};
use super::hand::first_text;
use super::made::Made;
use super::relay::Outcome;
use super::understand::Understood;
use super::{Attached, Audience, Fault, Session};
use crate::config::PoolMode;
use crate::monitor::Rows;
use crate::pool::NodePool;
use crate::shard::sql::register;
use crate::topology::Role;
use crate::wire::ErrorReply;
use crate::wire::backend::{TransactionStatus, sqlstate};
use crate::wire::frontend::put_query;

/// How often it is looked whether more is known of the map.
const LOOK: Duration = Duration::from_millis(20);

/// After how many looks a shard is asked once more.
const LOOKS: usize = 10;

/// What the messages at hand were routed by is not what is known by now.
#[derive(Debug, Clone)]
pub(super) struct Outdated {
    /// Who knows more.
    shard: Arc<str>,
}

impl Session {
    /// Takes what is known of the database's rows for what comes next. An open transaction goes on by the map that it has.
    pub(super) async fn take_rows(&mut self) {
        if let Made::Read { rows, .. } = &self.across.made {
            self.rows = Some(Arc::clone(rows));
            return;
        }
        let fresh = match self.known_rows() {
            None => Box::pin(self.wait_for_rows()).await,
            known => known,
        };
        let is_open = self.status != TransactionStatus::Idle || self.in_batch;
        match (&self.rows, &fresh) {
            (Some(held), Some(fresh)) if is_open && held.versions().known != fresh.versions().known => {}
            _ => self.rows = fresh,
        }
    }

    /// Nobody keeps what is old alive, but for an open transaction.
    pub(super) fn leave_rows(&mut self) {
        if self.status == TransactionStatus::Idle && !self.in_batch {
            self.rows = None;
            self.across.made.end();
        }
    }

    /// The version of the map that messages are routed by now; 0 where there is none.
    pub(super) fn known_version(&self) -> i64 {
        self.rows.as_ref().map_or(0, |rows| rows.versions().known)
    }

    /// Sees to it that the connection at hand may carry what was routed by the version known. Where it may not, because
    /// more is known elsewhere, the reply says so, and [`Session::outdated`] where: then it is given back.
    pub(super) async fn register(&mut self) -> Result<Brought, Fault> {
        let known = self.known_version();
        let Some(server) = &self.server else { return Ok(Brought::Yes) };
        if server.checkout.registered == known || known == 0 || server.role != Role::Primary {
            return Ok(Brought::Yes);
        }
        if server.checkout.registered > known {
            // Somebody in this process has heard more meanwhile.
            return Ok(self.note_outdated().await);
        }
        if self.status != TransactionStatus::Idle || self.in_batch {
            return Ok(Brought::Yes);
        }
        self.register_under(known).await
    }

    async fn register_under(&mut self, known: i64) -> Result<Brought, Fault> {
        let (outcome, failure) = self.ask_own(&register(known)).await?;
        let failure = match (outcome, failure) {
            (Outcome::ServerLost(words), _) => return self.lost_before_use(words).await,
            (_, None) => {
                let newest = self.tally.rows.first().and_then(|row| first_text(row)?.parse::<i64>().ok());
                let is_current = newest.is_some_and(|newest| newest <= known);
                self.note_registered(if is_current { known } else { 0 });
                return Ok(if is_current { Brought::Yes } else { self.note_outdated().await });
            }
            (_, Some(failure)) => failure,
        };
        self.note_registered(0);
        if let (Outcome::ServerLost(words), _) = self.ask_own("ROLLBACK").await? {
            return self.lost_before_use(words).await;
        }
        // No such function, no such schema.
        if matches!(sqlstate(&failure), b"42883" | b"3F000") {
            self.note_registered(known);
            if let Some(server) = &self.server {
                self.database.warn_of_fence(&self.identity.database, &server.shard);
            }
            return Ok(Brought::Yes);
        }
        self.release_if_free().await;
        let told = super::attach::as_told(&failure);
        let detail = "The server connection could not be registered under the version of the bucket map.";
        Ok(Brought::Refused(if told.detail.is_none() { told.detail(detail) } else { told }))
    }

    /// Runs the proxy's own statements outside of a transaction. What they have given is in the tally then.
    async fn ask_own(&mut self, sql: &str) -> Result<(Outcome, Option<Box<[u8]>>), Fault> {
        self.put(|out| put_query(out, sql.as_bytes()));
        self.expect(Sent::Query, Audience::Proxy(Purpose::Probe));
        self.tally.rows.clear();
        let outcome = self.relay_own().await?;
        Ok((outcome, self.tally.own_failure.take()))
    }

    fn note_registered(&mut self, version: i64) {
        if let Some(server) = &mut self.server {
            server.checkout.registered = version;
        }
    }

    /// It was ended while it was idle: nothing of the client's was on its way.
    async fn lost_before_use(&mut self, words: Option<Box<[u8]>>) -> Result<Brought, Fault> {
        if self.keeps_connection() {
            return Err(Fault::ServerLost(words));
        }
        if let Some(lost) = self.server.take() {
            lost.checkout.node.note_connection_error();
        }
        self.registration.clear().await;
        Ok(Brought::Lost)
    }

    /// Whether the connection at hand is this client's beyond the messages at hand.
    fn keeps_connection(&self) -> bool {
        !self.pins.is_empty() || self.config.pool.mode != PoolMode::Transaction
    }

    async fn note_outdated(&mut self) -> Brought {
        self.outdated = self.server.as_ref().map(|server| Outdated { shard: Arc::clone(&server.shard) });
        self.release_if_free().await;
        Brought::Refused(outdated())
    }

    /// Whether what was refused may be tried again at once: more is known of the map now.
    pub(super) async fn knows_more(&mut self) -> bool {
        match self.outdated.take() {
            Some(Outdated { shard }) => self.learn_of(&shard).await,
            None => false,
        }
    }

    /// Waits until more is known of the map, as a shard can tell, than what the messages at hand were routed by. False when
    /// it takes too long.
    async fn learn_of(&mut self, shard: &Arc<str>) -> bool {
        let catalogs = Arc::clone(self.proxy.catalogs());
        let before = self.rows.as_ref().map(|rows| rows.versions().clone()).unwrap_or_default();
        let learn = async {
            loop {
                for look in 0..LOOKS {
                    match catalogs.rows(&self.identity.database) {
                        Some(rows) if before.is_behind(rows.versions()) => return rows,
                        _ if look == 0 => catalogs.seek(&self.identity.database, shard),
                        _ => {}
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        let limit = self.config.pool.checkout_timeout;
        let learnt: Option<Arc<Rows>> =
            self.registration.unless_cancelled(tokio::time::timeout(limit, learn)).await.ok().and_then(Result::ok);
        let has_learnt = learnt.is_some();
        if has_learnt {
            self.rows = learnt;
            self.across.made.reconsider();
        }
        has_learnt
    }

    /// The messages are about a key that is about to move: waits until it has. False when it takes too long, or when the
    /// move itself waits for the open transaction.
    pub(super) async fn await_move(&mut self) -> bool {
        let Some(versions) = self.rows.as_ref().map(|rows| rows.versions().clone()) else { return false };
        let (Some(map), Some(next)) = (versions.in_force, versions.announced) else { return false };
        let servers = self.server.iter().chain(&self.across.others);
        let is_waited_for = self.status != TransactionStatus::Idle
            && servers
                .filter(|server| server.role == Role::Primary)
                .any(|server| server.checkout.registered < next.version());
        // The first of the map's shards is the first to hear that it is in force.
        let Some(first) = map.shards().first().filter(|_| !is_waited_for) else { return false };
        let first = Arc::clone(&first.name);
        self.overhead.pause();
        let has_moved = self.learn_of(&first).await;
        self.overhead.go_on();
        has_moved
    }

    /// Whether the connection at hand is registered as these messages need it: mostly it is.
    pub(super) fn has_right_version(&self, understood: &Understood) -> bool {
        let is_right =
            |server: &Attached| server.checkout.registered == understood.version || server.role != Role::Primary;
        self.server.as_ref().is_some_and(is_right)
    }

    /// Whether the messages were routed by less than the connection at hand was registered for.
    pub(super) fn is_behind(&self, understood: &Understood) -> bool {
        self.server.as_ref().is_some_and(|server| {
            understood.version > 0 && server.role == Role::Primary && server.checkout.registered > understood.version
        })
    }

    /// The connection that this session keeps, and does not use now, for [`NodePool::news`].
    pub(super) fn kept_registered(&self) -> Option<(Arc<NodePool>, i64)> {
        if !self.is_sharded || self.status != TransactionStatus::Idle || self.in_batch {
            return None;
        }
        let server = self.server.as_ref().filter(|server| server.checkout.registered > 0)?;
        Some((Arc::clone(server.checkout.pool()), server.checkout.registered))
    }

    /// That connection is to be registered under a newer version.
    pub(super) async fn catch_up(&mut self) -> Result<(), Fault> {
        self.take_rows().await;
        let brought = self.register().await?;
        self.leave_rows();
        // Nobody has asked for anything: what comes next is told what is wrong.
        (self.outdated, _) = (None, brought);
        Ok(())
    }
}

/// Of messages that could not be routed anew.
pub(super) fn outdated() -> ErrorReply {
    ErrorReply::error("40001", "the bucket map has changed")
        .detail(
            "Rows of this transaction may have another place by now. Nothing was written to where they do not belong.",
        )
        .hint("Run the transaction again.")
}

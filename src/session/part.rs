//! Parting with a server connection: giving it back clean, keeping it for later, or closing it.

use std::sync::Arc;
use std::time::Instant;

use super::exchange::{Purpose, Sent};
use super::relay::{Outcome, Until};
use super::{Attached, Audience, Fault, Parked, Session};
use crate::config::PoolMode;
use crate::pool::Settings;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, put_query, tag};

impl Session {
    /// Throws away what a node has answered, and gives its connection back.
    pub(super) async fn take_back(&mut self) -> Result<(), Fault> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.holding = false;
        server.exchange.disown();
        let link = &mut server.checkout.link;
        let marked = link.ready;
        link.ready = 0;
        link.remove(marked);
        // The rest of a row whose start was among it.
        let rest = std::mem::take(&mut link.unread);
        link.ignore(rest);
        // Since it was held back nothing has been written to the client.
        self.client.output.clear();
        if self.in_batch && !server.exchange.awaits_ready() {
            // The server waits for the end of a pipeline that goes on elsewhere.
            frontend::put(&mut link.output, tag::SYNC, &[]);
            server.exchange.expect(Sent::Sync, Audience::Proxy(Purpose::Housekeeping));
        }
        let outcome = self.relay(Until::Answered).await?;
        self.status = TransactionStatus::Idle;
        self.in_batch = false;
        self.tally = super::Tally::default();
        self.executed.clear();
        self.ledger.clear();
        self.portals.clear();
        match outcome {
            Outcome::Done => self.release().await,
            _ => self.server = None,
        }
        Ok(())
    }

    /// Gives the connection back, clean.
    pub(super) async fn release(&mut self) {
        self.registration.clear().await;
        if let Some(Attached { exchange, checkout, .. }) = self.server.take() {
            exchange.lay_aside();
            checkout.give_back();
        }
    }

    /// Gives the connection back when nothing of this client is left on it.
    pub(super) async fn release_if_free(&mut self) {
        let is_free = self.status == TransactionStatus::Idle && !self.in_batch && self.pins.is_empty();
        if !is_free || self.config.pool.mode != PoolMode::Transaction {
            return;
        }
        let keeps = std::mem::take(&mut self.may_have_sequences);
        if keeps && self.server.as_ref().is_some_and(|server| !server.checkout.pool().is_wanted()) {
            self.park().await;
        } else {
            self.release().await;
        }
    }

    /// Keeps a connection on which `nextval` may have run, so that `currval` and `lastval` find it
    /// again, until somebody else has to wait for one.
    async fn park(&mut self) {
        self.registration.clear().await;
        if let Some(server) = self.server.take() {
            let limits = &self.proxy.config.load().pool;
            let until = (Instant::now() + limits.idle_timeout).min(server.checkout.created + limits.max_lifetime);
            self.parked = Some(Parked { checkout: server.checkout, until });
        }
    }

    /// Somebody has to wait for a connection: gives back the one that is kept; or closes it, where none is to be
    /// left open.
    pub(super) fn unpark(&mut self) {
        if let Some(parked) = self.parked.take()
            && !self.proxy.gate.is_closed()
        {
            parked.checkout.give_back();
        }
    }

    /// At a session's end: the connection is cleaned and given back, or else closed.
    pub(super) async fn part_with_server(&mut self) {
        self.unpark();
        let is_clean = self.status == TransactionStatus::Idle && !self.in_batch;
        let is_quiet =
            |server: &Attached| server.exchange.is_answered() && !server.eof && server.checkout.link.ready == 0;
        if !is_clean || !self.server.as_ref().is_some_and(is_quiet) {
            self.registration.clear().await;
            self.server = None;
            return;
        }
        self.put(|out| put_query(out, b"DISCARD ALL"));
        self.expect(Sent::Query, Audience::Proxy(Purpose::Housekeeping));
        let limit = self.proxy.config.load().pool.checkout_timeout;
        let outcome = tokio::time::timeout(limit, self.relay(Until::Answered)).await;
        if !matches!(outcome, Ok(Ok(Outcome::Done))) || self.tally.own_failure.is_some() {
            self.registration.clear().await;
            self.server = None;
            return;
        }
        if let Some(server) = &mut self.server {
            server.checkout.settings = Arc::new(Settings::default());
            server.checkout.touched_by = None;
            server.checkout.prepared.clear();
            server.checkout.unnamed = None;
        }
        self.release().await;
    }
}

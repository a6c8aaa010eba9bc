//! How many clients may keep a server connection for themselves, and how many do, by what for.
//!
//! A place is taken before the statement is sent that will need it, so that the limit of a pool is never passed;
//! it is given back when nothing is left of what the connection was kept for.

use std::sync::Arc;

use super::Session;
use crate::audit::Event;
use crate::config::PoolMode;
use crate::pool::PinPlace;
use crate::proxy::Proxy;
use crate::sql::{Analysis, Pin};
use crate::telemetry::metrics::PinCause;
use crate::wire::ErrorReply;

/// What keeps a session on its connection: the place in its pool, and what the gauges show.
#[derive(Debug)]
pub(super) struct PinAccount {
    proxy: Arc<Proxy>,
    place: Option<PinPlace>,
    shown: Vec<Pin>,
}

impl PinAccount {
    pub(super) fn new(proxy: Arc<Proxy>) -> Self {
        Self { proxy, place: None, shown: Vec::new() }
    }

    fn show(&mut self, pins: &[Pin]) {
        for gone in self.shown.iter().filter(|pin| !pins.contains(pin)) {
            self.proxy.metrics.pinned_clients(cause(*gone)).decrement(1.0);
        }
        for new in pins.iter().filter(|pin| !self.shown.contains(pin)) {
            self.proxy.metrics.pinned_clients(cause(*new)).increment(1.0);
        }
        pins.clone_into(&mut self.shown);
    }
}

impl Drop for PinAccount {
    fn drop(&mut self) {
        self.show(&[]);
    }
}

fn cause(pin: Pin) -> PinCause {
    match pin {
        Pin::Temporary => PinCause::Temporary,
        Pin::HoldCursor => PinCause::HoldCursor,
        Pin::Listen => PinCause::Listen,
        Pin::AdvisoryLock => PinCause::AdvisoryLock,
        Pin::Prepare => PinCause::Prepare,
        Pin::Library => PinCause::Library,
    }
}

impl Session {
    /// Takes a place among those who keep a connection, where the statements will need one; why there is none.
    pub(super) fn claim_pin(&mut self, analysis: &Analysis) -> Option<ErrorReply> {
        let pin = analysis.statements.iter().find_map(|statement| statement.pin)?;
        if self.pin_account.place.is_some() || self.config.pool.mode == PoolMode::Session {
            return None;
        }
        let pool = self.server.as_ref()?.checkout.pool();
        match pool.claim_pin() {
            Ok(place) => {
                self.pin_account.place = Some(place);
                None
            }
            Err(limit) => {
                let reply = too_many(limit, pool.max_size());
                self.proxy.audit.tell(Event::PinLimit { who: self.who(), pin: pin.name(), sqlstate: reply.sqlstate });
                Some(reply)
            }
        }
    }

    /// Brings the account up to date.
    pub(super) fn account_for_pins(&mut self) {
        if self.pins != self.pin_account.shown {
            self.pin_account.show(&self.pins);
        }
        if self.pins.is_empty() {
            self.pin_account.place = None;
        }
    }
}

fn too_many(limit: usize, size: usize) -> ErrorReply {
    ErrorReply::error("53300", "too many clients keep a server connection for themselves")
        .detail(format!(
            "The statement makes something that lives in one server connection, which this client would have to keep; \
             {limit} of the {size} connections of this database and user may be kept."
        ))
        .hint(
            "Give up what is not needed (UNLISTEN, DISCARD TEMP, DEALLOCATE, pg_advisory_unlock_all()), or raise \
             pool.max_pinned or pool.size.",
        )
}

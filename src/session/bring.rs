//! Bringing a server connection to this session's state, and reading back from it what is not known.

use std::sync::Arc;

use super::attach::as_told;
use super::exchange::{Purpose, Sent};
use super::place::Place;
use super::relay::{Outcome, Until};
use super::understand::Understood;
use super::{Audience, Fault, Session};
use crate::pool::{Change, SettingValue, Settings};
use crate::route::{Demand, Reason};
use crate::sql::{Pin, PrimaryCause};
use crate::topology::{Node, Role};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::put_query;

/// What is left in a server's session of what pins are for: names, each with an empty value.
const PINS: &str = "\
SELECT 'temporary', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'cursor', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)
UNION ALL SELECT 'listen', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
UNION ALL SELECT 'advisory', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())";

/// What came of bringing a connection to a client's settings.
#[derive(Debug)]
pub(super) enum Brought {
    /// It has them, or will have before what is sent next.
    Yes,
    /// It is gone, and the client is told this.
    Refused(ErrorReply),
    /// It is gone with its node, a replica; another node may do.
    LostReplica(Arc<Node>),
    /// It is gone, and another one may do.
    Lost,
}

impl Session {
    /// Brings the connection to this client's settings, in the same round trip where the server is
    /// known to take them. Unless they are brought the connection is gone.
    pub(super) async fn bring_settings(&mut self) -> Result<Brought, Fault> {
        if self.in_batch || self.status != TransactionStatus::Idle {
            return Ok(Brought::Yes);
        }
        let Some(server) = &mut self.server else { return Ok(Brought::Yes) };
        let wanted = self.tracked.current();
        if server.checkout.touched_by.is_none() && Arc::ptr_eq(wanted, &server.checkout.settings) {
            return Ok(Brought::Yes);
        }
        let wanted = Arc::clone(wanted);
        let mut present = Arc::clone(&server.checkout.settings);
        let is_touched = server.checkout.touched_by.is_some_and(|client| client != self.registration.key().pid);
        if is_touched {
            present = Arc::new(present.with(&Change::ResetAll));
            server.checkout.touched_by = None;
        }
        let sql = match (is_touched, wanted.sql_from(&present)) {
            (false, None) => {
                // Next time it is seen at once.
                server.checkout.settings = wanted;
                return Ok(Brought::Yes);
            }
            (false, Some(sql)) => sql,
            (true, sql) => format!("RESET ALL;{}", sql.unwrap_or_default()),
        };
        let pool = Arc::clone(server.checkout.pool());
        let may_be_pipelined = wanted.may_be_pipelined(&present, |digest| pool.is_proven(digest));
        server.checkout.settings = Arc::clone(&wanted);
        self.put(|out| put_query(out, sql.as_bytes()));
        self.expect(Sent::Query, Audience::Proxy(Purpose::Settings));
        if may_be_pipelined {
            return Ok(Brought::Yes);
        }
        let outcome = self.relay_own().await?;
        let failure = self.tally.own_failure.take();
        match (outcome, failure) {
            (Outcome::Done, None) => {
                pool.note_proven(wanted.digests());
                Ok(Brought::Yes)
            }
            (Outcome::ServerLost(_), None) => Ok(self.lost_own().await),
            (_, failure) => {
                self.server = None;
                self.registration.clear().await;
                Ok(Brought::Refused(settings_refused(failure.as_deref())))
            }
        }
    }

    /// Takes a connection that has this session's settings, for what the proxy wants to do there.
    pub(super) async fn reach(&mut self, demand: Demand, place: Place) -> Result<(), Fault> {
        let understood = Understood { place, ..Understood::nothing(demand) };
        loop {
            match self.reach_for(&understood).await? {
                Ok(()) => return Ok(()),
                Err(_) if self.knows_more().await => {}
                Err(reply) => return Err(Fault::Fatal(reply.into_fatal())),
            }
        }
    }

    /// The same; where there is none, why.
    pub(super) async fn reach_for(&mut self, understood: &Understood) -> Result<Result<(), ErrorReply>, Fault> {
        let mut excluded = Vec::new();
        loop {
            if let Err(reply) = self.attach(understood, &mut excluded).await {
                return Ok(Err(reply));
            }
            let mut brought = self.register().await?;
            if matches!(brought, Brought::Yes) {
                brought = self.bring_settings().await?;
            }
            // They may have been sent ahead, without waiting.
            if matches!(brought, Brought::Yes) && !matches!(self.relay_own().await?, Outcome::Done) {
                brought = self.lost_own().await;
            }
            match brought {
                Brought::Yes => return Ok(Ok(())),
                Brought::Refused(reply) => return Ok(Err(reply)),
                Brought::LostReplica(node) => excluded.push(node),
                Brought::Lost => {}
            }
        }
    }

    /// Relays what the proxy has sent of its own, to the end, or to the end of the node's life.
    pub(super) async fn relay_own(&mut self) -> Result<Outcome, Fault> {
        if let Some(server) = &mut self.server {
            // Nothing of it is for the client, so there is nothing to be held back but the wish to try elsewhere.
            server.holding = true;
        }
        let outcome = self.relay(Until::Answered).await;
        if let Some(server) = &mut self.server {
            server.holding = false;
        }
        outcome
    }

    /// The server was lost while it ran nothing but the proxy's own messages.
    pub(super) async fn lost_own(&mut self) -> Brought {
        let lost = self.server.take();
        self.registration.clear().await;
        match lost {
            Some(server) if server.role == Role::Replica => {
                server.checkout.node.note_connection_error();
                Brought::LostReplica(Arc::clone(&server.checkout.node))
            }
            _ => Brought::Refused(settings_refused(None)),
        }
    }

    /// What other clients' `nextval` left on a connection is nobody else's to see.
    pub(super) fn forget_sequences(&mut self, understood: &Understood) {
        let asks = understood.demand == Demand::Primary(Reason::Statement(PrimaryCause::SequenceState));
        if asks && self.server.as_ref().is_some_and(|server| server.is_fresh) {
            self.put(|out| put_query(out, b"DISCARD SEQUENCES"));
            self.expect(Sent::Query, Audience::Proxy(Purpose::Housekeeping));
        }
    }

    /// Asks the server which settings there are, and takes them over.
    pub(super) async fn probe_settings(&mut self) -> Result<(), Fault> {
        let sql = self.tracked.probe(&self.identity.user);
        let rows = self.ask_server(&sql).await?;
        let values = rows.iter().filter_map(|row| read_setting(row));
        if let Some(server) = &mut self.server {
            self.tracked.learn(Settings::new(values), &mut server.checkout.settings);
        }
        Ok(())
    }

    /// Asks the server what there still is that keeps this client there.
    pub(super) async fn review_pins(&mut self) -> Result<(), Fault> {
        let rows = self.ask_server(PINS).await?;
        let names: Vec<Box<str>> = rows.iter().filter_map(|row| Some(read_setting(row)?.0)).collect();
        let is_there = |name: &str| names.iter().any(|found| **found == *name);
        self.pins.retain(|pin| match pin {
            Pin::Temporary => is_there("temporary"),
            Pin::HoldCursor => is_there("cursor"),
            Pin::Listen => is_there("listen"),
            Pin::AdvisoryLock => is_there("advisory"),
            Pin::Prepare | Pin::Library => true,
        });
        Ok(())
    }

    /// The rows that the proxy's own query gives. It must succeed: what it tells is needed.
    async fn ask_server(&mut self, sql: &str) -> Result<Vec<Box<[u8]>>, Fault> {
        self.put(|out| put_query(out, sql.as_bytes()));
        self.expect(Sent::Query, Audience::Proxy(Purpose::Probe));
        self.tally.rows.clear();
        let outcome = self.relay(Until::Answered).await?;
        let rows = std::mem::take(&mut self.tally.rows);
        if !matches!(outcome, Outcome::Done) || self.tally.own_failure.take().is_some() {
            self.registration.clear().await;
            self.server = None;
            return Err(Fault::Fatal(ErrorReply::fatal("08006", "the session's state could not be read back")));
        }
        Ok(rows)
    }
}

/// A `DataRow` of two texts.
fn read_setting(body: &[u8]) -> Option<(Box<str>, SettingValue)> {
    let (count, rest) = body.split_first_chunk()?;
    let (name, rest) = column(rest)?;
    let (value, _) = column(rest)?;
    (*count == [0, 2]).then(|| (name.into(), SettingValue::Text(value.into())))
}

fn column(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(value).ok()?, rest))
}

fn settings_refused(body: Option<&[u8]>) -> ErrorReply {
    let Some(body) = body else {
        return ErrorReply::error("08006", "the connection was lost while the session's settings were carried over");
    };
    as_told(body)
}

//! Getting a server connection, bringing it to this session's state, and parting with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Purpose, Sent};
use super::relay::{Outcome, Until};
use super::understand::Understood;
use super::{Attached, Audience, Fault, Parked, Session};
use crate::config::PoolMode;
use crate::pool::{Change, Checkout, CheckoutError, LoginError, SettingValue, Settings};
use crate::route::{Demand, Plan, Question, Reason, Refusal, RouteSetting, decide};
use crate::sql::{Pin, PrimaryCause};
use crate::telemetry::metrics::CausalOutcome;
use crate::topology::{Node, Role};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frontend::{self, put_query, tag};
use crate::wire::{BUFFER_SIZE, ErrorReply};

/// What is left in a server's session of what pins are for: names, each with an empty value.
const PINS: &str = "\
SELECT 'temporary', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'cursor', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)
UNION ALL SELECT 'listen', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
UNION ALL SELECT 'advisory', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())";

/// The only shard of this version.
const SHARD: usize = 0;

impl Session {
    /// Decides where to go and takes a connection there. Nodes that cannot be reached are added to
    /// `excluded`, and for what a replica will do another node is asked.
    pub(super) async fn attach(
        &mut self,
        understood: &Understood,
        excluded: &mut Vec<Arc<Node>>,
    ) -> Result<(), ErrorReply> {
        loop {
            let plan = self.plan(understood, excluded).await.map_err(refusal)?;
            let plan = match self.take_parked(plan).await {
                Ok(()) => return Ok(()),
                Err(plan) => plan,
            };
            let pool = self.proxy.pools.of(&plan.node, &self.identity);
            let asked_at = Instant::now();
            self.overhead.pause();
            self.proxy.clients.waiting.fetch_add(1, Ordering::Relaxed);
            let result = pool.checkout().await;
            self.proxy.clients.waiting.fetch_sub(1, Ordering::Relaxed);
            self.overhead.go_on();
            self.proxy.metrics.pool_wait.record(asked_at.elapsed());
            match result {
                Ok(checkout) => {
                    self.take(checkout, plan, true);
                    return Ok(());
                }
                Err(CheckoutError::Login(error)) if plan.role == Role::Replica && is_the_nodes_fault(&error) => {
                    tracing::info!(node = %plan.node.name, %error, "no connection; its read is asked of another node");
                    excluded.push(plan.node);
                }
                Err(error) => {
                    if matches!(error, CheckoutError::Busy { .. }) {
                        self.proxy.metrics.checkout_timeouts.increment(1);
                    }
                    return Err(no_connection(&error));
                }
            }
        }
    }

    /// Takes the connection that was kept, where that is one to the planned node.
    async fn take_parked(&mut self, plan: Plan) -> Result<(), Plan> {
        if !self.parked.as_ref().is_some_and(|parked| Arc::ptr_eq(&parked.checkout.node, &plan.node)) {
            return Err(plan);
        }
        let Some(Parked { checkout: mut parked, .. }) = self.parked.take() else { return Err(plan) };
        if parked.incarnation != plan.node.incarnation() || parked.examine().await.is_err() {
            return Err(plan);
        }
        self.take(parked, plan, false);
        Ok(())
    }

    fn take(&mut self, checkout: Checkout, plan: Plan, is_fresh: bool) {
        self.registration.set(&checkout);
        self.server = Some(Attached {
            exchange: Exchange::default(),
            role: plan.role,
            reason: plan.reason,
            proof: plan.proof,
            holding: false,
            is_fresh,
            eof: false,
            last_words: None,
            input_limit: BUFFER_SIZE,
            _outstanding: plan.node.begin_statement(),
            _counted: super::Counted::active(&self.proxy),
            checkout,
        });
    }

    /// Where to go; where no replica has caught up yet, after waiting for one as long as the config says.
    async fn plan(&mut self, understood: &Understood, excluded: &[Arc<Node>]) -> Result<Plan, Refusal> {
        let config = self.proxy.config.load_full();
        let demand = understood.demand;
        // Once is enough: where that one has not replayed it, the primary is asked.
        let may_prove = understood.is_repeatable
            && understood.is_query()
            && !understood.is_disproved
            && self.pins.is_empty()
            && self.route() == RouteSetting::Auto;
        let may_prove = may_prove.then_some(2 * config.lag.poll_interval);
        let mut plan = self.decide(demand, excluded, may_prove);
        let wait = match plan {
            // The session wants a replica and nothing else: that is worth the wait for any other server.
            Err(Refusal::NoFreshReplica) => config.consistency.wait.max(config.pool.checkout_timeout),
            _ => config.consistency.wait,
        };
        // What is only prepared shows no rows that could be old.
        if wait.is_zero() || understood.runs == 0 || !is_behind(&plan) {
            return plan;
        }
        self.overhead.pause();
        let deadline = tokio::time::Instant::now() + wait;
        let mut rounds = self.proxy.monitor.rounds(SHARD);
        while is_behind(&plan) {
            self.proxy.monitor.kick(SHARD);
            let Some(rounds) = &mut rounds else { break };
            if !matches!(tokio::time::timeout_at(deadline, rounds.changed()).await, Ok(Ok(()))) {
                break;
            }
            plan = self.decide(demand, excluded, None);
        }
        let outcome = if is_behind(&plan) { CausalOutcome::Primary } else { CausalOutcome::CaughtUp };
        self.proxy.metrics.causal_waits(outcome).increment(1);
        self.overhead.go_on();
        plan
    }

    fn decide(&mut self, demand: Demand, excluded: &[Arc<Node>], may_prove: Option<Duration>) -> Result<Plan, Refusal> {
        let topology = self.proxy.topology.load();
        let shard = topology.shards.get(SHARD).ok_or(Refusal::NoPrimary)?;
        self.horizon.settle(shard);
        let when_none = self.proxy.config.load().lag.when_none;
        let (level, route) = (self.level(), self.route());
        self.database.with_catalog_horizon(shard, |catalog| {
            let question = Question {
                shard,
                demand,
                level,
                route,
                session: &self.horizon,
                catalog,
                when_none,
                excluded,
                may_prove,
            };
            decide(&question, |sides| rand::random_range(0..sides))
        })
    }

    /// Whether what comes needs another server than the one whose pipeline is open, and can still have it.
    pub(super) fn must_move(&self, understood: &Understood) -> bool {
        let is_on_replica = self.server.as_ref().is_some_and(|server| server.role == Role::Replica);
        let is_movable =
            self.in_batch && self.status == TransactionStatus::Idle && self.executed.is_empty() && self.pins.is_empty();
        let needs_primary = matches!(understood.demand, Demand::Primary(_)) && self.route() == RouteSetting::Auto;
        is_on_replica && is_movable && needs_primary
    }

    /// Ends a pipeline in which nothing has been run, and gives its connection back.
    pub(super) async fn leave_batch(&mut self) -> Result<(), Fault> {
        self.put(|out| frontend::put(out, tag::SYNC, &[]));
        self.expect(Sent::Sync, Audience::Proxy(Purpose::Housekeeping));
        match self.relay(Until::Answered).await? {
            Outcome::Done => self.release().await,
            _ => self.server = None,
        }
        self.in_batch = false;
        self.named_here.clear();
        self.portals.clear();
        Ok(())
    }

    /// Brings the connection to this client's settings, in the same round trip where the server is
    /// known to take them. Unless they are brought the connection is gone.
    pub(super) async fn bring_settings(&mut self) -> Result<Brought, Fault> {
        if self.in_batch || self.status != TransactionStatus::Idle {
            return Ok(Brought::Yes);
        }
        let wanted = Arc::clone(self.tracked.current());
        let Some(server) = &mut self.server else { return Ok(Brought::Yes) };
        let mut present = Arc::clone(&server.checkout.settings);
        let is_touched = server.checkout.touched_by.is_some_and(|client| client != self.registration.key().pid);
        if is_touched {
            present = Arc::new(present.with(&Change::ResetAll));
            server.checkout.touched_by = None;
        }
        let sql = match (is_touched, wanted.sql_from(&present)) {
            (false, None) => return Ok(Brought::Yes),
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
    pub(super) async fn reach(&mut self, demand: Demand) -> Result<(), Fault> {
        let fatal = |reply: ErrorReply| Fault::Fatal(reply.into_fatal());
        let mut excluded = Vec::new();
        loop {
            self.attach(&Understood::nothing(demand), &mut excluded).await.map_err(fatal)?;
            let mut brought = self.bring_settings().await?;
            // They may have been sent ahead, without waiting.
            if matches!(brought, Brought::Yes) && !matches!(self.relay_own().await?, Outcome::Done) {
                brought = self.lost_own().await;
            }
            match brought {
                Brought::Yes => return Ok(()),
                Brought::Refused(reply) => return Err(fatal(reply)),
                Brought::LostReplica(node) => excluded.push(node),
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

    /// A replica's answer to a read is held back while another node could still give it instead.
    pub(super) fn hold_where_possible(&mut self, understood: &Understood) {
        let is_read = matches!(understood.demand, Demand::Replica(_));
        let Some(server) = &mut self.server else { return };
        server.holding = is_read
            && understood.is_repeatable
            && server.role == Role::Replica
            && server.reason != Reason::RouteReplica
            && self.pins.is_empty();
    }

    /// Throws away what a node has answered, and gives its connection back.
    pub(super) async fn take_back(&mut self) -> Result<(), Fault> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.holding = false;
        server.exchange.disown();
        let link = &mut server.checkout.link;
        let marked = link.ready;
        link.ready = 0;
        link.remove(marked);
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
        if let Some(server) = self.server.take() {
            server.checkout.give_back();
        }
    }

    /// Gives the connection back when nothing of this client is left on it.
    pub(super) async fn release_if_free(&mut self) {
        let is_free = self.status == TransactionStatus::Idle && !self.in_batch && self.pins.is_empty();
        if !is_free || self.proxy.config.load().pool.mode != PoolMode::Transaction {
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

    /// Somebody has to wait for a connection: gives back the one that is kept.
    pub(super) fn unpark(&mut self) {
        if let Some(parked) = self.parked.take() {
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

    /// This connection stays with this client until that state is gone.
    pub(super) fn pin(&mut self, pin: Pin) {
        if !self.pins.contains(&pin) {
            self.pins.push(pin);
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

/// What came of bringing a connection to a client's settings.
#[derive(Debug)]
pub(super) enum Brought {
    /// It has them, or will have before what is sent next.
    Yes,
    /// It is gone, and the client is told this.
    Refused(ErrorReply),
    /// It is gone with its node, a replica; another node may do.
    LostReplica(Arc<Node>),
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

fn is_behind(plan: &Result<Plan, Refusal>) -> bool {
    matches!(plan, Ok(Plan { reason: Reason::NotFresh, .. }) | Err(Refusal::NoFreshReplica))
}

/// Whether another node may let us in where this one did not.
fn is_the_nodes_fault(error: &LoginError) -> bool {
    match error {
        LoginError::Refused { body, .. } => {
            // Starting up, shutting down, too many connections.
            let code = backend::sqlstate(body);
            code.starts_with(b"57P") || code == b"53300"
        }
        LoginError::NoPassword { .. } => false,
        _ => true,
    }
}

fn refusal(refusal: Refusal) -> ErrorReply {
    match refusal {
        Refusal::NoPrimary => ErrorReply::error("57P03", "no primary is known for this shard")
            .detail("The statement needs a server that takes writes, and none of the shard's nodes is one now.")
            .hint("Try again when a primary is back. Read-only transactions go to replicas."),
        Refusal::NoReplica => ErrorReply::error("57P03", "no replica is eligible for reads")
            .detail("Every replica lags too much, is lost, or is being watched before it may return.")
            .hint("Try again, or let reads go to the primary: SET pgsluice.route = 'auto', with lag.when_none = \"primary\" in the config."),
        Refusal::NoFreshReplica => ErrorReply::error("57P03", "no replica is known to have what this session has seen")
            .hint("Try again, or SET pgsluice.route = 'auto', or pgsluice.consistency = 'eventual'."),
    }
}

fn no_connection(error: &CheckoutError) -> ErrorReply {
    match error {
        CheckoutError::Busy { node, limit, size } => {
            ErrorReply::error("53300", format!("no server connection to {node} was free within {limit:?}"))
                .detail(format!("All {size} connections of this database and user are in use."))
                .hint("Shorten transactions, or raise pool.size or pool.checkout_timeout.")
        }
        CheckoutError::Login(error) => login_failed(error),
        CheckoutError::Closed { node } => {
            ErrorReply::error("57P03", format!("{node} has been taken out of the config"))
        }
    }
}

/// What a client is told when a server does not let the proxy in for it.
pub(super) fn login_failed(error: &LoginError) -> ErrorReply {
    match error {
        LoginError::Refused { body, .. } => as_told(body),
        LoginError::NoPassword { .. } => ErrorReply::error("28000", error.to_string())
            .hint("Give the user a server_password in the config, or a password that is no verifier."),
        _ => ErrorReply::error("08006", error.to_string()),
    }
}

/// The codes with which PostgreSQL refuses logins; others become the one for a refused connection.
fn known_sqlstate(code: &[u8]) -> &'static str {
    const KNOWN: [&str; 14] = [
        "0A000", "22023", "28000", "28P01", "3D000", "42501", "42601", "42602", "42704", "53300", "55000", "55P02",
        "57P01", "57P03",
    ];
    KNOWN.into_iter().find(|known| known.as_bytes() == code).unwrap_or("08004")
}

fn settings_refused(body: Option<&[u8]>) -> ErrorReply {
    let Some(body) = body else {
        return ErrorReply::error("08006", "the connection was lost while the session's settings were carried over");
    };
    as_told(body)
}

/// An error that a server gave to the proxy, for the client.
fn as_told(body: &[u8]) -> ErrorReply {
    let field = |code| backend::error_field(body, code).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut reply = ErrorReply::error(known_sqlstate(backend::sqlstate(body)), field(b'M').unwrap_or_default());
    (reply.detail, reply.hint) = (field(b'D'), field(b'H'));
    reply
}

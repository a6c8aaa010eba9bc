//! Getting a server connection: where to, and when there is none, why.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::cancel::Cancelled;
use super::coordinate::Views;
use super::exchange::{Exchange, Purpose, Sent};
use super::place::Place;
use super::relay::{HOLD_LIMIT, Outcome, Until};
use super::understand::Understood;
use super::wish::Wish;
use super::{Attached, Audience, Fault, Session};
use crate::config::ConsistencyLevel;
use crate::pool::{Checkout, CheckoutError, LoginError, NodePool};
use crate::route::{Demand, Plan, Question, Reason, Refusal, RouteSetting, decide};
use crate::shard::type_oids::TypeOids;
use crate::sql::Pin;
use crate::telemetry::metrics::CausalOutcome;
use crate::topology::{Node, Role, Shard};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frontend::{self, tag};
use crate::wire::{BUFFER_SIZE, ErrorReply};

/// Pools that a session remembers.
const MOST_POOLS: usize = 8;

impl Session {
    /// Decides where to go and takes a connection there. Nodes that cannot be reached are added to
    /// `excluded`, and for what a replica will do another node is asked.
    pub(super) async fn attach(
        &mut self,
        understood: &Understood,
        excluded: &mut Vec<Arc<Node>>,
    ) -> Result<(), ErrorReply> {
        loop {
            let shard = self.shard_for(understood)?;
            if self.awaits_settling(&shard) {
                Box::pin(self.await_settled(&shard)).await?;
            }
            let mut plan = self.decide(understood, &shard, excluded, self.may_prove(understood));
            if is_behind(&plan) {
                // In a box, as all that is seldom and large.
                plan = Box::pin(self.wait_for_replica(plan, understood, &shard, excluded)).await.map_err(cancelled)?;
            }
            let plan = plan.map_err(refusal)?;
            if let Some(parked) = self.unpark_for(&plan)
                && let Some(parked) = usable(parked, &plan).await
            {
                self.take(shard, parked, plan, false);
                return Ok(());
            }
            let pool = self.pool_of(&plan.node);
            match self.check_out(pool, understood.asked_at).await.map_err(cancelled)? {
                Ok(checkout) => {
                    self.take(shard, checkout, plan, true);
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

    /// A connection of the pool: mostly there is one, and nobody has to wait.
    async fn check_out(
        &mut self,
        pool: Arc<NodePool>,
        now: Instant,
    ) -> Result<Result<Checkout, CheckoutError>, Cancelled> {
        let mut checkout = pin!(pool.checkout(now));
        if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(checkout.as_mut().poll(cx))).await {
            self.proxy.metrics.pool_wait.record(Duration::ZERO);
            return Ok(result);
        }
        let asked_at = Instant::now();
        self.overhead.pause();
        self.proxy.client_counts.waiting.fetch_add(1, Ordering::Relaxed);
        let result = self.registration.unless_cancelled_pinned(checkout).await;
        self.proxy.client_counts.waiting.fetch_sub(1, Ordering::Relaxed);
        self.overhead.go_on();
        self.proxy.metrics.pool_wait.record(asked_at.elapsed());
        result
    }

    /// This session's pool of connections to a node: mostly one of the last.
    fn pool_of(&mut self, node: &Arc<Node>) -> Arc<NodePool> {
        if let Some(pool) = self.last_pools.iter().find(|pool| Arc::ptr_eq(pool.node(), node)) {
            return Arc::clone(pool);
        }
        let pool = self.proxy.pools.of(node, &self.identity);
        // The node is another one after a reload.
        self.last_pools.retain(|old| old.node().name != node.name);
        if self.last_pools.len() == MOST_POOLS {
            self.last_pools.remove(0);
        }
        self.last_pools.push(Arc::clone(&pool));
        pool
    }

    /// The connection that was kept, where that is one to the planned node.
    fn unpark_for(&mut self, plan: &Plan) -> Option<Checkout> {
        let parked = self.parked.take_if(|parked| Arc::ptr_eq(&parked.checkout.node, &plan.node))?;
        Some(parked.checkout)
    }

    fn take(&mut self, shard: Arc<str>, checkout: Checkout, plan: Plan, is_fresh: bool) {
        self.registration.set(&checkout);
        self.server = Some(Attached {
            types: self.types_of(&shard),
            shard,
            exchange: Exchange::at_hand(),
            role: plan.role,
            reason: plan.reason,
            proof: plan.proof,
            holding: false,
            hold_limit: HOLD_LIMIT,
            views_over: None,
            postscript: None,
            waits_are_bounded: false,
            is_timed_out: false,
            is_fresh,
            eof: false,
            last_words: None,
            input_limit: BUFFER_SIZE,
            _outstanding: plan.node.begin_statement(),
            checkout,
        });
    }

    /// What a shard calls users' types, where that may be something else than on the first one.
    fn types_of(&self, shard: &Arc<str>) -> Option<Arc<TypeOids>> {
        if !self.is_sharded || self.proxy.topology.load().shards.first().is_none_or(|first| first.name == *shard) {
            return None;
        }
        let known = match &self.rows {
            Some(rows) => rows.types.get(shard).cloned(),
            None => self.proxy.catalogs().rows(&self.identity.database).and_then(|rows| rows.types.get(shard).cloned()),
        };
        Some(known.unwrap_or_default())
    }

    /// Where no replica has caught up yet: where to go after waiting for one as long as the config says.
    async fn wait_for_replica(
        &mut self,
        mut plan: Result<Plan, Refusal>,
        understood: &Understood,
        shard: &Arc<str>,
        excluded: &[Arc<Node>],
    ) -> Result<Result<Plan, Refusal>, Cancelled> {
        let config = &self.config;
        let wait = match plan {
            // The session wants a replica and nothing else: that is worth the wait for any other server.
            Err(Refusal::NoFreshReplica) => config.consistency.wait.max(config.pool.checkout_timeout),
            _ => config.consistency.wait,
        };
        // What is only prepared shows no rows that could be old.
        if wait.is_zero() || understood.runs == 0 {
            return Ok(plan);
        }
        self.overhead.pause();
        let deadline = tokio::time::Instant::now() + wait;
        let at = self.proxy.topology.load().shards.iter().position(|known| known.name == *shard).unwrap_or_default();
        let mut rounds = self.proxy.monitor.rounds(at);
        while is_behind(&plan) {
            self.proxy.monitor.kick(at);
            let Some(rounds) = &mut rounds else { break };
            let round = self.registration.unless_cancelled(tokio::time::timeout_at(deadline, rounds.changed()));
            if !matches!(round.await?, Ok(Ok(()))) {
                break;
            }
            plan = self.decide(understood, shard, excluded, None);
        }
        let outcome = if is_behind(&plan) { CausalOutcome::Primary } else { CausalOutcome::CaughtUp };
        self.proxy.metrics.causal_waits(outcome).increment(1);
        self.overhead.go_on();
        Ok(plan)
    }

    /// How far behind a replica may have been that is asked to prove itself; `None` where none may be asked. Once is
    /// enough: where that one has not replayed it, the primary is asked.
    pub(super) fn may_prove(&self, understood: &Understood) -> Option<Duration> {
        let may = understood.is_repeatable
            && understood.is_query()
            && !understood.is_disproved
            && self.pins.is_empty()
            && self.wish_for(understood).route == RouteSetting::Auto;
        may.then(|| 2 * self.config.lag.poll_interval)
    }

    /// What the client wants of their way.
    pub(super) fn wish_for(&self, understood: &Understood) -> Wish {
        understood.hinted.unwrap_or_else(|| self.wish())
    }

    fn decide(
        &mut self,
        understood: &Understood,
        shard: &Arc<str>,
        excluded: &[Arc<Node>],
        may_prove: Option<Duration>,
    ) -> Result<Plan, Refusal> {
        self.with_question(understood, shard, excluded, may_prove, |question| {
            decide(question, |sides| rand::random_range(0..sides))
        })?
    }

    /// Asks with all that a decision about these messages depends on.
    pub(super) fn with_question<T>(
        &mut self,
        understood: &Understood,
        shard: &Arc<str>,
        excluded: &[Arc<Node>],
        may_prove: Option<Duration>,
        ask: impl FnOnce(&Question<'_>) -> T,
    ) -> Result<T, Refusal> {
        let wish = self.wish_for(understood);
        let topology = self.proxy.topology.load();
        let shard = topology.shards.iter().find(|known| known.name == *shard).ok_or(Refusal::NoPrimary)?;
        let own = self.horizons.of(&shard.name);
        own.settle(shard);
        let shared = self.shared.map(|key| self.proxy.session_keys.settled(key, shard));
        let seen = [&*own, shared.as_deref().unwrap_or(own)];
        let when_none = self.config.lag.when_none;
        // To read the clock is not for nothing, and only ages are compared with it.
        let now = if wish.level == ConsistencyLevel::Bounded { Instant::now() } else { understood.asked_at };
        let answer = self.database.with_catalog_horizon(shard, |catalog| {
            ask(&Question {
                shard,
                demand: understood.demand,
                level: wish.level,
                max_staleness: wish.max_staleness,
                route: wish.route,
                session: &seen[..1 + usize::from(shared.is_some())],
                catalog,
                when_none,
                excluded,
                may_prove,
                is_rehearsal: false,
                now,
            })
        });
        Ok(answer)
    }

    /// The shard that the messages go to: the one that they are for, or where the session is, or the first.
    pub(super) fn shard_for(&self, understood: &Understood) -> Result<Arc<str>, ErrorReply> {
        let topology = self.proxy.topology.load();
        let here = match &understood.place {
            Place::One(shard) | Place::Together(Views { shard, .. }) => Some(shard),
            _ => self.server.as_ref().map(|server| &server.shard),
        };
        // One that answers, where others do not.
        let is_there = |shard: &&Shard| shard.primary().is_some_and(|primary| primary.is_reachable());
        let first = || {
            let shard = topology.shards.iter().find(is_there).or(topology.shards.first());
            shard.map(|shard| Arc::clone(&shard.name))
        };
        here.cloned().or_else(first).ok_or_else(|| refusal(Refusal::NoPrimary))
    }

    /// Whether what comes needs another server than the one whose pipeline is open, and can still have it.
    pub(super) fn must_move(&self, understood: &Understood) -> bool {
        let is_on_replica = self.server.as_ref().is_some_and(|server| server.role == Role::Replica);
        let is_movable =
            self.in_batch && self.status == TransactionStatus::Idle && self.executed.is_empty() && self.pins.is_empty();
        let needs_primary =
            matches!(understood.demand, Demand::Primary(_)) && self.wish_for(understood).route == RouteSetting::Auto;
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

    /// This connection stays with this client until that state is gone.
    pub(super) fn pin(&mut self, pin: Pin) {
        if !self.pins.contains(&pin) {
            self.pins.push(pin);
        }
    }
}

/// A connection that was kept, where it still can be used.
async fn usable(mut parked: Checkout, plan: &Plan) -> Option<Checkout> {
    let is_current = parked.incarnation == plan.node.incarnation() && parked.pool().encrypts_as(&parked);
    (is_current && parked.examine().await.is_ok()).then_some(parked)
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
        LoginError::NoPassword { .. } | LoginError::OtherVerifier { .. } => false,
        _ => true,
    }
}

/// As PostgreSQL tells it.
pub(super) fn cancelled(_: Cancelled) -> ErrorReply {
    ErrorReply::error("57014", "canceling statement due to user request")
        .detail("It was waiting for a server, and was not run.")
}

fn refusal(refusal: Refusal) -> ErrorReply {
    match refusal {
        Refusal::NoPrimary => ErrorReply::error("57P03", refusal.message())
            .detail("The statement needs a server that takes writes, and none of the shard's nodes is one now.")
            .hint("Try again when a primary is back. Read-only transactions go to replicas."),
        Refusal::NoReplica => ErrorReply::error("57P03", refusal.message())
            .detail("Every replica lags too much, is lost, or is being watched before it may return.")
            .hint("Try again, or let reads go to the primary: SET pgsluice.route = 'auto', with lag.when_none = \"primary\" in the config."),
        Refusal::NoFreshReplica => ErrorReply::error("57P03", refusal.message())
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
            .hint("Give the user a server_password in the config, or let the servers ask for scram-sha-256, for which the client's own login is enough."),
        LoginError::OtherVerifier { .. } => ErrorReply::error("28P01", error.to_string())
            .hint("If the password was changed a moment ago, log in again. Otherwise give the user a server_password in the config, or the same verifier here as on the servers."),
        _ => ErrorReply::error("08006", error.to_string()),
    }
}

/// The codes with which PostgreSQL refuses logins; others become the one for a refused connection.
fn known_sqlstate(code: &[u8]) -> &'static str {
    const KNOWN: [&str; 15] = [
        "0A000", "22023", "28000", "28P01", "3D000", "42501", "42601", "42602", "42704", "53300", "55000", "55P02",
        "57014", "57P01", "57P03",
    ];
    KNOWN.into_iter().find(|known| known.as_bytes() == code).unwrap_or("08004")
}

/// An error that a server gave to the proxy, for the client.
pub(super) fn as_told(body: &[u8]) -> ErrorReply {
    let field = |code| backend::error_field(body, code).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut reply = ErrorReply::error(known_sqlstate(backend::sqlstate(body)), field(b'M').unwrap_or_default());
    (reply.detail, reply.hint) = (field(b'D'), field(b'H'));
    reply
}

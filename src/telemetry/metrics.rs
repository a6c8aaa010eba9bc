//! Every metric of pgsluice: names, units, label values, and handles.
//!
//! Names and labels are written here and nowhere else. A label's value comes from a closed set: a shard
//! or node of the config, a role, or one of `labels`. Handles are made once and kept by who counts; the hot
//! path looks nothing up. Make them after [`install`], or they count for nobody.

use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::histograms::{Exposition, Recorder};
pub use super::labels::*;
use crate::topology::{Admission, EjectReason, Node, Role};

/// Names as Prometheus sees them.
pub mod names {
    /// Replay lag of a replica. NaN: unknown.
    pub const REPLICA_LAG_SECONDS: &str = "pgsluice_replica_lag_seconds";
    /// Bytes of flushed WAL that a replica has not replayed. NaN: unknown.
    pub const REPLICA_LAG_BYTES: &str = "pgsluice_replica_lag_bytes";
    /// 1 for the role of a node that answers, 0 else.
    pub const NODE_UP: &str = "pgsluice_node_up";
    /// 1 for the reason why a replica gets no reads now, 0 else.
    pub const REPLICA_EJECTED: &str = "pgsluice_replica_ejected";
    /// How often a replica was ejected.
    pub const REPLICA_EJECTIONS_TOTAL: &str = "pgsluice_replica_ejections_total";
    /// Polls of the monitor.
    pub const MONITOR_POLLS_TOTAL: &str = "pgsluice_monitor_polls_total";
    /// Statements, by where they went and why.
    pub const STATEMENTS_TOTAL: &str = "pgsluice_statements_total";
    /// From a statement's last byte read to its answer's last byte written.
    pub const STATEMENT_DURATION_SECONDS: &str = "pgsluice_statement_duration_seconds";
    /// Of it, the time in pgsluice alone; see `session/overhead.rs`.
    pub const PROXY_OVERHEAD_SECONDS: &str = "pgsluice_proxy_overhead_seconds";
    /// Clients.
    pub const CLIENTS: &str = "pgsluice_clients";
    /// Logins, by what came of them.
    pub const LOGINS_TOTAL: &str = "pgsluice_logins_total";
    /// Connections of clients that could not be accepted.
    pub const ACCEPT_FAILURES_TOTAL: &str = "pgsluice_accept_failures_total";
    /// TLS handshakes with clients that have failed.
    pub const TLS_HANDSHAKE_FAILURES_TOTAL: &str = "pgsluice_tls_handshake_failures_total";
    /// Connections to servers.
    pub const SERVER_CONNECTIONS: &str = "pgsluice_server_connections";
    /// How long a client waited for a server connection.
    pub const POOL_WAIT_SECONDS: &str = "pgsluice_pool_wait_seconds";
    /// Statements refused because no server connection was free in time.
    pub const CHECKOUT_TIMEOUTS_TOTAL: &str = "pgsluice_checkout_timeouts_total";
    /// Clients that keep a server connection for themselves.
    pub const PINNED_CLIENTS: &str = "pgsluice_pinned_clients";
    /// Statements that waited for their user's turn.
    pub const RATE_LIMITED_STATEMENTS_TOTAL: &str = "pgsluice_rate_limited_statements_total";
    /// Clients that were sent away.
    pub const CLIENTS_CUT_TOTAL: &str = "pgsluice_clients_cut_total";
    /// Statements that took too long.
    pub const STATEMENT_TIMEOUTS_TOTAL: &str = "pgsluice_statement_timeouts_total";
    /// Reads that waited for a replica to catch up.
    pub const CAUSAL_WAITS_TOTAL: &str = "pgsluice_causal_waits_total";
    /// Statements that a standby refused and the primary ran.
    pub const HEALED_STATEMENTS_TOTAL: &str = "pgsluice_healed_statements_total";
    /// Statements that the parser does not understand.
    pub const PARSE_FAILURES_TOTAL: &str = "pgsluice_parse_failures_total";
    /// Events that are missing from the audit log.
    pub const AUDIT_LOST_TOTAL: &str = "pgsluice_audit_lost_total";
    /// Reloads of the config.
    pub const CONFIG_RELOADS_TOTAL: &str = "pgsluice_config_reloads_total";
}

const STATEMENT_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1];
const WAIT_BUCKETS: &[f64] =
    &[0.000_01, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The process has a recorder already, which is not ours.
#[derive(Debug, thiserror::Error)]
#[error("another recorder of metrics is installed already")]
pub struct AnotherRecorder;

/// Installs the process's recorder, once; later calls give the same exposition.
///
/// # Errors
/// Another recorder than this one is installed already.
pub fn install() -> Result<Exposition, AnotherRecorder> {
    static EXPOSITION: Mutex<Option<Exposition>> = Mutex::new(None);
    let mut installed = EXPOSITION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(exposition) = &*installed {
        return Ok(exposition.clone());
    }
    let recorder = recorder();
    let exposition = recorder.exposition();
    metrics::set_global_recorder(recorder).map_err(|_| AnotherRecorder)?;
    describe();
    Ok(installed.insert(exposition).clone())
}

fn recorder() -> Recorder {
    let histograms = [
        (names::STATEMENT_DURATION_SECONDS, STATEMENT_BUCKETS),
        (names::PROXY_OVERHEAD_SECONDS, OVERHEAD_BUCKETS),
        (names::POOL_WAIT_SECONDS, WAIT_BUCKETS),
    ];
    Recorder::new(PrometheusBuilder::new().build_recorder(), &histograms)
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    gauge!(names::REPLICA_LAG_SECONDS, Unit::Seconds, "Replay lag by the primary's WAL clock; NaN: unknown");
    gauge!(names::REPLICA_LAG_BYTES, Unit::Bytes, "Flushed WAL that the replica has not replayed; NaN: unknown");
    gauge!(names::NODE_UP, Unit::Count, "1 for the role of a node that answers the monitor, 0 else");
    gauge!(names::REPLICA_EJECTED, Unit::Count, "1 for the reason why the replica gets no reads now, 0 else");
    counter!(names::REPLICA_EJECTIONS_TOTAL, Unit::Count, "Times that the replica was ejected");
    counter!(names::MONITOR_POLLS_TOTAL, Unit::Count, "Polls of the monitor");
    counter!(names::STATEMENTS_TOTAL, Unit::Count, "Statements by the role of the node that ran them, and why there");
    histogram!(names::STATEMENT_DURATION_SECONDS, Unit::Seconds, "From a statement's arrival to the end of its answer");
    histogram!(names::PROXY_OVERHEAD_SECONDS, Unit::Seconds, "Time that a statement spent in pgsluice alone");
    gauge!(names::CLIENTS, Unit::Count, "Clients");
    counter!(names::LOGINS_TOTAL, Unit::Count, "Logins by what came of them; cancel requests are none");
    counter!(names::ACCEPT_FAILURES_TOTAL, Unit::Count, "Connections of clients that could not be accepted, by why");
    counter!(names::TLS_HANDSHAKE_FAILURES_TOTAL, Unit::Count, "TLS handshakes with clients that have failed, by why");
    gauge!(names::SERVER_CONNECTIONS, Unit::Count, "Connections to servers");
    histogram!(names::POOL_WAIT_SECONDS, Unit::Seconds, "How long a client waited for a server connection");
    counter!(names::CHECKOUT_TIMEOUTS_TOTAL, Unit::Count, "Times that no server connection was free in time");
    gauge!(
        names::PINNED_CLIENTS,
        Unit::Count,
        "Clients that keep a server connection, by what for; one can have several causes"
    );
    counter!(names::RATE_LIMITED_STATEMENTS_TOTAL, Unit::Count, "Statements that waited for the pace of their user");
    counter!(names::CLIENTS_CUT_TOTAL, Unit::Count, "Clients that were sent away, by why");
    counter!(names::STATEMENT_TIMEOUTS_TOTAL, Unit::Count, "Statements that were cancelled because they took too long");
    counter!(names::CAUSAL_WAITS_TOTAL, Unit::Count, "Reads that waited for a replica to catch up");
    counter!(names::HEALED_STATEMENTS_TOTAL, Unit::Count, "Statements that a standby refused and the primary then ran");
    counter!(names::PARSE_FAILURES_TOTAL, Unit::Count, "Statements that the parser does not understand");
    counter!(names::AUDIT_LOST_TOTAL, Unit::Count, "Events that are missing from the audit log");
    counter!(names::CONFIG_RELOADS_TOTAL, Unit::Count, "Reloads of the config");
}

/// What is not of one shard or node. Cheap to clone.
#[derive(Clone)]
pub struct ProxyMetrics {
    clients: Vec<Gauge>,
    logins: Vec<Counter>,
    clients_cut: Vec<Counter>,
    accept_failures: Vec<Counter>,
    handshake_failures: Vec<Counter>,
    pinned_clients: Vec<Gauge>,
    causal_waits: Vec<Counter>,
    config_reloads: Vec<Counter>,
    /// `pgsluice_proxy_overhead_seconds`
    pub proxy_overhead: Histogram,
    /// `pgsluice_pool_wait_seconds`
    pub pool_wait: Histogram,
    /// `pgsluice_checkout_timeouts_total`
    pub checkout_timeouts: Counter,
    /// `pgsluice_rate_limited_statements_total`
    pub rate_limited_statements: Counter,
    /// `pgsluice_statement_timeouts_total`
    pub statement_timeouts: Counter,
    /// `pgsluice_healed_statements_total`
    pub healed_statements: Counter,
    /// `pgsluice_parse_failures_total`
    pub parse_failures: Counter,
    /// `pgsluice_audit_lost_total`
    pub audit_lost: Counter,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ProxyMetrics {
    /// Makes the handles; every series is there from now on, at 0.
    pub fn new() -> Self {
        let counter = |name, key, value| zeroed(metrics::counter!(name, key => value));
        Self {
            clients: (ClientState::ALL.iter())
                .map(|state| metrics::gauge!(names::CLIENTS, "state" => state.name()))
                .collect(),
            pinned_clients: (PinCause::ALL.iter())
                .map(|cause| metrics::gauge!(names::PINNED_CLIENTS, "cause" => cause.name()))
                .inspect(|gauge| gauge.set(0.0))
                .collect(),
            logins: (LoginOutcome::ALL.iter())
                .map(|outcome| counter(names::LOGINS_TOTAL, "outcome", outcome.name()))
                .collect(),
            accept_failures: (AcceptFailure::ALL.iter())
                .map(|cause| counter(names::ACCEPT_FAILURES_TOTAL, "cause", cause.name()))
                .collect(),
            handshake_failures: (HandshakeFailure::ALL.iter())
                .map(|cause| counter(names::TLS_HANDSHAKE_FAILURES_TOTAL, "cause", cause.name()))
                .collect(),
            clients_cut: (CutCause::ALL.iter())
                .map(|cause| counter(names::CLIENTS_CUT_TOTAL, "cause", cause.name()))
                .collect(),
            causal_waits: (CausalOutcome::ALL.iter())
                .map(|outcome| counter(names::CAUSAL_WAITS_TOTAL, "outcome", outcome.name()))
                .collect(),
            config_reloads: (ReloadOutcome::ALL.iter())
                .map(|outcome| counter(names::CONFIG_RELOADS_TOTAL, "outcome", outcome.name()))
                .collect(),
            proxy_overhead: metrics::histogram!(names::PROXY_OVERHEAD_SECONDS),
            pool_wait: metrics::histogram!(names::POOL_WAIT_SECONDS),
            checkout_timeouts: zeroed(metrics::counter!(names::CHECKOUT_TIMEOUTS_TOTAL)),
            rate_limited_statements: zeroed(metrics::counter!(names::RATE_LIMITED_STATEMENTS_TOTAL)),
            statement_timeouts: zeroed(metrics::counter!(names::STATEMENT_TIMEOUTS_TOTAL)),
            healed_statements: zeroed(metrics::counter!(names::HEALED_STATEMENTS_TOTAL)),
            parse_failures: zeroed(metrics::counter!(names::PARSE_FAILURES_TOTAL)),
            audit_lost: zeroed(metrics::counter!(names::AUDIT_LOST_TOTAL)),
        }
    }

    /// `pgsluice_clients{state}`
    pub fn clients(&self, state: ClientState) -> &Gauge {
        &self.clients[state as usize]
    }

    /// `pgsluice_pinned_clients{cause}`
    pub fn pinned_clients(&self, cause: PinCause) -> &Gauge {
        &self.pinned_clients[cause as usize]
    }

    /// `pgsluice_logins_total{outcome}`
    pub fn logins(&self, outcome: LoginOutcome) -> &Counter {
        &self.logins[outcome as usize]
    }

    /// `pgsluice_accept_failures_total{cause}`
    pub fn accept_failures(&self, cause: AcceptFailure) -> &Counter {
        &self.accept_failures[cause as usize]
    }

    /// `pgsluice_tls_handshake_failures_total{cause}`
    pub fn handshake_failures(&self, cause: HandshakeFailure) -> &Counter {
        &self.handshake_failures[cause as usize]
    }

    /// `pgsluice_clients_cut_total{cause}`
    pub fn clients_cut(&self, cause: CutCause) -> &Counter {
        &self.clients_cut[cause as usize]
    }

    /// `pgsluice_causal_waits_total{outcome}`
    pub fn causal_waits(&self, outcome: CausalOutcome) -> &Counter {
        &self.causal_waits[outcome as usize]
    }

    /// `pgsluice_config_reloads_total{outcome}`
    pub fn config_reloads(&self, outcome: ReloadOutcome) -> &Counter {
        &self.config_reloads[outcome as usize]
    }
}

/// Statements of one shard, by role and by reason.
#[derive(Clone)]
pub struct ShardMetrics {
    primary: RoleMetrics,
    replica: RoleMetrics,
}

#[derive(Clone)]
struct RoleMetrics {
    statements: Vec<Counter>,
    duration: Histogram,
}

impl ShardMetrics {
    /// Makes the handles for all `reasons`, in the order of the enum that they name.
    pub fn new(shard: &str, reasons: &[&'static str]) -> Self {
        let of = |role: Role| {
            RoleMetrics {
            statements: (reasons.iter())
                .map(|reason| {
                    let shard = shard.to_owned();
                    zeroed(metrics::counter!(names::STATEMENTS_TOTAL, "shard" => shard, "role" => role.name(), "reason" => *reason))
                })
                .collect(),
            duration: metrics::histogram!(
                names::STATEMENT_DURATION_SECONDS, "shard" => shard.to_owned(), "role" => role.name()
            ),
        }
        };
        Self { primary: of(Role::Primary), replica: of(Role::Replica) }
    }

    /// `pgsluice_statements_total{shard,role,reason}`, by the reason's place in the list. `None` beyond its end.
    pub fn statements(&self, role: Role, reason: usize) -> Option<&Counter> {
        self.of(role).statements.get(reason)
    }

    /// `pgsluice_statement_duration_seconds{shard,role}`
    pub fn duration(&self, role: Role) -> &Histogram {
        &self.of(role).duration
    }

    fn of(&self, role: Role) -> &RoleMetrics {
        if role == Role::Replica { &self.replica } else { &self.primary }
    }
}

/// What the data plane counts on one node.
#[derive(Clone)]
pub struct PoolMetrics(Vec<Gauge>);

impl PoolMetrics {
    /// Makes the handles.
    pub fn new(shard: &str, node: &str) -> Self {
        Self(
            (ServerState::ALL.iter())
                .map(|state| {
                    let (shard, node) = (shard.to_owned(), node.to_owned());
                    metrics::gauge!(names::SERVER_CONNECTIONS, "shard" => shard, "node" => node, "state" => state.name())
                })
                .collect(),
        )
    }

    /// `pgsluice_server_connections{shard,node,state}`
    pub fn connections(&self, state: ServerState) -> &Gauge {
        &self.0[state as usize]
    }
}

/// What the monitor tells of one node.
pub struct NodeMetrics {
    shard: String,
    node: String,
    up: Vec<(Role, Gauge)>,
    polls: Vec<Counter>,
    replica: Option<ReplicaMetrics>,
}

/// Only there for nodes that have been replicas: a primary has no lag.
struct ReplicaMetrics {
    lag_seconds: Gauge,
    lag_bytes: Gauge,
    ejected: Vec<(EjectReason, Gauge)>,
    ejections: Vec<(EjectReason, Counter)>,
}

impl NodeMetrics {
    /// Makes the handles.
    pub fn new(shard: &str, node: &str) -> Self {
        let (shard, node) = (shard.to_owned(), node.to_owned());
        let up = |role: Role| {
            let (shard, node) = (shard.clone(), node.clone());
            metrics::gauge!(names::NODE_UP, "shard" => shard, "node" => node, "role" => role.name())
        };
        let polls = |outcome: &PollOutcome| {
            let (shard, node) = (shard.clone(), node.clone());
            let outcome = outcome.name();
            zeroed(
                metrics::counter!(names::MONITOR_POLLS_TOTAL, "shard" => shard, "node" => node, "outcome" => outcome),
            )
        };
        Self {
            up: [Role::Unknown, Role::Primary, Role::Replica].map(|role| (role, up(role))).into(),
            polls: PollOutcome::ALL.iter().map(polls).collect(),
            replica: None,
            shard,
            node,
        }
    }

    /// One poll is over.
    pub fn count_poll(&self, outcome: PollOutcome) {
        self.polls[outcome as usize].increment(1);
    }

    /// The breaker has put it out.
    pub fn count_ejection(&mut self, reason: EjectReason) {
        let replica = self.replica();
        if let Some((_, counter)) = replica.ejections.iter().find(|(of, _)| *of == reason) {
            counter.increment(1);
        }
    }

    /// Sets the gauges to what the node says now.
    pub fn show(&mut self, node: &Node, role: Role) {
        for (of, gauge) in &self.up {
            gauge.set(flag(*of == role && node.is_reachable()));
        }
        if role != Role::Replica && self.replica.is_none() {
            return;
        }
        let is_replica = role == Role::Replica;
        let replica = self.replica();
        replica.lag_seconds.set(node.lag().filter(|_| is_replica).map_or(f64::NAN, |lag| lag.as_secs_f64()));
        #[allow(clippy::cast_precision_loss)] // Bytes beyond 2^53 are no lag that anybody reads exactly.
        replica.lag_bytes.set(node.lag_bytes().filter(|_| is_replica).map_or(f64::NAN, |bytes| bytes as f64));
        let admission = node.admission();
        for (reason, gauge) in &replica.ejected {
            gauge.set(flag(is_replica && admission == Admission::Ejected(*reason)));
        }
    }

    fn replica(&mut self) -> &mut ReplicaMetrics {
        let (shard, node) = (&self.shard, &self.node);
        self.replica.get_or_insert_with(|| {
            let labels = |reason: EjectReason| {
                [("shard", shard.clone()), ("node", node.clone()), ("reason", reason.name().to_owned())]
            };
            let place = [("shard", shard.clone()), ("node", node.clone())];
            ReplicaMetrics {
                lag_seconds: metrics::gauge!(names::REPLICA_LAG_SECONDS, &place),
                lag_bytes: metrics::gauge!(names::REPLICA_LAG_BYTES, &place),
                ejected: (EjectReason::ALL.iter())
                    .map(|reason| (*reason, metrics::gauge!(names::REPLICA_EJECTED, &labels(*reason))))
                    .collect(),
                ejections: (EjectReason::ALL.iter())
                    .map(|reason| {
                        (*reason, zeroed(metrics::counter!(names::REPLICA_EJECTIONS_TOTAL, &labels(*reason))))
                    })
                    .collect(),
            }
        })
    }
}

/// A counter that is there from the start: a rate over a series that begins at 1 misses the first event.
fn zeroed(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rendered(work: impl FnOnce()) -> String {
        let recorder = recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            work();
        });
        recorder.exposition().render()
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }

    #[test]
    fn a_replica_is_shown_as_it_is() {
        let text = rendered(|| {
            let node = Node::new("10.0.0.2".into(), 5432, 1);
            let mut metrics = NodeMetrics::new("a", &node.name);
            node.set_reachable(true);
            node.set_lag(Some((Duration::from_millis(250), 4096)));
            node.set_admission(Admission::Ejected(EjectReason::Lag), 0);
            metrics.count_ejection(EjectReason::Lag);
            metrics.show(&node, Role::Replica);
        });
        has(&text, r#"pgsluice_replica_lag_seconds{shard="a",node="10.0.0.2:5432"} 0.25"#);
        has(&text, r#"pgsluice_replica_lag_bytes{shard="a",node="10.0.0.2:5432"} 4096"#);
        has(&text, r#"pgsluice_replica_ejected{shard="a",node="10.0.0.2:5432",reason="lag"} 1"#);
        has(&text, r#"pgsluice_replica_ejected{shard="a",node="10.0.0.2:5432",reason="timeline"} 0"#);
        has(&text, r#"pgsluice_replica_ejections_total{shard="a",node="10.0.0.2:5432",reason="lag"} 1"#);
        has(&text, r#"pgsluice_node_up{shard="a",node="10.0.0.2:5432",role="replica"} 1"#);
        has(&text, r#"pgsluice_node_up{shard="a",node="10.0.0.2:5432",role="primary"} 0"#);
    }

    #[test]
    fn unknown_lag_is_not_a_number_and_a_primary_has_none() {
        let text = rendered(|| {
            let replica = Node::new("r".into(), 1, 1);
            NodeMetrics::new("a", &replica.name).show(&replica, Role::Replica);
            let primary = Node::new("p".into(), 1, 1);
            NodeMetrics::new("a", &primary.name).show(&primary, Role::Primary);
        });
        has(&text, r#"pgsluice_replica_lag_seconds{shard="a",node="r:1"} NaN"#);
        assert!(!text.contains(r#"pgsluice_replica_lag_seconds{shard="a",node="p:1"}"#));
    }

    #[test]
    fn series_are_there_from_the_start() {
        let text = rendered(|| {
            let proxy = ProxyMetrics::new();
            proxy.clients(ClientState::Idle).increment(1.0);
            proxy.proxy_overhead.record(0.000_004);
            let shard = ShardMetrics::new("a", &["read", "write"]);
            shard.duration(Role::Primary).record(0.003);
            shard.statements(Role::Primary, 1).unwrap().increment(2);
            assert!(shard.statements(Role::Primary, 2).is_none());
            PoolMetrics::new("a", "n:1").connections(ServerState::Idle).set(3.0);
        });
        has(&text, r#"pgsluice_statements_total{shard="a",role="primary",reason="write"} 2"#);
        has(&text, r#"pgsluice_statements_total{shard="a",role="replica",reason="read"} 0"#);
        has(&text, r#"pgsluice_clients{state="idle"} 1"#);
        has(&text, "pgsluice_healed_statements_total 0");
        has(&text, "pgsluice_checkout_timeouts_total 0");
        has(&text, "pgsluice_parse_failures_total 0");
        has(&text, r#"pgsluice_proxy_overhead_seconds_bucket{le="0.000005"} 1"#);
        has(&text, r#"pgsluice_statement_duration_seconds_bucket{shard="a",role="primary",le="0.005"} 1"#);
        has(&text, r#"pgsluice_server_connections{shard="a",node="n:1",state="idle"} 3"#);
        has(&text, "# TYPE pgsluice_statements_total counter");
    }
}

//! One server, and what is known of it from moment to moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::{Lsn, Position, WalLayout};

/// What a server is, as it said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not asked yet, not reachable, or not to be believed.
    Unknown,
    /// Takes writes.
    Primary,
    /// In recovery.
    Replica,
}

impl Role {
    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

/// Where a server was, and since when that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When the question was *sent*: whatever was acknowledged before this moment is covered by a
    /// primary's `position`, and a replica was at least at its `position` from the answer on.
    pub asked_at: Instant,
    /// A primary's insert position (normalised to the page start), a replica's replay position.
    pub position: Position,
}

/// Why a replica gets no reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EjectReason {
    /// Not yet seen to be fresh.
    Starting,
    /// Its lag exceeded `lag.eject_above`.
    Lag,
    /// Its lag is not known: a poll failed, or the primary's position is unknown.
    LagUnknown,
    /// Too many connection errors in a row.
    ConnectionErrors,
    /// Its WAL receiver is gone or silent while the primary moves on.
    ReceiverStalled,
    /// Its timeline is not the primary's.
    Timeline,
    /// Not a member of this cluster (another system identifier), or no longer a replica.
    NotAMember,
    /// An operator keeps reads away (`DRAIN`).
    Drained,
}

impl EjectReason {
    /// All of them, for metrics that list a closed set.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Lag,
        Self::LagUnknown,
        Self::ConnectionErrors,
        Self::ReceiverStalled,
        Self::Timeline,
        Self::NotAMember,
        Self::Drained,
    ];

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Lag => "lag",
            Self::LagUnknown => "lag_unknown",
            Self::ConnectionErrors => "connection_errors",
            Self::ReceiverStalled => "receiver_stalled",
            Self::Timeline => "timeline",
            Self::NotAMember => "not_a_member",
            Self::Drained => "drained",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }
}

/// What the breaker says of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Reads go there.
    Admitted,
    /// A few reads go there; see [`Node::take_probation_read`].
    Probation,
    /// No read goes there.
    Ejected(EjectReason),
}

const ADMITTED: u8 = 254;
const PROBATION: u8 = 255;
const UNKNOWN_LAG: u64 = u64::MAX;

/// One server. Shared by the monitor (which writes) and the data plane (which reads).
#[derive(Debug)]
pub struct Node {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `host:port`: its name in metrics, logs and answers.
    pub name: Arc<str>,
    weight: AtomicU32,
    sample: ArcSwapOption<Sample>,
    wal_layout: ArcSwapOption<WalLayout>,
    lag_micros: AtomicU64,
    lag_bytes: AtomicU64,
    admission: AtomicU8,
    probation_reads: AtomicU32,
    outstanding: AtomicU32,
    connection_errors: AtomicU32,
    incarnation: AtomicU64,
    /// The same, to wait for its end.
    life: watch::Sender<u64>,
    reachable: AtomicBool,
    drained: AtomicBool,
}

impl Node {
    /// A node of which nothing is known yet.
    pub fn new(host: String, port: u16, weight: u32) -> Self {
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self {
            host,
            port,
            name: name.into(),
            weight: AtomicU32::new(weight),
            sample: ArcSwapOption::empty(),
            wal_layout: ArcSwapOption::empty(),
            lag_micros: AtomicU64::new(UNKNOWN_LAG),
            lag_bytes: AtomicU64::new(UNKNOWN_LAG),
            admission: AtomicU8::new(EjectReason::Starting as u8),
            probation_reads: AtomicU32::new(0),
            outstanding: AtomicU32::new(0),
            connection_errors: AtomicU32::new(0),
            incarnation: AtomicU64::new(0),
            life: watch::Sender::new(0),
            reachable: AtomicBool::new(false),
            drained: AtomicBool::new(false),
        }
    }

    /// Its share of the reads, at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed).max(1)
    }

    /// After a reload.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// The last position learnt, where one is known.
    pub fn sample(&self) -> Option<Sample> {
        self.sample.load().as_deref().copied()
    }

    /// A new position, or that none is known any more.
    pub fn set_sample(&self, sample: Option<Sample>) {
        self.sample.store(sample.map(Arc::new));
    }

    /// How its WAL is laid out.
    pub fn set_wal_layout(&self, layout: WalLayout) {
        self.wal_layout.store(Some(Arc::new(layout)));
    }

    /// A position for what it said of itself just now, on the timeline that it was last seen on: `lsn` is
    /// `pg_current_wal_insert_lsn()` of a primary, `pg_last_wal_replay_lsn()` of a replica.
    pub fn position_at(&self, lsn: Lsn) -> Option<Position> {
        let layout = self.wal_layout.load_full()?;
        Some(Position { timeline: self.sample()?.position.timeline, lsn: layout.replayable(lsn) })
    }

    /// Replay lag; `None` is unknown, which is not fresh.
    pub fn lag(&self) -> Option<Duration> {
        known(self.lag_micros.load(Ordering::Relaxed)).map(Duration::from_micros)
    }

    /// How old what a replica shows may be at `now`: its lag when it was last heard of, and the time since then.
    /// `None` is unknown.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        Some(self.lag()? + now.saturating_duration_since(self.sample()?.asked_at))
    }

    /// Bytes of WAL between the primary's position and this one's; `None` is unknown.
    pub fn lag_bytes(&self) -> Option<u64> {
        known(self.lag_bytes.load(Ordering::Relaxed))
    }

    /// Sets both lags.
    pub fn set_lag(&self, lag: Option<(Duration, u64)>) {
        let (micros, bytes) = match lag {
            Some((time, bytes)) => (u64::try_from(time.as_micros()).unwrap_or(UNKNOWN_LAG - 1), bytes),
            None => (UNKNOWN_LAG, UNKNOWN_LAG),
        };
        self.lag_micros.store(micros, Ordering::Relaxed);
        self.lag_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether reads go there: what the breaker last said, unless an operator keeps them away.
    pub fn admission(&self) -> Admission {
        if self.is_drained() {
            return Admission::Ejected(EjectReason::Drained);
        }
        match self.admission.load(Ordering::Acquire) {
            ADMITTED => Admission::Admitted,
            PROBATION => Admission::Probation,
            code => Admission::Ejected(EjectReason::from_code(code).unwrap_or(EjectReason::Starting)),
        }
    }

    /// The breaker's word. `probation_reads` counts only for [`Admission::Probation`].
    pub fn set_admission(&self, admission: Admission, probation_reads: u32) {
        self.probation_reads.store(probation_reads, Ordering::Release);
        let code = match admission {
            Admission::Admitted => ADMITTED,
            Admission::Probation => PROBATION,
            Admission::Ejected(reason) => reason as u8,
        };
        self.admission.store(code, Ordering::Release);
    }

    /// Whether an operator keeps reads away.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Keeps reads away, or no longer; false when that is so already.
    pub fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::Relaxed) != drained
    }

    /// Takes one of the few reads that a node on probation is given; false when there is none left.
    pub fn take_probation_read(&self) -> bool {
        self.probation_reads.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }

    /// Reads of a probation that nobody has taken yet.
    pub fn probation_reads_left(&self) -> u32 {
        self.probation_reads.load(Ordering::Acquire)
    }

    /// Statements under way there now.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Counts one statement as under way until the guard goes.
    pub fn begin_statement(self: Arc<Self>) -> Outstanding {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Outstanding(self)
    }

    /// The data plane could not connect, or lost a connection that it was using.
    pub fn note_connection_error(&self) {
        self.connection_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The data plane got a whole answer.
    pub fn note_answer(&self) {
        if self.connection_errors.load(Ordering::Relaxed) != 0 {
            self.connection_errors.store(0, Ordering::Relaxed);
        }
    }

    /// Failures in a row, as the data plane saw them.
    pub fn connection_errors(&self) -> u32 {
        self.connection_errors.load(Ordering::Relaxed)
    }

    /// Whether the monitor's last poll was answered.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// The monitor's last poll was answered, or not.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    /// Which life of this server is known: raised whenever it stopped answering, restarted or
    /// changed its role. What was true of an earlier one (that it had replayed this far, that a
    /// statement is still running there) need not be true now.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Ends the known life; wakes whoever waits for an answer from it.
    pub fn end_incarnation(&self) {
        self.life.send_modify(|number| {
            *number += 1;
            // Before anybody is woken, and by one at a time.
            self.incarnation.store(*number, Ordering::Release);
        });
    }

    /// To wait for the end of the known life.
    pub fn watch_incarnation(&self) -> watch::Receiver<u64> {
        self.life.subscribe()
    }

    /// Whether it has replayed up to `floor`, as far as is known (a cached position is a lower bound).
    pub fn has_replayed(&self, floor: Position) -> bool {
        self.sample().is_some_and(|sample| sample.position.reaches(floor))
    }

    /// The last LSN learnt, for messages.
    pub fn lsn(&self) -> Option<Lsn> {
        self.sample().map(|sample| sample.position.lsn)
    }
}

fn known(value: u64) -> Option<u64> {
    (value != UNKNOWN_LAG).then_some(value)
}

/// A statement under way; see [`Node::begin_statement`].
#[derive(Debug)]
pub struct Outstanding(Arc<Node>);

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

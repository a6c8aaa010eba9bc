//! The counters of one statement, and what they show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::route::Reason;

/// One statement was run, or failed.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence {
    /// Why it ran where it did; [`StatementTable::index`](super::StatementTable::index) of it.
    pub reason: usize,
    /// It ran on a replica.
    pub on_replica: bool,
    /// As its `CommandComplete` said.
    pub rows: u64,
    /// From its arrival to the end of its answer.
    pub took: Duration,
    /// It ended in an error.
    pub failed: bool,
}

/// What one statement has cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// 16 hexadecimal digits, the same in every process; none for what several statements share.
    pub fingerprint: Option<String>,
    /// The statement with `$n` for its literals.
    pub text: Arc<str>,
    /// How often it was run: the sum of `reasons`.
    pub calls: u64,
    /// Rows that it returned or changed.
    pub rows: u64,
    /// Of all calls together.
    pub total: Duration,
    /// Of the quickest call.
    pub min: Duration,
    /// Of the slowest call.
    pub max: Duration,
    /// Calls that ran on a replica.
    pub on_replicas: u64,
    /// Times that a replica refused it as a write, and the primary then ran it.
    pub heals: u64,
    /// Calls that ended in an error.
    pub failures: u64,
    /// Calls by reason, without those that never were.
    pub reasons: Vec<(Reason, u64)>,
}

impl Row {
    /// Of one call.
    pub fn mean(&self) -> Duration {
        let nanos = self.total.as_nanos().checked_div(self.calls.into()).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Of the calls, those that ran on a replica: 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn replica_share(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.on_replicas as f64 / self.calls as f64 }
    }
}

/// Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Counters {
    rows: AtomicU64,
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    on_replicas: AtomicU64,
    heals: AtomicU64,
    failures: AtomicU64,
    reasons: Box<[AtomicU64]>,
}

impl Counters {
    pub(super) fn new(reasons: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            rows: zero(),
            total: zero(),
            min: AtomicU64::new(u64::MAX),
            max: zero(),
            on_replicas: zero(),
            heals: zero(),
            failures: zero(),
            reasons: (0..reasons).map(|_| zero()).collect(),
        }
    }

    pub(super) fn count(&self, occurrence: &Occurrence) {
        let nanos = u64::try_from(occurrence.took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(reason) = self.reasons.get(occurrence.reason) {
            reason.fetch_add(1, Relaxed);
        }
        self.total.fetch_add(nanos, Relaxed);
        // Mostly neither is so, and a look is cheaper than a write.
        if nanos < self.min.load(Relaxed) {
            self.min.fetch_min(nanos, Relaxed);
        }
        if nanos > self.max.load(Relaxed) {
            self.max.fetch_max(nanos, Relaxed);
        }
        for (counter, by) in [
            (&self.rows, occurrence.rows),
            (&self.on_replicas, u64::from(occurrence.on_replica)),
            (&self.failures, u64::from(occurrence.failed)),
        ] {
            if by > 0 {
                counter.fetch_add(by, Relaxed);
            }
        }
    }

    pub(super) fn count_heal(&self) {
        self.heals.fetch_add(1, Relaxed);
    }

    pub(super) fn calls(&self) -> u64 {
        self.reasons.iter().map(|reason| reason.load(Relaxed)).sum()
    }

    /// Takes out what was counted, and adds it to another's.
    pub(super) fn move_to(&self, other: Option<&Self>) {
        let (min, max) = (self.min.swap(u64::MAX, Relaxed), self.max.swap(0, Relaxed));
        if let Some(other) = other {
            other.min.fetch_min(min, Relaxed);
            other.max.fetch_max(max, Relaxed);
        }
        let pairs = |of: &Self, index: usize| match of.sums().get(index) {
            Some(counter) => counter.swap(0, Relaxed),
            None => 0,
        };
        for index in 0..self.sums().len() {
            let taken = pairs(self, index);
            if let Some(counter) = other.and_then(|other| other.sums().get(index).copied()) {
                counter.fetch_add(taken, Relaxed);
            }
        }
        for (index, reason) in self.reasons.iter().enumerate() {
            let taken = reason.swap(0, Relaxed);
            if let Some(counter) = other.and_then(|other| other.reasons.get(index)) {
                counter.fetch_add(taken, Relaxed);
            }
        }
    }

    fn sums(&self) -> [&AtomicU64; 5] {
        [&self.rows, &self.total, &self.on_replicas, &self.heals, &self.failures]
    }

    /// `None` where nothing was counted.
    pub(super) fn row(&self, fingerprint: Option<u64>, text: Arc<str>, names: &[Reason]) -> Option<Row> {
        let counts = names.iter().zip(&self.reasons).map(|(reason, count)| (*reason, count.load(Relaxed)));
        let reasons: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        let calls: u64 = reasons.iter().map(|(_, count)| count).sum();
        let heals = self.heals.load(Relaxed);
        if calls == 0 && heals == 0 {
            return None;
        }
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Relaxed));
        let min = time(&self.min);
        Some(Row {
            fingerprint: fingerprint.map(|fingerprint| format!("{fingerprint:016x}")),
            text,
            calls,
            rows: self.rows.load(Relaxed),
            total: time(&self.total),
            min: if min == Duration::from_nanos(u64::MAX) { Duration::ZERO } else { min },
            max: time(&self.max),
            on_replicas: self.on_replicas.load(Relaxed),
            heals,
            failures: self.failures.load(Relaxed),
            reasons,
        })
    }
}

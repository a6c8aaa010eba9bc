//! The slots: who has which, and who makes room.
//!
//! A [`Place`] is a slot's index and the number of its tenant. Where the number is no longer the slot's, the tenant
//! has moved out. A count that comes in the very moment of a move goes to the next tenant instead of to
//! [`OTHERS`]; none is lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::slot::{Counters, Occurrence, Row};
use crate::route::Reason;
use crate::sql::{Analysis, Normal, normal, spans};

/// What evicted statements were counted as, and statements that never had a slot.
pub const OTHERS: Place = Place(1 << 32);

/// Texts that were not read: too long, in an encoding or under settings that make that unsafe, function calls
/// by the fast path, and what runs a portal that no text is known for.
pub const NOT_READ: Place = Place(1 << 32 | 1);

const RESERVED: [&str; 2] = ["<other statements>", "<statements that were not read>"];

/// Large enough that a hundredth of it is still a number.
const SCORE_OF_A_CALL: u64 = 1000;

/// Of all slots, how many make room at once: one in so many.
const EVICTED_AT_ONCE: usize = 20;

/// Where a statement is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    fn new(index: usize, tenant: u32) -> Self {
        Self(u64::from(tenant) << 32 | u64::from(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    fn index(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }

    fn tenant(self) -> u64 {
        self.0 >> 32
    }
}

#[derive(Debug)]
struct Slot {
    tenant: AtomicU32,
    counters: Counters,
    label: Mutex<Label>,
}

#[derive(Debug, Clone)]
struct Label {
    fingerprint: Option<u64>,
    text: Arc<str>,
}

/// Who is where, and how much each was used lately.
#[derive(Debug, Default)]
struct Directory {
    by_fingerprint: HashMap<u64, usize>,
    /// For each slot in use, but for the reserved ones.
    usage: Vec<Usage>,
    free: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    score: u64,
    calls_before: u64,
}

/// The statistics of all statements.
#[derive(Debug)]
pub struct StatementTable {
    slots: Box<[OnceLock<Box<Slot>>]>,
    directory: Mutex<Directory>,
    reasons: Vec<Reason>,
    evicted: AtomicU64,
}

impl StatementTable {
    /// For at most `max` different statements, besides [`OTHERS`] and [`NOT_READ`].
    pub fn new(max: usize) -> Self {
        let reasons: Vec<Reason> = Reason::all().collect();
        let table = Self {
            slots: (0..RESERVED.len() + max.max(1)).map(|_| OnceLock::new()).collect(),
            directory: Mutex::default(),
            reasons,
            evicted: AtomicU64::new(0),
        };
        for (index, text) in RESERVED.into_iter().enumerate() {
            table.settle(index, Label { fingerprint: None, text: text.into() });
        }
        table
    }

    /// Sees to it that each statement of a text has a place. Quick where they have one.
    pub fn enter(&self, analysis: &Analysis, text: &[u8]) {
        let is_entered = |place: &AtomicU64| self.slot(Place(place.load(Ordering::Relaxed))).is_some();
        if analysis.places().iter().all(is_entered) {
            return;
        }
        let places = analysis.places();
        let spans = spans(text, places.len());
        for (place, span) in places.iter().zip(spans) {
            let entered = self.enter_one(normal(text.get(span).unwrap_or_default()));
            place.store(entered.0, Ordering::Relaxed);
        }
    }

    fn enter_one(&self, Normal { fingerprint, text }: Normal) -> Place {
        let mut directory = self.directory();
        let known = directory.by_fingerprint.get(&fingerprint).copied();
        let index = match known {
            Some(index) => return self.place_at(index),
            None => match self.room(&mut directory) {
                Some(index) => index,
                None => return OTHERS,
            },
        };
        directory.by_fingerprint.insert(fingerprint, index);
        self.settle(index, Label { fingerprint: Some(fingerprint), text: text.into() });
        self.place_at(index)
    }

    fn place_at(&self, index: usize) -> Place {
        let slot = self.slots.get(index).and_then(OnceLock::get);
        slot.map_or(OTHERS, |slot| Place::new(index, slot.tenant.load(Ordering::Acquire)))
    }

    /// A slot without a tenant; others are turned out where there is none.
    fn room(&self, directory: &mut Directory) -> Option<usize> {
        if let Some(index) = directory.free.pop() {
            return Some(index);
        }
        let next = RESERVED.len() + directory.usage.len();
        if next < self.slots.len() {
            directory.usage.push(Usage::default());
            return Some(next);
        }
        self.make_room(directory);
        directory.free.pop()
    }

    /// Turns out those that were used least lately: each time, what was used before counts for one in a hundred less.
    fn make_room(&self, directory: &mut Directory) {
        let mut scores: Vec<(u64, usize)> = Vec::with_capacity(directory.usage.len());
        for (offset, usage) in directory.usage.iter_mut().enumerate() {
            let index = RESERVED.len() + offset;
            let calls = self.slots.get(index).and_then(OnceLock::get).map_or(0, |slot| slot.counters.calls());
            let fresh = calls.saturating_sub(usage.calls_before);
            usage.score = (usage.score - usage.score / 100).saturating_add(fresh.saturating_mul(SCORE_OF_A_CALL));
            usage.calls_before = calls;
            scores.push((usage.score, index));
        }
        let count = (scores.len() / EVICTED_AT_ONCE).max(1);
        if count < scores.len() {
            scores.select_nth_unstable(count);
        }
        for (_, index) in scores.into_iter().take(count) {
            self.turn_out(directory, index, true);
        }
    }

    fn turn_out(&self, directory: &mut Directory, index: usize, keeps_counts: bool) {
        let Some(slot) = self.slots.get(index).and_then(OnceLock::get) else { return };
        // From now on nobody finds it: then what has been counted is taken out.
        slot.tenant.fetch_add(1, Ordering::AcqRel);
        slot.counters.move_to(self.slot(OTHERS).filter(|_| keeps_counts).map(|slot| &slot.counters));
        if let Some(fingerprint) = slot.label().fingerprint {
            directory.by_fingerprint.remove(&fingerprint);
        }
        if let Some(usage) = directory.usage.get_mut(index.saturating_sub(RESERVED.len())) {
            *usage = Usage::default();
        }
        directory.free.push(index);
        if keeps_counts {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a slot its tenant. The number of a tenant is never 0.
    fn settle(&self, index: usize, label: Label) {
        let Some(slot) = self.slots.get(index) else { return };
        let reasons = self.reasons.len();
        let empty = || {
            let label = Mutex::new(Label { fingerprint: None, text: "".into() });
            Box::new(Slot { tenant: AtomicU32::new(1), counters: Counters::new(reasons), label })
        };
        *slot.get_or_init(empty).label() = label;
    }

    fn slot(&self, place: Place) -> Option<&Slot> {
        let slot = self.slots.get(place.index())?.get()?;
        (u64::from(slot.tenant.load(Ordering::Acquire)) == place.tenant()).then_some(slot)
    }

    /// The slot that a statement of a text has now.
    fn slot_of(&self, analysis: &Analysis, statement: usize) -> Option<&Slot> {
        let place = analysis.places().get(statement).map(|place| Place(place.load(Ordering::Relaxed)));
        place.and_then(|place| self.slot(place)).or_else(|| self.slot(OTHERS))
    }

    /// Counts one run of a statement of a text; `place` where it is counted under another heading.
    pub fn count(&self, analysis: &Analysis, statement: usize, place: Option<Place>, occurrence: &Occurrence) {
        let slot = match place {
            Some(place) => self.slot(place),
            None => self.slot_of(analysis, statement),
        };
        if let Some(slot) = slot {
            slot.counters.count(occurrence);
        }
    }

    /// Counts that a replica refused it as a write.
    pub fn count_heal(&self, analysis: &Analysis, statement: usize) {
        if let Some(slot) = self.slot_of(analysis, statement) {
            slot.counters.count_heal();
        }
    }

    /// A statement's fingerprint and text without literals, where they are known.
    pub fn label(&self, analysis: &Analysis, statement: usize) -> Option<(u64, Arc<str>)> {
        let Label { fingerprint, text } = self.slot_of(analysis, statement)?.label().clone();
        fingerprint.map(|fingerprint| (fingerprint, text))
    }

    /// All statements that were run, those that took most time in all first.
    pub fn snapshot(&self) -> Vec<Row> {
        // Nobody moves meanwhile.
        let _directory = self.directory();
        let mut rows: Vec<Row> = (self.slots.iter().filter_map(OnceLock::get))
            .filter_map(|slot| {
                let Label { fingerprint, text } = slot.label().clone();
                slot.counters.row(fingerprint, text, &self.reasons)
            })
            .collect();
        rows.sort_by(|one, other| other.total.cmp(&one.total).then_with(|| one.text.cmp(&other.text)));
        rows
    }

    /// How many statements had to make room since the start or the last reset.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Begins anew: no statement, and nothing counted.
    pub fn reset(&self) {
        let mut directory = self.directory();
        let tenants: Vec<usize> = directory.by_fingerprint.values().copied().collect();
        for index in tenants {
            self.turn_out(&mut directory, index, false);
        }
        for place in [OTHERS, NOT_READ] {
            if let Some(slot) = self.slot(place) {
                slot.counters.move_to(None);
            }
        }
        self.evicted.store(0, Ordering::Relaxed);
    }

    fn directory(&self) -> std::sync::MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn label(&self) -> std::sync::MutexGuard<'_, Label> {
        self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sql::{AnalysisCache, PrimaryCause};

    fn run(table: &StatementTable, cache: &AnalysisCache, text: &str, reason: Reason, took_us: u64) {
        let analysis = cache.analyse(text.as_bytes());
        table.enter(&analysis, text.as_bytes());
        let occurrence = Occurrence {
            reason: reason.index(),
            on_replica: reason == Reason::FreshReplica,
            rows: 3,
            took: Duration::from_micros(took_us),
            failed: reason == Reason::StandbyError,
        };
        (0..analysis.statements.len().max(1)).for_each(|index| table.count(&analysis, index, None, &occurrence));
    }

    fn calls(rows: &[Row]) -> u64 {
        rows.iter().map(|row| row.calls).sum()
    }

    #[test]
    fn a_statement_is_counted_under_its_text_without_literals() {
        let (table, cache) = (StatementTable::new(10), AnalysisCache::new(1 << 20));
        let write = Reason::Statement(PrimaryCause::Write);
        run(&table, &cache, "SELECT a FROM t WHERE b = 1", Reason::FreshReplica, 10);
        run(&table, &cache, "select a from t where b=2", Reason::NotFresh, 30);
        run(&table, &cache, "SET a = 1", Reason::StandbyError, 5);
        run(&table, &cache, "SET a = 2; INSERT INTO t VALUES ('x')", write, 1);
        let rows = table.snapshot();
        let texts: Vec<&str> = rows.iter().map(|row| &*row.text).collect();
        assert_eq!(texts, ["SELECT a FROM t WHERE b = $1", "SET a = $1", "INSERT INTO t VALUES ($1)"]);
        let [read, set, _] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((read.calls, read.rows, read.on_replicas, read.failures), (2, 6, 1, 0));
        assert_eq!(read.reasons, [(Reason::FreshReplica, 1), (Reason::NotFresh, 1)]);
        let us = Duration::from_micros;
        assert_eq!((read.min, read.max, read.total, read.mean()), (us(10), us(30), us(40), us(20)));
        assert!((read.replica_share() - 0.5).abs() < f64::EPSILON);
        assert_eq!((set.calls, set.failures), (2, 1));
        table.reset();
        assert!(table.snapshot().is_empty());
        // Those who still know their old place find a new one.
        run(&table, &cache, "SELECT a FROM t WHERE b = 1", Reason::FreshReplica, 10);
        assert_eq!(calls(&table.snapshot()), 1);
    }

    #[test]
    fn the_least_used_make_room_and_no_count_is_lost() {
        let (table, cache) = (StatementTable::new(40), AnalysisCache::new(1 << 20));
        for round in 0..50 {
            for hot in 0..10 {
                run(&table, &cache, &format!("SELECT hot{hot}"), Reason::FreshReplica, 1);
            }
            for cold in 0..10 {
                run(&table, &cache, &format!("SELECT cold{}", round * 10 + cold), Reason::NotFresh, 1);
            }
        }
        let rows = table.snapshot();
        assert!(rows.len() <= 40 + RESERVED.len(), "{}", rows.len());
        assert_eq!(calls(&rows), 1000);
        for hot in 0..10 {
            let row = rows.iter().find(|row| *row.text == *format!("SELECT hot{hot}")).expect("a hot one stays");
            assert_eq!(row.calls, 50, "{row:?}");
        }
        let others = rows.iter().find(|row| row.fingerprint.is_none()).expect("evicted ones");
        assert!(others.reasons.iter().all(|(reason, _)| *reason == Reason::NotFresh), "{others:?}");
        assert!(table.evicted() >= 450, "{}", table.evicted());
    }

    #[test]
    fn many_threads_lose_nothing() {
        let (table, cache) = (StatementTable::new(20), AnalysisCache::new(1 << 20));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (table, cache) = (&table, &cache);
                scope.spawn(move || {
                    for n in 0..5000 {
                        run(table, cache, &format!("SELECT c{}", (n * (thread + 1)) % 60), Reason::FreshReplica, 1);
                    }
                });
            }
        });
        assert_eq!(calls(&table.snapshot()), 20_000);
    }

    #[test]
    fn counting_is_cheap() {
        let (table, cache) = (StatementTable::new(100), AnalysisCache::new(1 << 20));
        let text = b"SELECT a FROM t WHERE b = $1";
        let analysis = cache.analyse(text);
        let occurrence =
            Occurrence { reason: 0, on_replica: true, rows: 1, took: Duration::from_micros(50), failed: false };
        let start = Instant::now();
        for _ in 0..100_000 {
            table.enter(&analysis, text);
            table.count(&analysis, 0, None, &occurrence);
        }
        let each = start.elapsed() / 100_000;
        println!("{each:?} for each statement");
        // Ten times what it takes on a slow machine.
        assert!(each < Duration::from_micros(10), "{each:?}");
    }
}

//! How far behind a replica is, told by the primary's own WAL.
//!
//! [`WalClock`] remembers when the primary was where. A replica's lag is now minus the moment when the
//! primary was at the replica's replay position; so only this process's clock is read, an idle primary
//! makes no lag, and clocks of different machines are never compared. Pure: time is an argument.
//!
//! The positions are *flushed* ones (`pg_current_wal_flush_lsn`): a primary sends nothing else to its
//! standbys, so WAL that an open transaction has inserted and nobody has flushed is not a replica's lag.

use std::time::{Duration, Instant};

use crate::topology::Lsn;

/// How many samples are kept. At one each 50 ms the newest 50 s are exact; older ones are thinned.
const CAPACITY: usize = 2048;

/// How far back the clock reaches; an older replica's lag is at least this.
const HORIZON: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tick {
    at: Instant,
    lsn: Lsn,
}

/// Where one primary was, and when. Belongs to one primary on one timeline: start a new one after a failover.
#[derive(Debug, Clone)]
pub struct WalClock {
    // Sorted by time, and by LSN: equal LSNs stand at most twice, at the first and the last moment of them.
    ticks: Vec<Tick>,
    stale_after: Duration,
}

impl WalClock {
    /// A clock that knows nothing when its newest sample is older than `stale_after`.
    pub fn new(stale_after: Duration) -> Self {
        Self { ticks: Vec::new(), stale_after }
    }

    /// After a reload.
    pub fn set_stale_after(&mut self, stale_after: Duration) {
        self.stale_after = stale_after;
    }

    /// The primary was at `lsn` when it was asked at `at`. Going back means another life of it: all earlier is forgotten.
    pub fn observe(&mut self, at: Instant, lsn: Lsn) {
        let Some(newest) = self.ticks.last().copied() else {
            self.ticks.push(Tick { at, lsn });
            return;
        };
        if lsn < newest.lsn {
            self.ticks.clear();
        } else if at <= newest.at {
            return;
        } else if lsn == newest.lsn && self.ticks.iter().rev().nth(1).is_some_and(|tick| tick.lsn == lsn) {
            self.ticks.pop();
        }
        self.ticks.push(Tick { at, lsn });
        self.trim(at);
    }

    /// The primary's newest known position.
    pub fn newest(&self) -> Option<Lsn> {
        self.ticks.last().map(|tick| tick.lsn)
    }

    /// Whether the newest sample is recent enough to judge by.
    pub fn is_known(&self, now: Instant) -> bool {
        self.ticks.last().is_some_and(|tick| now.saturating_duration_since(tick.at) <= self.stale_after)
    }

    /// Whether the clock reaches back to `replay`. Where it does not, [`WalClock::lag_of`] is only a lower bound.
    pub fn covers(&self, replay: Lsn) -> bool {
        self.ticks.first().is_some_and(|oldest| replay >= oldest.lsn)
    }

    /// The lag of a replica that has replayed up to `replay`; `None` is unknown.
    ///
    /// Zero where all that the primary was known to have is replayed. Between two samples the WAL is
    /// taken to have grown evenly. Before the oldest one: the time since that one, a lower bound.
    pub fn lag_of(&self, replay: Lsn, now: Instant) -> Option<Duration> {
        if !self.is_known(now) {
            return None;
        }
        let next = self.ticks.partition_point(|tick| tick.lsn <= replay);
        let at = match (next.checked_sub(1).and_then(|i| self.ticks.get(i)), self.ticks.get(next)) {
            (_, None) => return Some(Duration::ZERO),
            (None, Some(oldest)) => oldest.at,
            (Some(before), Some(after)) => moment_between(*before, *after, replay),
        };
        Some(now.saturating_duration_since(at))
    }

    fn trim(&mut self, now: Instant) {
        if self.ticks.len() > CAPACITY {
            // Every second one of the older half goes: what is long past needs no fine steps.
            let half = self.ticks.len() / 2;
            let mut index = 0;
            self.ticks.retain(|_| {
                index += 1;
                index > half || index % 2 == 1
            });
        }
        // The last one before the horizon stays, so that the clock reaches all the way to it.
        let old = self.ticks.partition_point(|tick| now.saturating_duration_since(tick.at) > HORIZON);
        if old > 1 {
            self.ticks.drain(..old - 1);
        }
    }
}

fn moment_between(before: Tick, after: Tick, lsn: Lsn) -> Instant {
    let span = after.at.saturating_duration_since(before.at).as_nanos();
    let bytes = u128::from(after.lsn.0 - before.lsn.0).max(1);
    let nanos = span * u128::from(lsn.0 - before.lsn.0) / bytes;
    before.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn clock(origin: Instant, samples: &[(u32, u64)]) -> WalClock {
        let mut clock = WalClock::new(500 * MS);
        for (ms, lsn) in samples {
            clock.observe(origin + *ms * MS, Lsn(*lsn));
        }
        clock
    }

    #[test]
    fn lag_is_the_time_since_the_primary_was_there() {
        let origin = Instant::now();
        let samples: &[(u32, u64)] = &[(0, 1000), (50, 1000), (100, 1000), (150, 2000), (200, 2000), (250, 4000)];
        for (what, replay, now, lag_ms) in [
            ("all replayed", 4000, 300, Some(0)),
            ("ahead of what is known", 9000, 300, Some(0)),
            ("since the last moment at this position", 2000, 300, Some(100)),
            ("since the last moment at the oldest position", 1000, 300, Some(200)),
            ("half of the growth between two samples", 1500, 300, Some(175)),
            ("a quarter of it", 2500, 300, Some(87)),
            ("before the oldest: at least", 999, 300, Some(300)),
            ("newest sample just young enough", 4000, 750, Some(0)),
            ("newest sample too old", 4000, 751, None),
            ("newest sample too old, lagging", 1000, 751, None),
        ] {
            let lag = clock(origin, samples).lag_of(Lsn(replay), origin + now * MS);
            assert_eq!(lag.map(|lag| lag.as_millis()), lag_ms.map(|ms: u64| u128::from(ms)), "{what}");
        }
        assert_eq!(clock(origin, &[]).lag_of(Lsn(1), origin), None, "no sample");
        assert_eq!(clock(origin, &[(0, 5)]).lag_of(Lsn(5), origin), Some(Duration::ZERO), "one sample");
    }

    #[test]
    fn an_idle_primary_makes_no_lag_and_no_memory() {
        let origin = Instant::now();
        let mut clock = WalClock::new(500 * MS);
        for ms in 0..100_000 {
            clock.observe(origin + ms * MS, Lsn(7));
        }
        assert_eq!(clock.ticks.len(), 2);
        assert_eq!(clock.lag_of(Lsn(7), origin + 100_000 * MS), Some(Duration::ZERO));
    }

    #[test]
    fn going_back_forgets() {
        let origin = Instant::now();
        let clock = clock(origin, &[(0, 100), (50, 200), (100, 150)]);
        assert_eq!(clock.newest(), Some(Lsn(150)));
        assert!(!clock.covers(Lsn(149)) && clock.covers(Lsn(150)));
    }

    #[test]
    fn a_late_answer_to_an_early_question_does_not_disorder_the_clock() {
        let origin = Instant::now();
        let clock = clock(origin, &[(50, 100), (40, 200), (100, 300)]);
        assert_eq!(clock.ticks.iter().map(|tick| tick.lsn.0).collect::<Vec<_>>(), [100, 300]);
    }

    #[test]
    fn ten_minutes_are_kept_in_bounded_space() {
        let origin = Instant::now();
        let mut clock = WalClock::new(500 * MS);
        for sample in 0..40_000_u32 {
            clock.observe(origin + 50 * MS * sample, Lsn(u64::from(sample) * 100));
            assert!(clock.ticks.len() <= CAPACITY);
        }
        let now = origin + 50 * MS * 39_999;
        for seconds in [1, 10, 100, 590] {
            let lag = clock.lag_of(Lsn((39_999 - seconds * 20) * 100), now).unwrap();
            let error = lag.abs_diff(Duration::from_secs(seconds));
            assert!(error < 10 * MS, "{seconds} s: {lag:?}");
        }
        let oldest = clock.lag_of(Lsn(0), now).unwrap();
        assert!(oldest >= HORIZON, "{oldest:?}");
    }

    proptest! {
        #[test]
        fn who_has_replayed_more_lags_no_more(
            steps in prop::collection::vec((1_u64..200, 0_u64..5000), 1..300),
            one in 0_u64..1_000_000,
            other in 0_u64..1_000_000,
        ) {
            let origin = Instant::now();
            let mut clock = WalClock::new(Duration::from_secs(3600));
            let (mut at, mut lsn) = (origin, 1000);
            for (ms, bytes) in steps {
                at += Duration::from_millis(ms);
                lsn += bytes;
                clock.observe(at, Lsn(lsn));
            }
            let (less, more) = (one.min(other), one.max(other));
            let now = at + MS;
            let (behind, ahead) = (clock.lag_of(Lsn(less), now).unwrap(), clock.lag_of(Lsn(more), now).unwrap());
            prop_assert!(ahead <= behind, "{} has {:?}, {} has {:?}", less, behind, more, ahead);
            prop_assert!(behind <= now - origin);
        }
    }
}

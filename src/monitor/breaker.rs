//! One circuit breaker per replica: whether reads may go there.
//!
//! `Ejected → Probation → Admitted`, and from everywhere back to `Ejected`. Out at once, back slowly:
//! only after the lag stayed below `readmit_below` for `readmit_after`, and then with a few reads on
//! trial. Only the first admission of a node needs no waiting. Unknown lag is not freshness.
//!
//! Pure: each [`Breaker::step`] is given the time and what was observed. Each state has one method, and
//! a state changes nowhere else.

use std::time::{Duration, Instant};

use crate::config;
use crate::topology::{Admission, EjectReason};

/// What one look at a replica told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Replay lag; `None` is unknown.
    pub lag: Option<Duration>,
    /// The data plane's failures in a row.
    pub connection_errors: u32,
    /// WAL does not arrive although the primary has more, for longer than is tolerated.
    pub receiver_stalled: bool,
    /// It is on the primary's timeline.
    pub timeline_ok: bool,
    /// It is a standby of this cluster.
    pub is_member: bool,
    /// Reads of the probation that nobody has taken yet.
    pub probation_reads_left: u32,
}

impl Observation {
    /// What forbids reads there, the most telling reason first.
    fn trouble(&self, limits: &config::Lag) -> Option<EjectReason> {
        if !self.is_member {
            Some(EjectReason::NotAMember)
        } else if !self.timeline_ok {
            Some(EjectReason::Timeline)
        } else if self.connection_errors >= limits.connection_errors.max(1) {
            Some(EjectReason::ConnectionErrors)
        } else if self.lag.is_none() {
            Some(EjectReason::LagUnknown)
        } else if self.receiver_stalled {
            Some(EjectReason::ReceiverStalled)
        } else if self.lag > Some(limits.eject_above) {
            Some(EjectReason::Lag)
        } else {
            None
        }
    }
}

/// A change of state, for the node, the log and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Admission,
    /// From now on.
    pub to: Admission,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Never admitted yet.
    Starting,
    /// Out. `good_since`: from when on nothing spoke against it.
    Ejected {
        reason: EjectReason,
        good_since: Option<Instant>,
    },
    /// On trial since then.
    Probation {
        since: Instant,
    },
    Admitted,
}

/// The state of one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    state: State,
}

impl Breaker {
    /// For a node that is seen for the first time: admitted as soon as it is fresh.
    pub fn starting() -> Self {
        Self { state: State::Starting }
    }

    /// For a node that comes back from having been something else: it earns its way in.
    pub fn returning() -> Self {
        Self { state: State::Ejected { reason: EjectReason::NotAMember, good_since: None } }
    }

    /// What it says now.
    pub fn admission(&self) -> Admission {
        match self.state {
            State::Starting => Admission::Ejected(EjectReason::Starting),
            State::Ejected { reason, .. } => Admission::Ejected(reason),
            State::Probation { .. } => Admission::Probation,
            State::Admitted => Admission::Admitted,
        }
    }

    /// Takes one observation in. `Some` when what it says has changed.
    pub fn step(&mut self, now: Instant, seen: &Observation, limits: &config::Lag) -> Option<Transition> {
        let from = self.admission();
        let trouble = seen.trouble(limits);
        self.state = match self.state {
            State::Starting => starting(trouble),
            State::Ejected { reason, good_since } => {
                let calm = trouble.is_none() && seen.lag.is_some_and(|lag| lag < limits.readmit_below);
                ejected(now, limits, trouble.unwrap_or(reason), good_since.filter(|_| calm), calm)
            }
            State::Probation { since } => probation(now, seen, limits, trouble, since),
            State::Admitted => admitted(trouble),
        };
        let to = self.admission();
        (from != to).then_some(Transition { from, to })
    }
}

fn out(reason: EjectReason) -> State {
    State::Ejected { reason, good_since: None }
}

/// Nothing known yet is no change of reason; anything worse is.
fn starting(trouble: Option<EjectReason>) -> State {
    match trouble {
        None => State::Admitted,
        Some(EjectReason::LagUnknown) => State::Starting,
        Some(reason) => out(reason),
    }
}

fn ejected(now: Instant, limits: &config::Lag, reason: EjectReason, good_since: Option<Instant>, calm: bool) -> State {
    if !calm {
        return out(reason);
    }
    let since = good_since.unwrap_or(now);
    if now.saturating_duration_since(since) >= limits.readmit_after {
        State::Probation { since: now }
    } else {
        State::Ejected { reason, good_since: Some(since) }
    }
}

/// One failed connection is enough to fail the trial; all its reads taken, or nobody there to take
/// them for as long as it had to wait, is enough to pass it.
fn probation(
    now: Instant,
    seen: &Observation,
    limits: &config::Lag,
    trouble: Option<EjectReason>,
    since: Instant,
) -> State {
    if let Some(reason) = trouble {
        return out(reason);
    }
    if seen.connection_errors > 0 {
        return out(EjectReason::ConnectionErrors);
    }
    let waited = now.saturating_duration_since(since) >= limits.readmit_after;
    if seen.probation_reads_left == 0 || waited { State::Admitted } else { State::Probation { since } }
}

fn admitted(trouble: Option<EjectReason>) -> State {
    trouble.map_or(State::Admitted, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limits() -> config::Lag {
        config::Lag {
            poll_interval: 50 * MS,
            poll_timeout: 500 * MS,
            eject_above: 100 * MS,
            readmit_below: 50 * MS,
            readmit_after: 1000 * MS,
            probation_reads: 5,
            connection_errors: 3,
            when_none: config::WhenNone::Primary,
        }
    }

    fn fresh() -> Observation {
        lag(0)
    }

    fn lag(ms: u32) -> Observation {
        Observation {
            lag: Some(ms * MS),
            connection_errors: 0,
            receiver_stalled: false,
            timeline_ok: true,
            is_member: true,
            probation_reads_left: 5,
        }
    }

    /// Every single trouble, and several at once with the one that is named.
    fn troubles() -> Vec<(Observation, EjectReason)> {
        vec![
            (lag(101), EjectReason::Lag),
            (Observation { lag: None, ..fresh() }, EjectReason::LagUnknown),
            (Observation { connection_errors: 3, ..fresh() }, EjectReason::ConnectionErrors),
            (Observation { connection_errors: 4, ..fresh() }, EjectReason::ConnectionErrors),
            (Observation { receiver_stalled: true, ..fresh() }, EjectReason::ReceiverStalled),
            (Observation { timeline_ok: false, ..fresh() }, EjectReason::Timeline),
            (Observation { is_member: false, ..fresh() }, EjectReason::NotAMember),
            (Observation { receiver_stalled: true, ..lag(5000) }, EjectReason::ReceiverStalled),
            (Observation { timeline_ok: false, lag: None, ..fresh() }, EjectReason::Timeline),
            (Observation { timeline_ok: false, is_member: false, lag: None, ..fresh() }, EjectReason::NotAMember),
        ]
    }

    fn in_state(state: State) -> Breaker {
        Breaker { state }
    }

    #[test]
    fn every_trouble_ejects_from_every_state() {
        let now = Instant::now();
        for (seen, reason) in troubles() {
            for state in [
                State::Admitted,
                State::Probation { since: now },
                State::Starting,
                State::Ejected { reason: EjectReason::Starting, good_since: Some(now) },
            ] {
                let mut breaker = in_state(state);
                let change = breaker.step(now, &seen, &limits());
                if state == State::Starting && reason == EjectReason::LagUnknown {
                    assert_eq!((change, breaker.state), (None, State::Starting));
                    continue;
                }
                assert_eq!(breaker.state, out(reason), "{state:?} {seen:?}");
                assert_eq!(change.map(|change| change.to), Some(Admission::Ejected(reason)), "{state:?}");
            }
        }
    }

    #[test]
    fn what_is_tolerated_changes_nothing() {
        let now = Instant::now();
        for seen in [fresh(), lag(100), Observation { connection_errors: 2, ..fresh() }] {
            let mut breaker = in_state(State::Admitted);
            assert_eq!(breaker.step(now, &seen, &limits()), None, "{seen:?}");
        }
    }

    #[test]
    fn the_first_admission_is_at_once() {
        let mut breaker = Breaker::starting();
        let now = Instant::now();
        assert_eq!(breaker.admission(), Admission::Ejected(EjectReason::Starting));
        assert_eq!(breaker.step(now, &Observation { lag: None, ..fresh() }, &limits()), None);
        let change = breaker.step(now, &fresh(), &limits());
        let expected = Transition { from: Admission::Ejected(EjectReason::Starting), to: Admission::Admitted };
        assert_eq!(change, Some(expected));
    }

    #[test]
    fn back_only_after_an_uninterrupted_time() {
        let origin = Instant::now();
        let connection_trouble = Observation { connection_errors: 3, ..fresh() };
        let unknown = Observation { lag: None, ..fresh() };
        // (what, observations as (ms, seen), when it is on probation)
        type Case = (&'static str, Vec<(u32, Observation)>, Option<u32>);
        let cases: Vec<Case> = vec![
            ("calm all the time", vec![(0, lag(49)), (500, lag(0)), (999, lag(49)), (1000, lag(49))], Some(1000)),
            ("too early", vec![(0, lag(0)), (999, lag(0))], None),
            ("at readmit_below is not below", vec![(0, lag(50)), (1000, lag(50)), (2000, lag(50))], None),
            ("interrupted by lag", vec![(0, lag(0)), (900, lag(50)), (1000, lag(0)), (1999, lag(0))], None),
            (
                "interrupted by lag, then calm",
                vec![(0, lag(0)), (900, lag(300)), (1000, lag(0)), (2000, lag(0))],
                Some(2000),
            ),
            ("interrupted by an unknown", vec![(0, lag(0)), (500, unknown), (1400, lag(0)), (2399, lag(0))], None),
            ("interrupted by errors", vec![(0, lag(0)), (500, connection_trouble), (1100, lag(0))], None),
        ];
        for (what, observations, expected) in cases {
            let mut breaker = in_state(out(EjectReason::Lag));
            let mut readmitted = None;
            for (ms, seen) in observations {
                if let Some(Transition { to: Admission::Probation, .. }) =
                    breaker.step(origin + ms * MS, &seen, &limits())
                {
                    readmitted = Some(ms);
                }
            }
            assert_eq!(readmitted, expected, "{what}");
        }
    }

    #[test]
    fn the_reason_follows_what_is_wrong_now_and_stays_while_waiting() {
        let now = Instant::now();
        let mut breaker = in_state(out(EjectReason::LagUnknown));
        breaker.step(now, &lag(300), &limits());
        assert_eq!(breaker.admission(), Admission::Ejected(EjectReason::Lag));
        assert_eq!(breaker.step(now, &lag(10), &limits()), None);
        assert_eq!(breaker.step(now, &lag(70), &limits()), None);
        assert_eq!(breaker.admission(), Admission::Ejected(EjectReason::Lag));
    }

    #[test]
    fn probation_is_passed_by_reads_or_by_time() {
        let since = Instant::now();
        let left = |probation_reads_left| Observation { probation_reads_left, ..fresh() };
        for (what, after_ms, seen, expected) in [
            ("reads left", 999, left(1), State::Probation { since }),
            ("all reads taken", 10, left(0), State::Admitted),
            ("nobody took them", 1000, left(5), State::Admitted),
            ("some lag is no trouble", 10, Observation { lag: Some(80 * MS), ..left(0) }, State::Admitted),
            (
                "one connection error",
                10,
                Observation { connection_errors: 1, ..left(0) },
                out(EjectReason::ConnectionErrors),
            ),
            ("lag", 1000, Observation { lag: Some(101 * MS), ..left(0) }, out(EjectReason::Lag)),
        ] {
            let mut breaker = in_state(State::Probation { since });
            breaker.step(since + after_ms * MS, &seen, &limits());
            assert_eq!(breaker.state, expected, "{what}");
        }
    }

    #[test]
    fn a_node_that_was_something_else_waits() {
        let now = Instant::now();
        let mut breaker = Breaker::returning();
        assert_eq!(breaker.step(now, &fresh(), &limits()), None);
        let change = breaker.step(now + 1000 * MS, &fresh(), &limits());
        assert_eq!(change.map(|change| change.to), Some(Admission::Probation));
    }
}

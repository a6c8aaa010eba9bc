//! What the screen shows, apart from how: the last reading, what has changed since the one before it, and the last
//! minute of each node's lag. Pure: moments are arguments.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::reading::{Reading, Statement};

/// How far back the lag is shown.
pub(super) const HISTORY: Duration = Duration::from_secs(60);

/// By what statements are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Time spent on it since the last reading.
    Load,
    /// Calls since the last reading.
    Calls,
    /// Mean time of a call.
    Mean,
    /// Time spent on it in all.
    Total,
    /// Calls that ended in an error.
    Failures,
}

impl Order {
    /// All, in the order in which one key goes through them.
    pub(super) const ALL: [Self; 5] = [Self::Load, Self::Calls, Self::Mean, Self::Total, Self::Failures];

    /// For the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Calls => "calls",
            Self::Mean => "mean",
            Self::Total => "total",
            Self::Failures => "failures",
        }
    }

    /// The key that chooses it.
    pub(super) fn key(self) -> char {
        match self {
            Self::Load => 'l',
            Self::Calls => 'c',
            Self::Mean => 'm',
            Self::Total => 't',
            Self::Failures => 'f',
        }
    }

    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).map_or(0, |at| at + 1);
        Self::ALL.get(at).copied().unwrap_or(Self::Load)
    }
}

/// How a node was doing at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Seen {
    /// Seconds.
    Lag(f64),
    /// It is a replica whose lag is not known.
    Unknown,
    /// Nobody was there to ask, or it is no replica.
    Nothing,
}

/// Whether pgsluice answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Connection {
    /// It has not yet.
    Connecting,
    /// It does.
    Up,
    /// It did, and does no more: why.
    Lost(String),
}

/// A statement with what has become of it since the last reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hot<'a> {
    pub(super) statement: &'a Statement,
    /// Calls a second; `None` before there are two readings.
    pub(super) calls: Option<f64>,
    /// Seconds spent on it a second: how many of them ran at any time.
    pub(super) load: Option<f64>,
}

/// What is kept of the reading before.
#[derive(Debug)]
struct Before {
    at: Instant,
    /// Calls and total time of each, by its fingerprint.
    statements: HashMap<String, (u64, f64)>,
    routes: [u64; 2],
}

/// What the screen shows.
#[derive(Debug)]
pub(super) struct View {
    pub(super) address: String,
    pub(super) connection: Connection,
    pub(super) order: Order,
    pub(super) interval: Duration,
    /// New readings are not shown.
    pub(super) is_frozen: bool,
    pub(super) reading: Option<Reading>,
    before: Option<Before>,
    history: HashMap<String, VecDeque<(Instant, Seen)>>,
}

impl View {
    pub(super) fn new(address: String, interval: Duration) -> Self {
        Self {
            address,
            connection: Connection::Connecting,
            order: Order::Load,
            interval,
            is_frozen: false,
            reading: None,
            before: None,
            history: HashMap::new(),
        }
    }

    /// There is a new reading.
    pub(super) fn take(&mut self, reading: Reading) {
        self.connection = Connection::Up;
        for node in &reading.nodes {
            let seen = match (node.role.as_str(), node.lag) {
                ("replica", Some(lag)) => Seen::Lag(lag),
                ("replica", None) => Seen::Unknown,
                _ => Seen::Nothing,
            };
            self.history.entry(node.name.clone()).or_default().push_back((reading.at, seen));
        }
        self.history.retain(|name, _| reading.nodes.iter().any(|node| node.name == *name));
        self.forget_before(reading.at);
        if self.is_frozen {
            return;
        }
        self.before = self.reading.take().map(|old| {
            let statements =
                old.statements.into_iter().map(|statement| (statement.fingerprint, (statement.calls, statement.total)));
            Before { at: old.at, statements: statements.collect(), routes: old.routes }
        });
        self.reading = Some(reading);
    }

    /// Nobody answers.
    pub(super) fn lose(&mut self, why: String, now: Instant) {
        self.connection = Connection::Lost(why);
        for history in self.history.values_mut() {
            history.push_back((now, Seen::Nothing));
        }
        self.forget_before(now);
        // Another process begins to count anew.
        self.before = None;
    }

    fn forget_before(&mut self, now: Instant) {
        for history in self.history.values_mut() {
            // One that is older is kept: it says how things were when the minute began.
            while history.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= HISTORY) {
                history.pop_front();
            }
        }
    }

    /// The last minute of a node in so many parts, the latest last: in each the worst that was seen, and where nothing
    /// was, what had been seen before.
    pub(super) fn minute(&self, node: &str, parts: usize, now: Instant) -> Vec<Seen> {
        // In each part the worst, and the last.
        let mut seen_in: Vec<Option<(Seen, Seen)>> = vec![None; parts];
        let mut before = Seen::Nothing;
        for (at, seen) in self.history.get(node).into_iter().flatten() {
            let age = now.saturating_duration_since(*at);
            if age >= HISTORY {
                before = *seen;
                continue;
            }
            let behind = (age.as_secs_f64() / HISTORY.as_secs_f64() * parts as f64) as usize;
            if let Some(part) = parts.checked_sub(1 + behind).and_then(|index| seen_in.get_mut(index)) {
                *part = Some((part.map_or(*seen, |(other, _)| worse(other, *seen)), *seen));
            }
        }
        let carried = seen_in.into_iter().map(|part| {
            let (worst, last) = part.unwrap_or((before, before));
            before = last;
            worst
        });
        carried.collect()
    }

    /// Statements a second on primaries and on replicas.
    pub(super) fn rates(&self) -> Option<[f64; 2]> {
        let (reading, before) = (self.reading.as_ref()?, self.before.as_ref()?);
        let seconds = reading.at.saturating_duration_since(before.at).as_secs_f64();
        let rate =
            |index: usize| reading.routes[index].checked_sub(before.routes[index]).map(|count| count as f64 / seconds);
        (seconds > 0.0).then_some([rate(0)?, rate(1)?])
    }

    /// All statements, the hottest first.
    pub(super) fn hottest(&self) -> Vec<Hot<'_>> {
        let Some(reading) = &self.reading else { return Vec::new() };
        let mut all: Vec<Hot<'_>> = reading.statements.iter().map(|statement| self.hot(reading, statement)).collect();
        let weight = |hot: &Hot<'_>| match self.order {
            Order::Load => (hot.load.unwrap_or_default(), hot.statement.total),
            Order::Calls => (hot.calls.unwrap_or_default(), hot.statement.calls as f64),
            Order::Mean => (hot.statement.mean, hot.statement.total),
            Order::Total => (hot.statement.total, hot.statement.mean),
            Order::Failures => (hot.statement.failures as f64, hot.statement.total),
        };
        all.sort_by(|one, other| {
            let ((first, second), (other_first, other_second)) = (weight(one), weight(other));
            other_first.total_cmp(&first).then(other_second.total_cmp(&second))
        });
        all
    }

    fn hot<'a>(&self, reading: &Reading, statement: &'a Statement) -> Hot<'a> {
        let since = self.before.as_ref().and_then(|before| {
            let seconds = reading.at.saturating_duration_since(before.at).as_secs_f64();
            // One that was not there before is new, or its place was another's.
            let (calls, total) = before.statements.get(&statement.fingerprint).copied().unwrap_or_default();
            let calls = statement.calls.checked_sub(calls)?;
            (seconds > 0.0).then(|| (calls as f64 / seconds, (statement.total - total).max(0.0) / seconds))
        });
        Hot { statement, calls: since.map(|(calls, _)| calls), load: since.map(|(_, load)| load) }
    }
}

fn worse(one: Seen, other: Seen) -> Seen {
    match (one, other) {
        (Seen::Lag(one), Seen::Lag(other)) => Seen::Lag(one.max(other)),
        (Seen::Unknown, _) | (_, Seen::Unknown) => Seen::Unknown,
        (Seen::Nothing, seen) | (seen, Seen::Nothing) => seen,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::tests::example;
    use super::*;

    fn view(readings: &[u64]) -> (View, Instant) {
        let start = Instant::now();
        let mut view = View::new("here".to_owned(), Duration::from_secs(1));
        for (second, calls) in readings.iter().enumerate() {
            view.take(Reading::of(&example(*calls), start + Duration::from_secs(second as u64)));
        }
        (view, start)
    }

    #[test]
    fn rates_are_of_the_time_between_two_readings() {
        let (one, _) = view(&[10]);
        assert!(one.rates().is_none());
        assert!(one.hottest()[0].calls.is_none());
        let (mut two, start) = view(&[10, 510]);
        assert_eq!(two.rates(), Some([0.0, 500.0]));
        let hottest = two.hottest();
        assert_eq!((hottest[0].statement.fingerprint.as_str(), hottest[0].calls), ("f1", Some(500.0)));
        assert!((hottest[0].load.expect("a load") - 1.0).abs() < 1e-9);
        // A process that was restarted has counted less.
        two.take(Reading::of(&example(3), start + Duration::from_secs(9)));
        assert_eq!(
            (two.rates(), two.hottest().iter().find(|hot| hot.statement.calls == 3).expect("it").calls),
            (None, None)
        );
    }

    #[test]
    fn orders() {
        let (mut view, _) = view(&[10, 510]);
        for (order, first) in [
            (Order::Load, "f1"),
            (Order::Calls, "f1"),
            (Order::Mean, "f2"),
            (Order::Total, "f2"),
            (Order::Failures, "f2"),
        ] {
            view.order = order;
            assert_eq!(view.hottest()[0].statement.fingerprint, first, "{order:?}");
        }
        let round = Order::ALL.iter().fold(Order::Load, |order, _| order.next());
        assert_eq!(round, Order::Load);
    }

    #[test]
    fn a_minute_of_lag() {
        let (mut view, start) = view(&[1, 2]);
        let now = start + Duration::from_secs(10);
        let shown = view.minute("10.0.0.2:5432", 6, now);
        // Seen twice ten seconds ago, and as it was then ever since.
        assert_eq!(shown, [[Seen::Nothing; 4].as_slice(), &[Seen::Lag(0.0125); 2]].concat());
        assert_eq!(view.minute("10.0.0.3:5432", 6, now)[5], Seen::Unknown);
        assert_eq!(view.minute("10.0.0.1:5432", 6, now), [Seen::Nothing; 6]);
        view.lose("gone".to_owned(), now);
        // It was seen in these ten seconds, and is gone in the next.
        let shown = view.minute("10.0.0.2:5432", 6, now + Duration::from_secs(9));
        assert_eq!(shown[4..], [Seen::Lag(0.0125), Seen::Nothing]);
        for second in 0..300 {
            view.take(Reading::of(&example(1), now + Duration::from_secs(second)));
        }
        assert!(view.history["10.0.0.2:5432"].len() <= 62);
        assert_eq!(view.minute("10.0.0.2:5432", 6, now + Duration::from_secs(299)), [Seen::Lag(0.0125); 6]);
    }

    #[test]
    fn what_is_frozen_stays() {
        let (mut view, start) = view(&[10]);
        view.is_frozen = true;
        view.take(Reading::of(&example(77), start + Duration::from_secs(1)));
        assert_eq!(view.reading.as_ref().expect("a reading").routes[1], 10);
    }
}

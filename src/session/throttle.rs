//! Failed logins by where they came from: whoever guesses passwords is not let go on at full speed.
//!
//! An address has `auth.max_failures` to spend, and gets them back evenly over a minute. One that has spent
//! them all is refused before it is asked for a password. Of IPv6 the first 64 bits count: the rest is for
//! the client to choose. The table is bounded; what gives way is who has failed least.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 4096;

/// In which all failures are forgiven.
const WINDOW: Duration = Duration::from_secs(60);

/// Failed logins.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<IpAddr, Failures>>);

/// What an address has failed, less what was forgiven since.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: f64,
    at: Instant,
}

impl Failures {
    fn at(self, now: Instant, limit: u32) -> f64 {
        let forgiven = now.saturating_duration_since(self.at).as_secs_f64() / WINDOW.as_secs_f64() * f64::from(limit);
        (self.count - forgiven).max(0.0)
    }
}

impl Throttle {
    /// How long this address has to wait; `None` where it may try. A limit of 0 is none.
    pub fn wait(&self, address: IpAddr, limit: u32, now: Instant) -> Option<Duration> {
        if limit == 0 {
            return None;
        }
        let failures = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&network(address))?;
        let excess = failures.at(now, limit) - f64::from(limit) + 1.0;
        // A hair's breadth is left over by the arithmetic.
        (excess > 0.001).then(|| WINDOW.mul_f64(excess / f64::from(limit)))
    }

    /// A login from this address has failed.
    pub fn note_failure(&self, address: IpAddr, limit: u32, now: Instant) {
        if limit == 0 {
            return;
        }
        let address = network(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= MOST_ADDRESSES && !table.contains_key(&address) {
            table.retain(|_, failures| failures.at(now, limit) > 0.0);
            let least = |(_, failures): &(&IpAddr, &Failures)| failures.at(now, limit);
            if table.len() >= MOST_ADDRESSES
                && let Some((&address, _)) = table.iter().min_by(|a, b| least(a).total_cmp(&least(b)))
            {
                table.remove(&address);
            }
        }
        let count = table.get(&address).map_or(0.0, |failures| failures.at(now, limit));
        // Tries that were under way at once can overdraw it; that is not held against anybody for longer.
        let count = (count + 1.0).min(f64::from(limit));
        table.insert(address, Failures { count, at: now });
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_has_failed_too_often_waits() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..3 {
            assert_eq!(throttle.wait(one, 3, start), None);
            throttle.note_failure(one, 3, start);
        }
        let wait = throttle.wait(one, 3, start).expect("it has to wait");
        assert_eq!(wait.as_secs(), 20, "a third of a minute gives one back");
        assert_eq!(throttle.wait(ip("::ffff:192.0.2.1"), 3, start), Some(wait));
        assert_eq!(throttle.wait(other, 3, start), None);
        assert_eq!(throttle.wait(one, 3, start + wait), None);
        throttle.note_failure(one, 3, start + wait);
        assert!(throttle.wait(one, 3, start + wait).is_some());
        assert_eq!(throttle.wait(one, 3, start + wait + WINDOW), None);
        assert_eq!(throttle.wait(one, 0, start), None, "no limit");
    }

    #[test]
    fn ipv6_counts_by_network() {
        let throttle = Throttle::default();
        let now = Instant::now();
        throttle.note_failure(ip("2001:db8::1"), 1, now);
        assert!(throttle.wait(ip("2001:db8::ffff:1"), 1, now).is_some());
        assert!(throttle.wait(ip("2001:db8:0:1::1"), 1, now).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let worst = ip("198.51.100.1");
        for _ in 0..10 {
            throttle.note_failure(worst, 10, now);
        }
        for number in 0..u32::try_from(2 * MOST_ADDRESSES).unwrap() {
            throttle.note_failure(IpAddr::V4(number.into()), 10, now);
        }
        assert_eq!(throttle.0.lock().unwrap().len(), MOST_ADDRESSES);
        assert!(throttle.wait(worst, 10, now).is_some());
    }
}

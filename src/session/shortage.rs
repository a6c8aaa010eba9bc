//! When a connection cannot be accepted, mostly because the process or the machine has no descriptor left for it.
//!
//! The connection stays in the kernel's queue and the listener stays readable, so to try again at once would be to do
//! nothing else. Instead the oldest of those that have not logged in make room, and after a pause the next try comes. Each
//! failure is counted; the log is told of the first, of the others every ten seconds, and when there was none for as long.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::proxy::Proxy;
use crate::telemetry::metrics::AcceptFailure;

/// Until the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// How many of those that are not logged in have to go each time.
const MAKE_ROOM: usize = 100;

/// Between two lines of the log.
const QUIET: Duration = Duration::from_secs(10);

/// One listener's trouble with accepting.
#[derive(Debug, Default)]
pub struct Shortage {
    /// When the log was last told of it.
    told: Option<Instant>,
    /// Failures since then.
    untold: u64,
    /// The last of them.
    last: Option<Instant>,
}

impl Shortage {
    /// An `accept` has failed. Returns when it is time for the next.
    pub async fn failed(&mut self, proxy: &Proxy, error: &io::Error) {
        let cause = cause(error);
        proxy.metrics.accept_failures(cause).increment(1);
        if cause == AcceptFailure::Connection {
            tracing::debug!(%error, "a connection was gone before it was accepted");
            return;
        }
        self.tell(error, Instant::now());
        if cause != AcceptFailure::Other {
            proxy.logins.thin_out(MAKE_ROOM);
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// One was accepted.
    pub fn accepted(&mut self) {
        if self.last.is_some() {
            self.end_if_calm(Instant::now());
        }
    }

    fn end_if_calm(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            tracing::info!(failures = self.untold, "connections are accepted again");
            *self = Self::default();
        }
    }

    fn tell(&mut self, error: &io::Error, now: Instant) {
        self.untold += 1;
        self.last = Some(now);
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= QUIET) {
            let failures = std::mem::take(&mut self.untold);
            tracing::error!(%error, failures, "connections cannot be accepted; the oldest that have not logged in make room");
            self.told = Some(now);
        }
    }
}

/// What stands in the way. Linux also tells here of what has become of the connection itself: see the notes of `accept(2)`.
fn cause(error: &io::Error) -> AcceptFailure {
    match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EMFILE | Errno::ENFILE => AcceptFailure::Descriptors,
        Errno::ENOMEM | Errno::ENOBUFS => AcceptFailure::Memory,
        Errno::ECONNABORTED
        | Errno::ECONNRESET
        | Errno::EINTR
        | Errno::EPERM
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::ENETDOWN
        | Errno::ENETUNREACH
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENONET => AcceptFailure::Connection,
        _ => AcceptFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes() {
        for (error, expected) in [
            (Errno::EMFILE, AcceptFailure::Descriptors),
            (Errno::ENFILE, AcceptFailure::Descriptors),
            (Errno::ENOBUFS, AcceptFailure::Memory),
            (Errno::ECONNABORTED, AcceptFailure::Connection),
            (Errno::EINVAL, AcceptFailure::Other),
        ] {
            assert_eq!(cause(&io::Error::from_raw_os_error(error as i32)), expected, "{error}");
        }
        assert_eq!(cause(&io::Error::other("of our own")), AcceptFailure::Other);
    }

    #[test]
    fn the_log_is_not_flooded() {
        let (mut shortage, start) = (Shortage::default(), Instant::now());
        let error = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        // What is untold after each: the first is told at once, and the next ones together after a while.
        for (after, untold) in [(0, 0), (100, 1), (9_900, 2), (10_000, 0), (10_100, 1)] {
            shortage.tell(&error, start + Duration::from_millis(after));
            assert_eq!(shortage.untold, untold, "after {after} ms");
        }
        // One that is accepted in between changes nothing.
        shortage.end_if_calm(start + Duration::from_millis(10_200));
        assert_eq!((shortage.last.is_some(), shortage.untold), (true, 1));
        shortage.end_if_calm(start + Duration::from_millis(20_100));
        assert_eq!((shortage.last, shortage.told, shortage.untold), (None, None, 0));
    }
}

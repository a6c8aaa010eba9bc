//! How long an exchange keeps the proxy itself busy, as its client feels it.
//!
//! Two stretches are added up. The way out: from the moment when the client's messages are whole until
//! the last of them is written to the server, without the waits for a server connection, for a
//! replica to catch up, or for a server's answer to what the proxy asks first. The way back: from the read
//! that brings the last of the answer until all of it is written to the client. What lies between is the
//! server's time.
//!
//! Not in it: the time between a socket's becoming readable and the task's reading it, and what is done
//! after the client has its answer. In it: the wait for a client that does not take the end of its answer. What is left to the
//! thread's outbox ([`crate::wire::outbox`]) counts as written.

use std::time::{Duration, Instant};

/// A stopwatch for one exchange. It reads the clock where bytes have moved, and nowhere else.
#[derive(Debug, Default)]
pub(super) struct Overhead {
    /// Runs since then; `None` while it is somebody else's turn.
    running: Option<Instant>,
    out: Duration,
    back: Duration,
    /// When all that has come was written to the client, and nothing has come since.
    delivered_at: Option<Instant>,
}

impl Overhead {
    /// The client's messages were whole at `asked_at`.
    pub(super) fn start(&mut self, asked_at: Instant) {
        *self = Self { running: Some(asked_at), ..Self::default() };
    }

    /// From now on somebody else is waited for: all is sent, or there is no connection to send it on.
    pub(super) fn pause(&mut self) {
        if let Some(since) = self.running.take() {
            self.out += since.elapsed();
        }
    }

    /// It is the proxy's turn again.
    pub(super) fn go_on(&mut self) {
        self.running = Some(Instant::now());
    }

    /// The server has sent something. What came before is no longer the last of the answer.
    pub(super) fn heard(&mut self) {
        self.running = Some(Instant::now());
        self.delivered_at = None;
    }

    /// All that has come is written to the client.
    pub(super) fn delivered(&mut self) {
        if let Some(since) = self.running.take() {
            let now = Instant::now();
            self.back = now.saturating_duration_since(since);
            self.delivered_at = Some(now);
        }
    }

    /// When the answer was over, as the client sees it: now, unless that is known better.
    pub(super) fn ended_at(&self) -> Instant {
        self.delivered_at.unwrap_or_else(Instant::now)
    }

    /// Both stretches.
    pub(super) fn total(&self) -> Duration {
        self.out + self.back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Puts the start of what runs back in time, as if it had run for so long.
    fn run_for(overhead: &mut Overhead, time: Duration) {
        let since = overhead.running.as_mut().expect("it runs");
        *since = since.checked_sub(time).expect("the clock goes back that far");
    }

    fn minutes(overhead: &Overhead) -> u64 {
        overhead.total().as_secs() / 60
    }

    #[test]
    fn the_way_out_and_the_last_of_the_way_back() {
        let mut overhead = Overhead::default();
        overhead.start(Instant::now());
        run_for(&mut overhead, MINUTE);
        overhead.pause();
        overhead.go_on();
        run_for(&mut overhead, MINUTE);
        overhead.pause();
        assert_eq!(minutes(&overhead), 2, "a wait for a connection in between is not counted");
        overhead.pause();
        overhead.heard();
        run_for(&mut overhead, 5 * MINUTE);
        overhead.delivered();
        overhead.heard();
        run_for(&mut overhead, 5 * MINUTE);
        overhead.heard();
        run_for(&mut overhead, MINUTE);
        overhead.delivered();
        assert_eq!(minutes(&overhead), 3, "only what follows the last of the answer is counted");
        let end = overhead.delivered_at.expect("it is delivered");
        assert_eq!(overhead.ended_at(), end);
        overhead.heard();
        assert!(overhead.ended_at() >= end && overhead.delivered_at.is_none(), "more has come");
        overhead.start(Instant::now());
        assert_eq!(minutes(&overhead), 0);
    }

    #[test]
    fn data_that_a_client_copies_in_is_not_the_proxys_time() {
        let mut overhead = Overhead::default();
        overhead.start(Instant::now());
        overhead.pause();
        overhead.heard();
        overhead.delivered();
        overhead.pause();
        assert!(overhead.running.is_none());
        assert_eq!(minutes(&overhead), 0);
    }
}

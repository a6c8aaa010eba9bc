//! The gate that `PAUSE` closes: clients go in with each transaction, and stay out while it is closed.
//!
//! A client is inside from the first message of a transaction, or of a statement by itself, to its end.
//! Whoever is inside when the gate closes finishes; whoever comes then waits, and notices nothing but that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// See the module. Open at first.
#[derive(Debug)]
pub struct Gate {
    /// To wait for a change of it.
    state: watch::Sender<bool>,
    /// The same, for those who only look: changed with it, under its lock.
    is_closed: AtomicBool,
    inside: AtomicUsize,
    waiting: AtomicUsize,
    left: Notify,
}

/// A client inside; it leaves with this.
#[derive(Debug)]
pub struct Inside(Arc<Gate>);

/// The gate was opened while somebody waited for all to leave.
#[derive(Debug, PartialEq, Eq)]
pub struct Reopened;

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }
}

impl Gate {
    /// Goes in, if it is open.
    pub fn try_enter(self: &Arc<Self>) -> Option<Inside> {
        // First in, then look: so that nobody slips in behind the back of one who has just closed it.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(self));
        (!self.is_closed()).then_some(inside)
    }

    /// Goes in, when it is open.
    pub async fn enter(self: &Arc<Self>) -> Inside {
        loop {
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            let _waiting = Waiting::new(&self.waiting);
            // The sender lives as long as the gate.
            let _ = self.state.subscribe().wait_for(|is_closed| !is_closed).await;
        }
    }

    /// Closes it, and returns when nobody is inside.
    ///
    /// # Errors
    /// It was opened before that; also when it is opened by somebody else.
    pub async fn close(&self) -> Result<(), Reopened> {
        self.set(true);
        let mut state = self.state.subscribe();
        loop {
            let left = self.left.notified();
            if !self.is_closed() {
                return Err(Reopened);
            }
            if self.inside() == 0 {
                return Ok(());
            }
            tokio::select! {
                () = left => {}
                _ = state.changed() => {}
            }
        }
    }

    /// Opens it; false when it was open.
    pub fn open(&self) -> bool {
        self.set(false)
    }

    /// What it was before.
    fn set(&self, is_closed: bool) -> bool {
        let mut before = is_closed;
        self.state.send_modify(|state| {
            before = std::mem::replace(state, is_closed);
            self.is_closed.store(is_closed, Ordering::SeqCst);
        });
        before
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// How many are inside.
    pub fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// How many wait for it to open.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
            self.0.left.notify_waiters();
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_inside_finishes_and_who_comes_waits() {
        let gate = Arc::new(Gate::default());
        let first = gate.enter().await;
        let closing = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.close().await }
        });
        while !gate.is_closed() {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished() && !second.is_finished());
        drop(first);
        assert_eq!(closing.await.unwrap(), Ok(()));
        assert!(gate.open() && !gate.open());
        drop(second.await.unwrap());
        assert_eq!(gate.inside(), 0);
    }

    #[tokio::test]
    async fn opening_it_ends_the_closing() {
        let gate = Arc::new(Gate::default());
        let _inside = gate.enter().await;
        let closing = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.close().await }
        });
        while !gate.is_closed() {
            tokio::task::yield_now().await;
        }
        gate.open();
        assert_eq!(closing.await.unwrap(), Err(Reopened));
    }
}

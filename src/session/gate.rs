//! The gate that `PAUSE` closes: clients go in with each transaction, and stay out while it is closed.
//!
//! A client is inside from the first message of a transaction, or of a statement by itself, to its end.
//! Whoever is inside when the gate closes finishes; whoever comes then waits, and notices nothing but that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use crate::workers::WorkerId;

/// See the module. Open at first.
#[derive(Debug)]
pub struct Gate {
    /// To wait for a change of it.
    state: watch::Sender<bool>,
    /// The same, for those who only look: changed with it, under its lock.
    is_closed: AtomicBool,
    /// How many are inside is the sum of these: threads that serve clients do not write to the same memory.
    inside: [Part; PARTS as usize],
    waiting: AtomicUsize,
    left: Notify,
}

/// More threads than these share some.
const PARTS: u8 = 8;

/// Those of some threads, in a line of the cache of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(AtomicUsize);

/// A client that may go in; it leaves with this at the latest.
#[derive(Debug)]
pub struct Visitor {
    gate: Arc<Gate>,
    /// In which part it is counted while it is inside.
    inside: Option<u8>,
}

/// The gate was opened while somebody waited for all to leave.
#[derive(Debug, PartialEq, Eq)]
pub struct Reopened;

impl Default for Gate {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(false),
            is_closed: AtomicBool::new(false),
            inside: Default::default(),
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }
}

impl Gate {
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
        self.inside.iter().map(|part| part.0.load(Ordering::SeqCst)).sum()
    }

    /// How many wait for it to open.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Visitor {
    /// Somebody outside.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, inside: None }
    }

    /// Goes in, if it is open; true for who is inside already.
    pub fn try_enter(&mut self) -> bool {
        if self.inside.is_none() {
            let part = WorkerId::here().one_of(PARTS);
            // First in, then look: so that nobody slips in behind the back of one who has just closed it.
            self.gate.inside[usize::from(part)].0.fetch_add(1, Ordering::SeqCst);
            self.inside = Some(part);
            if self.gate.is_closed() {
                self.leave();
            }
        }
        self.inside.is_some()
    }

    /// Goes in, when it is open.
    pub async fn enter(&mut self) {
        while !self.try_enter() {
            let _waiting = Waiting::new(&self.gate.waiting);
            // The sender lives as long as the gate.
            let _ = self.gate.state.subscribe().wait_for(|is_closed| !is_closed).await;
        }
    }

    /// Is outside again.
    pub fn leave(&mut self) {
        if let Some(part) = self.inside.take()
            && self.gate.inside[usize::from(part)].0.fetch_sub(1, Ordering::SeqCst) == 1
            && self.gate.is_closed()
        {
            self.gate.left.notify_waiters();
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.leave();
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

    async fn inside(gate: &Arc<Gate>) -> Visitor {
        let mut visitor = Visitor::new(Arc::clone(gate));
        visitor.enter().await;
        visitor
    }

    #[tokio::test]
    async fn who_is_inside_finishes_and_who_comes_waits() {
        let gate = Arc::new(Gate::default());
        let mut first = inside(&gate).await;
        assert!(first.try_enter() && gate.inside() == 1, "once is enough");
        let closing = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.close().await }
        });
        while !gate.is_closed() {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { inside(&gate).await }
        });
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished() && !second.is_finished());
        first.leave();
        assert_eq!(closing.await.unwrap(), Ok(()));
        assert!(!first.try_enter());
        assert!(gate.open() && !gate.open());
        let second = second.await.unwrap();
        assert!(first.try_enter() && gate.inside() == 2);
        drop((first, second));
        assert_eq!(gate.inside(), 0);
    }

    /// By threads that are counted apart, while it is closed and opened again and again.
    #[test]
    fn nobody_is_inside_when_it_has_closed() {
        const ROUNDS: usize = 2000;
        let gate = Arc::new(Gate::default());
        let (are_over, busy) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for part in 0..4 {
                let (gate, are_over, busy) = (Arc::clone(&gate), &are_over, &busy);
                scope.spawn(move || {
                    WorkerId::be(part);
                    let mut visitor = Visitor::new(gate);
                    while !are_over.load(Ordering::SeqCst) {
                        if visitor.try_enter() {
                            busy.fetch_add(1, Ordering::SeqCst);
                            busy.fetch_sub(1, Ordering::SeqCst);
                            visitor.leave();
                        }
                    }
                });
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let left = (0..ROUNDS).find_map(|_| {
                let closed = runtime.block_on(gate.close());
                let left = busy.load(Ordering::SeqCst);
                gate.open();
                (closed.is_err() || left > 0).then_some((closed, left))
            });
            // Before anything fails, for they are waited for.
            are_over.store(true, Ordering::SeqCst);
            assert_eq!(left, None);
        });
    }

    #[tokio::test]
    async fn opening_it_ends_the_closing() {
        let gate = Arc::new(Gate::default());
        let _inside = inside(&gate).await;
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

//! A bounded number of things to lend, and those who wait for one.
//!
//! Who comes first is served first: what is given back goes to the one who has waited longest, and nobody takes anything
//! while others wait. Of what lies idle, what was given back last is lent first, so that what is not needed
//! grows old. To borrow takes one lock, and to give back takes one.
//!
//! There are never more things than places, but while the limit is being lowered: those that are lent then are let go
//! when they come back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// How many idle things are looked at for one that is preferred.
const MOST_LOOKED_AT: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Lending<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    idle: Vec<Idle<T>>,
    /// Lent, or being made.
    out: usize,
    limit: usize,
    /// The first has waited longest. Nobody waits while something is idle, or may be made.
    queue: VecDeque<oneshot::Sender<Grant<T>>>,
    /// Those in the queue who have not given up.
    waiting: usize,
    is_closed: bool,
}

#[derive(Debug)]
struct Idle<T> {
    thing: T,
    /// When it was first seen idle, by whoever looks from time to time.
    since: Option<Instant>,
}

/// What somebody is given: it is counted as lent from then on.
#[derive(Debug)]
pub(super) enum Grant<T> {
    /// Something that lay idle, or was given back.
    Thing(T),
    /// The right to make a new one.
    Place,
}

/// What whoever asks is told.
#[derive(Debug)]
pub(super) enum Answer<'l, T> {
    Granted(Grant<T>),
    /// All are lent.
    Wait(Waiter<'l, T>),
    Closed,
}

/// One who waits; when it gives up, what it has been granted meanwhile goes to the next.
#[derive(Debug)]
pub(super) struct Waiter<'l, T> {
    lending: &'l Lending<T>,
    granted: oneshot::Receiver<Grant<T>>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) limit: usize,
    pub(super) idle: usize,
    /// Lent, or being made.
    pub(super) out: usize,
    pub(super) waiting: usize,
}

impl<T> Lending<T> {
    /// Nothing yet, and at most so many.
    pub(super) fn new(limit: usize) -> Self {
        let (idle, queue) = (Vec::new(), VecDeque::new());
        Self { state: Mutex::new(State { idle, out: 0, limit, queue, waiting: 0, is_closed: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one; of what is idle, rather for such a one.
    pub(super) fn ask(&self, is_preferred: impl Fn(&T) -> bool) -> Answer<'_, T> {
        let mut state = self.lock();
        if state.is_closed {
            return Answer::Closed;
        }
        if let Some(grant) = state.grant(is_preferred) {
            return Answer::Granted(grant);
        }
        let (sender, granted) = oneshot::channel();
        state.queue.push_back(sender);
        state.waiting += 1;
        drop(state);
        Answer::Wait(Waiter { lending: self, granted })
    }

    /// What has been granted is no good, and is no more: something else that lies idle, or the right to make a new one.
    pub(super) fn exchange(&self, is_preferred: impl Fn(&T) -> bool) -> Grant<T> {
        self.lock().take_idle(is_preferred).map_or(Grant::Place, Grant::Thing)
    }

    /// What has been lent comes back; it is returned where it is not to be kept.
    pub(super) fn give_back(&self, thing: T) -> Option<T> {
        let mut state = self.lock();
        if state.is_closed || state.out + state.idle.len() > state.limit {
            state.out -= 1;
            return Some(thing);
        }
        if let Err(thing) = state.hand_on(Grant::Thing(thing)) {
            state.out -= 1;
            state.idle.extend(thing.thing().map(|thing| Idle { thing, since: None }));
        }
        None
    }

    /// What has been lent is no more, or could not be made.
    pub(super) fn let_go(&self) {
        let mut state = self.lock();
        let is_too_many = state.out + state.idle.len() > state.limit;
        if is_too_many || state.hand_on(Grant::Place).is_err() {
            state.out -= 1;
        }
    }

    /// Another limit from now on; what is idle beyond it is returned.
    pub(super) fn resize(&self, limit: usize) -> Vec<T> {
        let mut state = self.lock();
        state.limit = limit;
        let beyond = (state.out + state.idle.len()).saturating_sub(limit).min(state.idle.len());
        let gone = state.idle.drain(..beyond).map(|idle| idle.thing).collect();
        while state.out < state.limit && !state.queue.is_empty() {
            // It is counted as if it had been lent before.
            state.out += 1;
            if state.hand_on(Grant::Place).is_err() {
                state.out -= 1;
            }
        }
        gone
    }

    /// Nothing is lent any more. What was idle is returned.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.is_closed = true;
        // Whoever waits hears of it by that.
        state.queue.clear();
        state.idle.drain(..).map(|idle| idle.thing).collect()
    }

    /// Looks at what is idle, with the moment since which it is known to be; what is not to be kept is returned.
    pub(super) fn retain(&self, now: Instant, mut keep: impl FnMut(&T, Instant) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let mut look = |idle: &mut Idle<T>| !keep(&idle.thing, *idle.since.get_or_insert(now));
        state.idle.extract_if(.., |idle| look(idle)).map(|idle| idle.thing).collect()
    }

    /// How many there are.
    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { limit: state.limit, idle: state.idle.len(), out: state.out, waiting: state.waiting }
    }
}

impl<T> State<T> {
    /// Of the last ones: where there are many, one that is preferred is soon among them.
    fn take_idle(&mut self, is_preferred: impl Fn(&T) -> bool) -> Option<T> {
        let last = self.idle.iter().rev().take(MOST_LOOKED_AT);
        let back = last.into_iter().position(|idle| is_preferred(&idle.thing)).unwrap_or_default();
        let at = self.idle.len().checked_sub(back + 1)?;
        Some(self.idle.remove(at).thing)
    }

    fn grant(&mut self, is_preferred: impl Fn(&T) -> bool) -> Option<Grant<T>> {
        let grant = match self.take_idle(is_preferred) {
            Some(thing) => Grant::Thing(thing),
            None if self.out < self.limit => Grant::Place,
            None => return None,
        };
        self.out += 1;
        Some(grant)
    }

    /// To the one who has waited longest; back, where nobody waits.
    fn hand_on(&mut self, mut grant: Grant<T>) -> Result<(), Grant<T>> {
        while let Some(waiter) = self.queue.pop_front() {
            match waiter.send(grant) {
                Ok(()) => return Ok(()),
                // That one has given up.
                Err(back) => grant = back,
            }
        }
        Err(grant)
    }
}

impl<T> Grant<T> {
    fn thing(self) -> Option<T> {
        match self {
            Self::Thing(thing) => Some(thing),
            Self::Place => None,
        }
    }
}

impl<T> Waiter<'_, T> {
    /// Returns when it is its turn; `None`: nothing is lent any more.
    pub(super) async fn turn(&mut self) -> Option<Grant<T>> {
        (&mut self.granted).await.ok()
    }
}

impl<T> Drop for Waiter<'_, T> {
    fn drop(&mut self) {
        self.granted.close();
        match self.granted.try_recv() {
            Ok(Grant::Thing(thing)) => drop(self.lending.give_back(thing)),
            Ok(Grant::Place) => self.lending.let_go(),
            Err(_) => {}
        }
        self.lending.lock().waiting -= 1;
    }
}

#[cfg(test)]
#[path = "lending_tests.rs"]
mod tests;

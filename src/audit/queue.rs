//! Between those who tell and the thread that writes: bounded by bytes, and never waiting on the telling side.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::Counter;
use tokio::sync::oneshot;

use super::event::Event;
use super::file::Placement;

/// Events are taken together as long as they weigh less than this, in bytes.
const BATCH: usize = 256 * 1024;

pub(super) struct Queue {
    state: Mutex<State>,
    arrival: Condvar,
    lost: Counter,
}

#[derive(Default)]
struct State {
    events: VecDeque<(SystemTime, Event)>,
    weight: usize,
    limit: usize,
    lost: u64,
    /// Another placement of the file; `Some(None)`: none from now on.
    placement: Option<Option<Placement>>,
    flushes: Vec<oneshot::Sender<()>>,
    ended: bool,
    /// The writer waits for something to come.
    idle: bool,
}

/// What the writer is given to do.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) placement: Option<Option<Placement>>,
    pub(super) events: Vec<(SystemTime, Event)>,
    /// Lost since the last batch.
    pub(super) lost: u64,
    /// To be told when all that was told before is written. Only with the last of the events.
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// Nobody tells anything any more, and this was all.
    pub(super) ended: bool,
}

impl Queue {
    pub(super) fn new(limit: usize, lost: Counter) -> Self {
        lost.increment(0);
        Self { state: Mutex::new(State { limit, ..State::default() }), arrival: Condvar::new(), lost }
    }

    /// Puts an event at the end, or counts it as lost.
    pub(super) fn push(&self, time: SystemTime, event: Event) {
        let weight = weight(&event);
        let mut state = self.state();
        if state.weight + weight > state.limit {
            state.lost += 1;
            self.lost.increment(1);
            return;
        }
        state.weight += weight;
        state.events.push_back((time, event));
        self.wake(state);
    }

    pub(super) fn adopt(&self, limit: usize, placement: Option<Placement>) {
        let mut state = self.state();
        state.limit = limit;
        state.placement = Some(placement);
        self.wake(state);
    }

    /// Resolves when all that was told before is written; to an error when the writer is gone.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.ended {
            state.flushes.push(sender);
        }
        self.wake(state);
        receiver
    }

    /// Nobody tells anything any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.wake(state);
    }

    /// Waits for something to do. A writer that cannot write now (`retry`) is given no further events, and
    /// returns after that time in any case.
    pub(super) fn take(&self, retry: Option<Duration>) -> Batch {
        let mut state = self.state();
        if let Some(retry) = retry {
            if state.placement.is_none() && !state.ended {
                state.idle = true;
                state = self.arrival.wait_timeout(state, retry).unwrap_or_else(PoisonError::into_inner).0;
                state.idle = false;
            }
            return Batch { placement: state.placement.take(), ended: state.ended, ..Batch::default() };
        }
        while state.events.is_empty() && state.placement.is_none() && state.flushes.is_empty() && !state.ended {
            state.idle = true;
            state = self.arrival.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        let mut batch = Batch { placement: state.placement.take(), ..Batch::default() };
        let mut taken = 0;
        while taken < BATCH
            && let Some((time, event)) = state.events.pop_front()
        {
            let weight = weight(&event);
            taken += weight;
            state.weight = state.weight.saturating_sub(weight);
            batch.events.push((time, event));
        }
        if state.events.is_empty() {
            batch.lost = std::mem::take(&mut state.lost);
            batch.flushes = std::mem::take(&mut state.flushes);
            batch.ended = state.ended;
        }
        batch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let is_idle = state.idle;
        drop(state);
        if is_idle {
            self.arrival.notify_one();
        }
    }
}

fn weight(event: &Event) -> usize {
    size_of::<(SystemTime, Event)>() + event.weight()
}

//! The clients that have not logged in yet. They are strangers, so there is a bound on them of its own,
//! `listen.max_logins`: a crowd of them takes nothing from those that are in.
//!
//! When one more comes than there may be, the oldest has to go. Whoever logs in takes a moment, so the
//! oldest of many is most likely one that never will; refusing the newest would let a crowd that says
//! nothing keep everybody out until its time is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Everybody who is logging in.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// In the order of their coming.
    taken: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One of them; its place is free again when this goes.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    id: u64,
    sent_away: oneshot::Receiver<()>,
}

/// There were too many, and this one was the oldest.
#[derive(Debug, PartialEq, Eq)]
pub struct CrowdedOut;

impl Crowd {
    /// One more. Where that makes more than `limit` the oldest is sent away.
    pub fn enter(self: &Arc<Self>, limit: usize) -> Place {
        let (sender, sent_away) = oneshot::channel();
        let mut places = self.lock();
        let id = places.next;
        places.next += 1;
        places.taken.insert(id, sender);
        while places.taken.len() > limit {
            places.send_oldest_away();
        }
        drop(places);
        Place { crowd: Arc::clone(self), id, sent_away }
    }

    /// The oldest few are sent away: there is no room for anybody.
    pub fn thin_out(&self, count: usize) {
        let mut places = self.lock();
        (0..count).for_each(|_| places.send_oldest_away());
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn send_oldest_away(&mut self) {
        if let Some((_, oldest)) = self.taken.pop_first() {
            // Where it has just logged in there is nobody to hear it.
            let _ = oldest.send(());
        }
    }
}

impl Place {
    /// Does it, unless this one is sent away meanwhile.
    ///
    /// # Errors
    /// It was sent away.
    pub async fn unless_crowded_out<T>(&mut self, done: impl Future<Output = T>) -> Result<T, CrowdedOut> {
        tokio::select! {
            biased;
            _ = &mut self.sent_away => Err(CrowdedOut),
            output = done => Ok(output),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().taken.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_when_one_too_many_comes() {
        let crowd = Arc::new(Crowd::default());
        let mut places: Vec<Place> = (0..3).map(|_| crowd.enter(3)).collect();
        let mut fourth = crowd.enter(3);
        assert_eq!(places[0].unless_crowded_out(pending::<()>()).await, Err(CrowdedOut));
        for place in [&mut places[1], &mut fourth] {
            assert_eq!(place.unless_crowded_out(ready(7)).await, Ok(7));
        }
        // Who leaves makes room.
        drop(places.remove(1));
        let mut fifth = crowd.enter(3);
        assert_eq!(places[1].unless_crowded_out(ready(7)).await, Ok(7));
        // A smaller limit sends several away.
        let _sixth = crowd.enter(1);
        for place in [&mut places[1], &mut fourth, &mut fifth] {
            assert_eq!(place.unless_crowded_out(pending::<()>()).await, Err(CrowdedOut));
        }
        crowd.thin_out(5);
        assert!(crowd.lock().taken.is_empty());
    }
}

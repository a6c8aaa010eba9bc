//! What sessions with the same `pgsluice.session_key` have written, together.
//!
//! An application's pool gives one user's requests to many connections; with the user's key on each of
//! them, what one has written all of them see. (What one has only read, the others need not: reads never go
//! backwards within one session.) The number of keys is the clients' affair, and the memory
//! is not: keys share a fixed number of slots by their hash. Two keys in one slot make each other's reads
//! a little fresher than they had to be, and never staler.

use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use foldhash::quality::RandomState;

use super::Horizon;
use crate::topology::Shard;

/// How many there are.
const SLOTS: usize = 16 * 1024;

/// One key of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(u64);

/// All keys' horizons. Takes no memory until the first key is used.
#[derive(Debug, Default)]
pub struct SessionKeys {
    hasher: RandomState,
    slots: OnceLock<Box<[Mutex<Horizon>]>>,
}

impl SessionKeys {
    /// A key of `whom`, a database and a user: others' keys are others.
    pub fn of(&self, whom: impl Hash, key: &str) -> SessionKey {
        SessionKey(self.hasher.hash_one((whom, key)))
    }

    /// What the primary of the shard of this name has acknowledged under this key, for as long as it is held.
    pub fn horizon(&self, key: SessionKey, shard: &str) -> MutexGuard<'_, Horizon> {
        let slots = self.slots.get_or_init(|| (0..SLOTS).map(|_| Mutex::default()).collect());
        let slot = usize::try_from(self.hasher.hash_one((key.0, shard)) % SLOTS as u64).unwrap_or_default();
        slots[slot].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, with moments turned into positions as far as samples allow.
    pub fn settled(&self, key: SessionKey, shard: &Shard) -> MutexGuard<'_, Horizon> {
        let mut horizon = self.horizon(key, &shard.name);
        horizon.settle(shard);
        horizon
    }
}

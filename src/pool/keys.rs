//! The keys of clients that have logged in: what the servers are shown where no password is stored.
//!
//! In memory only, one for each user, and never more than there are users: a key is remembered when its
//! client has proved itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::scram::ClientKey;

/// Users' keys.
#[derive(Debug, Default)]
pub struct ClientKeys(Mutex<HashMap<Arc<str>, Arc<ClientKey>>>);

impl ClientKeys {
    /// The user has proved to have this key; it takes the place of an older one.
    pub fn remember(&self, user: &str, key: ClientKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.get_mut(user) {
            Some(known) if **known == key => {}
            Some(known) => *known = Arc::new(key),
            None => {
                keys.insert(user.into(), Arc::new(key));
            }
        }
    }

    /// The key that the user's last login has shown.
    pub fn of(&self, user: &str) -> Option<Arc<ClientKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(user).map(Arc::clone)
    }
}

//! What one user, or one database, may take of the proxy, over all of its sessions: how many clients, and for a
//! user how many statements a second.
//!
//! Taken when somebody has logged in, never before: a name alone takes nothing from its owner.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::pool::Identity;
use crate::wire::ErrorReply;

/// All users and databases that have clients.
#[derive(Debug, Default)]
pub struct Quotas {
    users: Usages,
    databases: Usages,
}

#[derive(Debug, Default)]
struct Usages(Mutex<HashMap<Arc<str>, Arc<Usage>>>);

/// One user's or database's.
#[derive(Debug, Default)]
struct Usage {
    clients: AtomicUsize,
    pace: Mutex<Pace>,
}

/// A token bucket, kept as the moment from which on it is full again. Whoever asks is given a turn, so those who
/// wait are served in the order in which they came.
#[derive(Debug, Default)]
struct Pace {
    full_at: Option<Instant>,
}

/// What it holds: one second's statements can be run at once.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    /// When `count` statements may be run; `None` is now.
    fn reserve(&mut self, count: usize, per_second: u32, now: Instant) -> Option<Instant> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let cost = Duration::from_secs(1).saturating_mul(count) / per_second.max(1);
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + cost;
        self.full_at = Some(full_at);
        full_at.checked_sub(BURST).filter(|turn| *turn > now)
    }
}

/// One client's part in both.
#[derive(Debug)]
pub struct Membership {
    user: Arc<Usage>,
    database: Arc<Usage>,
}

impl Quotas {
    /// One more client of this user and database.
    ///
    /// # Errors
    /// One of them has as many as it may; in PostgreSQL's words.
    pub fn enter(&self, identity: &Identity, config: &Config) -> Result<Membership, ErrorReply> {
        let Identity { user, database } = identity;
        let of_user = config.auth.users.iter().find(|known| *known.name == **user).and_then(|known| known.max_clients);
        let of_database =
            config.databases.iter().find(|known| *known.name == **database).and_then(|known| known.max_clients);
        let refused =
            |what: &str, name: &str| ErrorReply::fatal("53300", format!("too many connections for {what} \"{name}\""));
        let at_database = self.databases.of(database);
        if !at_database.take(of_database.unwrap_or(config.limits.clients_per_database)) {
            return Err(refused("database", database));
        }
        let at_user = self.users.of(user);
        if !at_user.take(of_user.unwrap_or(config.limits.clients_per_user)) {
            at_database.give_back();
            return Err(refused("role", user));
        }
        Ok(Membership { user: at_user, database: at_database })
    }

    /// Forgets who has no clients.
    pub fn sweep(&self) {
        self.users.sweep();
        self.databases.sweep();
    }
}

impl Usages {
    fn of(&self, name: &Arc<str>) -> Arc<Usage> {
        let mut usages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(usages.entry(Arc::clone(name)).or_default())
    }

    fn sweep(&self) {
        let mut usages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Who comes and goes must not get a new bucket each time.
        let is_full = |usage: &Usage| {
            let pace = usage.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.full_at.is_none_or(|at| at <= now)
        };
        usages.retain(|_, usage| Arc::strong_count(usage) > 1 || !is_full(usage));
    }
}

impl Usage {
    /// A limit of 0 is none.
    fn take(&self, limit: usize) -> bool {
        let take = |taken: usize| (limit == 0 || taken < limit).then_some(taken + 1);
        self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Membership {
    /// When the user may run so many statements; `None` is now. The turn is taken, whether it is used or not.
    pub fn reserve(&self, count: usize, per_second: u32) -> Option<Instant> {
        let mut pace = self.user.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.reserve(count, per_second, Instant::now())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.user.give_back();
        self.database.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_bucket_is_empty_after_a_second_s_worth_and_turns_are_in_order() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..10 {
            assert_eq!(pace.reserve(1, 10, now), None);
        }
        let turns: Vec<_> = [1, 1, 3, 1].map(|count| pace.reserve(count, 10, now).expect("a wait") - now).into();
        assert_eq!(turns, [100, 200, 500, 600].map(Duration::from_millis));
        // What is not used for a second is there again, and no more than that.
        let later = now + Duration::from_secs(10);
        assert_eq!(pace.reserve(10, 10, later), None);
        assert_eq!(pace.reserve(1, 10, later), Some(later + Duration::from_millis(100)));
        assert_eq!(Pace::default().reserve(0, 1, now), None);
    }

    #[test]
    fn clients_are_counted_by_user_and_by_database() {
        let text = "limits = { clients_per_user = 2, clients_per_database = 3 }\n\
                    auth.users = [{ name = 'many', password = 'p', max_clients = 0 }, { name = 'u', password = 'p' }]\n\
                    databases = [{ name = 'd' }, { name = 'small', max_clients = 1 }]\nshards = [{ nodes = ['h:1'] }]";
        let config = Config::parse(text, Path::new(""), "test").unwrap_or_else(|errors| panic!("{errors}"));
        let quotas = Quotas::default();
        let enter = |user: &str, database: &str| {
            let identity = Identity { user: user.into(), database: database.into() };
            quotas.enter(&identity, &config).map_err(|reply| reply.message)
        };
        let mut inside = vec![enter("u", "d").unwrap(), enter("u", "small").unwrap()];
        assert_eq!(enter("u", "d").unwrap_err(), "too many connections for role \"u\"");
        assert_eq!(enter("many", "small").unwrap_err(), "too many connections for database \"small\"");
        inside.push(enter("many", "d").unwrap());
        inside.push(enter("many", "d").unwrap());
        assert_eq!(enter("many", "d").unwrap_err(), "too many connections for database \"d\"");
        // Who was refused by one has taken nothing of the other, and who leaves makes room in both.
        inside.clear();
        for usages in [&quotas.users, &quotas.databases] {
            let usages = usages.0.lock().unwrap();
            assert!(usages.values().all(|usage| usage.clients.load(Ordering::Relaxed) == 0));
        }
        quotas.sweep();
        assert!(quotas.users.0.lock().unwrap().is_empty() && quotas.databases.0.lock().unwrap().is_empty());
    }
}

//! Which versions of the bucket map are known: the one in force, and one that is about to be.
//!
//! A change is announced before it is put in force. In between a key has a place only where both maps give it the same:
//! so those who have heard of the change can work beside those who have not, and later beside those who have seen it in
//! force. What is known only ever becomes more: a shard that is behind the others takes nothing of it back.

use std::sync::Arc;

use super::hash::{Bucket, KeyDigest};
use super::map::BucketMap;

/// The key belongs to one shard by the map in force, and to another by the one that is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this key is about to move to another shard")]
pub struct Moving;

/// What somebody knows, or what is stored on one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// The newest that is in force; `None` where none ever was.
    pub in_force: Option<Arc<BucketMap>>,
    /// A newer one, whose change is under way.
    pub announced: Option<Arc<BucketMap>>,
    /// The highest version that was ever announced, whatever has become of it; 0 where there is none.
    pub known: i64,
}

impl Versions {
    /// The index of the key's shard in the map in force; `Ok(None)` without a map.
    ///
    /// # Errors
    /// It is about to be another one.
    pub fn place(&self, key: &KeyDigest) -> Result<Option<usize>, Moving> {
        let Some(map) = &self.in_force else { return Ok(None) };
        let index = map.shard_of(key);
        match &self.announced {
            Some(next) if next.shards()[next.shard_of(key)].name != map.shards()[index].name => Err(Moving),
            _ => Ok(Some(index)),
        }
    }

    /// Whether rows with new keys may be put in on a shard: it is not being emptied, and will not be.
    pub fn give_keys_to(&self, shard: &str) -> bool {
        let takes = |map: &Arc<BucketMap>| map.shards().iter().any(|known| known.weight > 0 && *known.name == *shard);
        self.in_force.as_ref().is_some_and(takes) && self.announced.iter().all(takes)
    }

    /// This bucket, or the next one that is not about to move; `None` where there is none.
    pub fn settled_from(&self, bucket: Bucket) -> Option<Bucket> {
        let map = self.in_force.as_ref()?;
        let stays = |at: &Bucket| {
            let owner = &map.shards()[map.owner(*at)].name;
            self.announced.iter().all(|next| next.shards()[next.owner(*at)].name == *owner)
        };
        Bucket::all().skip(bucket.index()).chain(Bucket::all().take(bucket.index())).find(stays)
    }

    /// Whether `other` tells something newer.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    /// Takes over what is newer than what is known.
    pub fn learn(&mut self, other: &Self) {
        if self.is_behind(other) {
            *self = other.clone();
        }
    }

    /// Of one version: announced, then withdrawn or in force.
    fn rank(&self) -> (i64, i64, bool) {
        (self.known, self.in_force.as_ref().map_or(0, |map| map.version()), self.announced.is_none())
    }
}

impl From<Option<Arc<BucketMap>>> for Versions {
    fn from(in_force: Option<Arc<BucketMap>>) -> Self {
        let known = in_force.as_ref().map_or(0, |map| map.version());
        Self { in_force, announced: None, known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> KeyDigest {
        KeyDigest::from_bytes([first; 32])
    }

    #[test]
    fn a_key_has_a_place_where_both_maps_agree() {
        let map = BucketMap::new([("a", 1), ("b", 1)]).unwrap();
        let home = map.shard_of(&key(1));
        let elsewhere = map.shards()[1 - home].name.clone();
        let next = map.with_pin(key(1), &elsewhere, None).unwrap();
        let before = Versions::from(Some(Arc::new(map.clone())));
        let between = Versions { announced: Some(Arc::new(next.clone())), known: 2, ..before.clone() };
        let after = Versions::from(Some(Arc::new(next)));
        assert_eq!(before.place(&key(1)), Ok(Some(home)));
        assert_eq!(between.place(&key(1)), Err(Moving));
        assert_eq!(after.place(&key(1)), Ok(Some(1 - home)));
        assert_eq!(Versions::default().place(&key(1)), Ok(None));
        for other in 2..=255 {
            assert_eq!(before.place(&key(other)), between.place(&key(other)));
            assert_eq!(between.place(&key(other)), after.place(&key(other)));
        }
    }

    #[test]
    fn what_is_known_only_becomes_more() {
        let map = |version| Some(Arc::new(BucketMap::new([("a", 1)]).unwrap().renumbered(version)));
        let stages = [
            Versions::default(),
            Versions { in_force: map(1), announced: None, known: 1 },
            Versions { in_force: map(1), announced: map(2), known: 2 },
            // Withdrawn.
            Versions { in_force: map(1), announced: None, known: 2 },
            Versions { in_force: map(1), announced: map(3), known: 3 },
            Versions { in_force: map(3), announced: None, known: 3 },
        ];
        for (number, earlier) in stages.iter().enumerate() {
            for later in &stages[number + 1..] {
                let (mut one, mut other) = (earlier.clone(), later.clone());
                one.learn(later);
                other.learn(earlier);
                assert_eq!((&one, &other), (later, later));
            }
        }
    }
}

//! Bucket → shard: whose each bucket is, and which keys are pinned elsewhere.
//!
//! A map is immutable; a change makes the next version of it. Invariants: every bucket has an owner, owners and pins
//! name shards of the map, names are unique. What comes from a database is checked for them ([`BucketMap::from_parts`]):
//! a map that is half understood sends rows astray.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::hash::{BUCKETS, Bucket, HASH_VERSION, KeyDigest};
use super::plan::{Move, assign, quotas};

/// More shards than this would have less than 16 buckets each.
pub const MAX_SHARDS: usize = 1024;

/// The highest weight.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// A shard in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Unique in the map. Which buckets a shard is given depends on it.
    pub name: Arc<str>,
    /// Its share of the buckets, relative to the others'. 0: it is being emptied.
    pub weight: u32,
}

/// Which shard each bucket belongs to, in one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketMap {
    version: i64,
    shards: Vec<Shard>,
    /// By bucket: an index of `shards`.
    owners: Box<[u16]>,
    /// An index of `shards`, and what the key is called.
    pins: HashMap<KeyDigest, (u16, Option<String>), RandomState>,
}

/// A key that lies on a shard of its own, whatever its bucket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The key.
    pub digest: KeyDigest,
    /// Where it lies.
    pub shard: Arc<str>,
    /// What people call it.
    pub label: Option<String>,
}

/// Where a key lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What its hash says.
    pub bucket: Bucket,
    /// The shard, as an index of [`BucketMap::shards`].
    pub index: usize,
    /// The shard's name.
    pub shard: Arc<str>,
    /// Whether the key is pinned there; otherwise its bucket lies there.
    pub pinned: bool,
}

/// A map as it stands in the table `pgsluice.bucket_map`, and its pins in `pgsluice.pinned_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapParts {
    /// `version`
    pub version: i64,
    /// `hash_version`
    pub hash_version: i32,
    /// `shards`
    pub shards: Vec<String>,
    /// `weights`, one for each of `shards`
    pub weights: Vec<i32>,
    /// `owners`, one for each bucket: a subscript of `shards`, from 1
    pub owners: Vec<i16>,
    /// The rows of `pgsluice.pinned_key` with this version
    pub pins: Vec<PinParts>,
}

/// A row of `pgsluice.pinned_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinParts {
    /// `digest`, 32 bytes
    pub digest: Vec<u8>,
    /// `shard`
    pub shard: String,
    /// `label`
    pub label: Option<String>,
}

/// Why there is no such map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Nowhere to put a bucket.
    #[error("a bucket map needs a shard with a weight above 0")]
    NoShard,
    /// More than [`MAX_SHARDS`].
    #[error("{0} shards are more than a bucket map can have ({MAX_SHARDS})")]
    TooManyShards(usize),
    /// No name at all.
    #[error("a shard's name must not be empty")]
    Unnamed,
    /// Two of a name.
    #[error("the shard {0:?} is in the bucket map already")]
    Duplicate(String),
    /// None of that name.
    #[error("there is no shard {0:?} in the bucket map: it has {1}")]
    Unknown(String, String),
    /// Above [`MAX_WEIGHT`], or nothing where something is needed.
    #[error("the weight of shard {0:?} is {1}: it must be between 1 and {MAX_WEIGHT}")]
    Weight(String, i64),
    /// To remove what is still needed.
    #[error("shard {0:?} still has {1} buckets: move them before you remove it")]
    NotEmpty(String, usize),
    /// To remove what keys are pinned to.
    #[error("{1} keys are pinned to shard {0:?}: pin them elsewhere or unpin them first")]
    Pinned(String, usize),
    /// A plan or move that was made for another version.
    #[error("this was planned for version {planned} of the bucket map, which is now at version {current}: plan again")]
    Outdated {
        /// The version that was planned for.
        planned: i64,
        /// The version that there is.
        current: i64,
    },
    /// A bucket that has changed hands since.
    #[error("bucket {bucket} is not on shard {from:?}, but on {owner:?}: plan again")]
    Moved {
        /// Which.
        bucket: Bucket,
        /// Where the move takes it from.
        from: String,
        /// Where it is.
        owner: String,
    },
    /// A map that another pgsluice has made.
    #[error(
        "version {version} of the bucket map is for hash version {found}, and this pgsluice knows version \
         {HASH_VERSION} only: use a release that knows it"
    )]
    HashVersion {
        /// The map's.
        version: i64,
        /// The hash's.
        found: i32,
    },
    /// A row that nobody should have written.
    #[error("version {version} of the bucket map is damaged: {what}; restore the row in pgsluice.bucket_map")]
    Damaged {
        /// The map's.
        version: i64,
        /// What is wrong.
        what: String,
    },
}

impl BucketMap {
    /// The first version, for these shards and weights. It does not depend on their order.
    ///
    /// # Errors
    /// Without shards, with two of a name, with a weight of 0 or too high a one.
    pub fn new<'a>(shards: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Self, MapError> {
        let shards: Vec<_> = shards.into_iter().map(|(name, weight)| Shard { name: Arc::from(name), weight }).collect();
        if let Some(shard) = shards.iter().find(|shard| shard.weight == 0) {
            return Err(MapError::Weight(shard.name.to_string(), 0));
        }
        check(&shards)?;
        let mut map = Self { version: 1, owners: vec![0; BUCKETS].into(), pins: HashMap::default(), shards };
        for (bucket, owner) in assign(&map.shards, Bucket::all(), quotas(&map.shards)) {
            map.owners[bucket.index()] = number(owner);
        }
        Ok(map)
    }

    /// Counted from 1, by one for each change.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The shards, in the order in which they came.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The index of the shard that a key lies on: the hot path's question.
    #[must_use]
    pub fn shard_of(&self, key: &KeyDigest) -> usize {
        self.pin_of(key).unwrap_or_else(|| self.owner(key.bucket()))
    }

    /// The same, with what it was made of.
    #[must_use]
    pub fn placement(&self, key: &KeyDigest) -> Placement {
        let pin = self.pin_of(key);
        let index = pin.unwrap_or_else(|| self.owner(key.bucket()));
        let shard = Arc::clone(&self.shards[index].name);
        Placement { bucket: key.bucket(), index, shard, pinned: pin.is_some() }
    }

    /// The index of the shard that a bucket belongs to.
    #[must_use]
    pub fn owner(&self, bucket: Bucket) -> usize {
        usize::from(self.owners[bucket.index()])
    }

    /// How many buckets each shard has, in the order of [`Self::shards`].
    #[must_use]
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.shards.len()];
        self.owners.iter().for_each(|owner| counts[usize::from(*owner)] += 1);
        counts
    }

    /// The index of a shard.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn index_of(&self, name: &str) -> Result<usize, MapError> {
        self.shards.iter().position(|shard| &*shard.name == name).ok_or_else(|| {
            let names: Vec<_> = self.shards.iter().map(|shard| &*shard.name).collect();
            MapError::Unknown(name.to_owned(), names.join(", "))
        })
    }

    /// The pinned keys, in a fixed order.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin> {
        let pin = |(digest, (shard, label)): (&KeyDigest, &(u16, Option<String>))| Pin {
            digest: *digest,
            shard: Arc::clone(&self.shards[usize::from(*shard)].name),
            label: label.clone(),
        };
        let mut pins: Vec<_> = self.pins.iter().map(pin).collect();
        pins.sort_by_key(|pin| pin.digest);
        pins
    }

    /// The next version, with a shard that has nothing yet.
    ///
    /// # Errors
    /// If there is one of that name, or no room for another, or the weight is out of range.
    pub fn with_shard(&self, name: &str, weight: u32) -> Result<Self, MapError> {
        let mut next = self.next();
        next.shards.push(Shard { name: Arc::from(name), weight });
        if weight == 0 {
            return Err(MapError::Weight(name.to_owned(), 0));
        }
        check(&next.shards)?;
        Ok(next)
    }

    /// The next version, with another weight; 0 for a shard that is to be emptied. No bucket moves by that alone.
    ///
    /// # Errors
    /// If there is no such shard, or no other one with a weight, or the weight is too high.
    pub fn with_weight(&self, name: &str, weight: u32) -> Result<Self, MapError> {
        let mut next = self.next();
        next.shards[self.index_of(name)?].weight = weight;
        check(&next.shards)?;
        Ok(next)
    }

    /// The next version, without a shard that has nothing any more.
    ///
    /// # Errors
    /// If there is no such shard, or it has buckets or pinned keys, or it is the last.
    pub fn without_shard(&self, name: &str) -> Result<Self, MapError> {
        let index = self.index_of(name)?;
        let left = self.counts()[index];
        if left > 0 {
            return Err(MapError::NotEmpty(name.to_owned(), left));
        }
        self.check_unpinned(index)?;
        let mut next = self.next();
        next.shards.remove(index);
        check(&next.shards)?;
        let gone = number(index);
        let pinned = next.pins.values_mut().map(|(shard, _)| shard);
        next.owners.iter_mut().chain(pinned).filter(|shard| **shard > gone).for_each(|shard| *shard -= 1);
        Ok(next)
    }

    /// The next version, with these buckets where they were moved to.
    ///
    /// # Errors
    /// If one of them is not where it was to be taken from, or a shard is not in the map.
    pub fn with_moves<'a>(&self, moves: impl IntoIterator<Item = &'a Move>) -> Result<Self, MapError> {
        let mut next = self.next();
        for Move { bucket, from, to } in moves {
            let owner = &self.shards[next.owner(*bucket)].name;
            if owner != from {
                let (from, owner) = (from.to_string(), owner.to_string());
                return Err(MapError::Moved { bucket: *bucket, from, owner });
            }
            next.owners[bucket.index()] = number(self.index_of(to)?);
        }
        Ok(next)
    }

    /// The next version, with a key pinned to a shard. The label is for people: the digest does not tell the key.
    ///
    /// # Errors
    /// If there is no such shard.
    pub fn with_pin(&self, key: KeyDigest, shard: &str, label: Option<String>) -> Result<Self, MapError> {
        let mut next = self.next();
        next.pins.insert(key, (number(self.index_of(shard)?), label));
        Ok(next)
    }

    /// The next version, with a key back in its bucket. None where it was not pinned.
    #[must_use]
    pub fn without_pin(&self, key: &KeyDigest) -> Option<Self> {
        let mut next = self.next();
        next.pins.remove(key).map(|_| next)
    }

    /// For the tables.
    #[must_use]
    pub fn to_parts(&self) -> MapParts {
        let pin = |Pin { digest, shard, label }| PinParts {
            digest: digest.as_bytes().to_vec(),
            shard: shard.to_string(),
            label,
        };
        let subscript = |owner: &u16| i16::try_from(*owner + 1).unwrap_or(i16::MAX);
        MapParts {
            version: self.version,
            hash_version: HASH_VERSION,
            shards: self.shards.iter().map(|shard| shard.name.to_string()).collect(),
            weights: self.shards.iter().map(|shard| i32::try_from(shard.weight).unwrap_or(i32::MAX)).collect(),
            owners: self.owners.iter().map(subscript).collect(),
            pins: self.pins().into_iter().map(pin).collect(),
        }
    }

    /// From the tables.
    ///
    /// # Errors
    /// If it is not a map, or one for another hash.
    pub fn from_parts(parts: MapParts) -> Result<Self, MapError> {
        let MapParts { version, hash_version, shards, weights, owners, pins } = parts;
        let damaged = |what: String| MapError::Damaged { version, what };
        if hash_version != HASH_VERSION {
            return Err(MapError::HashVersion { version, found: hash_version });
        }
        if version < 1 {
            return Err(damaged("versions count from 1".to_owned()));
        }
        if shards.len() != weights.len() {
            return Err(damaged(format!("{} shards have {} weights", shards.len(), weights.len())));
        }
        if owners.len() != BUCKETS {
            return Err(damaged(format!("it has {} buckets in place of {BUCKETS}", owners.len())));
        }
        let shard = |(name, weight): (String, i32)| match u32::try_from(weight) {
            Ok(weight) => Ok(Shard { name: name.into(), weight }),
            Err(_) => Err(damaged(MapError::Weight(name, weight.into()).to_string())),
        };
        let shards = shards.into_iter().zip(weights).map(shard).collect::<Result<Vec<_>, _>>()?;
        check(&shards).map_err(|error| damaged(error.to_string()))?;
        let owner = |(bucket, subscript): (usize, i16)| match u16::try_from(i32::from(subscript) - 1) {
            Ok(owner) if usize::from(owner) < shards.len() => Ok(owner),
            _ => Err(damaged(format!("bucket {bucket} is on shard {subscript} of {}", shards.len()))),
        };
        let owners = owners.into_iter().enumerate().map(owner).collect::<Result<_, _>>()?;
        let mut map = Self { version, shards, owners, pins: HashMap::default() };
        for PinParts { digest, shard, label } in pins {
            let digest = <[u8; 32]>::try_from(digest)
                .map_err(|digest| damaged(format!("a pinned key's digest has {} bytes", digest.len())))?;
            let shard = map.index_of(&shard).map_err(|error| damaged(format!("a key is pinned where {error}")))?;
            map.pins.insert(KeyDigest::from_bytes(digest), (number(shard), label));
        }
        Ok(map)
    }

    /// Whether keys are pinned to a shard that shall go.
    pub(super) fn check_unpinned(&self, index: usize) -> Result<(), MapError> {
        match self.pins.values().filter(|(shard, _)| usize::from(*shard) == index).count() {
            0 => Ok(()),
            keys => Err(MapError::Pinned(self.shards[index].name.to_string(), keys)),
        }
    }

    /// The same map under another number.
    #[must_use]
    pub fn renumbered(self, version: i64) -> Self {
        Self { version, ..self }
    }

    fn pin_of(&self, key: &KeyDigest) -> Option<usize> {
        if self.pins.is_empty() {
            return None;
        }
        self.pins.get(key).map(|(shard, _)| usize::from(*shard))
    }

    fn next(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }
}

/// The index of a shard, as it is kept. [`MAX_SHARDS`] fits.
fn number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

fn check(shards: &[Shard]) -> Result<(), MapError> {
    if shards.len() > MAX_SHARDS {
        return Err(MapError::TooManyShards(shards.len()));
    }
    if shards.iter().all(|shard| shard.weight == 0) {
        return Err(MapError::NoShard);
    }
    let mut names: Vec<_> = shards.iter().map(|shard| &shard.name).collect();
    names.sort();
    if names.first().is_some_and(|name| name.is_empty()) {
        return Err(MapError::Unnamed);
    }
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(MapError::Duplicate(twice[0].to_string()));
    }
    match shards.iter().find(|shard| shard.weight > MAX_WEIGHT) {
        Some(shard) => Err(MapError::Weight(shard.name.to_string(), shard.weight.into())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> BucketMap {
        BucketMap::new([("a", 1), ("b", 1), ("c", 1)]).unwrap()
    }

    fn key(first: u8) -> KeyDigest {
        let mut digest = [7; 32];
        digest[0] = first;
        KeyDigest::from_bytes(digest)
    }

    #[test]
    fn pins_come_before_buckets() {
        let map = three();
        let home = map.placement(&key(1));
        assert_eq!((home.bucket, home.pinned), (key(1).bucket(), false));
        assert_eq!(home.index, map.owner(home.bucket));
        let other = map.shards()[(home.index + 1) % 3].name.clone();
        let pinned = map.with_pin(key(1), &other, Some("tenant 1".to_owned())).unwrap();
        assert_eq!(pinned.version(), 2);
        let there = pinned.placement(&key(1));
        assert_eq!((&there.shard, there.pinned, there.bucket), (&other, true, home.bucket));
        assert_eq!(pinned.shard_of(&key(1)), there.index);
        assert_eq!(pinned.shard_of(&key(2)), map.shard_of(&key(2)));
        let back = pinned.without_pin(&key(1)).unwrap();
        assert_eq!((back.shard_of(&key(1)), back.version()), (home.index, 3));
        assert_eq!(back.without_pin(&key(1)), None);
        let refused = map.with_pin(key(1), "d", None).unwrap_err().to_string();
        assert_eq!(refused, r#"there is no shard "d" in the bucket map: it has a, b, c"#);
    }

    #[test]
    fn there_and_back() {
        let map =
            three().with_pin(key(9), "b", Some("big one".to_owned())).unwrap().with_pin(key(3), "a", None).unwrap();
        let parts = map.to_parts();
        assert_eq!((parts.version, parts.owners.len(), parts.pins.len()), (3, BUCKETS, 2));
        assert!(parts.owners.iter().all(|owner| (1..=3).contains(owner)));
        assert_eq!(BucketMap::from_parts(parts), Ok(map));
    }

    #[test]
    fn damaged_maps() {
        type Case<'a> = (&'a dyn Fn(&mut MapParts), &'a str);
        let cases: [Case<'_>; 11] = [
            (&|parts| parts.version = 0, "versions count from 1"),
            (&|parts| parts.weights.truncate(2), "3 shards have 2 weights"),
            (&|parts| parts.weights[1] = -1, "the weight of shard \"b\" is -1"),
            (&|parts| parts.weights = vec![0; 3], "needs a shard with a weight above 0"),
            (&|parts| parts.shards[1] = "a".to_owned(), "the shard \"a\" is in the bucket map already"),
            (&|parts| parts.shards[1] = String::new(), "must not be empty"),
            (&|parts| parts.owners.truncate(16_383), "it has 16383 buckets in place of 16384"),
            (&|parts| parts.owners[5] = 0, "bucket 5 is on shard 0 of 3"),
            (&|parts| parts.owners[5] = 4, "bucket 5 is on shard 4 of 3"),
            (&|parts| parts.owners[5] = i16::MIN, "bucket 5 is on shard -32768 of 3"),
            (
                &|parts| parts.pins.push(PinParts { digest: vec![0; 31], shard: "a".to_owned(), label: None }),
                "a pinned key's digest has 31 bytes",
            ),
        ];
        for (damage, message) in cases {
            let mut parts = three().to_parts();
            damage(&mut parts);
            let error = BucketMap::from_parts(parts).unwrap_err();
            assert!(matches!(error, MapError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        let mut parts = three().to_parts();
        parts.pins.push(PinParts { digest: vec![0; 32], shard: "z".to_owned(), label: None });
        assert!(BucketMap::from_parts(parts).unwrap_err().to_string().contains("there is no shard \"z\""));
        let parts = MapParts { hash_version: 2, ..three().to_parts() };
        assert_eq!(BucketMap::from_parts(parts), Err(MapError::HashVersion { version: 1, found: 2 }));
    }

    #[test]
    fn shards_that_cannot_be() {
        let refused = |shards: &[(&str, u32)]| BucketMap::new(shards.iter().copied()).unwrap_err();
        assert_eq!(refused(&[]), MapError::NoShard);
        assert_eq!(refused(&[("a", 1), ("b", 0)]), MapError::Weight("b".to_owned(), 0));
        assert_eq!(refused(&[("a", 1_000_001)]), MapError::Weight("a".to_owned(), 1_000_001));
        assert_eq!(refused(&[("a", 1), ("a", 1)]), MapError::Duplicate("a".to_owned()));
        assert_eq!(refused(&[("", 1)]), MapError::Unnamed);
        let names: Vec<_> = (0..=MAX_SHARDS).map(|n| n.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(refused(&many), MapError::TooManyShards(1025));
        assert_eq!(three().with_shard("b", 1), Err(MapError::Duplicate("b".to_owned())));
        assert_eq!(three().with_shard("d", 0), Err(MapError::Weight("d".to_owned(), 0)));
        assert_eq!(BucketMap::new([("a", 1)]).unwrap().with_weight("a", 0), Err(MapError::NoShard));
    }

    #[test]
    fn shards_go_only_when_empty() {
        let map = three();
        assert!(matches!(map.without_shard("a"), Err(MapError::NotEmpty(_, 5461 | 5462))));
        let all = |map: &BucketMap, from: &str, to: &str| -> Vec<Move> {
            let index = map.index_of(from).unwrap();
            let its = Bucket::all().filter(|bucket| map.owner(*bucket) == index);
            its.map(|bucket| Move { bucket, from: from.into(), to: to.into() }).collect()
        };
        let emptied = map.with_moves(&all(&map, "a", "c")).unwrap();
        let pinned = emptied.with_pin(key(1), "a", None).unwrap();
        assert_eq!(pinned.without_shard("a"), Err(MapError::Pinned("a".to_owned(), 1)));
        let pinned = emptied.with_pin(key(1), "c", None).unwrap();
        let two = pinned.without_shard("a").unwrap();
        assert_eq!(two.shards().iter().map(|shard| &*shard.name).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(two.placement(&key(1)).shard, "c".into());
        for bucket in Bucket::all() {
            assert_eq!(two.shards()[two.owner(bucket)], emptied.shards()[emptied.owner(bucket)]);
        }
        let wrong = map.with_moves(&all(&emptied, "c", "b")).unwrap_err();
        assert!(matches!(wrong, MapError::Moved { .. }), "{wrong}");
    }
}

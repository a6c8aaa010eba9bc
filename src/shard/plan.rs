//! Which buckets move when a shard comes, goes or gets another weight, and which shard has which at the start.
//!
//! Plain rendezvous hashing spreads 16,384 buckets over 64 shards to within some 6 % only. So each shard has an exact
//! quota, in proportion to its weight, and rendezvous scores decide which buckets make it up. Invariants: a plan takes
//! buckets to the shard that changes or away from it, and none between two others; it does not depend on the order in
//! which shards were declared; and where it was carried out in part, planning again gives what is left of it.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash::{BUCKETS, Bucket};
use super::map::{BucketMap, MapError, Shard};
use super::score::{distance, draw};

/// A bucket that changes hands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// Which.
    pub bucket: Bucket,
    /// The shard that has it.
    pub from: Arc<str>,
    /// The shard that gets it.
    pub to: Arc<str>,
}

/// What a plan is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new shard.
    Add {
        /// Its name.
        shard: String,
        /// Its weight.
        weight: u32,
    },
    /// A shard that shall go.
    Remove {
        /// Its name.
        shard: String,
    },
    /// A shard of the map that has more or less than its quota.
    Settle {
        /// Its name.
        shard: String,
    },
}

/// The moves that a change takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of the map that it is made for.
    pub base: i64,
    /// What it is for.
    pub change: Change,
    /// What moves, by bucket.
    pub moves: Vec<Move>,
}

impl Plan {
    /// How many buckets each pair of shards exchanges, by their names.
    #[must_use]
    pub fn transfers(&self) -> BTreeMap<(&str, &str), usize> {
        let mut transfers = BTreeMap::new();
        for Move { from, to, .. } in &self.moves {
            *transfers.entry((&**from, &**to)).or_default() += 1;
        }
        transfers
    }

    /// Which part of all buckets moves, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "both are small")]
    pub fn share(&self) -> f64 {
        self.moves.len() as f64 / BUCKETS as f64
    }
}

impl BucketMap {
    /// What a new shard would get.
    ///
    /// # Errors
    /// As [`BucketMap::with_shard`].
    pub fn plan_add(&self, name: &str, weight: u32) -> Result<Plan, MapError> {
        let with = self.with_shard(name, weight)?;
        let change = Change::Add { shard: name.to_owned(), weight };
        Ok(Plan { base: self.version(), change, moves: with.settle(with.shards().len() - 1) })
    }

    /// Where the buckets of a shard would go that shall be removed.
    ///
    /// # Errors
    /// If there is no such shard, it is the last, or keys are pinned to it.
    pub fn plan_remove(&self, name: &str) -> Result<Plan, MapError> {
        let index = self.index_of(name)?;
        self.check_unpinned(index)?;
        let change = Change::Remove { shard: name.to_owned() };
        Ok(Plan { base: self.version(), change, moves: self.with_weight(name, 0)?.settle(index) })
    }

    /// What brings a shard of the map to its quota: what is left of a move that was carried out in part, or what a new
    /// weight asks for.
    ///
    /// # Errors
    /// If there is no such shard.
    pub fn plan_settle(&self, name: &str) -> Result<Plan, MapError> {
        let change = Change::Settle { shard: name.to_owned() };
        Ok(Plan { base: self.version(), change, moves: self.settle(self.index_of(name)?) })
    }

    /// The next version, with all of a plan done.
    ///
    /// # Errors
    /// If the plan was made for another version.
    pub fn apply(&self, plan: &Plan) -> Result<Self, MapError> {
        if plan.base != self.version() {
            return Err(MapError::Outdated { planned: plan.base, current: self.version() });
        }
        let done = match &plan.change {
            Change::Add { shard, weight } => self.with_shard(shard, *weight)?.with_moves(&plan.moves)?,
            Change::Remove { shard } => self.with_moves(&plan.moves)?.without_shard(shard)?,
            Change::Settle { .. } => self.with_moves(&plan.moves)?,
        };
        Ok(done.renumbered(plan.base + 1))
    }

    /// What moves to the shard at `index` or away from it, so that it has its quota.
    fn settle(&self, index: usize) -> Vec<Move> {
        let mut counts = self.counts();
        let quota = quotas(self.shards())[index];
        let moved: Vec<_> = if counts[index] < quota {
            self.taken(index, quota - counts[index], &mut counts)
        } else {
            self.given(index, counts[index] - quota, &mut counts)
        };
        let name = |index: usize| Arc::clone(&self.shards()[index].name);
        let mut moves: Vec<_> = moved
            .into_iter()
            .map(|(bucket, to)| Move { bucket, from: name(self.owner(bucket)), to: name(to) })
            .collect();
        moves.sort();
        moves
    }

    /// `need` buckets, one after the other from the shard that has most beyond its quota; of each, those that the taker
    /// wants most.
    fn taken(&self, taker: usize, need: usize, counts: &mut [usize]) -> Vec<(Bucket, usize)> {
        let shards = self.shards();
        let quotas = quotas(shards);
        let mut gives = vec![0; shards.len()];
        for _ in 0..need {
            let others = (0..shards.len()).filter(|donor| *donor != taker && counts[*donor] > 0);
            let Some(donor) = others.max_by(|a, b| {
                let beyond = beyond(counts[*a], quotas[*a], counts[*b], quotas[*b]);
                beyond.then_with(|| shards[*b].name.cmp(&shards[*a].name))
            }) else {
                break;
            };
            counts[donor] -= 1;
            gives[donor] += 1;
        }
        let mut wanted: Vec<_> = Bucket::all().filter(|bucket| gives[self.owner(*bucket)] > 0).collect();
        wanted.sort_by_cached_key(|bucket| (Reverse(draw(&shards[taker].name, *bucket)), *bucket));
        wanted.retain(|bucket| {
            let left = &mut gives[self.owner(*bucket)];
            let goes = *left > 0;
            *left -= usize::from(goes);
            goes
        });
        wanted.into_iter().map(|bucket| (bucket, taker)).collect()
    }

    /// `excess` buckets, those that the giver wants least, to the shards that lack most of their quotas.
    fn given(&self, giver: usize, excess: usize, counts: &mut [usize]) -> Vec<(Bucket, usize)> {
        let shards = self.shards();
        let quotas = quotas(shards);
        let mut needs = vec![0; shards.len()];
        for _ in 0..excess {
            let others = (0..shards.len()).filter(|taker| *taker != giver && shards[*taker].weight > 0);
            let Some(taker) = others.min_by(|a, b| {
                let beyond = beyond(counts[*a], quotas[*a], counts[*b], quotas[*b]);
                beyond.then_with(|| shards[*a].name.cmp(&shards[*b].name))
            }) else {
                break;
            };
            counts[taker] += 1;
            needs[taker] += 1;
        }
        let mut unwanted: Vec<_> = Bucket::all().filter(|bucket| self.owner(*bucket) == giver).collect();
        unwanted.sort_by_cached_key(|bucket| (draw(&shards[giver].name, *bucket), *bucket));
        unwanted.truncate(needs.iter().sum());
        unwanted.sort();
        assign(shards, unwanted, needs)
    }
}

/// Compares how many buckets two shards have beyond their quotas; less than none is what they lack.
fn beyond(a_count: usize, a_quota: usize, b_count: usize, b_quota: usize) -> Ordering {
    (a_count + b_quota).cmp(&(b_count + a_quota))
}

/// How many of all buckets each shard should have: in proportion to the weights, by the largest remainder.
pub(super) fn quotas(shards: &[Shard]) -> Vec<usize> {
    let total = shards.iter().map(|shard| u64::from(shard.weight)).sum::<u64>().max(1);
    let parts: Vec<_> = shards.iter().map(|shard| BUCKETS as u64 * u64::from(shard.weight)).collect();
    let mut quotas: Vec<_> = parts.iter().map(|part| usize::try_from(part / total).unwrap_or(BUCKETS)).collect();
    let left = BUCKETS.saturating_sub(quotas.iter().sum());
    let mut order: Vec<_> = (0..shards.len()).collect();
    order.sort_by_key(|index| (Reverse(parts[*index] % total), &shards[*index].name));
    order.iter().take(left).for_each(|index| quotas[*index] += 1);
    quotas
}

/// Gives each bucket to the shard that wants it most, of those that still need one.
pub(super) fn assign(
    shards: &[Shard],
    buckets: impl IntoIterator<Item = Bucket>,
    mut needs: Vec<usize>,
) -> Vec<(Bucket, usize)> {
    let mut assigned = Vec::new();
    for bucket in buckets {
        let candidates = (0..shards.len()).filter(|index| needs[*index] > 0);
        let scored = candidates.map(|index| (distance(draw(&shards[index].name, bucket)), index));
        let nearest = scored.min_by(|(a_distance, a), (b_distance, b)| {
            let (a, b) = (&shards[*a], &shards[*b]);
            let order = (a_distance * u64::from(b.weight)).cmp(&(b_distance * u64::from(a.weight)));
            order.then_with(|| a.name.cmp(&b.name))
        });
        if let Some((_, index)) = nearest {
            needs[index] -= 1;
            assigned.push((bucket, index));
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("shard-{n}")).collect()
    }

    fn even(count: usize) -> BucketMap {
        BucketMap::new(names(count).iter().map(|name| (name.as_str(), 1))).unwrap()
    }

    fn owners(map: &BucketMap) -> Vec<Arc<str>> {
        Bucket::all().map(|bucket| map.shards()[map.owner(bucket)].name.clone()).collect()
    }

    #[test]
    fn quotas_are_exact() {
        for count in [1, 2, 3, 7, 64, 1000] {
            let counts = quotas(even_shards(count).as_slice());
            assert_eq!(counts.iter().sum::<usize>(), BUCKETS);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
        let weighted = BucketMap::new([("a", 3), ("b", 1), ("c", 4)]).unwrap();
        assert_eq!(weighted.counts(), [6144, 2048, 8192]);
    }

    fn even_shards(count: usize) -> Vec<Shard> {
        names(count).into_iter().map(|name| Shard { name: name.into(), weight: 1 }).collect()
    }

    /// "What it must show": each map from 2 shards to 64, grown one by one.
    #[test]
    fn adding_moves_no_more_than_it_must() {
        let mut map = even(1);
        for count in 1..64 {
            let name = format!("shard-{}", count + 1);
            let plan = map.plan_add(&name, 1).unwrap();
            let limit = 1.1 / (count as f64 + 1.0);
            assert!(plan.share() <= limit, "{count} shards: {} > {limit}", plan.share());
            assert!(plan.moves.iter().all(|step| *step.to == *name && *step.from != *name));
            let grown = map.apply(&plan).unwrap();
            let (before, after) = (owners(&map), owners(&grown));
            for (old, new) in before.iter().zip(&after) {
                assert!(old == new || **new == *name, "a bucket moved from {old} to {new}");
            }
            let counts = grown.counts();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            assert_eq!(grown.version(), map.version() + 1);
            map = grown;
        }
    }

    /// Without quotas a shard that is added takes what it wins. Nearly all of that it takes here too.
    #[test]
    fn a_new_shard_takes_what_it_wants() {
        let map = even(7);
        let plan = map.plan_add("new", 1).unwrap();
        let wins = |bucket: Bucket| {
            let own = draw("new", bucket);
            map.shards().iter().all(|shard| draw(&shard.name, bucket) < own)
        };
        let won = plan.moves.iter().filter(|step| wins(step.bucket)).count();
        assert!(won * 10 > plan.moves.len() * 6, "{won} of {}", plan.moves.len());
    }

    #[test]
    fn removing_moves_what_was_there() {
        let map = BucketMap::new([("a", 2), ("b", 1), ("c", 1), ("d", 4)]).unwrap();
        let plan = map.plan_remove("c").unwrap();
        assert_eq!(plan.moves.len(), 2048);
        assert!(plan.moves.iter().all(|step| *step.from == *"c"));
        let left = map.apply(&plan).unwrap();
        let quotas = quotas(left.shards());
        for (count, quota) in left.counts().iter().zip(quotas) {
            assert!(count.abs_diff(quota) <= 1);
        }
        let transfers = plan.transfers();
        assert_eq!(transfers.keys().copied().collect::<Vec<_>>(), [("c", "a"), ("c", "b"), ("c", "d")]);
        assert_eq!(transfers.values().sum::<usize>(), 2048);
        assert_eq!(even(1).plan_remove("shard-1"), Err(MapError::NoShard));
    }

    #[test]
    fn the_order_of_declaration_is_nothing() {
        let shards = [("a", 2), ("b", 1), ("zebra", 5), ("c", 1)];
        let mut reversed = shards;
        reversed.reverse();
        let (one, other) = (BucketMap::new(shards).unwrap(), BucketMap::new(reversed).unwrap());
        assert_eq!(owners(&one), owners(&other));
        assert_eq!(one.plan_add("new", 3).unwrap(), other.plan_add("new", 3).unwrap());
        assert_eq!(one.plan_remove("zebra").unwrap(), other.plan_remove("zebra").unwrap());
    }

    /// A plan that was carried out in part is planned to its end, with the same outcome.
    #[test]
    fn half_a_move_goes_on() {
        let map = even(5);
        let whole = map.plan_add("new", 2).unwrap();
        let some: Vec<_> = whole.moves.iter().filter(|step| step.bucket.number() % 3 == 0).cloned().collect();
        let halfway = map.with_shard("new", 2).unwrap().with_moves(&some).unwrap();
        let rest = halfway.plan_settle("new").unwrap();
        assert_eq!(rest.moves.len() + some.len(), whole.moves.len());
        let ended = halfway.apply(&rest).unwrap();
        assert_eq!(owners(&ended), owners(&map.apply(&whole).unwrap()));
        assert_eq!(ended.plan_settle("new").unwrap().moves, []);
        assert_eq!(map.apply(&rest), Err(MapError::Outdated { planned: halfway.version(), current: 1 }));

        let draining = ended.with_weight("shard-2", 0).unwrap();
        let plan = draining.plan_settle("shard-2").unwrap();
        assert_eq!(plan.moves.len(), draining.counts()[1]);
        let emptied = draining.apply(&plan).unwrap();
        assert_eq!(emptied.counts()[1], 0);
        assert!(emptied.without_shard("shard-2").is_ok());
    }

    #[test]
    fn pins_hold_a_shard() {
        let key = super::super::hash::KeyDigest::from_bytes([1; 32]);
        let map = even(3).with_pin(key, "shard-2", None).unwrap();
        assert_eq!(map.plan_remove("shard-2"), Err(MapError::Pinned("shard-2".to_owned(), 1)));
        let grown = map.apply(&map.plan_add("new", 1).unwrap()).unwrap();
        assert_eq!(&*grown.placement(&key).shard, "shard-2");
    }

    /// The map that three shards get. Fixed for ever: proxies of different releases agree on it.
    #[test]
    fn a_map_for_all_time() {
        let map = BucketMap::new([("a", 1), ("b", 1), ("c", 2)]).unwrap();
        let text: String = owners(&map).iter().map(|name| &**name).collect();
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let hex: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&text[..16], hex.as_str()), ("ababbcbabbcccbbc", "3a15b68a11826fe2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn any_weights(weights in proptest::collection::vec(1u32..1000, 1..9), new in 1u32..1000) {
            let names = names(weights.len());
            let map = BucketMap::new(names.iter().map(String::as_str).zip(weights.iter().copied())).unwrap();
            let total = f64::from(weights.iter().sum::<u32>());
            for (count, weight) in map.counts().iter().zip(&weights) {
                prop_assert!((*count as f64 - BUCKETS as f64 * f64::from(*weight) / total).abs() < 1.0);
            }
            let plan = map.plan_add("new", new).unwrap();
            let grown = map.apply(&plan).unwrap();
            for (count, shard) in grown.counts().iter().zip(grown.shards()) {
                let due = BUCKETS as f64 * f64::from(shard.weight) / (total + f64::from(new));
                prop_assert!((*count as f64 - due).abs() <= 2.0, "{} of {}", count, due);
            }
            prop_assert!(plan.moves.iter().all(|step| *step.to == *"new"));
            let back = grown.apply(&grown.plan_remove("new").unwrap()).unwrap();
            for (count, before) in back.counts().iter().zip(map.counts()) {
                prop_assert!(count.abs_diff(before) <= 2, "{} {}", count, before);
            }
        }
    }
}

//! How much a session has seen, and so what a server must have replayed before it may answer it.
//!
//! Positions are learnt lazily. After a write was acknowledged, or rows were read, the position of
//! that moment is not known; but any position that the primary gives in answer to a question *sent
//! later* lies behind it, because a primary's WAL only grows. So a session notes the moment, and the
//! next sample of the monitor settles it. Until then only the primary will do, or, where nothing
//! was seen but rows of one replica, that same replica, which does not go back either while it lives.
//!
//! A session that reads on and on leaves no moment between two reads for a sample to be asked in. It
//! asks for itself, now and then, behind a read and on the same connection ([`Horizon::is_unsettled_for`]).
//!
//! This gives the session guarantees "read your writes" and "monotonic reads" of Terry et al.,
//! *Session Guarantees for Weakly Consistent Replicated Data* (1994).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::topology::{Node, Position, Role, Shard};

/// What one session has seen, shard by shard.
#[derive(Debug, Default)]
pub struct Horizons(Vec<(Arc<str>, Horizon)>);

impl Horizons {
    /// Of the shard of this name.
    pub fn of(&mut self, shard: &Arc<str>) -> &mut Horizon {
        let known = self.0.iter().position(|(known, _)| Arc::ptr_eq(known, shard) || known == shard);
        let at = known.unwrap_or_else(|| {
            // Mostly there is no other.
            self.0.reserve_exact(1);
            self.0.push((Arc::clone(shard), Horizon::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// Whether anything was seen of the shard of this name.
    pub fn has_seen(&self, shard: &str) -> bool {
        self.0.iter().any(|(known, horizon)| **known == *shard && horizon.has_seen())
    }
}

/// What one session has seen of one shard.
#[derive(Debug, Default)]
pub struct Horizon {
    floor: Option<Position>,
    /// What the primary has acknowledged, and no position is known to cover yet.
    primary: Option<Unsettled>,
    /// The last read from a replica, unless a position is known to cover it and all before.
    replica: Option<Sighting>,
}

#[derive(Debug, Clone, Copy)]
struct Unsettled {
    since: Instant,
    /// The latest.
    at: Instant,
}

#[derive(Debug)]
struct Sighting {
    node: Arc<Node>,
    incarnation: u64,
    reads: Unsettled,
    /// What the replica had replayed just after the last read.
    position: Option<Position>,
}

impl Horizon {
    /// The primary has acknowledged a write, or answered a read, before `at`; and then said, on the same
    /// connection, that its insert position is `position`.
    pub fn saw_primary(&mut self, at: Instant, position: Option<Position>) {
        match position {
            Some(position) => {
                self.primary = None;
                // Whatever a replica has shown, the primary had written.
                self.replica = None;
                self.raise(position);
            }
            None => {
                let since = self.primary.map_or(at, |unsettled| unsettled.since);
                self.primary = Some(Unsettled { since, at });
            }
        }
    }

    /// A replica, in its life number `incarnation`, has answered before `at`; and then said, on the
    /// same connection, that its replay position is `position`.
    pub fn saw_replica(&mut self, node: &Arc<Node>, incarnation: u64, at: Instant, position: Option<Position>) {
        let known = self.replica.take().filter(|sighting| {
            position.is_none() && Arc::ptr_eq(&sighting.node, node) && sighting.incarnation == incarnation
        });
        let since = known.map_or(at, |sighting| sighting.reads.since);
        let reads = Unsettled { since, at };
        self.replica = Some(Sighting { node: Arc::clone(node), incarnation, reads, position });
    }

    /// For how long this session has seen more than is known of by position, reading from such a server.
    pub fn is_unsettled_for(&self, role: Role, now: Instant) -> Duration {
        let unsettled = match role {
            Role::Replica => self.replica.as_ref().map(|sighting| sighting.reads),
            _ => self.primary,
        };
        unsettled.map_or(Duration::ZERO, |unsettled| now.saturating_duration_since(unsettled.since))
    }

    /// Turns moments into positions, as far as samples allow.
    pub fn settle(&mut self, shard: &Shard) {
        let sample = shard.primary().and_then(|primary| primary.sample());
        if let Some(sample) = sample {
            if self.primary.is_some_and(|unsettled| sample.asked_at > unsettled.at) {
                self.primary = None;
                self.raise(sample.position);
            }
            // After a failover: whatever of the old timeline was seen and has survived lies before
            // the switch point, and so before any position on the new one.
            let is_older = |position: Position| position.timeline < sample.position.timeline;
            if self.floor.is_some_and(is_older) {
                self.raise(sample.position);
            }
            if let Some(sighting) = &mut self.replica {
                sighting.position = sighting.position.filter(|position| !is_older(*position));
            }
        }
        if let Some(sighting) = &self.replica {
            // The primary's position would cover it too, but this replica may not have that, and yet does for this session.
            let covering = if sighting.is_alive() { sighting.node.sample() } else { sample };
            if let Some(sample) = covering.filter(|sample| sample.asked_at > sighting.reads.at) {
                let position = sighting.position.unwrap_or(sample.position);
                self.replica = None;
                self.raise(position);
            }
        }
    }

    /// Whether there is anything that must be seen.
    pub fn has_seen(&self) -> bool {
        self.floor.is_some() || self.primary.is_some() || self.replica.is_some()
    }

    /// Whoever this is for has seen this position elsewhere.
    pub fn must_see(&mut self, position: Position) {
        self.raise(position);
    }

    /// Whether `node` is known to show all that this session has seen.
    pub fn allows(&self, node: &Arc<Node>) -> bool {
        self.primary.is_none()
            && self.replica.as_ref().is_none_or(|sighting| sighting.allows(node))
            && self.floor.is_none_or(|floor| node.has_replayed(floor))
    }

    /// What a server must have replayed, where all of it is known by position; `Some(None)`: nothing.
    pub fn needed(&self) -> Option<Option<Position>> {
        let seen = match (&self.primary, &self.replica) {
            (None, None) => None,
            (None, Some(sighting)) => Some(sighting.position?),
            (Some(_), _) => return None,
        };
        match (self.floor, seen) {
            (Some(floor), Some(seen)) => floor.covering(seen).map(Some),
            (floor, seen) => Some(floor.or(seen)),
        }
    }

    fn raise(&mut self, to: Position) {
        let stays = self
            .floor
            .is_some_and(|floor| floor.timeline > to.timeline || floor.timeline == to.timeline && floor.lsn >= to.lsn);
        if !stays {
            self.floor = Some(to);
        }
    }
}

impl Sighting {
    fn is_alive(&self) -> bool {
        self.node.incarnation() == self.incarnation
    }

    fn allows(&self, node: &Arc<Node>) -> bool {
        let is_same = Arc::ptr_eq(&self.node, node) && self.is_alive();
        is_same || self.position.is_some_and(|position| node.has_replayed(position))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::topology::{Lsn, Member, Role, Sample};

    struct World {
        start: Instant,
        shard: Shard,
    }

    impl World {
        fn new() -> Self {
            let node = |port, role| Member { node: Arc::new(Node::new("h".into(), port, 1)), role };
            let nodes = vec![node(1, Role::Primary), node(2, Role::Replica), node(3, Role::Replica)];
            Self { start: Instant::now(), shard: Shard { name: "a".into(), nodes } }
        }

        fn at(&self, tick: u64) -> Instant {
            self.start + Duration::from_millis(tick)
        }

        fn node(&self, index: usize) -> &Arc<Node> {
            &self.shard.nodes[index].node
        }

        fn sample(&self, index: usize, tick: u64, timeline: u32, lsn: u64) {
            let position = Position { timeline, lsn: Lsn(lsn) };
            self.node(index).set_sample(Some(Sample { asked_at: self.at(tick), position }));
        }
    }

    #[test]
    fn a_new_session_may_read_anywhere() {
        let world = World::new();
        assert!(Horizon::default().allows(world.node(1)));
    }

    #[test]
    fn a_write_is_covered_by_a_question_sent_after_it() {
        let world = World::new();
        let mut horizon = Horizon::default();
        world.sample(0, 10, 1, 100);
        world.sample(1, 10, 1, 100);
        horizon.saw_primary(world.at(10), None);
        horizon.settle(&world.shard);
        assert!(!horizon.allows(world.node(1)), "the question was not sent after the write");
        world.sample(0, 11, 1, 120);
        horizon.settle(&world.shard);
        assert_eq!(horizon.floor, Some(Position { timeline: 1, lsn: Lsn(120) }));
        assert!(!horizon.allows(world.node(1)), "not replayed yet");
        world.sample(1, 12, 1, 120);
        assert!(horizon.allows(world.node(1)));
        assert!(!horizon.allows(world.node(2)), "of which nothing is known");
    }

    #[test]
    fn a_read_binds_to_its_replica_until_a_sample_covers_it() {
        let world = World::new();
        let mut horizon = Horizon::default();
        world.sample(1, 5, 1, 100);
        world.sample(2, 5, 1, 100);
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(6), None);
        horizon.settle(&world.shard);
        assert!(horizon.allows(world.node(1)));
        assert!(!horizon.allows(world.node(2)));
        world.sample(1, 7, 1, 110);
        horizon.settle(&world.shard);
        assert!(!horizon.allows(world.node(2)), "it is behind what was read");
        world.sample(2, 8, 1, 110);
        assert!(horizon.allows(world.node(2)));
    }

    #[test]
    fn a_restarted_replica_may_have_gone_back() {
        let world = World::new();
        let mut horizon = Horizon::default();
        world.sample(1, 5, 1, 100);
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(6), None);
        world.node(1).end_incarnation();
        world.sample(1, 7, 1, 90);
        horizon.settle(&world.shard);
        assert!(!horizon.allows(world.node(1)));
        world.sample(0, 8, 1, 130);
        horizon.settle(&world.shard);
        assert!(!horizon.allows(world.node(1)));
        world.sample(1, 9, 1, 130);
        assert!(horizon.allows(world.node(1)));
    }

    #[test]
    fn positions_follow_a_new_timeline() {
        let world = World::new();
        let mut horizon = Horizon::default();
        horizon.saw_primary(world.at(1), None);
        world.sample(0, 2, 1, 500);
        horizon.settle(&world.shard);
        world.sample(0, 3, 2, 300);
        horizon.settle(&world.shard);
        assert_eq!(horizon.floor, Some(Position { timeline: 2, lsn: Lsn(300) }));
        world.sample(1, 4, 1, 900);
        assert!(!horizon.allows(world.node(1)));
        world.sample(1, 5, 2, 300);
        assert!(horizon.allows(world.node(1)));
    }
    #[test]
    fn who_reads_on_and_on_is_settled_by_an_answer_behind_a_read() {
        let world = World::new();
        let mut horizon = Horizon::default();
        let position = |lsn| Some(Position { timeline: 1, lsn: Lsn(lsn) });
        for tick in 10..20 {
            horizon.saw_primary(world.at(tick), None);
            world.sample(0, tick, 1, 100);
            horizon.settle(&world.shard);
        }
        world.sample(1, 20, 1, 120);
        world.sample(2, 20, 1, 110);
        assert!(!horizon.allows(world.node(1)), "no sample was asked after the last");
        assert_eq!(horizon.is_unsettled_for(Role::Primary, world.at(20)), Duration::from_millis(10));
        horizon.saw_primary(world.at(20), position(120));
        assert_eq!(horizon.is_unsettled_for(Role::Primary, world.at(30)), Duration::ZERO);
        assert!(horizon.allows(world.node(1)));
        assert!(!horizon.allows(world.node(2)));

        for tick in 30..40 {
            horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(tick), None);
        }
        world.sample(2, 38, 1, 125);
        assert_eq!(horizon.is_unsettled_for(Role::Replica, world.at(40)), Duration::from_millis(10));
        assert!(!horizon.allows(world.node(2)), "what the other has shown is not known");
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(40), position(125));
        assert!(horizon.allows(world.node(1)) && horizon.allows(world.node(2)));
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(41), position(126));
        assert!(!horizon.allows(world.node(2)), "one record behind");
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(42), None);
        assert!(horizon.allows(world.node(1)));
        assert!(!horizon.allows(world.node(2)));
    }

    #[test]
    fn a_position_of_an_older_timeline_proves_nothing() {
        let world = World::new();
        let mut horizon = Horizon::default();
        let position = Position { timeline: 1, lsn: Lsn(100) };
        horizon.saw_replica(world.node(1), world.node(1).incarnation(), world.at(10), Some(position));
        world.sample(2, 9, 1, 100);
        assert!(horizon.allows(world.node(2)));
        world.sample(0, 9, 2, 100);
        horizon.settle(&world.shard);
        assert!(!horizon.allows(world.node(2)));
        assert!(horizon.allows(world.node(1)), "it does not go back");
    }
}

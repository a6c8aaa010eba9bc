//! Which node is the primary, from what the nodes say. Pure.
//!
//! Nothing is guessed at: of two servers that take writes the one on the newer timeline is the primary,
//! and where that does not decide, the one that was it before; where neither does, none is.
//! A primary that does not answer stays the primary for routing, so that errors are honest, until another
//! one shows up on a timeline that is not older.

use crate::topology::{EjectReason, Role};

/// What a node last said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline that it is on.
    pub timeline: u32,
    /// `pg_control_system().system_identifier`: the same on all members of a cluster.
    pub system_identifier: i64,
}

/// The verdict on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The part that it plays.
    pub role: Role,
    /// Why it gets no reads, for a node that cannot be a replica now.
    pub reason: Option<EjectReason>,
}

/// What of earlier decisions counts for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Where the primary stands in the list of nodes; `None` when there is none, or it is in the list no more.
    pub primary: Option<usize>,
    /// The timeline that it was on; 0 before there was one.
    pub timeline: u32,
    /// The cluster's system identifier, once there was a primary.
    pub system_identifier: Option<i64>,
}

/// A decision on all nodes of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// One for each node, in the order given.
    pub verdicts: Vec<Verdict>,
    /// For the next decision.
    pub memory: Memory,
    /// More than one server takes writes on the newest timeline: the nodes that do.
    pub contenders: Vec<usize>,
}

const UNKNOWN: Verdict = Verdict { role: Role::Unknown, reason: None };
const FOREIGN: Verdict = Verdict { role: Role::Unknown, reason: Some(EjectReason::NotAMember) };
const PRIMARY: Verdict = Verdict { role: Role::Primary, reason: None };
const REPLICA: Verdict = Verdict { role: Role::Replica, reason: None };

/// Decides. `now` holds what each node answers now (`None`: it does not answer), `before` what it was last.
pub fn decide(now: &[Option<Identity>], before: &[Role], memory: Memory) -> Decision {
    let system = system_identifier(now, memory);
    let memory = if memory.system_identifier == system { memory } else { Memory::default() };
    let member = |identity: &Identity| Some(identity.system_identifier) == system;
    let open: Vec<(usize, u32)> = (now.iter().enumerate())
        .filter_map(|(index, identity)| Some((index, identity.filter(|i| member(i) && !i.in_recovery)?.timeline)))
        .collect();
    let (primary, contenders) = choose(now, &open, memory);
    let timeline = primary
        .and_then(|index| now.get(index).copied().flatten())
        .filter(|identity| !identity.in_recovery)
        .map_or(memory.timeline, |identity| identity.timeline);

    let verdicts = (now.iter().enumerate())
        .map(|(index, identity)| match identity {
            _ if Some(index) == primary => PRIMARY,
            Some(identity) if !member(identity) && system.is_some() => FOREIGN,
            Some(identity) if identity.in_recovery => REPLICA,
            Some(_) => FOREIGN,
            None if before.get(index) == Some(&Role::Replica) => REPLICA,
            None => UNKNOWN,
        })
        .collect();
    let memory = Memory {
        primary,
        timeline,
        system_identifier: if primary.is_some() { system } else { memory.system_identifier },
    };
    Decision { verdicts, memory, contenders }
}

/// The known cluster's, while anybody belongs to it or keeps silent; else that of the most nodes that answer.
fn system_identifier(now: &[Option<Identity>], memory: Memory) -> Option<i64> {
    let known = memory.system_identifier;
    let replaced = !now.is_empty() && now.iter().all(|i| i.is_some_and(|i| Some(i.system_identifier) != known));
    if known.is_some() && !replaced {
        return known;
    }
    let votes = |system: i64| now.iter().flatten().filter(|i| i.system_identifier == system).count();
    // `rev`: of equals `max_by_key` takes the last, and the first in the config's order shall win.
    now.iter().flatten().rev().map(|i| i.system_identifier).max_by_key(|system| votes(*system))
}

fn choose(now: &[Option<Identity>], open: &[(usize, u32)], memory: Memory) -> (Option<usize>, Vec<usize>) {
    let previous_is_silent = memory.primary.is_some_and(|index| now.get(index) == Some(&None));
    let silent_primary = memory.primary.filter(|_| previous_is_silent);
    let newest = open.iter().map(|(_, timeline)| *timeline).max();
    let Some(newest) = newest.filter(|newest| *newest >= memory.timeline) else {
        return (silent_primary, Vec::new());
    };
    let mut contenders: Vec<usize> = open.iter().filter(|(_, tli)| *tli == newest).map(|(index, _)| *index).collect();
    if newest == memory.timeline
        && let Some(silent) = silent_primary
    {
        contenders.push(silent);
        return (Some(silent), contenders);
    }
    match contenders.as_slice() {
        [only] => (Some(*only), Vec::new()),
        several => (memory.primary.filter(|index| several.contains(index)), contenders),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writable(timeline: u32) -> Option<Identity> {
        Some(Identity { in_recovery: false, timeline, system_identifier: 1 })
    }

    fn standby(timeline: u32) -> Option<Identity> {
        Some(Identity { in_recovery: true, timeline, system_identifier: 1 })
    }

    fn of_system(system_identifier: i64, identity: Option<Identity>) -> Option<Identity> {
        identity.map(|identity| Identity { system_identifier, ..identity })
    }

    fn remembered(primary: usize, timeline: u32) -> Memory {
        Memory { primary: Some(primary), timeline, system_identifier: Some(1) }
    }

    #[test]
    fn roles_follow_what_the_nodes_say() {
        use Role::{Primary as P, Replica as R, Unknown as U};
        type Case = (&'static str, Vec<Option<Identity>>, Vec<Role>, Memory, Vec<Verdict>);
        let none = Memory::default();
        #[rustfmt::skip]
        let cases: Vec<Case> = vec![
            ("one primary, two replicas", vec![standby(1), writable(1), standby(1)], vec![U; 3], none, vec![REPLICA, PRIMARY, REPLICA]),
            ("nobody answers", vec![None, None], vec![U; 2], none, vec![UNKNOWN, UNKNOWN]),
            ("replicas only", vec![standby(1), standby(1)], vec![U; 2], none, vec![REPLICA, REPLICA]),
            ("the newer timeline wins", vec![writable(1), writable(2)], vec![P, R], remembered(0, 1), vec![FOREIGN, PRIMARY]),
            ("the newer timeline wins at start", vec![writable(3), writable(2)], vec![U; 2], none, vec![PRIMARY, FOREIGN]),
            ("equal timelines: the one before", vec![writable(1), writable(1)], vec![U, P], remembered(1, 1), vec![FOREIGN, PRIMARY]),
            ("equal timelines at start: none", vec![writable(1), writable(1), standby(1)], vec![U; 3], none, vec![FOREIGN, FOREIGN, REPLICA]),
            ("equal newer timelines: none", vec![writable(2), writable(2), writable(1)], vec![R, R, P], remembered(2, 1), vec![FOREIGN, FOREIGN, FOREIGN]),
            ("a silent primary stays", vec![None, standby(1)], vec![P, R], remembered(0, 1), vec![PRIMARY, REPLICA]),
            ("until another is promoted", vec![None, writable(2)], vec![P, R], remembered(0, 1), vec![UNKNOWN, PRIMARY]),
            ("not for one of its own timeline", vec![None, writable(1)], vec![P, R], remembered(0, 1), vec![PRIMARY, FOREIGN]),
            ("not for an older one", vec![None, writable(1)], vec![P, U], remembered(0, 2), vec![PRIMARY, FOREIGN]),
            ("an old primary alone is none", vec![writable(1), standby(2)], vec![U, R], Memory { primary: None, ..remembered(0, 2) }, vec![FOREIGN, REPLICA]),
            ("a primary that became a standby", vec![standby(2), standby(1)], vec![P, R], remembered(0, 1), vec![REPLICA, REPLICA]),
            ("a primary that became a standby and fell silent", vec![None, standby(1)], vec![R, R], Memory { primary: None, ..remembered(0, 1) }, vec![REPLICA, REPLICA]),
            ("a silent replica stays one", vec![writable(1), None], vec![P, R], remembered(0, 1), vec![PRIMARY, REPLICA]),
            ("a silent unknown stays unknown", vec![writable(1), None], vec![P, U], remembered(0, 1), vec![PRIMARY, UNKNOWN]),
            ("another cluster's standby", vec![writable(1), of_system(2, standby(1))], vec![U; 2], none, vec![PRIMARY, FOREIGN]),
            ("another cluster's newer primary", vec![writable(1), of_system(2, writable(9))], vec![P, U], remembered(0, 1), vec![PRIMARY, FOREIGN]),
            ("the majority's cluster at start", vec![of_system(2, writable(9)), writable(1), standby(1)], vec![U; 3], none, vec![FOREIGN, PRIMARY, REPLICA]),
            ("another cluster while ours is silent", vec![None, of_system(2, writable(9))], vec![P, U], remembered(0, 1), vec![PRIMARY, FOREIGN]),
            ("its primary was taken off the list", vec![writable(1), standby(1)], vec![U, R], Memory { primary: None, ..remembered(0, 1) }, vec![PRIMARY, REPLICA]),
        ];
        for (what, now, before, memory, expected) in cases {
            assert_eq!(decide(&now, &before, memory).verdicts, expected, "{what}");
        }
    }

    #[test]
    fn two_that_take_writes_are_told() {
        assert_eq!(decide(&[writable(1), writable(1)], &[Role::Primary; 2], remembered(0, 1)).contenders, [0, 1]);
        assert_eq!(decide(&[writable(1), writable(2)], &[Role::Primary; 2], remembered(0, 1)).contenders, [0; 0]);
    }

    #[test]
    fn a_cluster_made_anew_is_taken_once_all_nodes_are_of_it() {
        let anew = |identity| of_system(7, identity);
        let half = decide(&[anew(writable(1)), standby(5)], &[Role::Primary, Role::Replica], remembered(0, 5));
        assert_eq!(half.verdicts, [FOREIGN, REPLICA]);
        let whole = decide(&[anew(writable(1)), anew(standby(1))], &[Role::Unknown; 2], half.memory);
        assert_eq!(whole.verdicts, [PRIMARY, REPLICA]);
        assert_eq!(whole.memory.system_identifier, Some(7));
    }

    #[test]
    fn memory_outlives_a_time_without_primary() {
        let lost =
            decide(&[None, standby(3)], &[Role::Unknown, Role::Replica], Memory { primary: None, ..remembered(0, 3) });
        assert_eq!(lost.memory.timeline, 3);
        assert_eq!(lost.memory.system_identifier, Some(1));
    }
}

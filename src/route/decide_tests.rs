//! Every rule of [`decide`], as a table.

use std::time::{Duration, Instant};

use super::*;
use crate::sql::PrimaryCause;
use crate::topology::{EjectReason, Lsn, Member, Position, Sample};

const WRITE: Demand = Demand::Primary(Reason::Statement(PrimaryCause::Write));
const READ: Demand = Demand::Replica(Reason::FreshReplica);

/// Port 1 is the primary; the others are replicas with these admissions and replay positions.
fn shard(replicas: &[(Admission, u64)]) -> Shard {
    let member = |port, role| Member { node: Arc::new(Node::new("h".into(), port, 1)), role };
    let mut nodes = vec![member(1, Role::Primary)];
    for (port, (admission, lsn)) in (2..).zip(replicas) {
        let replica = member(port, Role::Replica);
        replica.node.set_admission(*admission, 1);
        replica.node.set_reachable(true);
        let position = Position { timeline: 1, lsn: Lsn(*lsn) };
        replica.node.set_sample(Some(Sample { asked_at: Instant::now(), position }));
        nodes.push(replica);
    }
    Shard { name: "a".into(), nodes }
}

/// A session that must see everything up to `lsn`.
fn horizon(lsn: u64) -> Horizon {
    let source = shard(&[]);
    let mut horizon = Horizon::default();
    let start = Instant::now();
    horizon.saw_primary(start, None);
    let position = Position { timeline: 1, lsn: Lsn(lsn) };
    source.nodes[0].node.set_sample(Some(Sample { asked_at: start + Duration::from_millis(1), position }));
    horizon.settle(&source);
    horizon
}

struct Case<'a> {
    replicas: &'a [(Admission, u64)],
    demand: Demand,
    level: ConsistencyLevel,
    route: RouteSetting,
    seen: u64,
    when_none: WhenNone,
}

const PLAIN: Case<'_> = Case {
    replicas: &[(Admission::Admitted, 100)],
    demand: READ,
    level: ConsistencyLevel::Session,
    route: RouteSetting::Auto,
    seen: 100,
    when_none: WhenNone::Primary,
};

fn ask(case: &Case<'_>) -> Result<(u16, Reason), Refusal> {
    let shard = shard(case.replicas);
    let question = Question {
        shard: &shard,
        demand: case.demand,
        level: case.level,
        route: case.route,
        session: &[&horizon(case.seen)],
        catalog: &Horizon::default(),
        when_none: case.when_none,
        excluded: &[],
        may_prove: None,
        is_rehearsal: false,
        max_staleness: Duration::from_secs(5),
        now: Instant::now(),
    };
    decide(&question, |_| 0).map(|plan| (plan.node.port, plan.reason))
}

#[test]
fn rules() {
    const LAGGING: Admission = Admission::Ejected(EjectReason::Lag);
    use ConsistencyLevel::{Eventual, Primary};
    let ejected: &[_] = &[(LAGGING, 90), (LAGGING, 95)];
    let table = [
        ("a read goes to a fresh replica", ask(&PLAIN), Ok((2, Reason::FreshReplica))),
        (
            "a write to the primary",
            ask(&Case { demand: WRITE, ..PLAIN }),
            Ok((1, Reason::Statement(PrimaryCause::Write))),
        ),
        (
            "a replica that is behind the session is not read",
            ask(&Case { seen: 101, ..PLAIN }),
            Ok((1, Reason::NotFresh)),
        ),
        (
            "but at level eventual it is",
            ask(&Case { seen: 101, level: Eventual, ..PLAIN }),
            Ok((2, Reason::FreshReplica)),
        ),
        ("level primary", ask(&Case { level: Primary, ..PLAIN }), Ok((1, Reason::ConsistencyPrimary))),
        ("route primary", ask(&Case { route: RouteSetting::Primary, ..PLAIN }), Ok((1, Reason::RoutePrimary))),
        (
            "route replica takes writes too",
            ask(&Case { route: RouteSetting::Replica, demand: WRITE, ..PLAIN }),
            Ok((2, Reason::RouteReplica)),
        ),
        (
            "and does not fall back",
            ask(&Case { route: RouteSetting::Replica, replicas: ejected, ..PLAIN }),
            Err(Refusal::NoReplica),
        ),
        (
            "nor read stale rows",
            ask(&Case { route: RouteSetting::Replica, seen: 101, ..PLAIN }),
            Err(Refusal::NoFreshReplica),
        ),
        ("an ejected replica is not read", ask(&Case { replicas: ejected, ..PLAIN }), Ok((1, Reason::NoReplica))),
        ("or refused", ask(&Case { replicas: ejected, when_none: WhenNone::Error, ..PLAIN }), Err(Refusal::NoReplica)),
        (
            "or the furthest is",
            ask(&Case { replicas: ejected, when_none: WhenNone::Stalest, seen: 90, ..PLAIN }),
            Ok((3, Reason::Stalest)),
        ),
        (
            "if the level allows it",
            ask(&Case { replicas: ejected, when_none: WhenNone::Stalest, ..PLAIN }),
            Ok((1, Reason::NoReplica)),
        ),
        (
            "probation comes first",
            ask(&Case { replicas: &[(Admission::Admitted, 100), (Admission::Probation, 100)], ..PLAIN }),
            Ok((3, Reason::FreshReplica)),
        ),
        ("no replica at all", ask(&Case { replicas: &[], ..PLAIN }), Ok((1, Reason::NoReplica))),
    ];
    for (rule, got, expected) in table {
        assert_eq!(got, expected, "{rule}");
    }
}

fn read(shard: &Shard, excluded: &[Arc<Node>], dice: impl FnMut(u32) -> u32) -> Result<u16, Refusal> {
    let nothing = Horizon::default();
    let question = Question {
        shard,
        demand: READ,
        level: ConsistencyLevel::Session,
        route: RouteSetting::Auto,
        session: &[&nothing],
        catalog: &nothing,
        when_none: WhenNone::Primary,
        excluded,
        may_prove: None,
        is_rehearsal: false,
        max_staleness: Duration::from_secs(5),
        now: Instant::now(),
    };
    decide(&question, dice).map(|plan| plan.node.port)
}

#[test]
fn probation_is_a_few_reads() {
    let shard = shard(&[(Admission::Probation, 1), (Admission::Admitted, 1)]);
    assert_eq!(read(&shard, &[], |_| 0), Ok(2));
    assert_eq!(read(&shard, &[], |_| 0), Ok(3));
}

#[test]
fn a_node_that_failed_is_not_asked_again() {
    let shard = shard(&[(Admission::Admitted, 1), (Admission::Admitted, 1)]);
    let failed: Vec<_> = shard.nodes[1..].iter().map(|member| Arc::clone(&member.node)).collect();
    assert_eq!(read(&shard, &failed[..1], |_| 0), Ok(3));
    assert_eq!(read(&shard, &failed, |_| 0), Ok(1));
    let all: Vec<_> = shard.nodes.iter().map(|member| Arc::clone(&member.node)).collect();
    assert_eq!(read(&shard, &all, |_| 0), Err(Refusal::NoPrimary));
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let shard = shard(&[(Admission::Admitted, 1), (Admission::Admitted, 1), (Admission::Admitted, 1)]);
    let busy = Arc::clone(&shard.nodes[1].node).begin_statement();
    assert_eq!(read(&shard, &[], |_| 0), Ok(3));
    drop(busy);
    assert_eq!(read(&shard, &[], |_| 0), Ok(2));
}

#[test]
fn weights_share_out_reads() {
    let shard = shard(&[(Admission::Admitted, 1), (Admission::Admitted, 1)]);
    shard.nodes[1].node.set_weight(3);
    let outstanding: Vec<_> = (0..400)
        .map(|turn| {
            let port = read(&shard, &[], |sides| turn % sides).unwrap();
            (port, Arc::clone(&shard.nodes[usize::from(port) - 1].node).begin_statement())
        })
        .collect();
    let first = outstanding.iter().filter(|(port, _)| *port == 2).count();
    assert!((290..=310).contains(&first), "{first} of 400");
}

#[test]
fn a_replica_that_may_have_caught_up_is_asked_for_proof() {
    let recent = Some(Duration::from_millis(100));
    let world = |lag| {
        let shard = shard(&[(Admission::Admitted, 90), (Admission::Ejected(EjectReason::Lag), 95)]);
        shard.nodes[1].node.set_lag(Some((Duration::from_millis(lag), 10)));
        shard
    };
    let ask = |shard: &Shard, session: &Horizon, may_prove| {
        let question = Question {
            shard,
            demand: READ,
            level: ConsistencyLevel::Session,
            route: RouteSetting::Auto,
            session: &[session],
            catalog: &Horizon::default(),
            when_none: WhenNone::Primary,
            excluded: &[],
            may_prove,
            is_rehearsal: false,
            max_staleness: Duration::from_secs(5),
            now: Instant::now(),
        };
        decide(&question, |_| 0).map(|plan| (plan.node.port, plan.reason, plan.proof.map(|proof| proof.lsn.0)))
    };
    let near = world(50);
    let primary = Ok((1, Reason::NotFresh, None));
    assert_eq!(ask(&near, &horizon(100), recent), Ok((2, Reason::FreshReplica, Some(100))));
    assert_eq!(ask(&near, &horizon(90), recent), Ok((2, Reason::FreshReplica, None)), "it is known to be fresh");
    assert_eq!(ask(&near, &horizon(100), None), primary, "its answer could not be taken back");
    assert_eq!(ask(&world(200), &horizon(100), recent), primary, "it is too far behind");
    let mut unsettled = horizon(100);
    unsettled.saw_primary(Instant::now(), None);
    assert_eq!(ask(&near, &unsettled, recent), primary, "what it would have to prove is not known");
}

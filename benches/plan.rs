//! Where a statement goes: the decision alone, for a session that has seen something.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pgsluice::config::{ConsistencyLevel, WhenNone};
use pgsluice::route::{Demand, Horizon, Question, Reason, RouteSetting, decide};
use pgsluice::sql::PrimaryCause;
use pgsluice::topology::{Admission, Lsn, Member, Node, Position, Role, Sample, Shard};

/// One primary and so many replicas, all of them fresh.
fn shard(replicas: u16, now: Instant) -> Shard {
    let position = Position { timeline: 1, lsn: Lsn(1000) };
    let member = |port: u16| {
        let node = Arc::new(Node::new("10.0.0.1".into(), port, 1));
        node.set_sample(Some(Sample { asked_at: now, position }));
        node.set_admission(Admission::Admitted, 0);
        let role = if port == 0 { Role::Primary } else { Role::Replica };
        Member { node, role }
    };
    Shard { name: "a".into(), nodes: (0..=replicas).map(member).collect() }
}

fn plan(c: &mut Criterion) {
    let now = Instant::now();
    for replicas in [2, 8] {
        let shard = shard(replicas, now);
        let (mut session, catalog) = (Horizon::default(), Horizon::default());
        session.saw_primary(now.checked_sub(Duration::from_secs(1)).unwrap_or(now), None);
        session.settle(&shard);
        let seen = [&session];
        let question = |demand| Question {
            shard: &shard,
            demand,
            level: ConsistencyLevel::Session,
            route: RouteSetting::Auto,
            max_staleness: Duration::from_secs(5),
            session: &seen,
            catalog: &catalog,
            when_none: WhenNone::Primary,
            excluded: &[],
            may_prove: None,
            is_rehearsal: false,
            now,
        };
        let mut group = c.benchmark_group(format!("plan/{replicas} replicas"));
        for (name, demand) in [
            ("read", Demand::Replica(Reason::FreshReplica)),
            ("write", Demand::Primary(Reason::Statement(PrimaryCause::Write))),
        ] {
            let mut state = 1u32;
            // A cheap generator, so that the decision is measured and not the dice.
            let mut dice = move |sides: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) % sides
            };
            group.bench_function(name, |b| b.iter(|| decide(black_box(&question(demand)), &mut dice)));
        }
        group.finish();
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);

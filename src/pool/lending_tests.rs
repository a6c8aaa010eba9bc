use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Of these numbers, new ones being made where there is room.
fn borrow(lending: &Lending<u32>, new: u32) -> Option<u32> {
    match lending.ask(|_| true) {
        Answer::Granted(Grant::Thing(thing)) => Some(thing),
        Answer::Granted(Grant::Place) => Some(new),
        Answer::Wait(_) | Answer::Closed => None,
    }
}

fn wait(lending: &Lending<u32>) -> Waiter<'_, u32> {
    match lending.ask(|_| true) {
        Answer::Wait(waiter) => waiter,
        other => panic!("{other:?}"),
    }
}

fn granted(waiter: &mut Waiter<'_, u32>) -> Option<u32> {
    waiter.granted.try_recv().ok().map(|grant| grant.thing().unwrap_or(0))
}

fn counts(lending: &Lending<u32>) -> [usize; 3] {
    let Counts { idle, out, waiting, .. } = lending.counts();
    [idle, out, waiting]
}

#[test]
fn what_came_back_last_is_lent_first() {
    let lending = Lending::new(3);
    for new in 1..=3 {
        assert_eq!(borrow(&lending, new), Some(new));
    }
    assert_eq!(borrow(&lending, 4), None, "there are no more places");
    for thing in [2, 1, 3] {
        assert_eq!(lending.give_back(thing), None);
    }
    assert_eq!([borrow(&lending, 9), borrow(&lending, 9)], [Some(3), Some(1)]);
    assert_eq!(counts(&lending), [1, 2, 0]);
}

#[test]
fn who_comes_first_is_served_first() {
    let lending = Lending::new(1);
    assert_eq!(borrow(&lending, 7), Some(7));
    let (mut first, second, mut third) = (wait(&lending), wait(&lending), wait(&lending));
    assert_eq!(counts(&lending), [0, 1, 3]);
    drop(second);
    lending.give_back(7);
    assert_eq!(borrow(&lending, 9), None, "it is the first one's");
    assert_eq!((granted(&mut first), granted(&mut third)), (Some(7), None));
    drop(first);
    lending.give_back(7);
    assert_eq!(granted(&mut third), Some(7), "the second has given up");
    drop(third);
    lending.let_go();
    assert_eq!(counts(&lending), [0, 0, 0]);
}

#[test]
fn who_gives_up_leaves_what_it_was_granted_to_the_next() {
    let lending = Lending::new(1);
    borrow(&lending, 7);
    let (first, mut second) = (wait(&lending), wait(&lending));
    lending.give_back(7);
    drop(first);
    assert_eq!(granted(&mut second), Some(7));
    drop(second);
    let third = wait(&lending);
    lending.let_go();
    drop(third);
    assert_eq!(counts(&lending), [0, 0, 0]);
    assert_eq!(borrow(&lending, 8), Some(8), "a place that nobody took is free");
}

#[test]
fn a_lower_limit_holds_as_soon_as_things_come_back() {
    let lending = Lending::new(3);
    (1..=3).for_each(|new| assert_eq!(borrow(&lending, new), Some(new)));
    assert_eq!(lending.give_back(1), None);
    assert_eq!(lending.resize(1), [1]);
    let mut waiter = wait(&lending);
    assert_eq!(lending.give_back(2), Some(2), "two are one too many");
    assert_eq!(granted(&mut waiter), None);
    lending.give_back(3);
    assert_eq!(granted(&mut waiter), Some(3));
    let mut other = wait(&lending);
    assert_eq!(lending.resize(2), [0; 0]);
    assert_eq!(granted(&mut other), Some(0), "there is a place now");
}

#[test]
fn nothing_is_lent_after_the_end() {
    let lending = Lending::new(2);
    borrow(&lending, 1);
    borrow(&lending, 2);
    lending.give_back(1);
    let Answer::Granted(Grant::Thing(1)) = lending.ask(|_| true) else { panic!("one was idle") };
    let mut waiter = wait(&lending);
    lending.close();
    assert!(waiter.granted.try_recv().is_err());
    assert!(matches!(lending.ask(|_| true), Answer::Closed));
    assert_eq!(lending.give_back(1), Some(1));
}

#[test]
fn idle_time_counts_from_the_first_look() {
    let lending = Lending::new(1);
    borrow(&lending, 1);
    lending.give_back(1);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let limit = |seconds: u64| move |_: &u32, since: Instant| after(seconds).duration_since(since).as_secs() < 2;
    assert_eq!(lending.retain(after(0), limit(0)), [0; 0]);
    assert_eq!(lending.retain(after(1), limit(1)), [0; 0]);
    borrow(&lending, 9);
    lending.give_back(1);
    assert_eq!(lending.retain(after(2), limit(2)), [0; 0], "it was used meanwhile");
    assert_eq!(lending.retain(after(4), limit(4)), [1]);
    assert_eq!(counts(&lending), [0, 0, 0]);
}

#[tokio::test]
async fn a_waiter_is_woken() {
    let lending = Lending::new(1);
    borrow(&lending, 1);
    let mut waiter = wait(&lending);
    let (turn, ()) = tokio::join!(waiter.turn(), async {
        tokio::task::yield_now().await;
        lending.give_back(1);
    });
    assert!(matches!(turn, Some(Grant::Thing(1))));
    let mut waiter = wait(&lending);
    lending.close();
    assert!(waiter.turn().await.is_none());
}

proptest! {
    /// Whatever happens in whatever order: no more than the limit where it was not lowered, nobody waits for nothing, and
    /// in the end all is accounted for.
    #[test]
    fn it_comes_out_even(limit in 1usize..4, steps in proptest::collection::vec((0u8..6, 0usize..4), 0..60)) {
        let lending = Lending::new(limit);
        let mut lent = 0;
        let mut waiters: Vec<Waiter<'_, u32>> = Vec::new();
        for (step, at) in steps {
            match step {
                0 | 1 => match lending.ask(|_| true) {
                    Answer::Granted(_) => lent += 1,
                    Answer::Wait(waiter) => waiters.push(waiter),
                    Answer::Closed => prop_assert!(false, "nobody has closed it"),
                },
                2 if lent > 0 => {
                    lent -= 1;
                    lending.give_back(0);
                }
                3 if lent > 0 => {
                    lent -= 1;
                    lending.let_go();
                }
                4 if at < waiters.len() => drop(waiters.remove(at)),
                _ => drop(lending.resize(at.max(1))),
            }
            let is_served = |waiter: &mut Waiter<'_, u32>| waiter.granted.try_recv().is_ok();
            let before = waiters.len();
            waiters.retain_mut(|waiter| !is_served(waiter));
            lent += before - waiters.len();
            let Counts { limit, idle, out, waiting } = lending.counts();
            prop_assert_eq!((out, waiting), (lent, waiters.len()));
            prop_assert!(idle + out <= limit || idle == 0, "{} idle, {} lent, of {}", idle, out, limit);
            prop_assert!(waiters.is_empty() || idle == 0 && out >= limit, "somebody waits for nothing");
        }
        drop(waiters);
        (0..lent).for_each(|_| lending.let_go());
        prop_assert_eq!(lending.counts().out, 0);
    }
}

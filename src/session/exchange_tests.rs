//! The protocol's flows, as scripts of messages.

use super::*;

fn receive(exchange: &mut Exchange, tag: u8, body: &[u8]) -> Verdict {
    let mut bytes = vec![tag, 0, 0, 0, 4];
    bytes.extend(body);
    exchange.receive(&Frame { tag, body, bytes: &bytes })
}

fn replay(exchange: &mut Exchange, script: &[(u8, &[u8])]) -> Vec<Verdict> {
    script.iter().map(|(tag, body)| receive(exchange, *tag, body)).collect()
}

fn failed(sqlstate: &[u8; 5]) -> Event {
    Event::Failed(Failure { sqlstate: *sqlstate, mentions_recovery: false })
}

const ERROR: &[u8] = b"SERROR\0C42P01\0Mno\0\0";

#[test]
fn a_simple_query() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Query, Audience::Client);
    let verdicts = replay(&mut exchange, &[(b'T', b""), (b'D', b"x"), (b'N', b""), (b'C', b"SELECT 1\0")]);
    assert_eq!(verdicts, vec![Verdict::Pass; 4]);
    assert!(!exchange.is_answered());
    assert_eq!(receive(&mut exchange, b'Z', b"T"), Verdict::Pass);
    assert!(exchange.is_answered());
    assert_eq!(exchange.take_events(), [Event::Completed { rows: 1 }, Event::Ready(TransactionStatus::Transaction)]);
}

#[test]
fn settings_before_a_query_are_not_seen() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Settings));
    exchange.expect(Sent::Query, Audience::Client);
    let verdicts =
        replay(&mut exchange, &[(b'T', b""), (b'D', b"x"), (b'C', b"SELECT 1\0"), (b'Z', b"I"), (b'T', b"")]);
    assert_eq!(verdicts[..4], vec![Verdict::Drop; 4]);
    assert_eq!(verdicts[4], Verdict::Pass);
    assert_eq!(exchange.take_events(), []);
}

#[test]
fn a_tail_ends_the_message_before_it() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Query, Audience::Client);
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Tail));
    let script: [(u8, &[u8]); 4] = [(b'C', b"RESET\0"), (b'Z', b"I"), (b'C', b"SET\0"), (b'Z', b"I")];
    assert_eq!(replay(&mut exchange, &script), [Verdict::Pass, Verdict::Drop, Verdict::Drop, Verdict::Pass]);
    assert_eq!(exchange.take_events(), [Event::Completed { rows: 0 }, Event::Ready(TransactionStatus::Idle)]);
    assert!(exchange.is_answered());
}

#[test]
fn an_extended_batch_with_a_lazy_preparation() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Parse(7), Audience::Proxy(Purpose::Prepare));
    exchange.expect(Sent::Describe(7), Audience::Proxy(Purpose::Prepare));
    for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
        exchange.expect(sent, Audience::Client);
    }
    let script: [(u8, &[u8]); 7] =
        [(b'1', b""), (b't', b"a"), (b'T', b"b"), (b'2', b""), (b'D', b""), (b'C', b"SELECT 1\0"), (b'Z', b"I")];
    let verdicts = replay(&mut exchange, &script);
    assert_eq!(verdicts[..3], vec![Verdict::Drop; 3]);
    assert_eq!(verdicts[3..], vec![Verdict::Pass; 4]);
    assert!(exchange.is_answered());
    assert!(matches!(
        exchange.take_events()[..],
        [
            Event::Prepared(7),
            Event::Described { id: 7, shape: 1.., columns: 0, for_client: false },
            Event::Completed { rows: 1 },
            Event::Ready(_)
        ]
    ));
}

#[test]
fn an_error_skips_to_the_sync() {
    let mut exchange = Exchange::default();
    for sent in [Sent::Parse(1), Sent::Bind, Sent::Execute, Sent::Parse(2), Sent::Sync] {
        exchange.expect(sent, Audience::Client);
    }
    replay(&mut exchange, &[(b'1', b""), (b'2', b"")]);
    assert_eq!(receive(&mut exchange, b'E', ERROR), Verdict::Pass);
    assert!(!exchange.is_skipping());
    receive(&mut exchange, b'Z', b"I");
    assert!(exchange.is_answered());
    assert_eq!(
        exchange.take_events(),
        [Event::Prepared(1), Event::NotPrepared(2), failed(b"42P01"), Event::Ready(TransactionStatus::Idle)]
    );
}

#[test]
fn an_error_before_the_sync_is_sent_makes_the_server_deaf() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Parse(1), Audience::Client);
    receive(&mut exchange, b'E', ERROR);
    assert!(exchange.is_skipping() && exchange.is_answered());
    exchange.expect(Sent::Parse(2), Audience::Client);
    exchange.expect(Sent::Bind, Audience::Client);
    assert!(exchange.is_answered());
    exchange.expect(Sent::Sync, Audience::Client);
    assert!(!exchange.is_answered() && !exchange.is_skipping());
    assert_eq!(exchange.take_events(), [Event::NotPrepared(1), failed(b"42P01"), Event::NotPrepared(2)]);
}

#[test]
fn a_refusal_replaces_the_servers_error() {
    let mut exchange = Exchange::default();
    let reply = Box::new(ErrorReply::error("42P05", "already there"));
    exchange.expect(Sent::ParseOther, Audience::Refusal(reply.clone()));
    exchange.expect(Sent::Sync, Audience::Client);
    assert_eq!(receive(&mut exchange, b'E', ERROR), Verdict::Replace(reply.clone()));
    assert_eq!(receive(&mut exchange, b'Z', b"E"), Verdict::Pass);
    assert_eq!(
        exchange.take_events(),
        [Event::Refused(reply), failed(b"42P05"), Event::Ready(TransactionStatus::Failed)]
    );
}

#[test]
fn copying_in_swallows_the_sync_that_is_under_way() {
    let mut exchange = Exchange::default();
    for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
        exchange.expect(sent, Audience::Client);
    }
    replay(&mut exchange, &[(b'2', b""), (b'G', b"")]);
    assert!(exchange.is_copying_in());
    exchange.end_copy_in();
    exchange.expect(Sent::Sync, Audience::Client);
    replay(&mut exchange, &[(b'C', b"COPY 1\0"), (b'Z', b"I")]);
    assert!(exchange.is_answered());
}

#[test]
fn an_error_of_a_lazy_preparation_is_the_clients() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Parse(7), Audience::Proxy(Purpose::Prepare));
    exchange.expect(Sent::Bind, Audience::Client);
    exchange.expect(Sent::Sync, Audience::Client);
    assert_eq!(receive(&mut exchange, b'E', ERROR), Verdict::Pass);
    assert_eq!(exchange.take_events(), [Event::NotPrepared(7), failed(b"42P01")]);
}

#[test]
fn what_is_asked_in_front_and_behind_is_not_seen() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Proof));
    exchange.expect(Sent::Query, Audience::Client);
    assert!(exchange.ends_ready());
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Position));
    let answer: &[(u8, &[u8])] = &[(b'T', b""), (b'D', b"row"), (b'C', b"SELECT 1\0"), (b'Z', b"I")];
    for verdict in [Verdict::Drop, Verdict::Pass, Verdict::Drop] {
        assert_eq!(replay(&mut exchange, answer), vec![verdict; 4]);
    }
    assert!(exchange.is_answered());
    let row = || b"row".as_slice().into();
    let events = [
        Event::Replayed(row()),
        Event::ProofEnds,
        Event::Completed { rows: 1 },
        Event::Ready(TransactionStatus::Idle),
        Event::Position(row()),
    ];
    assert_eq!(exchange.take_events(), events);
}

#[test]
fn a_proof_that_fails_ends_all_the_same() {
    let mut exchange = Exchange::default();
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Proof));
    exchange.expect(Sent::Query, Audience::Proxy(Purpose::Position));
    for _ in 0..2 {
        assert_eq!(replay(&mut exchange, &[(b'E', ERROR), (b'Z', b"I")]), vec![Verdict::Drop; 2]);
    }
    assert_eq!(exchange.take_events(), [Event::ProofEnds], "nobody is told of an error");
}

#[test]
fn a_result_has_another_shape_when_its_names_or_types_change_and_not_its_tables() {
    let shape = |name: &[u8], table: u32, kind: u32, modifier: i32| {
        let column = [name, b"\0", &table.to_be_bytes(), b"\0\x01", &kind.to_be_bytes(), b"\0\x04"].concat();
        let body = [b"\0\x01", &column[..], &modifier.to_be_bytes(), b"\0\0"].concat();
        let mut exchange = Exchange::default();
        exchange.expect(Sent::Describe(7), Audience::Client);
        replay(&mut exchange, &[(b't', b"\0\0"), (b'T', &body)]);
        match exchange.take_events().as_slice() {
            [Event::Described { shape, .. }] => *shape,
            other => panic!("{other:?}"),
        }
    };
    let known = shape(b"v", 16384, 23, -1);
    assert_eq!(shape(b"v", 16500, 23, -1), known);
    assert_ne!(shape(b"w", 16384, 23, -1), known);
    assert_ne!(shape(b"v", 16384, 20, -1), known);
    assert_ne!(shape(b"v", 16384, 23, 8), known);
}

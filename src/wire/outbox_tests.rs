use std::io::ErrorKind;
use std::net::Shutdown;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

use super::*;
use crate::wire::{BUFFER_SIZE, Link, Stream};

fn is_open() -> bool {
    OUTBOX.with_borrow(Option::is_some)
}

/// Opens the outbox; false where the system gives no ring, and all is to come about in the same way without.
async fn open() -> bool {
    let serving = tokio::spawn(serve());
    yield_now().await;
    assert_eq!(is_open(), !serving.is_finished());
    is_open()
}

async fn pair() -> (Link, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    // The smallest that there are.
    SockRef::from(&stream).set_send_buffer_size(1).unwrap();
    SockRef::from(&peer).set_recv_buffer_size(1).unwrap();
    (Link::new(Stream::Plain(stream.into()), BytesMut::new()), peer)
}

/// Says something to the peer; whether it was taken, or posted.
async fn say(link: &mut Link, words: &[u8]) -> bool {
    link.output.extend_from_slice(words);
    poll_fn(|cx| Poll::Ready(link.poll_write_output(cx))).await.is_ready()
}

async fn hear(peer: &mut TcpStream, size: usize) -> Vec<u8> {
    let mut heard = vec![0; size];
    peer.read_exact(&mut heard).await.unwrap();
    heard
}

fn posted() -> usize {
    OUTBOX.with_borrow(|outbox| outbox.as_ref().map_or(0, |outbox| outbox.posted.len()))
}

#[tokio::test]
async fn what_tasks_have_to_send_goes_when_all_have_had_their_turn() {
    let has_ring = open().await;
    let mut pairs = Vec::new();
    for _ in 0..MOST + 5 {
        pairs.push(pair().await);
    }
    for (at, (link, _)) in pairs.iter_mut().enumerate() {
        assert!(say(link, format!("first {at:2}").as_bytes()).await);
    }
    if has_ring {
        assert_eq!(posted(), 5, "more than fits goes at once");
        let nothing_yet = pairs[MOST].1.try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(nothing_yet.kind(), ErrorKind::WouldBlock);
    }
    for (at, (_, peer)) in pairs.iter_mut().enumerate() {
        assert_eq!(hear(peer, 8).await, format!("first {at:2}").as_bytes());
    }
    assert_eq!(posted(), 0);
}

#[tokio::test]
async fn what_one_peer_is_told_stays_in_its_order() {
    open().await;
    let (mut link, mut peer) = pair().await;
    let (mut other, mut others_peer) = pair().await;
    let (mut source, mut from) = pair().await;
    from.write_all(b"passed on, kept").await.unwrap();
    source.fill(BUFFER_SIZE).await.unwrap();
    source.pass(9);

    assert!(say(&mut other, b"other").await);
    assert!(say(&mut link, b"posted, ").await);
    link.output.extend_from_slice(b"then ");
    assert!(poll_fn(|cx| Poll::Ready(link.poll_write_from(&mut source, cx))).await.is_ready());
    assert_eq!((&*source.input, source.ready), (&b", kept"[..], 0));
    source.pass(6);
    assert!(poll_fn(|cx| Poll::Ready(link.poll_write_from(&mut source, cx))).await.is_ready());
    assert!(source.input.is_empty());
    link.output.extend_from_slice(b", flushed");
    link.flush().await.unwrap();

    let all = b"posted, then passed on, kept, flushed";
    assert_eq!(hear(&mut peer, all.len()).await, all);
    assert_eq!(hear(&mut others_peer, 5).await, b"other");
}

#[tokio::test]
async fn what_a_peer_does_not_take_goes_before_all_else_when_it_does() {
    open().await;
    // By the ring, and by itself.
    for count in [2, 1] {
        let mut told = Vec::new();
        for _ in 0..count {
            let (link, peer) = pair().await;
            told.push((link, peer, Vec::new()));
        }
        while !told.iter().all(|(link, ..)| link.is_stuck()) {
            for (link, _, said) in told.iter_mut().filter(|(link, ..)| !link.is_stuck()) {
                let words: Vec<u8> = (said.len()..).take(LONGEST).map(|at| at.to_le_bytes()[at % 8]).collect();
                if !say(link, &words).await {
                    assert!(!is_open(), "without one it is written by and by");
                    return;
                }
                said.extend_from_slice(&words);
            }
            yield_now().await;
            assert_eq!(posted(), 0);
        }
        let (mut link, mut peer, said) = told.remove(0);
        assert!(!link.is_flushed());
        assert!(!say(&mut link, b"the end").await, "nothing overtakes it");

        // Whoever listens to the peer sends it the rest meanwhile.
        let listening = tokio::spawn(async move {
            assert!(link.fill(BUFFER_SIZE).await.unwrap());
            assert!(!link.is_stuck());
            link.flush().await.unwrap();
            link
        });
        assert!(hear(&mut peer, said.len()).await == said);
        peer.write_all(b"?").await.unwrap();
        assert_eq!(hear(&mut peer, 7).await, b"the end");
        listening.await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_not_closed_before_what_was_posted_is_sent() {
    open().await;
    let (mut link, mut peer) = pair().await;
    let (mut other, _others_peer) = pair().await;
    assert!(say(&mut link, b"last words").await);
    assert!(say(&mut other, b"others").await);
    drop(link);
    // This one would have been given the other's descriptor.
    let (_next, mut nexts_peer) = pair().await;
    assert_eq!(hear(&mut peer, 10).await, b"last words");
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0, "then it is closed");
    assert_eq!(nexts_peer.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    SockRef::from(&nexts_peer).shutdown(Shutdown::Both).unwrap();
    assert_eq!(nexts_peer.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn who_reads_is_told_that_a_peer_takes_nothing_more() {
    open().await;
    let (mut link, peer) = pair().await;
    let (mut other, mut others_peer) = pair().await;
    assert!(say(&mut link, b"unread").await);
    send_all();
    // What is unread makes that a reset.
    drop(peer);
    assert!(say(&mut other, b"others").await);
    say(&mut link, b"more").await;
    assert!(!matches!(link.fill(BUFFER_SIZE).await, Ok(true)));
    assert_eq!(hear(&mut others_peer, 6).await, b"others");
}

#[tokio::test]
async fn without_its_ring_an_outbox_sends_one_by_one() {
    if !open().await {
        return;
    }
    OUTBOX.with_borrow_mut(|outbox| outbox.as_mut().unwrap().ring = None);
    let (mut link, mut peer) = pair().await;
    let (mut other, mut others_peer) = pair().await;
    assert!(say(&mut link, b"one").await && say(&mut other, b"two").await);
    assert_eq!(posted(), 2);
    assert_eq!((hear(&mut peer, 3).await, hear(&mut others_peer, 3).await), (b"one".to_vec(), b"two".to_vec()));
}

#[tokio::test]
async fn who_is_alone_writes_for_himself() {
    if !open().await {
        return;
    }
    let (mut link, mut peer) = pair().await;
    for _ in 0..ALONE {
        assert!(say(&mut link, b"!").await);
        assert_eq!(posted(), 1);
        hear(&mut peer, 1).await;
    }
    for _ in 0..PAUSE {
        assert!(say(&mut link, b"!").await);
        assert_eq!(posted(), 0);
        hear(&mut peer, 1).await;
    }
    assert!(say(&mut link, b"!").await);
    assert_eq!(posted(), 1, "things may have changed");
}

#[tokio::test]
async fn no_connection_changes_threads_while_something_is_posted() {
    open().await;
    let (mut link, mut peer) = pair().await;
    let (mut other, mut others_peer) = pair().await;
    assert!(say(&mut link, b"posted").await && say(&mut other, b"others").await);
    let has_ring = posted() == 2;
    // It cannot have this one send, and does not go before it.
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registered = link.register_here().map_err(|error| error.kind());
            assert_eq!(registered, if has_ring { Err(ErrorKind::WouldBlock) } else { Ok(()) });
            link.output.extend_from_slice(b", then this");
            assert_eq!(poll_fn(|cx| Poll::Ready(link.poll_write_output(cx))).await.is_pending(), has_ring);
        });
        link
    });
    let mut link = elsewhere.join().unwrap();
    assert_eq!(hear(&mut others_peer, 6).await, b"others");
    link.register_here().unwrap();
    link.flush().await.unwrap();
    assert_eq!(hear(&mut peer, 17).await, b"posted, then this");
}

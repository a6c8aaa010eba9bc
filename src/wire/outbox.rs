//! What a thread's tasks have to send, given to the system together.
//!
//! A poll of the sockets mostly brings messages for several clients. Were each of them sent by a system call of its own, the
//! system could hand the processor to whoever was woken by it, and back, each time: that costs more than the call
//! ([0017](../../docs/decisions/0017-what-a-turn-sends-goes-together.md)). So tasks post what they have, and when all of them
//! have had their turn it goes out by one call, of [`io_uring`](https://man7.org/linux/man-pages/man7/io_uring.7.html).
//! Nothing stays with the ring: all sends are done when the call returns, or were refused.
//!
//! Where the system gives no ring (before Linux 5.6, in many containers, with `kernel.io_uring_disabled`) tasks write
//! for themselves, as they do where there is mostly one at a time.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::task::{Poll, Waker};

use bytes::{Buf, BytesMut};
use io_uring::{IoUring, Probe, opcode, types};
use nix::libc::{MSG_DONTWAIT, MSG_NOSIGNAL};

use super::Socket;
use super::link::FIRST_READ;

/// How many are sent together, at most.
const MOST: usize = 32;

/// What is longer is not posted, in bytes. PostgreSQL sends when it has as much (`PQ_SEND_BUFFER_SIZE`).
pub const LONGEST: usize = 8192;

/// Buffers of so many bytes are worth keeping: they can be read into, too.
const KEPT: RangeInclusive<usize> = FIRST_READ..=LONGEST;

/// After so many turns in which only one task had something to send...
const ALONE: u32 = 8;

/// ...as many times tasks write for themselves. To post, and be sent alone, costs a little more.
const PAUSE: u32 = 64;

thread_local! {
    static OUTBOX: RefCell<Option<Outbox>> = const { RefCell::new(None) };
}

struct Outbox {
    /// Gone where it has failed.
    ring: Option<IoUring>,
    posted: Vec<Letter>,
    /// Empty buffers.
    spare: Vec<BytesMut>,
    /// Of the task that sends.
    sender: Waker,
    /// How many turns had a single letter, one after the other.
    alone: u32,
    /// How many times more nothing is to be posted.
    pause: u32,
}

/// What is to be sent to one peer.
struct Letter {
    socket: Socket,
    bytes: BytesMut,
    /// Of the task that has posted it.
    waker: Waker,
    /// What the ring says, as `send(2)` would in the kernel: how many bytes, or an error number below zero.
    result: Option<i32>,
}

/// Opens this thread's outbox, and sends what is posted there, for ever. To be run on the runtime that its tasks run on.
///
/// # Errors
/// The system gives no ring.
pub async fn serve() -> io::Result<()> {
    let mut ring = Some(new_ring()?);
    poll_fn(|cx| {
        // Woken by the first that is posted in a turn, it comes behind the tasks that were woken before.
        OUTBOX.with_borrow_mut(|outbox| match outbox {
            Some(outbox) => outbox.send_all(),
            None => {
                let (posted, spare) = (Vec::with_capacity(MOST), Vec::with_capacity(MOST));
                let sender = cx.waker().clone();
                *outbox = Some(Outbox { ring: ring.take(), posted, spare, sender, alone: 0, pause: 0 });
            }
        });
        Poll::Pending
    })
    .await
}

fn new_ring() -> io::Result<IoUring> {
    let ring = IoUring::new(u32::try_from(MOST).map_err(io::Error::other)?)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Send::CODE) { Ok(ring) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Has this thread's outbox send something at the end of this turn: what `take` gives for an empty buffer. False, and nothing
/// was taken, where it is to be written at once.
pub fn post(socket: &Socket, waker: &Waker, take: impl FnOnce(BytesMut) -> BytesMut) -> bool {
    OUTBOX.with_borrow_mut(|outbox| {
        let Some(outbox) = outbox else { return false };
        if outbox.pause > 0 {
            outbox.pause -= 1;
            return false;
        }
        // One after the other.
        if socket.is_posted() {
            outbox.send_all();
        }
        if !socket.is_settled() {
            return false;
        }
        if outbox.posted.is_empty() {
            outbox.sender.wake_by_ref();
        }
        let bytes = take(outbox.spare.pop().unwrap_or_default());
        outbox.posted.push(Letter { socket: socket.share(), bytes, waker: waker.clone(), result: None });
        if outbox.posted.len() == MOST {
            outbox.send_all();
        }
        true
    })
}

/// Sends now what is posted on this thread.
pub fn send_all() {
    OUTBOX.with_borrow_mut(|outbox| outbox.iter_mut().for_each(Outbox::send_all));
}

impl Outbox {
    fn send_all(&mut self) {
        match &mut *self.posted {
            [] => return,
            [_] => {
                self.alone += 1;
                if self.alone == ALONE {
                    (self.alone, self.pause) = (ALONE - 1, PAUSE);
                }
            }
            letters => {
                self.alone = 0;
                if let Some(ring) = &mut self.ring
                    && let Err(error) = send_together(ring, letters)
                {
                    tracing::warn!(%error, "io_uring has failed: each message is sent by a system call of its own from now on");
                    // What it has not taken is not taken later.
                    self.ring = None;
                }
            }
        }
        for letter in self.posted.drain(..) {
            let bytes = letter.conclude();
            if KEPT.contains(&bytes.capacity()) && self.spare.len() < MOST {
                self.spare.push(bytes);
            }
        }
    }
}

/// Notes what has come of each, where the ring has taken it.
///
/// # Errors
/// The ring is of no more use.
#[allow(unsafe_code)]
fn send_together(ring: &mut IoUring, letters: &mut [Letter]) -> io::Result<()> {
    let mut left = 0;
    let mut queue = ring.submission();
    for (at, letter) in (0..).zip(&*letters) {
        let Ok(length) = u32::try_from(letter.bytes.len()) else { break };
        let send = opcode::Send::new(types::Fd(letter.socket.as_raw_fd()), letter.bytes.as_ptr(), length);
        // Sockets that take nothing more are not waited for.
        let send = send.flags(MSG_DONTWAIT | MSG_NOSIGNAL).build().user_data(at);
        // SAFETY: the bytes, and the descriptor, are the letters' own, and they stay as they are until the loop below has
        // seen that the system is done with them. What it has not taken when the loop ends is not taken later, as the
        // ring is closed then.
        if unsafe { queue.push(&send) }.is_err() {
            break;
        }
        left += 1;
    }
    drop(queue);
    let mut wanted = 0;
    while left > 0 {
        let called = ring.submit_and_wait(wanted);
        for completion in ring.completion() {
            let letter = usize::try_from(completion.user_data()).ok().and_then(|at| letters.get_mut(at));
            letter.into_iter().for_each(|letter| letter.result = Some(completion.result()));
            left -= 1;
        }
        match called {
            Err(error) if error.kind() != io::ErrorKind::Interrupted && ring.submission().len() == left => {
                return Err(error);
            }
            _ => wanted = left,
        }
    }
    Ok(())
}

impl Letter {
    /// Has the connection know of what was not sent; the empty buffer comes back.
    fn conclude(self) -> BytesMut {
        let Self { socket, mut bytes, waker, result } = self;
        let sent = match result {
            None => socket.try_write(&bytes),
            Some(result) => usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)),
        };
        match sent {
            Ok(count) if count == bytes.len() => {
                bytes.clear();
                return bytes;
            }
            Ok(count) => bytes.advance(count),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Whoever reads from it is told.
            Err(_) => {
                socket.shut();
                return BytesMut::new();
            }
        }
        socket.keep(bytes);
        waker.wake();
        BytesMut::new()
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;

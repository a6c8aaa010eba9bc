//! One peer's connection with its two buffers.
//!
//! `input` holds what the peer has sent and nobody has taken yet. `output` holds what is to be sent
//! to it. What is merely passed on is not copied from one link's input to the other's output: its
//! length is marked in `ready`, and it is written to the other peer straight from `input`. A link
//! reads no more than [`BUFFER_SIZE`] ahead, so a slow peer holds up the other one, and memory stays
//! bounded whatever the size of an answer. What is short is not written at once: it is posted ([`outbox`]), and whoever must know
//! that the system has it flushes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::io::poll_read_buf;

use super::{Stream, outbox};

/// How much is read ahead from a peer, in bytes.
pub const BUFFER_SIZE: usize = 32 * 1024;

/// How much is read at first, in bytes; more, as long as what comes fills the buffer.
pub(super) const FIRST_READ: usize = 1000;

/// A connection and its buffers.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    /// What came and was not yet taken.
    pub input: BytesMut,
    /// What is to be sent, before anything that is marked `ready` on the other side.
    pub output: BytesMut,
    /// How many bytes at the start of `input` are to be passed on to the other peer as they are.
    pub ready: usize,
    /// How many bytes that have not come yet are to be passed on too: the rest of a message.
    pub unread: usize,
    ignored: usize,
    /// How much room a new read is given, in bytes.
    next_read: usize,
    needs_flush: bool,
}

impl Link {
    /// Over a connection whose first bytes (`input`) may have been read already.
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: BytesMut::new(),
            ready: 0,
            unread: 0,
            ignored: 0,
            next_read: FIRST_READ,
            needs_flush: false,
        }
    }

    /// To nobody.
    pub fn of_nobody() -> Self {
        Self::new(Stream::Nobody, BytesMut::new())
    }

    /// Does the server's part of a TLS handshake, and goes on encrypted. After one that fails nothing more is to be said.
    pub async fn encrypt(&mut self, acceptor: &TlsAcceptor) -> io::Result<()> {
        let Stream::Plain(socket) = std::mem::replace(&mut self.stream, Stream::Nobody) else { return Ok(()) };
        let Some(stream) = socket.into_stream() else { return Err(io::ErrorKind::WouldBlock.into()) };
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                self.stream = Stream::Tls(Box::new(stream.into()));
                Ok(())
            }
            Err((error, stream)) => {
                self.stream = Stream::Plain(stream.into());
                Err(error)
            }
        }
    }

    /// Ends what we say, and listens to the rest of what the peer says, up to `limit` bytes: to close a connection with
    /// something unread in it is to reset it, and the peer may then not see our last words.
    pub async fn hear_out(&mut self, limit: usize) {
        if std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut heard = 0;
        while heard < limit && matches!(self.fill(BUFFER_SIZE).await, Ok(true)) {
            heard += self.input.len();
            self.input.clear();
        }
    }

    /// The TLS connection, where there is one.
    pub fn tls(&self) -> Option<&TlsStream<TcpStream>> {
        match &self.stream {
            Stream::Tls(stream) => Some(stream),
            Stream::Plain(_) | Stream::Nobody => None,
        }
    }

    /// The first byte that a peer sends, without taking it: to be asked before anything is read. `None` at the end of
    /// the stream, and of what is not plain TCP.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let Stream::Plain(socket) = &self.stream else { return Ok(None) };
        let mut first = [0; 1];
        let count = socket.stream().peek(&mut first).await?;
        Ok((count > 0).then_some(first[0]))
    }

    /// See [`Stream::may_have_heard`].
    pub fn may_have_heard(&self) -> bool {
        self.stream.may_have_heard()
    }

    /// See [`Stream::is_silent`].
    pub fn is_silent(&self) -> bool {
        self.stream.is_silent()
    }

    /// See [`Stream::register_here`].
    ///
    /// # Errors
    /// As there.
    pub fn register_here(&mut self) -> io::Result<()> {
        self.stream.register_here()
    }

    /// Where the peer is, while it is there.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_address()
    }

    /// The connection itself, and what of its bytes has been read already.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.input)
    }

    /// Whether everything for this peer has been handed to the transport, or is posted.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.needs_flush && !self.is_stuck()
    }

    /// Whether the system did not take all that was posted for this peer.
    pub fn is_stuck(&self) -> bool {
        self.stream.is_stuck()
    }

    /// What is not marked for passing on.
    pub fn unmarked(&self) -> &[u8] {
        &self.input[self.ready..]
    }

    /// Marks the first `size` unmarked bytes, come or yet to come, for passing on.
    pub fn pass(&mut self, size: usize) {
        let here = size.min(self.input.len() - self.ready);
        self.ready += here;
        self.unread += size - here;
    }

    /// Drops the next `size` bytes that come: the rest of a message that was removed.
    pub fn ignore(&mut self, size: usize) {
        self.ignored += size;
    }

    /// Takes `size` bytes that follow the marked ones out of the input.
    pub fn remove(&mut self, size: usize) {
        if self.ready > 0 {
            self.input.copy_within(..self.ready, size);
        }
        self.input.advance(size);
    }

    /// Reads what there is, up to `limit` bytes held; the number of bytes read, 0 at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        debug_assert!(self.input.len() < limit, "asked to read into a full buffer");
        if self.is_stuck() {
            // Whoever waits for this peer waits for that too. Reading will tell what is wrong.
            let _ = self.stream.poll_settled(cx);
        }
        let room = limit - self.input.len();
        // Most messages are short, and an allocator has short pieces at hand.
        let more = room.min(self.next_read);
        // One that is emptied each time is never seen full, and has to grow all the same.
        let (is_empty, capacity) = (self.input.is_empty(), self.input.capacity());
        let is_too_small = if is_empty { capacity < more } else { capacity == self.input.len() };
        if is_too_small {
            // There is no room for what has not come.
            ready!(self.stream.poll_heard(cx))?;
            if is_empty {
                self.input = BytesMut::with_capacity(more);
            } else {
                self.input.reserve(more);
            }
        }
        let have = self.input.len();
        let mut buffer = (&mut self.input).limit(room);
        let count = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut buffer))?;
        if self.input.len() == self.input.capacity() {
            self.next_read = (4 * self.next_read).min(BUFFER_SIZE);
        }
        let ignored = count.min(self.ignored);
        if ignored > 0 {
            self.ignored -= ignored;
            self.input.copy_within(have + ignored.., have);
            self.input.truncate(have + count - ignored);
        }
        let passed = count.min(self.unread);
        self.unread -= passed;
        self.ready += passed;
        Poll::Ready(Ok(count))
    }

    /// Writes all of `output`, or posts it.
    pub fn poll_write_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.post_output(cx) { Poll::Ready(Ok(())) } else { self.poll_write_now(cx) }
    }

    fn post_output(&mut self, cx: &Context<'_>) -> bool {
        let Self { stream: Stream::Plain(socket), output, .. } = self else { return false };
        is_short(output.len()) && outbox::post(socket, cx.waker(), |empty| std::mem::replace(output, empty))
    }

    /// Posts `output`, and all that `from` has marked for this peer.
    fn post_from(&mut self, from: &mut Self, cx: &Context<'_>) -> bool {
        if from.ready == 0 {
            return self.post_output(cx);
        }
        let Self { stream: Stream::Plain(socket), output, .. } = self else { return false };
        let Self { input, ready, .. } = from;
        if !is_short(output.len() + *ready) {
            return false;
        }
        outbox::post(socket, cx.waker(), |empty| {
            let count = std::mem::take(ready);
            if output.is_empty() && count == input.len() && is_short(input.capacity()) {
                return std::mem::replace(input, empty);
            }
            let mut bytes = if output.is_empty() { empty } else { std::mem::replace(output, empty) };
            bytes.extend_from_slice(&input[..count]);
            take_off(input, count);
            bytes
        })
    }

    /// Writes all of `output`, and what was posted before.
    fn poll_write_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            ready!(self.stream.poll_settled(cx))?;
        }
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            take_off(&mut self.output, count);
            self.needs_flush = true;
        }
        self.poll_flush(cx)
    }

    /// Writes what there is of `output`; whether something has come of it. What a peer takes no more is dropped: it may
    /// still have something to say, and reading will tell.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_flushed() {
            return false;
        }
        match self.poll_write_output(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.drop_output();
                true
            }
            Poll::Pending => false,
        }
    }

    /// Drops what the peer has not taken, and will not take.
    pub fn drop_output(&mut self) {
        (self.output, self.needs_flush) = (BytesMut::new(), false);
    }

    /// Writes all that `from` has marked for this peer, after `output`, or posts it.
    pub fn poll_write_from(&mut self, from: &mut Self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.post_from(from, cx) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_now(cx))?;
        while from.ready > 0 {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &from.input[..from.ready]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            take_off(&mut from.input, count);
            from.ready -= count;
            self.needs_flush = true;
        }
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.needs_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until something came; false at the end of the stream.
    pub async fn fill(&mut self, limit: usize) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_fill(cx, limit)).await.map(|count| count > 0)
    }

    /// Sends all of `output`: the system has it then.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_write_now(cx)).await
    }

    /// Moves what is marked to the other side's output, so that something can follow it.
    pub fn hand_over(&mut self, to: &mut Self) {
        to.output.extend_from_slice(&self.input[..self.ready]);
        self.input.advance(self.ready);
        self.ready = 0;
    }

    /// Says goodbye to the transport; what cannot be sent is not.
    pub async fn close(mut self) {
        let _ = self.flush().await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
    }

    /// Gives back the memory of empty buffers that are larger than this, in bytes.
    pub fn shrink(&mut self, input: usize, output: usize) {
        self.next_read = FIRST_READ;
        for (buffer, limit) in [(&mut self.input, input), (&mut self.output, output)] {
            if buffer.is_empty() && buffer.capacity() > limit {
                *buffer = BytesMut::new();
            }
        }
    }
}

/// Whether so many bytes are something to be posted.
fn is_short(size: usize) -> bool {
    (1..=outbox::LONGEST).contains(&size)
}

/// Takes bytes off the start of a buffer. One that is empty begins at its start again: so it keeps its room.
fn take_off(buffer: &mut BytesMut, count: usize) {
    if count == buffer.len() {
        buffer.clear();
    } else {
        buffer.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_buffer_that_is_emptied_each_time_grows() {
        const SENT: usize = 64 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let sending = tokio::spawn(async move { sender.write_all(&[7; SENT]).await });
        let mut link = Link::new(Stream::Plain(stream.into()), BytesMut::new());
        let (mut come, mut largest) = (0, 0);
        while come < SENT {
            assert!(link.fill(BUFFER_SIZE).await.unwrap());
            come += link.input.len();
            largest = largest.max(link.input.len());
            // As it is when all of it was passed on.
            link.input.clear();
        }
        sending.await.unwrap().unwrap();
        assert!(largest > 4 * FIRST_READ, "{largest} bytes at once, at most");
    }
}

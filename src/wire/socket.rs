//! A TCP connection, and what of it the system has not taken yet.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::outbox;
use super::stream::registered_here;

/// A TCP connection that an [`outbox`] can hold on to as long as it has something to send on it: so its descriptor is not
/// closed, and given to another connection, before that.
#[derive(Debug)]
pub struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    /// What the system did not take from the outbox at once. It goes before anything else.
    unsent: Mutex<Option<Box<BytesMut>>>,
    /// Whether there is some of that: to be asked each time, without a lock.
    is_stuck: AtomicBool,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(Arc::new(Shared { stream, unsent: Mutex::default(), is_stuck: AtomicBool::new(false) }))
    }
}

impl Socket {
    /// The connection itself, for whatever does not write to it.
    pub fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    /// The connection itself, and nobody else's, once everything has been sent; `None` where that is not so.
    pub fn into_stream(self) -> Option<TcpStream> {
        self.send_posted();
        if self.is_stuck() {
            return None;
        }
        Arc::into_inner(self.0).map(|shared| shared.stream)
    }

    /// Has the caller's runtime tell of what comes, and not the one where it was opened.
    ///
    /// # Errors
    /// There are no more file descriptors, the system's poller refuses it, or something is still to be sent.
    pub fn register_here(&mut self) -> io::Result<()> {
        self.send_posted();
        if !self.is_settled() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *self = registered_here(&self.0.stream)?.into();
        Ok(())
    }

    /// Whether something of it is in an outbox.
    pub(super) fn is_posted(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The same one, for an outbox.
    pub(super) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Whether the system did not take all that was posted.
    pub fn is_stuck(&self) -> bool {
        self.0.is_stuck.load(Ordering::Acquire)
    }

    /// Whether the system has taken all that was posted.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_posted() && !self.is_stuck()
    }

    /// Has this thread's outbox send what of it is there.
    fn send_posted(&self) {
        if self.is_posted() {
            outbox::send_all();
        }
    }

    /// Ready when the system has taken all that was posted.
    pub fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_settled() { Poll::Ready(Ok(())) } else { self.poll_alone(cx).map_ok(|_| ()) }
    }

    /// The connection, when what was posted is sent.
    fn poll_alone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TcpStream>>> {
        self.send_posted();
        let Some(Shared { stream, unsent, is_stuck }) = Arc::get_mut(&mut self.0) else {
            // In another thread's outbox: not for longer than that one's turn takes.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let unsent = unsent.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(bytes) = unsent {
            let count = match ready!(Pin::new(&mut *stream).poll_write(cx, bytes)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                written => written,
            };
            match &count {
                Ok(count) => bytes.advance(*count),
                Err(_) => bytes.clear(),
            }
            if bytes.is_empty() {
                *unsent = None;
                *is_stuck.get_mut() = false;
            }
            count?;
        }
        Poll::Ready(Ok(Pin::new(stream)))
    }

    /// Keeps what the system has not taken.
    pub(super) fn keep(&self, unsent: BytesMut) {
        *self.0.unsent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(unsent));
        self.0.is_stuck.store(true, Ordering::Release);
    }

    /// Ends it, in both directions; what has come already can be read.
    pub(super) fn shut(&self) {
        // It may have ended already.
        let _ = SockRef::from(self.stream()).shutdown(Shutdown::Both);
    }

    /// Writes what the system takes of them at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stream.try_write(bytes)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.stream.as_raw_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &mut self.get_mut().0;
        // Asked in this way first, a socket that fills less than the buffer is not asked once more.
        if let Some(shared) = Arc::get_mut(shared) {
            return Pin::new(&mut shared.stream).poll_read(cx, buf);
        }
        loop {
            ready!(shared.stream.poll_read_ready(cx))?;
            match shared.stream.try_read(buf.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_alone(cx))?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_settled(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_alone(cx))?.poll_shutdown(cx)
    }
}

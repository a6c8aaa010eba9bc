//! A connection's transport: TCP, or TLS over it.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::Socket;

/// Bytes to and from one peer.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Socket),
    /// With TLS, on either side of it.
    Tls(Box<TlsStream<TcpStream>>),
    /// Nobody: says nothing, and takes everything.
    Nobody,
}

impl Stream {
    /// Ready where something may have come; always, but over plain TCP.
    pub fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.stream().poll_read_ready(cx),
            Self::Tls(_) | Self::Nobody => Poll::Ready(Ok(())),
        }
    }

    /// Whether something may have come that was not read yet. Nobody is woken by it.
    pub fn may_have_heard(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.stream().try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Tls(_) => true,
            Self::Nobody => false,
        }
    }

    /// Whether nothing has come that was not read yet, not even the end. Asks the system: for when a runtime cannot know yet.
    pub fn is_silent(&self) -> bool {
        let stream = match self {
            Self::Plain(socket) => socket.stream(),
            Self::Tls(stream) => stream.get_ref().0,
            Self::Nobody => return true,
        };
        let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Has the caller's runtime tell of what comes, and not the one where it was opened: it may belong to another thread,
    /// which would be woken for it each time.
    ///
    /// # Errors
    /// There are no more file descriptors, the system's poller refuses it, or something is still to be sent.
    pub fn register_here(&mut self) -> io::Result<()> {
        let stream = match self {
            Self::Plain(socket) => return socket.register_here(),
            Self::Tls(stream) => stream.get_mut().0,
            Self::Nobody => return Ok(()),
        };
        // In place, since TLS is wrapped around it.
        *stream = registered_here(stream)?;
        Ok(())
    }

    /// Whether the system did not take all that was posted.
    pub fn is_stuck(&self) -> bool {
        matches!(self, Self::Plain(socket) if socket.is_stuck())
    }

    /// Ready when the system has taken all that was posted.
    pub fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_settled(cx),
            Self::Tls(_) | Self::Nobody => Poll::Ready(Ok(())),
        }
    }

    /// Where the peer is, while it is there.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.stream().peer_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Self::Nobody => None,
        }
    }
}

/// The same connection, of which the caller's runtime tells.
pub(super) fn registered_here(stream: &TcpStream) -> io::Result<TcpStream> {
    let same: std::net::TcpStream = stream.as_fd().try_clone_to_owned()?.into();
    TcpStream::from_std(same)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Nobody => Poll::Pending,
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Nobody => Poll::Ready(Ok(buf.len())),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Nobody => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Nobody => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

//! TLS for the control plane's driver, `tokio-postgres`.
//!
//! Its traits over rustls, and nothing more; the published adapter would bring a second reader of certificates along.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use super::outbound::end_point_hash;
use super::{Outbound, SslMode};

/// Encrypts the driver's connections as `Outbound` says.
#[derive(Debug, Clone)]
pub struct DriverTls(pub Arc<Outbound>);

impl DriverTls {
    /// The driver's word for the mode. What `verify-ca` and `verify-full` ask for beyond `require` is in the handshake.
    pub fn mode(&self) -> tokio_postgres::config::SslMode {
        match self.0.mode() {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// The handshake failed, and not anything before or after it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HandshakeError(io::Error);

/// One connection to be encrypted.
pub struct Handshake {
    tls: Arc<Outbound>,
    host: String,
}

/// A connection of the driver, encrypted.
pub struct DriverStream<S>(tokio_rustls::client::TlsStream<S>);

impl<S> MakeTlsConnect<S> for DriverTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = DriverStream<S>;
    type TlsConnect = Handshake;
    type Error = HandshakeError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, HandshakeError> {
        Ok(Handshake { tls: Arc::clone(&self.0), host: host.to_owned() })
    }
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = DriverStream<S>;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<DriverStream<S>, HandshakeError>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.tls.encrypt(&self.host, stream).await.map(DriverStream).map_err(HandshakeError) })
    }
}

impl<S> TlsStream for DriverStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn channel_binding(&self) -> ChannelBinding {
        end_point_hash(self.0.get_ref().1).map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for DriverStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DriverStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

//! From an address to a transport: TCP, and TLS over it as the shard's `sslmode` says.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls::{Outbound, SslMode};
use crate::topology::Node;
use crate::wire::Stream;
use crate::wire::startup::SSL_REQUEST;

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// No connection.
    #[error(transparent)]
    Unreachable(#[from] io::Error),
    /// There is one, but not as `sslmode` wants it.
    #[error("{0}")]
    Tls(String),
}

/// Connects to a node, encrypted as `tls` says. With `prefer`, a server without TLS, and one with which the handshake
/// fails, are spoken to in plain text, as libpq does.
pub(super) async fn open(node: &Node, tls: &Outbound) -> Result<Stream, TransportError> {
    match tls.mode() {
        SslMode::Disable => open_plain(node).await,
        SslMode::Prefer => match encrypt(node, tls).await {
            Err(TransportError::Tls(problem)) => {
                tracing::debug!(node = %node.name, %problem, "no TLS; going on without (sslmode = \"prefer\")");
                open_plain(node).await
            }
            other => other,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => encrypt(node, tls).await,
    }
}

/// Without TLS.
pub(super) async fn open_plain(node: &Node) -> Result<Stream, TransportError> {
    Ok(Stream::Plain(connect(node).await?.into()))
}

async fn encrypt(node: &Node, tls: &Outbound) -> Result<Stream, TransportError> {
    let mut stream = connect(node).await?;
    stream.write_all(&SSL_REQUEST).await?;
    // One byte and no more is taken before the handshake: what an attacker sends along with it becomes part of the
    // handshake, which fails, and not of what is said under TLS (CVE-2021-23222).
    match stream.read_u8().await? {
        b'S' => {
            let encrypted =
                tls.encrypt(&node.host, stream).await.map_err(|error| TransportError::Tls(failed(&error)))?;
            Ok(Stream::Tls(Box::new(encrypted.into())))
        }
        b'N' if tls.mode() == SslMode::Prefer => Ok(Stream::Plain(stream.into())),
        b'N' => Err(TransportError::Tls("the server does not support SSL, but SSL was required (sslmode)".to_owned())),
        // An error message at this point may be anybody's (CVE-2024-10977): it is not shown.
        _ => Err(TransportError::Tls("the server does not answer the request for SSL as PostgreSQL does".to_owned())),
    }
}

fn failed(error: &io::Error) -> String {
    format!("TLS handshake failed: {error}")
}

async fn connect(node: &Node) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
    stream.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

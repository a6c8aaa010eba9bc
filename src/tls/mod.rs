//! TLS with rustls: to clients ([`Inbound`]), to servers ([`Outbound`]), and the files that both are made from.
//!
//! What is loaded here is immutable; a reload loads anew, and whoever holds the old one keeps it. Sessions are never
//! resumed, as PostgreSQL resumes none: every handshake proves again who is there, by the files that hold now.
//! No error and no `Debug` output from here shows any part of a key.

mod certificate;
mod driver;
mod files;
mod inbound;
mod outbound;
mod verify;

pub use driver::{DriverTls, HandshakeError};
pub use files::{FileError, Part};
pub use inbound::{ClientCertificate, EndPoint, Inbound};
pub use outbound::{Outbound, SslMode, end_point_hash};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What PostgreSQL's protocol is called in ALPN.
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
pub const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

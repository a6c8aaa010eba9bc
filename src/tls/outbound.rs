//! How servers are spoken to: libpq's `sslmode` and its files.
//!
//! <https://www.postgresql.org/docs/current/libpq-ssl.html>

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{FileError, Part, Reader, both};
use super::verify::{Authorities, Belief, Verifier};
use super::{ALPN, certificate, provider};

/// libpq's `sslmode`. `allow` is left out: it would encrypt only where a server insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS where the server has it; nothing is verified.
    Prefer,
    /// Nothing without TLS. With `sslrootcert` the certificate is verified as in `verify-ca`, as in libpq.
    Require,
    /// And the certificate is signed by one of `sslrootcert`.
    VerifyCa,
    /// And it is made out to the host that was asked for.
    VerifyFull,
}

impl SslMode {
    /// Whether `sslrootcert`, `sslcert` and `sslkey` are used.
    pub fn reads_files(self) -> bool {
        self >= Self::Require
    }
}

/// The client's side of TLS towards a shard's servers. Equal to another one when the mode is the same, and the files
/// held the same.
pub struct Outbound {
    mode: SslMode,
    connector: Option<TlsConnector>,
    digest: u64,
}

impl Outbound {
    /// Reads what the mode needs: no file with `disable` and `prefer`, and `sslrootcert` at least with `verify-ca`
    /// and `verify-full`; without it nobody would be believed there.
    ///
    /// # Errors
    /// A file is not what it should be, or the key is another certificate's.
    pub fn load(
        mode: SslMode,
        root_cert: Option<&Path>,
        identity: Option<(&PathBuf, &PathBuf)>,
    ) -> Result<Self, Vec<FileError>> {
        if mode == SslMode::Disable {
            return Ok(Self::disabled());
        }
        let mut reader = Reader::new();
        let identity =
            identity.filter(|_| mode.reads_files()).map(|(cert, key)| reader.identity(cert, key)).transpose();
        let authorities = match root_cert.filter(|_| mode.reads_files()) {
            Some(path) => {
                reader.authorities(path).map(|(roots, certificates)| Some(Authorities { roots, certificates }))
            }
            None if mode >= SslMode::VerifyCa => Ok(Some(Authorities::nobody())),
            None => Ok(None),
        };
        let (identity, authorities) = both(identity, authorities)?;
        let belief = match authorities {
            None => Belief::Anybody,
            Some(authorities) if mode == SslMode::VerifyFull => Belief::SignedFor(authorities),
            Some(authorities) => Belief::Signed(authorities),
        };
        let verifier = Verifier { belief, provider: provider() };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                let path = root_cert.unwrap_or(Path::new("")).to_owned();
                let problem = format!("cannot be used: {error}");
                vec![FileError { part: Part::Authorities, path, problem, expected: "what rustls can use" }]
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { mode, connector: Some(TlsConnector::from(Arc::new(config))), digest: reader.digest() })
    }

    /// Never TLS.
    pub fn disabled() -> Self {
        Self { mode: SslMode::Disable, connector: None, digest: 0 }
    }

    /// `sslmode`
    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// Does the client's part of a handshake with the server that was reached under the name `host`.
    ///
    /// # Errors
    /// The server's certificate is not believed, or the handshake fails otherwise.
    pub async fn encrypt<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(connector) = &self.connector else {
            return Err(io::Error::other("TLS is not to be used (sslmode = \"disable\")"));
        };
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.mode == SslMode::VerifyFull => {
                return Err(io::Error::other(format!("no certificate can be made out to the host name \"{host}\"")));
            }
            // Not looked at, and no name is told to the server.
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()),
        };
        connector.connect(name, stream).await
    }
}

/// The hash that a SCRAM exchange with the server at the other end can be bound to (`tls-server-end-point`).
pub fn end_point_hash(connection: &rustls::CommonState) -> Option<Vec<u8>> {
    certificate::end_point_hash(connection.peer_certificates()?.first()?)
}

impl PartialEq for Outbound {
    fn eq(&self, other: &Self) -> bool {
        (self.mode, self.digest) == (other.mode, other.digest)
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("mode", &self.mode).finish_non_exhaustive()
    }
}

//! What clients are offered, and what they have shown.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use pgwire::api::auth::sasl::scram::ScramServerAuth;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsAcceptor;

use super::files::{FileError, Part, Reader, both};
use super::{ALPN, certificate, provider};

/// The server's side of TLS, as `listen.cert`, `listen.key` and `listen.client_ca` make it. Equal to another one
/// when the files held the same.
pub struct Inbound {
    acceptor: TlsAcceptor,
    end_point: Option<EndPoint>,
    digest: u64,
}

/// What a SCRAM exchange is bound to: this server's certificate.
#[derive(Clone)]
pub struct EndPoint {
    /// The hash of `tls-server-end-point` (RFC 5929).
    pub hash: Vec<u8>,
    /// An exchange that knows it.
    pub scram: ScramServerAuth,
}

/// A certificate that a client has shown, and that one of the authorities has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's first `CN`.
    pub common_name: Option<String>,
}

impl ClientCertificate {
    /// Of one that the handshake has verified.
    pub fn read(verified: &CertificateDer<'_>) -> Self {
        Self { common_name: certificate::common_name(verified) }
    }
}

impl Inbound {
    /// Reads the files. With `client_ca`, clients are asked for a certificate; one that does not hold ends the
    /// handshake, and whether one is needed is not decided here.
    ///
    /// # Errors
    /// A file is not what it should be, or the key is another certificate's.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, Vec<FileError>> {
        let mut reader = Reader::new();
        let identity = reader.identity(cert, key);
        let roots = client_ca.map(|path| reader.authorities(path)).transpose();
        let (identity, roots) = both(identity, roots)?;
        let wrong = |part, path: &Path, problem: String| {
            vec![FileError { part, path: path.to_owned(), problem, expected: "what rustls can use" }]
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(Part::Certificate, cert, format!("cannot be used: {error}")))?;
        let builder = match roots.zip(client_ca) {
            None => builder.with_no_client_auth(),
            Some(((roots, _), path)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    // A client without one is told why it is refused, in PostgreSQL's words.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| wrong(Part::Authorities, path, format!("cannot be used: {error}")))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let end_point = identity.cert.first().and_then(EndPoint::of);
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let digest = reader.digest();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), end_point, digest })
    }

    /// For handshakes.
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// For channel binding; `None` where the certificate's signature has no hash that is known for it.
    pub fn end_point(&self) -> Option<&EndPoint> {
        self.end_point.as_ref()
    }
}

impl EndPoint {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let hash = certificate::end_point_hash(certificate)?;
        let mut scram = ScramServerAuth::new();
        scram.configure_certificate(certificate::to_pem(certificate)?.as_bytes()).ok()?;
        Some(Self { hash, scram })
    }
}

impl PartialEq for Inbound {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

impl fmt::Debug for EndPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndPoint").finish_non_exhaustive()
    }
}

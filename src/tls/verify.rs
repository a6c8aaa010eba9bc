//! Which certificates of servers are believed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, crypto::verify_tls12_signature,
    crypto::verify_tls13_signature,
};

use super::certificate;
use super::files::Certificates;

/// What a server's certificate has to be.
#[derive(Debug)]
pub(super) enum Belief {
    /// Anything: encryption against those who only listen (`prefer`, `require`).
    Anybody,
    /// Signed by one of these (`verify-ca`).
    Signed(Authorities),
    /// And made out to the host that was asked for (`verify-full`).
    SignedFor(Authorities),
}

/// `sslrootcert`.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) certificates: Certificates,
}

impl Authorities {
    /// Nobody is believed.
    pub(super) fn nobody() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), certificates: Vec::new() }
    }
}

/// Checks a server's certificate as its `sslmode` says. That the server has the certificate's key is always checked.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) belief: Belief,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn signed(
        &self,
        authorities: &Authorities,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verdict =
            verify_server_cert_signed_by_trust_anchor(&parsed, &authorities.roots, intermediates, now, algorithms);
        match verdict {
            // `openssl req -x509` makes certificates that may sign others, and servers use them as their own. Listed
            // in `sslrootcert` itself, it is believed, as OpenSSL believes it.
            Err(_) if authorities.certificates.iter().any(|listed| listed == end_entity) => {
                let is_current = certificate::is_current(end_entity);
                is_current.then_some(()).ok_or(Error::InvalidCertificate(CertificateError::Expired))
            }
            verdict => verdict,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.belief {
            Belief::Anybody => {}
            Belief::Signed(authorities) => self.signed(authorities, end_entity, intermediates, now)?,
            Belief::SignedFor(authorities) => {
                self.signed(authorities, end_entity, intermediates, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! TLS towards clients, with rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::{Listen, TlsMode};

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{path}: {error}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: PemError,
    },
    /// The certificate and the key do not make a server.
    #[error("listen.cert and listen.key: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What clients are offered; `None` for nothing.
///
/// # Errors
/// The files of `listen.cert` and `listen.key` are not what they should be.
pub fn acceptor(listen: &Listen) -> Result<Option<TlsAcceptor>, TlsError> {
    let (Some(cert), Some(key)) = (&listen.cert, &listen.key) else { return Ok(None) };
    if listen.tls == TlsMode::Off {
        return Ok(None);
    }
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |error| TlsError::Pem { path, error }
    };
    let chain =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(pem(cert))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

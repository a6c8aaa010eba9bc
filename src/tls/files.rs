//! PEM files: certificate chains, keys, and authorities.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, RootCertStore};

use super::{certificate, provider};

/// No file of certificates is longer, in bytes: a system's whole bundle has a quarter of that.
const LONGEST: u64 = 1024 * 1024;

/// Which of the files is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Our certificate, with its chain.
    Certificate,
    /// Our private key.
    Key,
    /// Whom we believe.
    Authorities,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("the file {path:?} {problem}")]
pub struct FileError {
    /// Which one.
    pub part: Part,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it; follows the file's name in a sentence.
    pub problem: String,
    /// What would be right.
    pub expected: &'static str,
}

/// Reads files, and remembers what they held, so that two loads can be told apart.
pub(super) struct Reader {
    digest: DefaultHasher,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { digest: DefaultHasher::new() }
    }

    /// Of all that was read.
    pub(super) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Our certificate and the key that belongs to it, or what is wrong with each.
    pub(super) fn identity(&mut self, certificate: &Path, key: &Path) -> Result<CertifiedKey, Vec<FileError>> {
        let (chain, private) = match (self.certificates(Part::Certificate, certificate), self.key(key)) {
            (Ok(chain), Ok(private)) => (chain, private),
            (chain, private) => return Err(chain.err().into_iter().chain(private.err()).collect()),
        };
        let identity = CertifiedKey::new(chain, private);
        let wrong = match identity.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => FileError {
                part: Part::Key,
                path: key.to_owned(),
                problem: format!("does not hold the private key of the certificate in {certificate:?}"),
                expected: "the key that this certificate was made for",
            },
            Err(error) => FileError {
                part: Part::Certificate,
                path: certificate.to_owned(),
                problem: format!("holds a certificate that cannot be used: {error}"),
                expected: "an X.509 certificate of version 3",
            },
        };
        Err(vec![wrong])
    }

    fn key(&mut self, path: &Path) -> Result<Arc<dyn SigningKey>, FileError> {
        let wrong = |problem, expected| FileError { part: Part::Key, path: path.to_owned(), problem, expected };
        let form = "an unencrypted private key in PEM form";
        let private = PrivateKeyDer::from_pem_slice(&self.read(Part::Key, path, form)?)
            .map_err(|error| wrong(pem_problem(&error, "private key"), form))?;
        provider().key_provider.load_private_key(private).map_err(|_| {
            wrong(
                "holds a private key that cannot be used".to_owned(),
                "an RSA key of 2048 bits or more, an ECDSA key on P-256 or P-384, or Ed25519",
            )
        })
    }

    /// Those whose signatures are believed.
    pub(super) fn authorities(&mut self, path: &Path) -> Result<(Arc<RootCertStore>, Certificates), FileError> {
        let certificates = self.certificates(Part::Authorities, path)?;
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| FileError {
                part: Part::Authorities,
                path: path.to_owned(),
                problem: format!("holds a certificate (number {}) that cannot be used: {error}", index + 1),
                expected: "certificates of authorities, X.509 version 3, in PEM form",
            })?;
        }
        Ok((Arc::new(roots), certificates))
    }

    fn certificates(&mut self, part: Part, path: &Path) -> Result<Certificates, FileError> {
        let expected = "one or more certificates in PEM form";
        let wrong = |problem: String| FileError { part, path: path.to_owned(), problem, expected };
        let content = self.read(part, path, expected)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let found = found.map_err(|error| wrong(pem_problem(&error, "certificate")))?;
        if found.is_empty() {
            return Err(wrong(pem_problem(&PemError::NoItemsFound, "certificate")));
        }
        for (index, der) in found.iter().enumerate() {
            if !certificate::is_readable(der) {
                return Err(wrong(format!("holds something (number {}) that is no X.509 certificate", index + 1)));
            }
        }
        Ok(found)
    }

    fn read(&mut self, part: Part, path: &Path, expected: &'static str) -> Result<Vec<u8>, FileError> {
        let wrong = |problem: String| FileError { part, path: path.to_owned(), problem, expected };
        let mut content = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut content));
        read.map_err(|error| wrong(format!("cannot be read: {}", reason(&error))))?;
        if content.len() as u64 > LONGEST {
            return Err(wrong(format!("is longer than {LONGEST} bytes")));
        }
        self.digest.write(&content);
        self.digest.write_u8(0xff);
        Ok(content)
    }
}

/// Both, or all that is wrong with either.
pub(super) fn both<A, B>(
    identity: Result<A, Vec<FileError>>,
    authorities: Result<B, FileError>,
) -> Result<(A, B), Vec<FileError>> {
    match (identity, authorities) {
        (Ok(identity), Ok(authorities)) => Ok((identity, authorities)),
        (identity, authorities) => {
            let mut errors = identity.err().unwrap_or_default();
            errors.extend(authorities.err());
            Err(errors)
        }
    }
}

/// Certificates in the order of their file.
pub(super) type Certificates = Vec<CertificateDer<'static>>;

fn pem_problem(error: &PemError, what: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("holds no {what} in PEM form"),
        _ => "is no PEM file, or is cut off".to_owned(),
    }
}

/// An I/O error as a person says it, without the number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

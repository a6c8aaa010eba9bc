//! Authorities and certificates, made anew for each test.

use std::path::{Path, PathBuf};

use pgsluice::demo::ServerCertificate;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

/// One that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, as PEM.
pub struct Signed {
    pub cert: String,
    pub key: String,
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For this common name and these host names and addresses.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> Signed {
        self.finish(params(name, hosts), KeyPair::generate().expect("a key"))
    }

    /// One whose signature has no hash of its own.
    pub fn sign_ed25519(&self, name: &str, hosts: &[&str]) -> Signed {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        // The signature that counts is the issuer's: this one signs itself.
        let cert = params(name, hosts).self_signed(&key).expect("a certificate").pem();
        Signed { cert, key: key.serialize_pem() }
    }

    /// One that held until the end of 2020.
    pub fn sign_expired(&self, name: &str, hosts: &[&str]) -> Signed {
        let mut params = params(name, hosts);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 12, 31);
        self.finish(params, KeyPair::generate().expect("a key"))
    }

    fn finish(&self, params: CertificateParams, key: KeyPair) -> Signed {
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Signed { cert, key: key.serialize_pem() }
    }
}

impl Signed {
    /// As `NAME.crt` and `NAME.key`; the paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        write(&cert, &self.cert);
        write(&key, &self.key);
        (cert, key)
    }

    /// For a cluster.
    pub fn for_servers(&self, client_ca: Option<&Authority>) -> ServerCertificate {
        let client_ca = client_ca.map(|authority| authority.pem.clone());
        ServerCertificate { cert: self.cert.clone(), key: self.key.clone(), client_ca }
    }
}

/// Replaces a file at once, readable for its owner alone.
pub fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    std::fs::rename(&new, path).expect("replaced");
}

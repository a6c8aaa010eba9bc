//! The few things that have to be known of a certificate beyond what rustls checks.
//!
//! Read with `x509-certificate`, which pgwire brings along anyway.

use std::time::SystemTime;

use ring::digest;
use x509_certificate::{CapturedX509Certificate, X509Certificate};

/// OIDs of signature algorithms by the hash in them.
/// RFC 3279, section 2.2; RFC 4055, section 5; RFC 5758, section 3.2
const SIGNATURES: [(&str, &digest::Algorithm); 9] = [
    // RFC 5929, section 4.1: where it is MD5 or SHA-1, SHA-256 takes its place.
    ("1.2.840.113549.1.1.4", &digest::SHA256),
    ("1.2.840.113549.1.1.5", &digest::SHA256),
    ("1.2.840.10045.4.1", &digest::SHA256),
    ("1.2.840.113549.1.1.11", &digest::SHA256),
    ("1.2.840.113549.1.1.12", &digest::SHA384),
    ("1.2.840.113549.1.1.13", &digest::SHA512),
    ("1.2.840.10045.4.3.2", &digest::SHA256),
    ("1.2.840.10045.4.3.3", &digest::SHA384),
    ("1.2.840.10045.4.3.4", &digest::SHA512),
];

/// Whether it is one at all.
pub(super) fn is_readable(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok()
}

/// `tls-server-end-point`: the certificate's hash, by the algorithm of its signature (RFC 5929, section 4.1). `None`
/// where that has none of its own, as Ed25519; RSA-PSS, which keeps it among its parameters, is not supported.
pub(super) fn end_point_hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = X509Certificate::from_der(der).ok()?;
    let oid = certificate.signature_algorithm_oid().to_string();
    let (_, algorithm) = SIGNATURES.iter().find(|(known, _)| *known == oid)?;
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

/// The first `CN` of the subject. `None` where there is none, or where it holds a zero byte, with which a name
/// could be made to look like another one (CVE-2009-4034).
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let name = X509Certificate::from_der(der).ok()?.subject_common_name()?;
    (!name.contains('\0')).then_some(name)
}

/// In PEM form, byte for byte what it is: another encoding of the same would have another hash.
pub(super) fn to_pem(der: &[u8]) -> Option<String> {
    CapturedX509Certificate::from_der(der.to_vec()).ok().map(|certificate| certificate.encode_pem())
}

/// Whether it holds now, by its own dates.
pub(super) fn is_current(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|certificate| certificate.time_constraints_valid(Some(SystemTime::now().into())))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SignatureAlgorithm};

    use super::*;

    fn made(algorithm: &'static SignatureAlgorithm, name: Option<&str>) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let mut params = CertificateParams::new(vec!["db.example".to_owned()]).expect("params");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_hash_is_the_signatures() {
        let cases = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&digest::SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&digest::SHA384)),
            (&rcgen::PKCS_ED25519, None),
        ];
        for (algorithm, expected) in cases {
            let der = made(algorithm, Some("x"));
            let hash = expected.map(|algorithm| digest::digest(algorithm, &der).as_ref().to_vec());
            assert_eq!(end_point_hash(&der), hash, "{algorithm:?}");
        }
        assert_eq!(end_point_hash(b"garbage"), None);
    }

    #[test]
    fn pem_keeps_every_byte() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let der = made(&rcgen::PKCS_ECDSA_P256_SHA256, Some("x"));
        let pem = to_pem(&der).expect("PEM");
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate").as_ref(), der);
    }

    #[test]
    fn names_are_read() {
        let name = |name| common_name(&made(&rcgen::PKCS_ECDSA_P256_SHA256, name));
        assert_eq!(name(Some("app")).as_deref(), Some("app"));
        assert_eq!(name(Some("ünï")).as_deref(), Some("ünï"));
        assert_eq!(name(Some("app\0.example")), None);
        assert_eq!(name(None), None);
        assert_eq!(common_name(b"\x30\x80\x30"), None);
    }
}

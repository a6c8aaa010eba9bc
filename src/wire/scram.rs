//! SCRAM-SHA-256 with keys in place of a password.
//!
//! Whoever holds a verifier and sees a client prove itself against it can work out the client's key,
//! and with the key log in wherever the same verifier is: that is how no password needs to be stored.
//! A key is as good as the password for as long as the verifier stays, so it lives in memory only, and
//! nothing here shows it. No I/O.
//!
//! RFC 5802 (the exchange), RFC 7677 (with SHA-256), `src/common/scram-common.c` of PostgreSQL.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;
use ring::{digest, hmac};

/// Bytes of a key, and of a hash.
const KEY_BYTES: usize = 32;

type Key = [u8; KEY_BYTES];

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`: enough to
/// check a client with, and not enough to log in with.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of the hash.
    pub iterations: u32,
    /// What the password was hashed with.
    pub salt: Box<[u8]>,
    /// `H(ClientKey)`
    pub stored_key: Key,
    /// What the server proves itself with.
    pub server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Verifier {
    /// Reads one (`parse_scram_secret` in `src/backend/libpq/auth-scram.c`); `None` where it is none.
    pub fn read(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt: STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?.into(),
            stored_key: key(&STANDARD.decode(stored_key).ok()?)?,
            server_key: key(&STANDARD.decode(server_key).ok()?)?,
        })
    }
}

/// The secret of a client, and the verifier that it fits.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey {
    key: Key,
    verifier: Verifier,
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(…)")
    }
}

impl ClientKey {
    /// From an exchange that the verifier's holder has had with the client: the client's first message,
    /// the answer to it, and the client's last message. `None` where the client has not proved anything.
    pub fn recover(verifier: &Verifier, first: &[u8], challenge: &[u8], last: &[u8]) -> Option<Self> {
        // gs2-header client-first-message-bare; the header ends with the second comma.
        let bare = first.splitn(3, |byte| *byte == b',').nth(2)?;
        let proof_at = last.windows(3).rposition(|window| window == b",p=")?;
        let (without_proof, proof) = (&last[..proof_at], &last[proof_at + 3..]);
        let proof = key(&STANDARD.decode(proof).ok()?)?;
        let signed = [bare, challenge, without_proof].join(&b","[..]);
        let client_key = xor(proof, sign(&verifier.stored_key, &signed));
        (hash(&client_key) == verifier.stored_key).then(|| Self { key: client_key, verifier: verifier.clone() })
    }
}

/// Why an exchange with a server has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// What the server says is not SCRAM.
    #[error("it does not follow the SCRAM exchange")]
    Malformed,
    /// The server's verifier is another one than the client was checked against.
    #[error("it has another verifier")]
    OtherVerifier,
    /// The server does not know the password either: it may be anybody.
    #[error("it cannot prove that it knows the password")]
    Unproved,
}

/// A login with a client's key, as seen from the client.
pub struct KeyExchange<'a> {
    key: &'a ClientKey,
    binding: Binding,
    first_bare: String,
    nonce: String,
    signature: Option<Key>,
}

/// What an exchange says of channel binding, and to what it is bound (RFC 5802, section 6).
#[derive(Debug, Clone)]
pub enum Binding {
    /// We cannot: `n,,`.
    Unsupported,
    /// We could, and the server does not seem to: `y,,`.
    Unrequested,
    /// To the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::Unrequested => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// `c=`
    fn attribute(&self) -> String {
        let hash: &[u8] = if let Self::EndPoint(hash) = self { hash } else { &[] };
        STANDARD.encode([self.header().as_bytes(), hash].concat())
    }
}

impl<'a> KeyExchange<'a> {
    /// An exchange with a new nonce.
    pub fn new(key: &'a ClientKey, binding: Binding) -> Self {
        let mut nonce = [0; 18];
        rand::rng().fill_bytes(&mut nonce);
        // PostgreSQL goes by the startup packet's name, and libpq sends none here.
        Self::begin(key, "", STANDARD.encode(nonce), binding)
    }

    fn begin(key: &'a ClientKey, name: &str, nonce: String, binding: Binding) -> Self {
        Self { key, binding, first_bare: format!("n={name},r={nonce}"), nonce, signature: None }
    }

    /// The first message to the server.
    pub fn first(&self) -> String {
        format!("{}{}", self.binding.header(), self.first_bare)
    }

    /// The answer to the server's challenge.
    ///
    /// # Errors
    /// It is none, or for another verifier than the key's.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<String, ScramError> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| ScramError::Malformed)?;
        let mut parts = challenge.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Malformed);
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Malformed);
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed)?;
        let iterations: u32 = iterations.parse().map_err(|_| ScramError::Malformed)?;
        let ClientKey { key, verifier } = self.key;
        if *salt != *verifier.salt || iterations != verifier.iterations {
            return Err(ScramError::OtherVerifier);
        }
        let without_proof = format!("c={},r={nonce}", self.binding.attribute());
        let signed = format!("{},{challenge},{without_proof}", self.first_bare);
        self.signature = Some(sign(&verifier.server_key, signed.as_bytes()));
        let proof = xor(*key, sign(&verifier.stored_key, signed.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Checks the server's last message.
    ///
    /// # Errors
    /// It proves nothing.
    pub fn finish(&self, last: &[u8]) -> Result<(), ScramError> {
        let proof = last.strip_prefix(b"v=").and_then(|rest| rest.split(|byte| *byte == b',').next());
        let proof = proof.and_then(|proof| STANDARD.decode(proof).ok()).ok_or(ScramError::Malformed)?;
        (self.signature.is_some_and(|signature| signature == *proof)).then_some(()).ok_or(ScramError::Unproved)
    }
}

fn key(bytes: &[u8]) -> Option<Key> {
    bytes.try_into().ok()
}

fn hash(bytes: &[u8]) -> Key {
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn sign(key: &Key, text: &[u8]) -> Key {
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref());
    out
}

fn xor(mut left: Key, right: Key) -> Key {
    left.iter_mut().zip(right).for_each(|(left, right)| *left ^= right);
    left
}

#[cfg(test)]
mod tests {
    use pgwire::api::auth::sasl::scram::gen_salted_password;

    use super::*;

    // RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const OUTCOME: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn verifier_of(password: &str) -> Verifier {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let salted = key(&gen_salted_password(password, &salt, 4096)).unwrap();
        Verifier {
            iterations: 4096,
            salt: salt.into(),
            stored_key: hash(&sign(&salted, b"Client Key")),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    fn recover(verifier: &Verifier) -> Option<ClientKey> {
        ClientKey::recover(verifier, FIRST.as_bytes(), CHALLENGE.as_bytes(), LAST.as_bytes())
    }

    #[test]
    fn the_rfcs_exchange_gives_the_key_and_the_key_gives_the_exchange() {
        let key = recover(&verifier_of("pencil")).expect("the key");
        let mut exchange = KeyExchange::begin(&key, "user", NONCE.to_owned(), Binding::Unsupported);
        assert_eq!(exchange.first(), FIRST);
        assert_eq!(exchange.answer(CHALLENGE.as_bytes()).as_deref(), Ok(LAST));
        assert_eq!(exchange.finish(OUTCOME.as_bytes()), Ok(()));
        assert_eq!(exchange.finish(format!("{OUTCOME},ext=1").as_bytes()), Ok(()));
        assert_eq!(exchange.finish(b"v=AAAA"), Err(ScramError::Unproved));
        assert_eq!(exchange.finish(b"e=invalid-proof"), Err(ScramError::Malformed));
        assert_eq!(
            KeyExchange::new(&key, Binding::Unsupported).finish(OUTCOME.as_bytes()),
            Err(ScramError::Unproved),
            "nothing was asked"
        );
    }

    #[test]
    fn no_proof_gives_no_key() {
        assert_eq!(recover(&verifier_of("pencils")), None);
        let verifier = verifier_of("pencil");
        let parts = (FIRST.as_bytes(), CHALLENGE.as_bytes(), LAST.as_bytes());
        for (first, challenge, last) in [
            (&b"n,n=user"[..], parts.1, parts.2),
            (b"", parts.1, parts.2),
            (parts.0, b"r=other", parts.2),
            (parts.0, parts.1, b"c=biws,r=x"),
            (parts.0, parts.1, b"c=biws,r=x,p=AAAA"),
            (parts.0, parts.1, b"c=biws,r=x,p=!"),
            (parts.0, parts.1, b""),
        ] {
            assert_eq!(ClientKey::recover(&verifier, first, challenge, last), None);
        }
    }

    #[test]
    fn challenges_that_are_not_for_this_key_are_not_answered() {
        let key = recover(&verifier_of("pencil")).expect("the key");
        let nonce = format!("{NONCE}x");
        for (challenge, error) in [
            (format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gA==,i=4096"), ScramError::OtherVerifier),
            (format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4097"), ScramError::OtherVerifier),
            (format!("r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), ScramError::Malformed),
            ("r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_owned(), ScramError::Malformed),
            (format!("r={nonce},s=?,i=4096"), ScramError::Malformed),
            (format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=x"), ScramError::Malformed),
            (format!("r={nonce}"), ScramError::Malformed),
            (String::new(), ScramError::Malformed),
        ] {
            let mut exchange = KeyExchange::begin(&key, "", NONCE.to_owned(), Binding::Unsupported);
            assert_eq!(exchange.answer(challenge.as_bytes()), Err(error), "{challenge}");
        }
    }

    #[test]
    fn verifiers_are_read_as_postgresql_reads_them() {
        const KEYS: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let good = Verifier::read(&format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${KEYS}")).expect("good");
        assert_eq!((good.iterations, good.salt.len(), good.stored_key[31]), (4096, 16, 31));
        for bad in [
            format!("SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==${KEYS}"),
            format!("SCRAM-SHA-256$4096:${KEYS}"),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA".to_owned(),
            "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
            String::new(),
        ] {
            assert_eq!(Verifier::read(&bad), None, "{bad}");
        }
        assert!(!format!("{good:?} {:?}", recover(&verifier_of("pencil"))).contains(char::is_numeric));
    }
}

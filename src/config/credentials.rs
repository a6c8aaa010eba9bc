//! Passwords: given in the file, by an environment variable or by a file of their own, and verifiers.
//!
//! No complaint from here shows any part of a secret. The name after `env:` and the path after `file:`
//! are shown, since they are no secrets.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::error::{Complaint, quoted};
use super::schema::Password;
use super::secret::Secret;
use super::values::text;

const PASSWORD_FORM: &str = "a password, \"env:NAME\" or \"file:PATH\"";
const VERIFIER_PREFIX: &str = "SCRAM-SHA-256$";
const VERIFIER_FORM: &str =
    "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, exactly as in pg_authid.rolpassword";
/// No password is longer; a path that leads to an endless file must not fill the memory.
const LONGEST_SECRET_FILE: u64 = 64 * 1024;

/// What a config may refer to outside of itself.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Relative paths start here: the config file's directory.
    pub(super) base: &'a Path,
    /// Environment variables.
    pub(super) variable: &'a dyn Fn(&str) -> Option<std::ffi::OsString>,
}

impl Surroundings<'_> {
    /// A path as the config means it.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// A path that must be there, in quotes in the file.
    pub(super) fn path(&self, value: &DeValue<'_>) -> Result<PathBuf, Complaint> {
        match text(value, "a path in quotes")? {
            "" => Err(Complaint::new("is empty").expected("a path")),
            path => Ok(self.resolve(path)),
        }
    }

    /// What clients are checked against.
    pub(super) fn password(&self, value: &DeValue<'_>) -> Result<Password, Complaint> {
        let secret = self.secret_text(value)?;
        if secret.starts_with(VERIFIER_PREFIX) {
            check_verifier(&secret)?;
            return Ok(Password::Verifier(Secret::new(secret)));
        }
        if is_md5_hash(&secret) {
            return Err(Complaint::new("is an md5 hash, against which SCRAM-SHA-256 cannot check anybody").expected(
                "the password itself, or a verifier: set the password again in PostgreSQL with \
                           password_encryption = 'scram-sha-256' and copy pg_authid.rolpassword",
            ));
        }
        Ok(Password::Plain(Secret::new(secret)))
    }

    /// What a server is sent: a verifier would be of no use there.
    pub(super) fn login_password(&self, value: &DeValue<'_>) -> Result<Secret, Complaint> {
        let secret = self.secret_text(value)?;
        if secret.starts_with(VERIFIER_PREFIX) || is_md5_hash(&secret) {
            let problem = "is a verifier, with which nobody can log in to a server";
            return Err(Complaint::new(problem).expected("the password itself, \"env:NAME\" or \"file:PATH\""));
        }
        Ok(Secret::new(secret))
    }

    fn secret_text(&self, value: &DeValue<'_>) -> Result<String, Complaint> {
        let given = text(value, PASSWORD_FORM)?;
        let (secret, subject) = if let Some(name) = given.strip_prefix("env:") {
            (self.environment_secret(name)?, format!("the environment variable {name} "))
        } else if let Some(path) = given.strip_prefix("file:") {
            (self.file_secret(path)?, format!("the file {} ", quoted(path)))
        } else {
            (given.to_owned(), String::new())
        };
        if secret.is_empty() {
            return Err(Complaint::new(format!("{subject}is empty")).expected("a password"));
        }
        if secret.contains('\0') {
            return Err(Complaint::new(format!("{subject}holds a zero byte")).expected("a password"));
        }
        Ok(secret)
    }

    fn environment_secret(&self, name: &str) -> Result<String, Complaint> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(word) || name.starts_with(|first: char| first.is_ascii_digit()) {
            // Not shown: it may be a password that happens to begin like this.
            return Err(Complaint::new("what follows `env:` is not the name of an environment variable")
                .expected("letters, digits and `_`, as in \"env:APP_PASSWORD\""));
        }
        let value = (self.variable)(name).ok_or_else(|| {
            Complaint::new(format!("the environment variable {name} is not set"))
                .expected("it in pgsluice's environment")
        })?;
        value.into_string().map_err(|_| Complaint::new(format!("the environment variable {name} is not UTF-8 text")))
    }

    fn file_secret(&self, path: &str) -> Result<String, Complaint> {
        if path.is_empty() {
            return Err(Complaint::new("there is no path after `file:`").expected(PASSWORD_FORM));
        }
        let shown = quoted(path);
        let content = read_bounded(&self.resolve(path))
            .map_err(|error| Complaint::new(format!("the file {shown} cannot be read: {}", reason(&error))))?;
        let Some(content) = content else {
            return Err(Complaint::new(format!("the file {shown} is longer than {LONGEST_SECRET_FILE} bytes"))
                .expected("a file that holds one password"));
        };
        let mut secret =
            String::from_utf8(content).map_err(|_| Complaint::new(format!("the file {shown} is not UTF-8 text")))?;
        // `echo` and editors add exactly one line end.
        if secret.ends_with('\n') {
            secret.pop();
            if secret.ends_with('\r') {
                secret.pop();
            }
        }
        Ok(secret)
    }
}

/// The whole file; `None` if it is too long for a secret.
fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    File::open(path)?.take(LONGEST_SECRET_FILE + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= LONGEST_SECRET_FILE).then_some(content))
}

/// An I/O error as a person says it, without the number.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// `md5` and 32 hexadecimal digits, as PostgreSQL's own `get_password_type` tells one.
fn is_md5_hash(secret: &str) -> bool {
    secret.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Holds a verifier to what PostgreSQL's `parse_scram_secret` (src/backend/libpq/auth-scram.c) accepts.
fn check_verifier(verifier: &str) -> Result<(), Complaint> {
    /// SHA-256.
    const KEY_BYTES: usize = 32;
    let wrong = |what: &str| Complaint::new(format!("the SCRAM-SHA-256 verifier {what}")).expected(VERIFIER_FORM);
    let parts: Vec<&str> = verifier.split('$').collect();
    let [_, head, keys] = parts.as_slice() else { return Err(wrong("has not three parts between `$` signs")) };
    let (iterations, salt) = head.split_once(':').ok_or_else(|| wrong("has no `:` between iterations and salt"))?;
    let (stored, server) = keys.split_once(':').ok_or_else(|| wrong("has no `:` between its two keys"))?;
    if !iterations.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(iterations.parse::<i32>(), Ok(1..)) {
        return Err(wrong("has an iteration count that is not a number from 1 to 2147483647"));
    }
    if !matches!(base64_bytes(salt), Some(1..)) {
        return Err(wrong("has a salt that is not base64"));
    }
    for (key, name) in [(stored, "StoredKey"), (server, "ServerKey")] {
        if base64_bytes(key) != Some(KEY_BYTES) {
            return Err(wrong(&format!("has a {name} that is not base64 of {KEY_BYTES} bytes")));
        }
    }
    Ok(())
}

/// How many bytes a base64 text (RFC 4648, section 4, with padding) stands for; `None` if it is none.
fn base64_bytes(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let valid = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    (valid && padding <= 2 && text.len().is_multiple_of(4)).then(|| text.len() / 4 * 3 - padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn password(text: &str, base: &Path) -> Result<Password, String> {
        let variable = |name: &str| (name == "APP_PASSWORD").then(|| "from-env".into());
        let surroundings = Surroundings { base, variable: &variable };
        surroundings.password(&DeValue::String(text.into())).map_err(|complaint| complaint.problem)
    }

    #[test]
    fn passwords_come_from_where_they_are_said_to_be() {
        let dir = tempfile::tempdir().expect("dir");
        for (name, content) in [("one", "s3cret\n"), ("crlf", "s3cret\r\n"), ("two", "s3cret\n\n"), ("empty", "\n")] {
            std::fs::write(dir.path().join(name), content).expect("write");
        }
        let plain = |text: &str| Ok(Password::Plain(Secret::new(text)));
        let failed = |text: &str| Err(text.to_owned());
        let absolute = format!("file:{}", dir.path().join("one").display());
        let cases = [
            ("literal", plain("literal")),
            ("env:APP_PASSWORD", plain("from-env")),
            ("file:one", plain("s3cret")),
            (absolute.as_str(), plain("s3cret")),
            ("file:crlf", plain("s3cret")),
            ("file:two", plain("s3cret\n")),
            ("", failed("is empty")),
            ("env:OTHER", failed("the environment variable OTHER is not set")),
            ("env:", failed("what follows `env:` is not the name of an environment variable")),
            ("env:hunter 2", failed("what follows `env:` is not the name of an environment variable")),
            ("file:empty", failed("the file \"empty\" is empty")),
            ("file:none", failed("the file \"none\" cannot be read: it does not exist")),
            ("file:.", failed("the file \".\" cannot be read: it is a directory")),
            ("file:/dev/zero", failed("the file \"/dev/zero\" is longer than 65536 bytes")),
            ("file:", failed("there is no path after `file:`")),
        ];
        for (text, expected) in cases {
            assert_eq!(password(text, dir.path()), expected, "{text}");
        }
    }

    #[test]
    fn verifiers_are_held_to_their_form() {
        let base = Path::new("/");
        let good = format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}");
        assert_eq!(password(&good, base), Ok(Password::Verifier(Secret::new(&*good))));
        let cases = [
            (format!("SCRAM-SHA-256$0:{SALT}${KEY}:{KEY}"), "iteration count"),
            (format!("SCRAM-SHA-256$+1:{SALT}${KEY}:{KEY}"), "iteration count"),
            (format!("SCRAM-SHA-256$:{SALT}${KEY}:{KEY}"), "iteration count"),
            (format!("SCRAM-SHA-256$4096${KEY}:{KEY}"), "between iterations and salt"),
            (format!("SCRAM-SHA-256$4096:${KEY}:{KEY}"), "salt that is not base64"),
            (format!("SCRAM-SHA-256$4096:{SALT}?${KEY}:{KEY}"), "salt that is not base64"),
            (format!("SCRAM-SHA-256$4096:{SALT}${KEY}"), "between its two keys"),
            (format!("SCRAM-SHA-256$4096:{SALT}$AAAA:{KEY}"), "StoredKey that is not base64 of 32 bytes"),
            (format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{SALT}"), "ServerKey that is not base64 of 32 bytes"),
            (format!("SCRAM-SHA-256$4096:{SALT}"), "three parts"),
            (format!("SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}$"), "three parts"),
            ("md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(), "md5 hash"),
        ];
        for (text, problem) in cases {
            let complaint = password(&text, base).expect_err(&text);
            assert!(complaint.contains(problem), "{text}: {complaint}");
            assert!(!complaint.contains(SALT) && !complaint.contains(KEY), "{complaint}");
        }
        let surroundings = Surroundings { base, variable: &|_| None };
        let complaint = surroundings.login_password(&DeValue::String(good.into())).expect_err("a verifier");
        assert!(complaint.problem.contains("nobody can log in"), "{}", complaint.problem);
    }

    #[test]
    fn base64_lengths() {
        let cases = [
            ("", Some(0)),
            ("QQ==", Some(1)),
            ("QUI=", Some(2)),
            ("QUJD", Some(3)),
            ("QUJDRA==", Some(4)),
            ("Q", None),
            ("Q===", None),
            ("=", None),
            ("====", None),
            ("QQ=Q", None),
            ("QQ-_", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(base64_bytes(text), bytes, "{text}");
        }
    }
}

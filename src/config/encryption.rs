//! The keys of TLS, to clients and to servers: which files they need, and whether those are what they should be.
//!
//! The files are read here, with the config: what is wrong in one of them is a mistake of the config, and a reload takes
//! all of them or none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeValue;

use super::choices::{SSL_MODE, TLS_MODE};
use super::credentials::Surroundings;
use super::document::{Mistakes, Section, Setting};
use super::error::{Complaint, quoted};
use super::schema::{Config, SslMode, TlsMode};
use super::values::text;
use crate::tls::{FileError, Inbound, Outbound, Part};

/// A path, where one is given.
type File = Setting<Option<PathBuf>>;

/// The keys of `[listen]` that say how clients are encrypted.
#[derive(Clone, Copy)]
pub(super) struct ListenFiles<'a> {
    pub(super) tls: Setting<TlsMode>,
    pub(super) cert: &'a File,
    pub(super) key: &'a File,
    pub(super) client_ca: &'a File,
}

/// What clients are offered; `None` when something is wrong with it.
#[expect(clippy::option_option, reason = "no TLS is a sound setting")]
pub(super) fn inbound(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    files: ListenFiles<'_>,
) -> Option<Option<Arc<Inbound>>> {
    let mode = *files.tls.sound()?;
    if mode == TlsMode::Off {
        return Some(None);
    }
    let needs = [
        ("cert", files.cert, true),
        ("key", files.key, true),
        ("client_ca", files.client_ca, mode == TlsMode::VerifyClient),
    ];
    let mut is_complete = true;
    for (key, path, is_needed) in needs {
        if is_needed && path.sound().is_some_and(Option::is_none) {
            let mode = quoted(TLS_MODE.name(mode));
            let complaint = Complaint::new(format!("{mode} needs listen.{key}, which is not set"));
            let example = match key {
                "cert" => "cert = \"server.crt\", a PEM file",
                "key" => "key = \"server.key\", a PEM file",
                _ => "client_ca = \"clients.crt\", a PEM file",
            };
            section.complain(mistakes, "tls", &files.tls, complaint.expected(example));
            is_complete = false;
        }
    }
    let (cert, key, client_ca) = (files.cert.sound()?, files.key.sound()?, files.client_ca.sound()?);
    let (Some(cert), Some(key), true) = (cert, key, is_complete) else { return None };
    match Inbound::load(cert, key, client_ca.as_deref()) {
        Ok(inbound) => Some(Some(Arc::new(inbound))),
        Err(errors) => {
            for error in errors {
                let (key, setting) = match error.part {
                    Part::Certificate => ("cert", files.cert),
                    Part::Key => ("key", files.key),
                    Part::Authorities => ("client_ca", files.client_ca),
                };
                section.complain(mistakes, key, setting, complaint(&error));
            }
            None
        }
    }
}

/// What `[[shards]]` says of encryption.
#[derive(Debug)]
pub(super) struct ShardEncryption {
    pub(super) sslmode: SslMode,
    pub(super) sslrootcert: Option<PathBuf>,
    pub(super) sslcert: Option<PathBuf>,
    pub(super) sslkey: Option<PathBuf>,
    pub(super) outbound: Arc<Outbound>,
}

/// How a shard's servers are spoken to; `None` when something is wrong with it.
pub(super) fn shard(
    mistakes: &mut Mistakes<'_>,
    section: &Section<'_>,
    around: Surroundings<'_>,
) -> Option<ShardEncryption> {
    let mode = section.read(mistakes, "sslmode", SslMode::Prefer, ssl_mode);
    let mut file = |key| section.optional(mistakes, key, |value| around.path(value));
    let (root, cert, key) = (file("sslrootcert"), file("sslcert"), file("sslkey"));

    let mut is_complete = true;
    if let (Some(mode_given @ (SslMode::VerifyCa | SslMode::VerifyFull)), Some(None)) = (mode.sound(), root.sound()) {
        let problem = format!("{} needs sslrootcert, which is not set", quoted(SSL_MODE.name(*mode_given)));
        let expected =
            "sslrootcert = \"root.crt\", a PEM file with the authorities that sign the servers' certificates";
        section.complain(mistakes, "sslmode", &mode, Complaint::new(problem).expected(expected));
        is_complete = false;
    }
    for ((name, one), (other_name, other)) in
        [(("sslcert", &cert), ("sslkey", &key)), (("sslkey", &key), ("sslcert", &cert))]
    {
        if let (Some(Some(_)), Some(None)) = (one.sound(), other.sound()) {
            let complaint = Complaint::new(format!("is given without {other_name}")).expected("both or neither");
            section.complain(mistakes, name, one, complaint);
            is_complete = false;
        }
    }
    let identity = cert.sound()?.as_ref().zip(key.sound()?.as_ref());
    let (mode_given, root_given) = (*mode.sound()?, root.sound()?.as_deref());
    if !is_complete {
        return None;
    }
    let outbound = match Outbound::load(mode_given, root_given, identity) {
        Ok(outbound) => Arc::new(outbound),
        Err(errors) => {
            for error in errors {
                let (key, setting) = match error.part {
                    Part::Certificate => ("sslcert", &cert),
                    Part::Key => ("sslkey", &key),
                    Part::Authorities => ("sslrootcert", &root),
                };
                section.complain(mistakes, key, setting, complaint(&error));
            }
            return None;
        }
    };
    Some(ShardEncryption {
        sslmode: mode.take()?,
        sslrootcert: root.take()?,
        sslcert: cert.take()?,
        sslkey: key.take()?,
        outbound,
    })
}

/// libpq's own words, and what to do about the one that is missing.
fn ssl_mode(value: &DeValue<'_>) -> Result<SslMode, Complaint> {
    if text(value, "a mode in quotes").is_ok_and(|text| text == "allow") {
        return Err(Complaint::new("\"allow\" is not offered: it would encrypt only where a server insists")
            .expected("\"prefer\", which encrypts wherever a server can"));
    }
    SSL_MODE.parse(value)
}

fn complaint(error: &FileError) -> Complaint {
    let path: &Path = &error.path;
    Complaint::new(format!("the file {} {}", quoted(&path.to_string_lossy()), error.problem)).expected(error.expected)
}

impl Config {
    /// The files of certificates and keys that are in use: when one changes, a reload brings something new.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let listen = &self.listen;
        let inbound = [&listen.cert, &listen.key, &listen.client_ca].into_iter().filter(|_| listen.inbound.is_some());
        let shards = self.shards.iter().filter(|shard| shard.sslmode.reads_files());
        let outbound = shards.flat_map(|shard| [&shard.sslrootcert, &shard.sslcert, &shard.sslkey]);
        inbound.chain(outbound).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::schema::Config;

    const LEAST: &str = "[[auth.users]]\nname = 'app'\npassword = 'pw'\n[[shards]]\nnodes = ['db:5432']\n";

    /// What is said of a config, with the folder's name taken out.
    fn mistakes(folder: &Path, listen: &str, shard: &str) -> Vec<String> {
        let text = format!("{listen}\n{LEAST}{shard}\n");
        let Err(errors) = Config::parse(&text, folder, "t") else { return Vec::new() };
        let shown = |mistake: &super::super::Mistake| {
            format!("{}: {}", mistake.key, mistake.problem).replace(&format!("{}/", folder.display()), "")
        };
        errors.mistakes().iter().map(shown).collect()
    }

    #[test]
    fn files_have_to_be_there_and_to_belong_together() {
        let dir = tempfile::tempdir().expect("dir");
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (one, other) = (made(), made());
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let files = [
            ("a.crt", cert.clone()),
            ("a.key", key.clone()),
            ("b.key", other.signing_key.serialize_pem()),
            ("both", cert.clone() + &key),
            ("empty", String::new()),
            ("cut", cert[..cert.len() / 2].to_owned()),
            ("bad", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()),
            ("badkey", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned()),
        ];
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).expect("write");
        }
        let listen = |mode: &str, cert: &str, key: &str, ca: &str| {
            let ca = if ca.is_empty() { String::new() } else { format!(", client_ca = '{ca}'") };
            mistakes(dir.path(), &format!("listen = {{ tls = '{mode}', cert = '{cert}', key = '{key}'{ca} }}"), "")
        };
        let none: [&str; 0] = [];
        assert_eq!(listen("prefer", "a.crt", "a.key", ""), none);
        assert_eq!(listen("verify-client", "both", "both", "a.crt"), none);
        assert_eq!(listen("off", "none", "none", "none"), none);
        assert_eq!(
            listen("require", "a.crt", "b.key", ""),
            ["listen.key: the file \"b.key\" does not hold the private key of the certificate in \"a.crt\""]
        );
        assert_eq!(
            listen("require", "a.key", "a.crt", "empty"),
            [
                "listen.cert: the file \"a.key\" holds no certificate in PEM form",
                "listen.key: the file \"a.crt\" holds no private key in PEM form",
                "listen.client_ca: the file \"empty\" holds no certificate in PEM form",
            ]
        );
        assert_eq!(
            listen("require", "cut", "badkey", "."),
            [
                "listen.cert: the file \"cut\" is no PEM file, or is cut off",
                "listen.key: the file \"badkey\" holds a private key that cannot be used",
                "listen.client_ca: the file \".\" cannot be read: it is a directory",
            ]
        );
        assert_eq!(
            listen("require", "bad", "/dev/zero", ""),
            [
                "listen.cert: the file \"bad\" holds something (number 1) that is no X.509 certificate",
                "listen.key: the file \"/dev/zero\" is longer than 1048576 bytes",
            ]
        );
        assert_eq!(
            listen("verify-client", "a.crt", "a.key", ""),
            ["listen.tls: \"verify-client\" needs listen.client_ca, which is not set"]
        );

        let shard = |lines: &str| mistakes(dir.path(), "", lines);
        assert_eq!(shard("sslmode = 'prefer'\nsslrootcert = 'none'"), none);
        assert_eq!(shard("sslmode = 'verify-full'\nsslrootcert = 'a.crt'\nsslcert = 'a.crt'\nsslkey = 'a.key'"), none);
        assert_eq!(
            shard("sslmode = 'verify-ca'"),
            ["shards[0].sslmode: \"verify-ca\" needs sslrootcert, which is not set"]
        );
        assert_eq!(
            shard("sslmode = 'require'\nsslrootcert = 'none'\nsslcert = 'a.crt'\nsslkey = 'b.key'"),
            [
                "shards[0].sslrootcert: the file \"none\" cannot be read: it does not exist",
                "shards[0].sslkey: the file \"b.key\" does not hold the private key of the certificate in \"a.crt\"",
            ]
        );
        assert_eq!(shard("sslcert = 'a.crt'"), ["shards[0].sslcert: is given without sslkey"]);
        assert_eq!(
            shard("sslmode = 'allow'"),
            ["shards[0].sslmode: \"allow\" is not offered: it would encrypt only where a server insists"]
        );
    }

    #[test]
    fn certificates_as_logins_have_to_be_asked_for() {
        let mistakes = mistakes(Path::new("/"), "auth.method = 'cert'", "");
        assert_eq!(mistakes, ["auth.method: \"cert\" needs certificates of clients, which nobody is asked for"]);
    }
}

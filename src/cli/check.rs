//! `pgsluice check --config FILE`: is this config valid? Every mistake at once, or a summary.
//!
//! Reads what the config names, certificates too, and connects to nothing.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, ConfigErrors};

/// Checks the file and prints what it finds: the summary, or with `json` an array of the mistakes (an
/// empty one for a valid file), to stdout; mistakes as text, and warnings, to stderr.
///
/// The code is 0 for a valid file, with warnings or without, and 1 for any other.
pub fn run(path: &Path, json: bool) -> ExitCode {
    match report(path, json, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        // A reader that has gone away cannot be told; the answer still must not look like a yes.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// `Ok(true)` if the file is valid.
fn report(path: &Path, json: bool, out: &mut impl Write, err: &mut impl Write) -> io::Result<bool> {
    let loaded = Config::load(path);
    if json {
        let mistakes = loaded.as_ref().err().map_or(&[][..], ConfigErrors::mistakes);
        serde_json::to_writer_pretty(&mut *out, mistakes)?;
        writeln!(out)?;
    }
    let file = path.display();
    match loaded {
        Ok(config) => {
            for warning in config.warnings() {
                writeln!(err, "{file}: warning: {warning}")?;
            }
            if !json {
                writeln!(out, "{file}: ok ({})", summary(&config))?;
            }
            Ok(true)
        }
        Err(errors) => {
            if !json {
                writeln!(err, "{errors}")?;
            }
            Ok(false)
        }
    }
}

/// `1 shard, 3 nodes, 2 users`.
fn summary(config: &Config) -> String {
    let counted = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let nodes = config.shards.iter().map(|shard| shard.nodes.len()).sum();
    [counted(config.shards.len(), "shard"), counted(nodes, "node"), counted(config.auth.users.len(), "user")].join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:\
                            AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    /// Valid or not, what is on stdout, what is on stderr; with the directory's name taken out.
    fn check(text: &str, json: bool) -> (bool, String, String) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("test.toml");
        fs::write(&path, text).expect("write");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        for (name, pem) in [("open.key", made.signing_key.serialize_pem()), ("server.crt", made.cert.pem())] {
            fs::write(dir.path().join(name), pem).expect("write");
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o644)).expect("chmod");
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let valid = report(&path, json, &mut out, &mut err).expect("report");
        let shown = |bytes| {
            let text = String::from_utf8(bytes).expect("text");
            text.replace(&format!("{}/", dir.path().display()), "")
        };
        (valid, shown(out), shown(err))
    }

    #[test]
    fn a_valid_file_is_summed_up() {
        let text = "auth.users = [{ name = 'a', password = 'b' }]\nshards = [{ nodes = ['x:1', 'y:1', 'z:1'] }]\n";
        assert_eq!(check(text, false), (true, "test.toml: ok (1 shard, 3 nodes, 1 user)\n".into(), String::new()));
        assert_eq!(check(text, true), (true, "[]\n".into(), String::new()));
    }

    #[test]
    fn warnings_leave_it_valid() {
        let text = format!(
            "listen = {{ tls = 'require', cert = 'server.crt', key = 'open.key' }}\n\
             auth.users = [{{ name = 'a', password = '{VERIFIER}' }}]\nshards = [{{ nodes = ['x:1'] }}]\n\
             lag = {{ eject_above = '10ms', readmit_below = '10ms' }}\n"
        );
        let (valid, out, err) = check(&text, false);
        assert!(valid, "{err}");
        assert_eq!(out, "test.toml: ok (1 shard, 1 node, 1 user)\n");
        let expected = "\
test.toml: warning: listen.key: every user of this machine may open open.key; chmod 600 open.key
test.toml: warning: lag.eject_above: is 10ms, less than lag.poll_interval (50ms): lag is not measured that finely, and replicas will be ejected without need
";
        assert_eq!(err, expected);
    }

    #[test]
    fn mistakes_go_to_stderr_or_into_json() {
        let text = "auth.method = 'trust'\npool.sise = 3\n";
        let (valid, out, err) = check(text, false);
        assert!(!valid);
        assert_eq!(out, "");
        assert_eq!(err.lines().count(), 2, "{err}");
        assert!(err.starts_with("test.toml:"), "{err}");

        let (valid, out, err) = check(text, true);
        assert!(!valid);
        assert_eq!(err, "");
        let mistakes: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(mistakes[1]["line"], 2, "{out}");
        assert_eq!(mistakes[1]["column"], 6, "{out}");
        assert_eq!(mistakes[1]["key"], "pool.sise", "{out}");
        assert_eq!(mistakes[1]["suggestion"], "size", "{out}");
    }

    #[test]
    fn a_missing_file_is_a_mistake_without_a_place() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let path = Path::new("/nonexistent/pgsluice.toml");
        assert!(!report(path, false, &mut out, &mut err).expect("report"));
        assert_eq!(String::from_utf8_lossy(&err), "/nonexistent/pgsluice.toml: cannot be read: it does not exist\n");
        assert!(!report(path, true, &mut out, &mut err).expect("report"));
        assert!(String::from_utf8_lossy(&out).contains("\"problem\": \"cannot be read: it does not exist\""));
    }
}

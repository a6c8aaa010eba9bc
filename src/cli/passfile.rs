//! libpq's password file.
//!
//! <https://www.postgresql.org/docs/current/libpq-pgpass.html>

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::config::Secret;

/// A longer file is none that anybody keeps.
const MAX_BYTES: u64 = 1 << 20;

/// Whom a password is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password that `PGPASSFILE`, or else `~/.pgpass`, has for them. A file that others may read is left alone, as
/// libpq does; the second value then says so.
pub(super) fn look_up(sought: Sought<'_>) -> (Option<Secret>, Option<String>) {
    let named = std::env::var_os("PGPASSFILE").map(PathBuf::from);
    let Some(path) = named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass"))) else {
        return (None, None);
    };
    match read(&path) {
        Ok(text) => (find(&text, sought), None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
        Err(error) => (None, Some(format!("the password file {} is not used: {error}", path.display()))),
    }
}

fn read(path: &PathBuf) -> io::Result<String> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it; chmod 600 it"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The first line that fits decides.
fn find(text: &str, sought: Sought<'_>) -> Option<Secret> {
    let port = sought.port.to_string();
    let wanted = [sought.host, &port, sought.database, sought.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in wanted {
            let (field, is_any, behind) = field(rest)?;
            if !is_any && field != wanted {
                return None;
            }
            rest = behind;
        }
        // The last field ends with the line, or with a colon.
        Some(Secret::new(up_to_colon(rest).0))
    })
}

/// A field, whether it is a bare `*`, and what follows its colon.
fn field(text: &str) -> Option<(String, bool, &str)> {
    let (field, behind) = up_to_colon(text);
    Some((field, text.starts_with("*:"), behind?))
}

/// The text in front of the first colon that no backslash stands before, without those backslashes, and what follows it.
fn up_to_colon(text: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (field, Some(&text[at + 1..])),
            '\\' => field.extend(characters.next().map(|(_, escaped)| escaped)),
            other => field.push(other),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_decides() {
        let text = "# db:5432:*:a:commented\n\
                    db:5432:pgsluice:alice:one\n\
                    db:*:*:bob:with\\:colon\\\\and more\n\
                    [fe80\\:\\:1]:6432:*:alice:six\n\
                    broken line\n\
                    *:6432:*:*:last:ignored\n";
        let cases = [
            (("db", 5432, "pgsluice", "alice"), Some("one")),
            (("db", 5432, "app", "alice"), None),
            (("db", 1, "x", "bob"), Some("with:colon\\and more")),
            (("[fe80::1]", 6432, "x", "alice"), Some("six")),
            (("elsewhere", 6432, "x", "carol"), Some("last")),
            (("elsewhere", 6433, "x", "carol"), None),
        ];
        for ((host, port, database, user), expected) in cases {
            let found = find(text, Sought { host, port, database, user });
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{host}:{port}:{database}:{user}");
        }
    }
}

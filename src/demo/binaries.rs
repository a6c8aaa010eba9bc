//! Finding the PostgreSQL server binaries of this machine, of any supported major version.
//!
//! In this order: `PGSLUICE_PG_BIN`, `pg_config --bindir`, the newest `/usr/lib/postgresql/*/bin`
//! (where Debian and Ubuntu keep servers, outside PATH), PATH. A folder counts only when it holds
//! every binary that is needed. `scripts/lib.sh` looks in the same places; keep the two alike.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::DemoError;

/// What must be in the folder.
pub const NEEDED: [&str; 2] = ["initdb", "postgres"];

/// The environment variable that names the folder and overrides every other way.
pub const VARIABLE: &str = "PGSLUICE_PG_BIN";

/// Where Debian and Ubuntu install servers, one folder a major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

const OLDEST_SUPPORTED: u32 = 14;

/// A folder with the binaries, and their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// Finds the binaries.
    ///
    /// # Errors
    /// [`DemoError::WrongBinaries`] when `PGSLUICE_PG_BIN` is set and wrong (nothing else is tried
    /// then), [`DemoError::NoBinaries`] when nothing was found, [`DemoError::UnsupportedVersion`].
    pub fn find() -> Result<Self, DemoError> {
        if let Some(dir) = env::var_os(VARIABLE).filter(|dir| !dir.is_empty()) {
            return Self::named(Path::new(&dir));
        }
        let candidates = candidates();
        match candidates.iter().find(|dir| missing(dir).is_none()) {
            Some(dir) => Self::in_dir(dir),
            None => Err(DemoError::NoBinaries { looked: describe(&candidates) }),
        }
    }

    /// The binaries of a folder that someone named.
    fn named(dir: &Path) -> Result<Self, DemoError> {
        match missing(dir) {
            Some(missing) => Err(DemoError::WrongBinaries { dir: dir.to_owned(), missing }),
            None => Self::in_dir(dir),
        }
    }

    fn in_dir(dir: &Path) -> Result<Self, DemoError> {
        // Servers run in another working directory, and as another user: links are resolved now.
        let dir = dir.canonicalize().map_err(DemoError::io(format!("open {}", dir.display())))?;
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(DemoError::io(format!("run {}", dir.join("postgres").display())))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match major_version(&version) {
            Some(major) if major >= OLDEST_SUPPORTED => Ok(Self { dir, version, major }),
            _ => Err(DemoError::UnsupportedVersion { dir, version }),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `postgres --version` says, such as `postgres (PostgreSQL) 15.14`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether a program that can be done without is there as well. Packages that carry nothing but a server
    /// lack `pg_basebackup`, `psql` and `pgbench`.
    pub fn has(&self, program: &str) -> bool {
        self.path(program).is_file()
    }

    /// A program of PostgreSQL's clients: of the same folder, or else of any other that Debian's layout or PATH
    /// has. A newer client speaks with an older server, and `pgbench` and `psql` with a newer one too.
    pub fn client(&self, program: &str) -> Option<PathBuf> {
        let elsewhere = || candidates().into_iter().map(|dir| dir.join(program)).find(|path| path.is_file());
        if self.has(program) { Some(self.path(program)) } else { elsewhere() }
    }

    /// The path of one binary.
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }
}

/// The folders to look in when none is named, best first.
fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = pg_config_bindir().into_iter().collect();
    dirs.extend(newest_first(Path::new(DEBIAN_ROOT)));
    if let Some(path) = env::var_os("PATH") {
        dirs.extend(env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()));
    }
    dirs
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !dir.trim().is_empty()).then(|| PathBuf::from(dir.trim()))
}

/// `root/VERSION/bin` for every version that is there, the newest first.
fn newest_first(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = root.read_dir() else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    versions.into_iter().map(|(_, dir)| dir).collect()
}

fn missing(dir: &Path) -> Option<&'static str> {
    NEEDED.into_iter().find(|program| !dir.join(program).is_file())
}

fn describe(candidates: &[PathBuf]) -> String {
    let mut looked: Vec<String> = candidates
        .iter()
        .filter_map(|dir| missing(dir).map(|program| format!("{}: no {program}", dir.display())))
        .collect();
    looked.push(format!("{DEBIAN_ROOT}/*/bin"));
    looked.push("PATH".to_owned());
    looked.join(", ")
}

/// The major version in what `postgres --version` prints: the number after the closing parenthesis
/// of "(PostgreSQL)", up to the dot, or to the letters of a beta.
fn major_version(text: &str) -> Option<u32> {
    let (_, number) = text.split_once("(PostgreSQL)")?;
    let number = number.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder_with(programs: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for program in programs {
            fs::write(dir.path().join(program), "").unwrap();
        }
        dir
    }

    #[test]
    fn major_versions_are_read() {
        let cases = [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18.0", Some(18)),
            ("postgres (PostgreSQL) 19beta1", Some(19)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres (PostgreSQL)", None),
            ("mysqld 8", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(major_version(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_folder_counts_only_when_it_is_complete() {
        let cases: [(&[&str], Option<&str>); 4] = [
            (&["initdb", "postgres", "pg_basebackup"], None),
            (&["initdb", "postgres"], None),
            (&["initdb", "psql"], Some("postgres")),
            (&[], Some("initdb")),
        ];
        for (programs, expected) in cases {
            assert_eq!(missing(folder_with(programs).path()), expected, "{programs:?}");
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "17", "10", "common"] {
            fs::create_dir(root.path().join(version)).unwrap();
        }
        let expected: Vec<PathBuf> = ["17", "10", "9"].iter().map(|v| root.path().join(v).join("bin")).collect();
        assert_eq!(newest_first(root.path()), expected);
        assert!(newest_first(&root.path().join("none")).is_empty());
    }

    #[test]
    fn a_named_folder_without_the_binaries_is_an_error_that_names_it() {
        let dir = folder_with(&["postgres"]);
        let message = Binaries::named(dir.path()).unwrap_err().to_string();
        assert!(message.contains("initdb") && message.contains(VARIABLE), "{message}");
    }

    #[test]
    fn nothing_found_says_what_to_install() {
        let dir = folder_with(&["postgres"]);
        let error = DemoError::NoBinaries { looked: describe(&[dir.path().to_owned()]) };
        let message = error.to_string();
        for part in ["apt-get install postgresql", VARIABLE, "no initdb", DEBIAN_ROOT] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }
}

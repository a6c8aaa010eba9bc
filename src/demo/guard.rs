//! The cluster's folder, and the promise that it goes, with all that runs in it.
//!
//! Normally [`Home`] removes the folder when it is dropped, after its servers have ended. When this process
//! dies without running destructors (SIGKILL, Ctrl-C on a test run), a watchdog does it: a shell
//! that waits for the end of a pipe whose other end only this process holds.

use std::env;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::account::Account;
use super::error::DemoError;

/// Where a socket's path may not be longer than this: `sun_path` of the smallest system (macOS),
/// without its terminator.
const SOCKET_PATH_MAX: usize = 103;

/// The longest that stands in a socket's path after the temporary folder.
const SOCKET_PATH_REST: &str = "/pgsluice-XXXXXX/socket/.s.PGSQL.65535.lock";

/// Ends every process that works in the folder, again until there is none, then removes the folder.
/// It reads the processes' working directory because a postmaster's PID may be somebody else's by
/// now, while a server and all its children stay in the data directory. A killed server leaves its
/// System V shared memory behind (see `server/memory.rs`), which goes too.
const WATCHDOG: &str = r#"
read -r _
found=1
while [ "$found" ]; do
    found=
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd" 2>/dev/null)" in
            "$1" | "$1"/*) kill -9 "${process#/proc/}" 2>/dev/null && found=1 ;;
        esac
    done
done
for lock in "$1"/*/postmaster.pid; do
    [ -f "$lock" ] && ipcrm -m "$(sed -n '7s/.* //p' "$lock")" 2>/dev/null
done
rm -rf -- "$1"
"#;

/// The folder that holds a cluster.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    dir: Option<TempDir>,
    watchdog: Child,
}

impl Home {
    /// Makes the folder, for `account` to write in, and sets the watchdog on it.
    pub(super) fn new(account: &Account) -> Result<Self, DemoError> {
        let place = usable_place(account)?;
        let dir = tempfile::Builder::new()
            .prefix("pgsluice-")
            .tempdir_in(&place)
            .map_err(DemoError::io(format!("make a folder in {}", place.display())))?;
        account.give(dir.path())?;
        let path = dir.path().to_owned();
        let watchdog = account
            .command("sh", Path::new("/"))
            .args(["-c", WATCHDOG, "pgsluice-watchdog"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(DemoError::io("start sh"))?;
        Ok(Self { path, dir: Some(dir), watchdog })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it, for the account alone: `postgres` refuses a data directory that others may read.
    pub(super) fn folder(&self, name: &str, account: &Account) -> Result<PathBuf, DemoError> {
        let path = self.path.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(DemoError::io(format!("make {}", path.display())))?;
        account.give(&path)?;
        Ok(path)
    }

    /// Removes the folder now, and says so when that fails.
    pub(super) fn remove(&mut self) -> Result<(), DemoError> {
        match self.dir.take() {
            Some(dir) => dir.close().map_err(DemoError::io(format!("remove {}", self.path.display()))),
            None => Ok(()),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "leaving the folder to the watchdog");
        }
        if self.path.exists() {
            // The watchdog begins when the pipe is closed, which happens now.
            return;
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// A folder for temporary data where the account may write, short enough for a socket's path.
fn usable_place(account: &Account) -> Result<PathBuf, DemoError> {
    let places = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    places
        .iter()
        .filter_map(|place| place.canonicalize().ok())
        .find(|place| socket_fits(place) && account.may_write(place))
        .ok_or_else(|| {
            let tried: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            DemoError::NoTempDir { tried: tried.join(", ") }
        })
}

fn socket_fits(place: &Path) -> bool {
    place.as_os_str().len() + SOCKET_PATH_REST.len() <= SOCKET_PATH_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_folders_are_not_for_sockets() {
        let cases = [(4, true), (60, true), (61, false), (200, false)];
        for (length, expected) in cases {
            assert_eq!(socket_fits(Path::new(&format!("/{}", "x".repeat(length - 1)))), expected, "{length}");
        }
    }

    #[test]
    fn the_folder_belongs_to_the_account_and_goes_on_drop() {
        let account = Account::find().unwrap();
        let home = Home::new(&account).unwrap();
        let path = home.folder("inner", &account).unwrap();
        assert!(account.may_write(&path));
        let top = home.path().to_owned();
        drop(home);
        assert!(!top.exists());
    }
}

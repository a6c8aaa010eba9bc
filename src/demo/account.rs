//! The account that PostgreSQL's programs run as.
//!
//! `postgres` and `initdb` refuse to run as root. Where this process is root it steps down to
//! `postgres`, or to `nobody`; where it is not, the programs run as the same user. Whatever the programs
//! touch must belong to that account and lie where it may go.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User, getegid, geteuid};

use super::error::DemoError;

/// Accounts to step down to from root, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A user and a group, and whether taking them means to step down from root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
    steps_down: bool,
}

impl Account {
    /// The account for PostgreSQL's programs: this process's own, unless that is root.
    ///
    /// # Errors
    /// [`DemoError::NoAccount`] for root without an unprivileged account.
    pub fn find() -> Result<Self, DemoError> {
        if geteuid().is_root() { Self::unprivileged() } else { Ok(Self::own()) }
    }

    fn own() -> Self {
        let uid = geteuid();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { name, uid: uid.as_raw(), gid: getegid().as_raw(), steps_down: false }
    }

    fn unprivileged() -> Result<Self, DemoError> {
        UNPRIVILEGED
            .into_iter()
            .filter_map(|name| User::from_name(name).ok().flatten())
            .find(|user| user.uid != Uid::from_raw(0))
            .map(|user| Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), steps_down: true })
            .ok_or(DemoError::NoAccount)
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run as this account, in `dir`.
    ///
    /// The caller's `PG*` variables are taken out, since a stray PGDATA or PGPORT would point the
    /// programs elsewhere, and messages are in English, since some of them are looked at.
    pub fn command(&self, program: impl AsRef<OsStr>, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).env("LC_ALL", "C").env("HOME", dir);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        if self.steps_down {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a file or folder to this account.
    ///
    /// # Errors
    /// [`DemoError::Io`] when the system refuses.
    pub fn give(&self, path: &Path) -> Result<(), DemoError> {
        if !self.steps_down {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(DemoError::io(format!(
            "give {} to {}",
            path.display(),
            self.name
        )))
    }

    /// Whether this account may enter `path` and every folder above it, by owner, group and mode.
    pub fn may_enter(&self, path: &Path) -> bool {
        path.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| self.allowed(&meta, 0o1)))
    }

    /// Whether this account may enter `path` and make entries in it.
    pub fn may_write(&self, path: &Path) -> bool {
        self.may_enter(path) && fs::metadata(path).is_ok_and(|meta| self.allowed(&meta, 0o3))
    }

    /// Whether the mode grants `bits` (1 to enter, 2 to write). The first class that fits decides,
    /// as in the kernel. Supplementary groups are not looked at for an account that is stepped down
    /// to: the standard library drops them.
    fn allowed(&self, meta: &Metadata, bits: u32) -> bool {
        if !self.steps_down && self.uid == 0 {
            return true;
        }
        let mode = meta.permissions().mode();
        let granted = match (meta.uid() == self.uid, meta.gid() == self.gid) {
            (true, _) => mode >> 6,
            (false, true) => mode >> 3,
            (false, false) => mode,
        };
        granted & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: u32, gid: u32) -> Account {
        Account { name: "test".to_owned(), uid, gid, steps_down: true }
    }

    #[test]
    fn the_account_is_never_root() {
        assert_ne!(Account::find().unwrap().uid, 0);
    }

    #[test]
    fn modes_decide_who_may_enter_and_write() {
        let dir = tempfile::tempdir().unwrap();
        let meta = fs::metadata(dir.path()).unwrap();
        let (uid, gid) = (meta.uid(), meta.gid());
        let (owner, group, other) = (account(uid, gid + 1), account(uid + 1, gid), account(uid + 1, gid + 1));
        // mode, (owner, group, other) may enter, and may enter and write
        let cases = [
            (0o700, (true, false, false), (true, false, false)),
            (0o750, (true, true, false), (true, false, false)),
            (0o755, (true, true, true), (true, false, false)),
            (0o777, (true, true, true), (true, true, true)),
            (0o077, (false, true, true), (false, true, true)),
            (0o600, (false, false, false), (false, false, false)),
        ];
        for (mode, enter, write) in cases {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let meta = fs::metadata(dir.path()).unwrap();
            let all = |bits| (owner.allowed(&meta, bits), group.allowed(&meta, bits), other.allowed(&meta, bits));
            assert_eq!(all(0o1), enter, "enter {mode:o}");
            assert_eq!(all(0o3), write, "write {mode:o}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_closed_folder_above_closes_all_below() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o777)).unwrap();
        let meta = fs::metadata(top.path()).unwrap();
        let stranger = account(meta.uid() + 1, meta.gid() + 1);
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!stranger.may_write(&below));
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(stranger.may_write(&below));
    }
}

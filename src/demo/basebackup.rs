//! A copy of the primary's data directory for a replica, without `pg_basebackup`: the low-level way that the
//! manual describes, for packages of PostgreSQL that carry a server and no client programs.
//!
//! The copy holds no WAL. The replica fetches it from the primary, whose slot must exist, and reserve WAL, before
//! this begins.
//!
//! <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP>

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::account::Account;
use super::error::DemoError;
use super::server::Server;
use super::settings::{conf_value, literal};

/// Folders of which only the folder itself is copied.
const WITHOUT_CONTENTS: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Files that belong to the running server, or that each server makes for itself.
const NOT_COPIED: [&str; 4] = ["postmaster.pid", "postmaster.opts", "backup_label", "pg_internal.init"];

/// The first major version that calls the functions `pg_backup_start` and `pg_backup_stop`.
const RENAMED_IN: u32 = 15;

/// Fills `target`, an empty folder, with a copy that starts as a replica of `primary`.
///
/// # Errors
/// [`DemoError::Sql`] when the primary refuses, [`DemoError::Io`].
pub(super) async fn copy(
    primary: &Server,
    major: u32,
    account: &Account,
    target: &Path,
    replication: Replication<'_>,
) -> Result<(), DemoError> {
    let label = literal(replication.slot);
    let (start, stop) = if major < RENAMED_IN {
        (format!("pg_start_backup({label}, true, false)"), "pg_stop_backup(false, false)")
    } else {
        (format!("pg_backup_start({label}, true)"), "pg_backup_stop(false)")
    };
    // The backup lasts for as long as this session does.
    let session = primary.session().await?;
    session.sql(&format!("SELECT {start}")).await?;
    let (from, to, owner) = (primary.data_dir().to_owned(), target.to_owned(), account.clone());
    let copied = tokio::task::spawn_blocking(move || copy_folder(&from, &to, &owner)).await;
    copied.map_err(|error| DemoError::io("copy the primary")(error.into()))??;
    let rows = session.sql(&format!("SELECT labelfile FROM {stop}")).await?;
    let label = rows.into_iter().flatten().flatten().next().unwrap_or_default();
    let settings = format!(
        "primary_conninfo = {}\nprimary_slot_name = {}\n",
        conf_value(replication.conninfo),
        conf_value(replication.slot)
    );
    for (name, text) in [("backup_label", &*label), ("standby.signal", ""), ("postgresql.auto.conf", &*settings)] {
        let path = target.join(name);
        fs::write(&path, text).map_err(DemoError::io(format!("write {}", path.display())))?;
        account.give(&path)?;
    }
    Ok(())
}

/// How the replica reaches its primary.
#[derive(Clone, Copy)]
pub(super) struct Replication<'a> {
    /// A libpq connection string, with the password.
    pub(super) conninfo: &'a str,
    /// The slot.
    pub(super) slot: &'a str,
}

/// Copies a folder that is in use: what goes while it is being copied is not missed, because the WAL from
/// the start of the backup on says that it went.
fn copy_folder(from: &Path, to: &Path, account: &Account) -> Result<(), DemoError> {
    let read = |path: &Path| DemoError::io(format!("read {}", path.display()));
    for entry in fs::read_dir(from).map_err(read(from))? {
        let entry = entry.map_err(read(from))?;
        let (name, source, target) = (entry.file_name(), entry.path(), to.join(entry.file_name()));
        let name = name.to_string_lossy();
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(read(&source)(error)),
        };
        if kind.is_dir() {
            fs::create_dir(&target).map_err(DemoError::io(format!("make {}", target.display())))?;
            let permissions = fs::metadata(from).map_err(read(from))?.permissions();
            fs::set_permissions(&target, permissions).map_err(DemoError::io("set the mode of a folder"))?;
            account.give(&target)?;
            if !WITHOUT_CONTENTS.contains(&&*name) {
                copy_folder(&source, &target, account)?;
            }
        } else if !NOT_COPIED.contains(&&*name) {
            match fs::copy(&source, &target) {
                Ok(_) => account.give(&target)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(DemoError::io(format!("copy {}", source.display()))(error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_running_server_stays_behind() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in ["base/1", "pg_wal/archive_status"] {
            fs::create_dir_all(from.path().join(folder)).unwrap();
        }
        for file in ["PG_VERSION", "postmaster.pid", "base/1/1259", "base/1/pg_internal.init", "pg_wal/0001"] {
            fs::write(from.path().join(file), file).unwrap();
        }
        copy_folder(from.path(), to.path(), &Account::find().unwrap()).unwrap();
        let is_there = |path: &str| to.path().join(path).exists();
        for (path, expected) in [
            ("PG_VERSION", true),
            ("base/1/1259", true),
            ("pg_wal", true),
            ("pg_wal/0001", false),
            ("pg_wal/archive_status", false),
            ("postmaster.pid", false),
            ("base/1/pg_internal.init", false),
        ] {
            assert_eq!(is_there(path), expected, "{path}");
        }
        assert_eq!(fs::read_to_string(to.path().join("base/1/1259")).unwrap(), "base/1/1259");
    }
}

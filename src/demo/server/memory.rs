//! What a killed server leaves outside its folder.
//!
//! Every postmaster holds a System V shared memory segment of a few bytes, as an interlock. It
//! removes the segment when it ends in whatever orderly way; the next postmaster of the same data
//! directory removes one that was left by a kill. A data directory that is thrown away after a kill
//! has no next postmaster, and the system has room for only so many segments.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::demo::account::Account;

/// The line of `postmaster.pid` with the segment's key and ID, counted from 0.
/// <https://github.com/postgres/postgres/blob/REL_17_0/src/include/utils/pidfile.h#L37>
const SEGMENT_LINE: usize = 6;

/// Removes the segment of a server that was killed. A `postmaster.pid` that is still there says that it was.
pub(super) fn release(data_dir: &Path, account: &Account) {
    let Ok(text) = fs::read_to_string(data_dir.join("postmaster.pid")) else { return };
    let Some(id) = segment_id(&text) else { return };
    let removed = account
        .command("ipcrm", Path::new("/"))
        .args(["-m", id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !removed.is_ok_and(|status| status.success()) {
        tracing::debug!(id, "a shared memory segment could not be removed");
    }
}

fn segment_id(pidfile: &str) -> Option<&str> {
    let id = pidfile.lines().nth(SEGMENT_LINE)?.split_whitespace().nth(1)?;
    id.bytes().all(|byte| byte.is_ascii_digit()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_is_read_from_the_lock_file() {
        let start = "4711\n/tmp/x/node0\n1700000000\n5432\n/tmp/x/socket\n127.0.0.1\n";
        let cases =
            [("  9986017        32\nready   \n", Some("32")), ("", None), ("9986017\n", None), ("a b\nready\n", None)];
        for (rest, expected) in cases {
            assert_eq!(segment_id(&format!("{start}{rest}")), expected, "{rest:?}");
        }
        assert_eq!(segment_id(""), None);
    }
}

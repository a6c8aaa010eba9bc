//! Processes and signals, through `/proc` and `kill(2)`.
//!
//! A server is its postmaster and that one's direct children: backends and auxiliary processes are
//! all forked by the postmaster itself.

use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::error::DemoError;

/// Sends a signal. A process that is gone already is no error.
pub(super) fn send(pid: u32, signal: Signal) -> Result<(), DemoError> {
    let raw = i32::try_from(pid).map_err(|_| failed(pid, signal, Errno::EINVAL))?;
    match signal::kill(Pid::from_raw(raw), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(source) => Err(failed(pid, signal, source)),
    }
}

fn failed(pid: u32, signal: Signal, source: Errno) -> DemoError {
    DemoError::Signal { signal: signal.as_str(), pid, source }
}

/// The processes whose parent is `parent`. Empty where there is no `/proc`.
pub(super) fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

/// Whether the process is there and not merely waiting to be reaped.
pub(super) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

struct Stat {
    state: char,
    parent: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 and 4 of `proc_pid_stat(5)`. Field 2 is the program's name in parentheses and may hold
/// spaces and parentheses itself, so the fields are counted from the last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_lines_are_read() {
        let cases = [
            ("42 (postgres) S 7 42 42 0", Some(('S', 7))),
            ("42 (a) b (c)) T 9 1", Some(('T', 9))),
            ("42 (postgres)", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_stat(text).map(|stat| (stat.state, stat.parent)), expected, "{text:?}");
        }
    }

    #[test]
    fn a_child_is_listed_until_it_is_dead_and_a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        assert!(children(std::process::id()).contains(&pid) && is_alive(pid));
        send(pid, Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!children(std::process::id()).contains(&pid) && !is_alive(pid));
        send(pid, Signal::SIGTERM).unwrap();
    }
}

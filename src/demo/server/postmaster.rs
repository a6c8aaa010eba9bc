//! The child process behind a server.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::signal_family;
use crate::demo::error::DemoError;

/// How long an immediate stop may take before everything is killed. PostgreSQL itself kills
/// children that ignore it after 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at the child.
const PAUSE: Duration = Duration::from_millis(2);

/// The postmaster, from its start until it is reaped.
#[derive(Debug, Default)]
pub(super) struct Postmaster {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    NeverStarted,
    Running(Child),
    Ended(ExitStatus),
}

impl Postmaster {
    /// Starts it, in a process group of its own: Ctrl-C at a terminal is for this process, which then ends
    /// the servers in its own way.
    pub(super) fn spawn(&self, name: &str, mut command: Command) -> Result<(), DemoError> {
        let mut state = self.current();
        if matches!(*state, State::Running(_)) {
            return Err(DemoError::AlreadyRunning(name.to_owned()));
        }
        let child = command.process_group(0).spawn().map_err(DemoError::io("start postgres"))?;
        *state = State::Running(child);
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match &*self.current() {
            State::Running(child) => Some(child.id()),
            State::NeverStarted | State::Ended(_) => None,
        }
    }

    /// How the last run ended; `None` while it runs.
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        match &*self.current() {
            State::Ended(status) => Some(*status),
            State::NeverStarted | State::Running(_) => None,
        }
    }

    /// The state as it is now: a child that has exited is reaped here, and only here.
    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(child) = &mut *state
            && let Ok(Some(status)) = child.try_wait()
        {
            *state = State::Ended(status);
        }
        state
    }

    /// Waits for a child that has been told to end, and kills the whole family if it does not.
    /// Blocks; for destructors, which cannot wait otherwise.
    pub(super) fn end(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(pid) = self.pid() {
            if Instant::now() >= deadline {
                for member in signal_family(pid, Signal::SIGSTOP).unwrap_or_else(|_| vec![pid]) {
                    let _ = super::process::send(member, Signal::SIGKILL);
                }
            }
            thread::sleep(PAUSE);
        }
    }
}

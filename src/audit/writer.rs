//! The thread that writes the log.
//!
//! Lines are made here, and written some at a time. Where that fails (a full disk, a missing directory) it is
//! tried again every [`RETRY`], with the same bytes; the queue fills meanwhile, and what does not fit is counted.
//! A failure is reported once, and its end once.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::event::{Event, Line};
use super::file::{LogFile, Placement};
use super::queue::{Batch, Queue};

/// After a failure.
pub(super) const RETRY: Duration = Duration::from_millis(500);

pub(super) fn spawn(queue: Arc<Queue>, placement: Option<Placement>) -> io::Result<()> {
    let mut writer = Writer { placement, ..Writer::default() };
    std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&queue)).map(drop)
}

#[derive(Default)]
struct Writer {
    placement: Option<Placement>,
    file: Option<LogFile>,
    /// Whole lines, of which `written` bytes are in the file.
    pending: Vec<u8>,
    written: usize,
    failing: bool,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    fn run(&mut self, queue: &Queue) {
        loop {
            let Batch { placement, events, lost, flushes, ended } = queue.take(self.failing.then_some(RETRY));
            if let Some(placement) = placement {
                self.close();
                self.placement = placement;
            }
            self.flushes.extend(flushes);
            for (time, event) in &events {
                self.put(*time, event);
            }
            if lost > 0 {
                self.put(SystemTime::now(), &Event::Lost { count: lost });
            }
            let result = self.write_out();
            self.report(&result);
            if result.is_ok() {
                self.flushes.drain(..).for_each(|flush| {
                    // Who asked may have given up.
                    let _ = flush.send(());
                });
            }
            if ended {
                return;
            }
        }
    }

    fn put(&mut self, time: SystemTime, event: &Event) {
        if self.placement.is_none() {
            return;
        }
        let start = self.pending.len();
        match serde_json::to_writer(&mut self.pending, &Line::new(time, event)) {
            Ok(()) => self.pending.push(b'\n'),
            Err(error) => {
                // No event holds what JSON cannot.
                self.pending.truncate(start);
                tracing::error!(%error, "an audit event cannot be written");
            }
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.file.as_mut().is_some_and(LogFile::is_moved) {
            self.close();
        }
        let Some(placement) = self.placement.clone() else {
            self.pending.clear();
            self.written = 0;
            return Ok(());
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => LogFile::open(placement)?,
        };
        if self.written == 0 && file.is_full_with(self.pending.len()) {
            file = file.rotate()?;
        }
        let result = self.write_to(&mut file);
        self.file = Some(file);
        result
    }

    fn write_to(&mut self, file: &mut LogFile) -> io::Result<()> {
        while let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pending.clear();
        self.written = 0;
        if !self.flushes.is_empty() {
            file.sync()?;
        }
        Ok(())
    }

    /// Lets go of the file. A line that is only half in it is written whole into the next one.
    fn close(&mut self) {
        self.file = None;
        let before = self.pending.get(..self.written).unwrap_or_default();
        self.written = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    }

    fn report(&mut self, result: &io::Result<()>) {
        let path = self.placement.as_ref().map(|placement| placement.path.display().to_string());
        match (result, std::mem::replace(&mut self.failing, result.is_err())) {
            (Err(error), false) => {
                tracing::error!(path, %error, "the audit log cannot be written; it is tried again");
            }
            (Ok(()), true) => tracing::info!(path, "the audit log is written again"),
            _ => {}
        }
    }
}

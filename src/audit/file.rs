//! The log's file: opened for appending, put aside when it is long enough, and opened anew when somebody else has
//! put it aside (logrotate, or another process of ours during a hand-over).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether the file is still the one of that name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the log is, and when it is rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) path: PathBuf,
    /// In bytes.
    pub(super) rotate_size: u64,
    pub(super) rotate_keep: usize,
}

/// Opens the file for appending; a new one is its owner's alone.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)
}

/// An open file.
#[derive(Debug)]
pub(super) struct LogFile {
    placement: Placement,
    file: File,
    size: u64,
    looked_at: Instant,
}

impl LogFile {
    /// Opens it. A last line without its end, of a full disk or a crash, is ended.
    pub(super) fn open(placement: Placement) -> io::Result<Self> {
        let mut file = open(&placement.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok(Self { placement, file, size, looked_at: Instant::now() })
    }

    /// Writes some of the bytes, and says how many.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether another file has this name now, or none.
    pub(super) fn is_moved(&mut self) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at) < LOOK_EVERY {
            return false;
        }
        self.looked_at = now;
        self.has_lost_its_name()
    }

    fn has_lost_its_name(&self) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (std::fs::metadata(&self.placement.path), self.file.metadata()) {
            (Ok(named), Ok(own)) => id(named) != id(own),
            // It cannot be looked at: what is open can be written all the same.
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whether it should be put aside before so many bytes more are written.
    pub(super) fn is_full_with(&self, more: usize) -> bool {
        self.size > 0 && self.size + more as u64 > self.placement.rotate_size
    }

    /// Puts it aside as `.1`, what was that as `.2` and so on, and begins a new one. Where another process has
    /// done so already, opens what that one has begun.
    pub(super) fn rotate(self) -> io::Result<Self> {
        if !self.has_lost_its_name() {
            let keep = self.placement.rotate_keep;
            for number in (1..keep).rev() {
                ignore_missing(std::fs::rename(self.aside(number), self.aside(number + 1)))?;
            }
            std::fs::rename(&self.placement.path, self.aside(1))?;
        }
        Self::open(self.placement)
    }

    fn aside(&self, number: usize) -> PathBuf {
        let mut name = self.placement.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

//! Notices that the config file has changed, or one of the certificates that it names.
//!
//! What is watched is the directory, not the file: editors write a new file and rename it over the old
//! one, and Kubernetes swaps a symbolic link beside it (`..data`), so a watch on the file itself would
//! go on watching what is no longer there. If the path is a link into another directory, that one is
//! watched too. An event is only a reason to look: the content decides.
//!
//! Files that passwords are in (`file:PATH`) are not watched; SIGHUP reads them again.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Events closer together than this are one change: a file is often written in several steps.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A directory that never comes to rest is looked at this often all the same.
const LONGEST_DEBOUNCE: Duration = Duration::from_secs(2);

/// Why a config file cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system will not watch the directory.
    #[error("cannot watch {}: {source}", path.display())]
    Watch {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

/// Watches one config file. Make it before loading the config, so that no change falls in between.
#[derive(Debug)]
pub struct ConfigWatcher {
    path: PathBuf,
    /// Whose content counts as well; see [`follow`](Self::follow).
    others: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    /// Directories as they are named, and where that led to when the watch began.
    watched: BTreeMap<PathBuf, Option<PathBuf>>,
    events: mpsc::Receiver<()>,
    /// An event has come, and the content has not been looked at since: kept here, so that dropping
    /// the future of [`changed`](Self::changed) loses nothing.
    pending: bool,
    /// Of the content last seen, of the config and of the others. Hashes, because the content holds secrets.
    seen: (u64, u64),
}

impl ConfigWatcher {
    /// Starts watching. The content as it is now counts as seen.
    pub fn new(path: &Path) -> Result<Self, WatchError> {
        // One waiting event is enough: it says "look", and all that came since is seen then.
        let (sender, events) = mpsc::channel(1);
        let on_event = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| may_change_content(&event)) {
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event)
            .map_err(|source| WatchError::Watch { path: path.to_owned(), source })?;
        let mut this = Self {
            path: path.to_owned(),
            others: Vec::new(),
            watcher,
            watched: BTreeMap::new(),
            events,
            pending: false,
            seen: (0, 0),
        };
        this.watch(directory(path))?;
        // Read after the watch has begun: a change in between is then an event, not a gap.
        this.seen = this.content().map_err(|source| WatchError::Read { path: path.to_owned(), source })?;
        this.follow_links();
        Ok(this)
    }

    /// From now on the content of these files counts as well, as it is now. True when they are others than before:
    /// what was read of them until now may be old already, and no event will tell.
    pub fn follow(&mut self, others: Vec<PathBuf>) -> bool {
        if self.others == others {
            return false;
        }
        self.others = others;
        self.follow_links();
        self.seen.1 = hash(&self.others).unwrap_or_default();
        true
    }

    /// All has been read again for another reason than an event: what is watched is what the paths lead to now. A link
    /// in the middle of a path makes no event in any directory that is watched when it is turned.
    pub fn refresh(&mut self) {
        self.follow_links();
    }

    fn content(&self) -> io::Result<(u64, u64)> {
        Ok((hash(std::slice::from_ref(&self.path))?, hash(&self.others)?))
    }

    /// Returns when the content of the files is another than before. Safe to drop at any time, as in `select!`.
    ///
    /// A file that is missing is not a change (it is probably being replaced); its return is, if its
    /// content is another then.
    pub async fn changed(&mut self) {
        loop {
            if !self.pending {
                if self.events.recv().await.is_none() {
                    tracing::error!(path = %self.path.display(), "the file watcher has stopped; use SIGHUP to reload");
                    std::future::pending::<()>().await;
                }
                self.pending = true;
            }
            self.rest().await;
            // Small files, and seldom.
            let content = self.content();
            self.pending = false;
            self.follow_links();
            if let Ok(content) = content
                && content != self.seen
            {
                self.seen = content;
                return;
            }
        }
    }

    /// Waits until no event has come for a while.
    async fn rest(&mut self) {
        let latest = Instant::now() + LONGEST_DEBOUNCE;
        loop {
            let quiet = (Instant::now() + DEBOUNCE).min(latest);
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < latest => {}
                _ => return,
            }
        }
    }

    /// Watches the directories that the paths are in, and those that they lead to in the end, which may have become
    /// other ones.
    fn follow_links(&mut self) {
        let mut wanted = BTreeMap::new();
        for path in std::iter::once(&self.path).chain(&self.others) {
            let here = directory(path).to_owned();
            if let Ok(target) = std::fs::canonicalize(path) {
                let there = directory(&target).to_owned();
                if !std::fs::canonicalize(&here).is_ok_and(|here| here == there) {
                    wanted.insert(there.clone(), Some(there));
                }
                wanted.insert(here.clone(), std::fs::canonicalize(&here).ok());
            } else {
                // It is being replaced, perhaps: what is watched stays.
                wanted.extend(self.watched.clone());
                wanted.entry(here).or_default();
            }
        }
        let is_wanted = |(path, place): &(&PathBuf, &Option<PathBuf>)| wanted.get(*path) == Some(*place);
        let left: Vec<PathBuf> =
            self.watched.iter().filter(|known| !is_wanted(known)).map(|(path, _)| path.clone()).collect();
        for old in left {
            // It fails where the directory is gone, and its watch with it.
            let _ = self.watcher.unwatch(&old);
            self.watched.remove(&old);
        }
        for directory in wanted.keys() {
            if let Err(error) = self.watch(directory) {
                tracing::warn!(%error, "changes of the config may go unnoticed; use SIGHUP to reload");
            }
        }
    }

    fn watch(&mut self, directory: &Path) -> Result<(), WatchError> {
        if !self.watched.contains_key(directory) {
            let failed = |source| WatchError::Watch { path: directory.to_owned(), source };
            let place = std::fs::canonicalize(directory).ok();
            self.watcher.watch(directory, RecursiveMode::NonRecursive).map_err(failed)?;
            self.watched.insert(directory.to_owned(), place);
        }
        Ok(())
    }
}

/// Reading the file makes events too; taking those for changes would never end.
fn may_change_content(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directory that a path's last part is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Of what the files hold, one after the other.
fn hash(paths: &[PathBuf]) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        std::fs::read(path)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Far beyond any real delay; only a failing test waits for it.
    const DEADLINE: Duration = Duration::from_secs(60);

    async fn expect_change(watcher: &mut ConfigWatcher, what: &str) {
        assert!(tokio::time::timeout(DEADLINE, watcher.changed()).await.is_ok(), "{what} went unnoticed");
    }

    /// That nothing is noticed cannot be awaited; that what was noticed is the later change can.
    async fn expect_only_this(watcher: &mut ConfigWatcher, path: &Path, content: &str) {
        expect_change(watcher, "a change").await;
        assert_eq!(fs::read_to_string(path).expect("read"), content);
        let more = tokio::time::timeout(DEBOUNCE * 4, watcher.changed()).await;
        assert!(more.is_err(), "one change was told twice");
    }

    #[tokio::test]
    async fn notices_writes_in_place_and_renames_over() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("pgsluice.toml");
        fs::write(&path, "one").expect("write");
        let mut watcher = ConfigWatcher::new(&path).expect("watcher");

        fs::write(&path, "two").expect("write");
        expect_only_this(&mut watcher, &path, "two").await;

        for content in ["three", "four"] {
            let new = dir.path().join(".pgsluice.toml.new");
            fs::write(&new, content).expect("write");
            fs::rename(&new, &path).expect("rename");
            expect_only_this(&mut watcher, &path, content).await;
        }
    }

    #[tokio::test]
    async fn a_touch_and_other_files_are_no_changes() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("pgsluice.toml");
        fs::write(&path, "one").expect("write");
        let mut watcher = ConfigWatcher::new(&path).expect("watcher");
        fs::write(&path, "one").expect("write");
        fs::write(dir.path().join("other"), "x").expect("write");
        assert!(tokio::time::timeout(DEBOUNCE * 4, watcher.changed()).await.is_err(), "nothing has changed");
        // The dropped future above has lost nothing.
        fs::write(&path, "two").expect("write");
        expect_change(&mut watcher, "a write after a touch").await;
    }

    #[tokio::test]
    async fn a_removed_file_is_a_change_when_it_returns_with_another_content() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("pgsluice.toml");
        fs::write(&path, "one").expect("write");
        let mut watcher = ConfigWatcher::new(&path).expect("watcher");
        fs::remove_file(&path).expect("remove");
        assert!(tokio::time::timeout(DEBOUNCE * 4, watcher.changed()).await.is_err(), "a missing file is no change");
        fs::write(&path, "two").expect("write");
        expect_change(&mut watcher, "the file's return").await;
    }

    /// Kubernetes: `pgsluice.toml -> ..data/pgsluice.toml`, `..data -> ..1`, and `..data` is swapped.
    #[tokio::test]
    async fn notices_a_swapped_link() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2", "..3"] {
            fs::create_dir(at(version)).expect("mkdir");
            fs::write(at(version).join("pgsluice.toml"), version).expect("write");
        }
        symlink("..1", at("..data")).expect("link");
        symlink("..data/pgsluice.toml", at("pgsluice.toml")).expect("link");
        let mut watcher = ConfigWatcher::new(&at("pgsluice.toml")).expect("watcher");
        for (old, new) in [("..1", "..2"), ("..2", "..3")] {
            symlink(new, at("..data_tmp")).expect("link");
            fs::rename(at("..data_tmp"), at("..data")).expect("swap");
            fs::remove_dir_all(at(old)).expect("remove");
            expect_change(&mut watcher, new).await;
        }
    }

    #[tokio::test]
    async fn follows_a_link_into_another_directory() {
        let (here, there) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let (link, file) = (here.path().join("pgsluice.toml"), there.path().join("real.toml"));
        fs::write(&file, "one").expect("write");
        symlink(&file, &link).expect("link");
        let mut watcher = ConfigWatcher::new(&link).expect("watcher");
        fs::write(&file, "two").expect("write");
        expect_change(&mut watcher, "a write behind the link").await;
    }

    #[tokio::test]
    async fn files_that_are_followed_count_as_well() {
        let (here, there) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let (config, certificate) = (here.path().join("pgsluice.toml"), there.path().join("server.crt"));
        fs::write(&config, "config").expect("write");
        fs::write(&certificate, "one").expect("write");
        let mut watcher = ConfigWatcher::new(&config).expect("watcher");
        assert!(watcher.follow(vec![certificate.clone()]));
        assert!(!watcher.follow(vec![certificate.clone()]));
        fs::write(&certificate, "two").expect("write");
        expect_only_this(&mut watcher, &certificate, "two").await;
        fs::remove_file(&certificate).expect("remove");
        assert!(tokio::time::timeout(DEBOUNCE * 4, watcher.changed()).await.is_err(), "a missing file is no change");
        fs::write(&certificate, "three").expect("write");
        expect_only_this(&mut watcher, &certificate, "three").await;
        assert!(watcher.follow(Vec::new()));
        fs::write(&config, "other").expect("write");
        expect_only_this(&mut watcher, &config, "other").await;
    }

    /// `live -> 1`, and the file is `live/server.crt`: turning the link makes no event in `live`.
    #[tokio::test]
    async fn a_link_in_the_middle_is_followed_when_told_to() {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version)).expect("mkdir");
            fs::write(at(version).join("file"), version).expect("write");
        }
        symlink("1", at("live")).expect("link");
        let mut watcher = ConfigWatcher::new(&at("live/file")).expect("watcher");
        symlink("2", at("new")).expect("link");
        fs::rename(at("new"), at("live")).expect("swap");
        watcher.refresh();
        fs::write(at("2/file"), "two").expect("write");
        expect_only_this(&mut watcher, &at("live/file"), "two").await;
    }

    #[test]
    fn a_missing_file_cannot_be_watched() {
        let dir = tempfile::tempdir().expect("dir");
        let error = ConfigWatcher::new(&dir.path().join("none.toml")).expect_err("no file");
        assert!(matches!(error, WatchError::Read { .. }), "{error}");
    }
}

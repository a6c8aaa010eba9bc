//! The audit log: one JSON object a line, for what somebody may have to answer for later.
//!
//! Whoever has something to tell hands over an [`Event`] and goes on: nothing waits for the disk. One thread
//! writes (`writer`), into a file that it rotates (`file`). The queue between them is bounded by bytes; what does
//! not fit is lost, and counted in a metric and in the log itself. What is written is the config's choice
//! (`choice`). `docs/audit.md` describes each event.
//!
//! No event holds a password, or a parameter's value. Literals of statements are there only with
//! `audit.text = "full"`.

mod choice;
mod event;
mod file;
mod queue;
mod writer;

pub use choice::StatementKind;
pub use event::{Event, Line, Name, Outcome, StatementText, Who};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use metrics::Counter;

use crate::config;
use crate::sql::{Catalog, Statement};
use choice::Choice;
use file::Placement;
use queue::Queue;

/// Why there is no audit log although the config asks for one.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("audit.file: {} cannot be written: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("the audit log's writer cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Takes events. Clones tell the same log.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    choice: ArcSwap<Choice>,
    wants_statements: AtomicBool,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("choice", &self.0.choice.load()).finish_non_exhaustive()
    }
}

impl Audit {
    /// Opens the log that the config asks for, and starts its writer. `lost` counts what is lost.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread for the writer.
    pub fn start(config: &config::Audit, lost: Counter) -> Result<Self, AuditError> {
        let placement = open_check(config)?;
        let queue = Arc::new(Queue::new(config.queue, lost));
        writer::spawn(Arc::clone(&queue), placement).map_err(AuditError::Thread)?;
        let audit =
            Self(Arc::new(Inner { queue, choice: ArcSwap::default(), wants_statements: AtomicBool::new(false) }));
        audit.choose(config);
        Ok(audit)
    }

    /// Tells nobody.
    pub fn off() -> Self {
        let queue = Arc::new(Queue::new(0, Counter::noop()));
        Self(Arc::new(Inner { queue, choice: ArcSwap::default(), wants_statements: AtomicBool::new(false) }))
    }

    /// Whether the log that this config asks for can be written.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(config: &config::Audit) -> Result<(), AuditError> {
        open_check(config).map(drop)
    }

    /// Takes over a new config, after [`Audit::check`]. The file is opened anew, whether it is another one or not.
    pub fn adopt(&self, config: &config::Audit) {
        self.0.queue.adopt(config.queue, placement(config));
        self.choose(config);
    }

    fn choose(&self, config: &config::Audit) {
        let choice = Choice::new(config);
        self.0.wants_statements.store(choice.wants_statements(), Ordering::Relaxed);
        self.0.choice.store(Arc::new(choice));
    }

    /// Tells of something that has happened now. Never waits.
    pub fn tell(&self, event: Event) {
        if self.0.choice.load().wants(&event) {
            self.0.queue.push(SystemTime::now(), event);
        }
    }

    /// Tells what an operator did, on the admin database or by a command.
    pub fn operator_action(&self, user: &str, client: Option<std::net::SocketAddr>, command: &str, outcome: Outcome) {
        self.tell(Event::OperatorAction { user: user.into(), client, command: command.to_owned(), outcome });
    }

    /// Whether statements are told of at all: a look at one flag, for each of them.
    pub fn wants_statements(&self) -> bool {
        self.0.wants_statements.load(Ordering::Relaxed)
    }

    /// Whether their texts are told as they came.
    pub fn wants_full_texts(&self) -> bool {
        self.wants_statements() && self.0.choice.load().text == config::AuditText::Full
    }

    /// Which kind of statement it is, where it is one that is told of.
    pub fn chooses(&self, statement: Option<&Statement>, catalog: Option<&Catalog>) -> Option<StatementKind> {
        self.0.choice.load().chooses(statement, catalog)
    }

    /// How much of a statement's text is told.
    pub fn text(&self) -> config::AuditText {
        self.0.choice.load().text
    }

    /// Has all that was told until now written; false when that is not done after `limit`.
    pub async fn flush(&self, limit: Duration) -> bool {
        let done = self.0.queue.flush();
        matches!(tokio::time::timeout(limit, done).await, Ok(Ok(())))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.end();
    }
}

fn placement(config: &config::Audit) -> Option<Placement> {
    let path = config.file.clone()?;
    Some(Placement { path, rotate_size: config.rotate_size as u64, rotate_keep: config.rotate_keep })
}

fn open_check(config: &config::Audit) -> Result<Option<Placement>, AuditError> {
    let placement = placement(config);
    if let Some(placement) = &placement {
        file::open(&placement.path).map_err(|source| AuditError::File { path: placement.path.clone(), source })?;
    }
    Ok(placement)
}

#[cfg(test)]
mod tests;

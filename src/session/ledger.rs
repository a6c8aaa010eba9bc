//! What has been sent to be run, and what came of it: the one place where statements are counted.
//!
//! Metrics, statistics and the audit log are told by [`Session::account`] alone, of the same statements at the
//! same moment, so that their numbers agree. A statement counts when the server has run it, or failed it, or was
//! lost with it; not when an error before it made the server pass over it, and not when its answer was thrown
//! away to ask another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::prepared::Prepared;
use super::{Attached, Session};
use crate::audit::{Event, Name, StatementText};
use crate::config::AuditText;
use crate::sql::{Analysis, Kind, Statement, unread};
use crate::statistics::{NOT_READ, Occurrence};
use crate::topology::Role;
use crate::wire::ErrorReply;

/// Of a text that is written to the audit log as it came, in bytes.
const MAX_FULL_TEXT: usize = 1 << 20;

/// The runs that are under way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    runs: Vec<Run>,
    outcomes: Vec<Outcome>,
    /// Whose answer is next: the run, and the statement in it.
    next: (usize, usize),
    /// When the first of them had come.
    since: Option<Instant>,
}

/// One message that runs something.
#[derive(Debug)]
struct Run {
    analysis: Arc<Analysis>,
    statements: usize,
    source: Source,
    is_read: bool,
    /// All of a text, and not one statement of it.
    is_text: bool,
}

/// A run's text, where the audit log wants it as it came.
#[derive(Debug)]
enum Source {
    Unknown,
    Text(Box<[u8]>),
    Prepared(Arc<Prepared>),
}

#[derive(Debug, Clone, Copy)]
struct Outcome {
    run: usize,
    statement: usize,
    rows: u64,
    at: Option<Instant>,
    sqlstate: Option<[u8; 5]>,
}

/// How it ended for those that have no outcome of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All was answered: without an error they were run, and with one passed over.
    Answered,
    /// The server, or the client, was lost.
    Lost,
}

impl Ledger {
    /// Messages have come.
    pub(super) fn begin(&mut self, at: Instant) {
        if self.runs.is_empty() {
            self.since = Some(at);
        }
    }

    fn add(&mut self, run: Run) {
        if self.runs.capacity() == 0 {
            // Mostly one at a time, and the memory is kept.
            self.runs.reserve_exact(1);
        }
        self.runs.push(run);
    }

    /// The server will not be heard on these; or what it said is thrown away.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.outcomes.clear();
        self.next = (0, 0);
    }

    /// The next statement was answered.
    pub(super) fn answered(&mut self, rows: u64) {
        self.close_next(rows, None);
    }

    /// The last statement that was answered is about to fail after all: its transaction could not be committed.
    pub(super) fn reopen(&mut self) {
        if let Some(last) = self.outcomes.pop() {
            self.next = (last.run, last.statement);
        }
    }

    /// The next statement has failed.
    pub(super) fn failed(&mut self, sqlstate: [u8; 5]) {
        self.close_next(0, Some(sqlstate));
    }

    fn close_next(&mut self, rows: u64, sqlstate: Option<[u8; 5]>) {
        let (run, statement) = self.next;
        let Some(Run { statements, .. }) = self.runs.get(run) else {
            // A rule, or a text that was not read, makes more answers than statements: they are the last one's. What
            // fails behind the last of a pipeline is no run.
            let is_text = self.runs.last().is_some_and(|run| run.is_text);
            if let Some(last) = self.outcomes.last_mut().filter(|_| is_text) {
                last.rows += rows;
                last.sqlstate = last.sqlstate.or(sqlstate);
            }
            return;
        };
        self.next = if statement + 1 < *statements { (run, statement + 1) } else { (run + 1, 0) };
        // Of one statement alone the end is known anyway.
        let at = (self.runs.len() > 1 || *statements > 1).then(Instant::now);
        if self.outcomes.capacity() == 0 {
            self.outcomes.reserve_exact(1);
        }
        self.outcomes.push(Outcome { run, statement, rows, at, sqlstate });
    }

    /// How many statements have not been answered, commits aside.
    pub(super) fn unanswered(&self) -> usize {
        let is_commit = |statement: &Statement| matches!(statement.kind, Kind::Commit { .. } | Kind::TwoPhase);
        let (first, answered) = self.next;
        let left = self.runs.iter().skip(first).enumerate().map(|(index, run)| {
            let from = if index == 0 { answered } else { 0 };
            (from..run.statements).filter(|at| !run.analysis.statements.get(*at).is_some_and(is_commit)).count()
        });
        left.sum()
    }

    /// Those of which nothing was heard.
    fn close_rest(&mut self, end: End) {
        let has_failed = self.outcomes.iter().any(|outcome| outcome.sqlstate.is_some());
        let sqlstate = match end {
            End::Answered if has_failed => return,
            End::Answered => None,
            End::Lost => Some(*b"08006"),
        };
        while self.next.0 < self.runs.len() {
            self.close_next(0, sqlstate);
        }
    }
}

impl Session {
    /// A text is sent to be run.
    pub(super) fn note_query(&mut self, analysis: &Arc<Analysis>, text: &[u8]) {
        let is_read = self.told.can_read_all();
        if is_read {
            self.proxy.statistics.enter(analysis, text);
        }
        let wants_text = self.proxy.audit.wants_full_texts();
        let source = if wants_text { Source::Text(text.into()) } else { Source::Unknown };
        let statements = analysis.statements.len().max(1);
        self.ledger.add(Run { analysis: Arc::clone(analysis), statements, source, is_read, is_text: true });
    }

    /// A portal of a prepared statement is sent to be run; `None`: of no text that is known.
    pub(super) fn note_execute(&mut self, prepared: Option<&Arc<Prepared>>) {
        let Some(prepared) = prepared else { return self.note_unread() };
        let is_read = self.told.can_read_all();
        if is_read {
            self.proxy.statistics.enter(&prepared.analysis, &prepared.text);
        }
        let wants_text = self.proxy.audit.wants_full_texts();
        let source = if wants_text { Source::Prepared(Arc::clone(prepared)) } else { Source::Unknown };
        self.ledger.add(Run {
            analysis: Arc::clone(&prepared.analysis),
            statements: 1,
            source,
            is_read,
            is_text: false,
        });
    }

    /// Something without a text that was read is sent to be run.
    pub(super) fn note_unread(&mut self) {
        let (analysis, source) = (Arc::new(unread()), Source::Unknown);
        self.ledger.add(Run { analysis, statements: 1, source, is_read: false, is_text: true });
    }

    /// A replica has refused the statement whose answer was the last to come, as a write.
    pub(super) fn note_heal(&self, sqlstate: [u8; 5]) {
        self.proxy.metrics.healed_statements.increment(1);
        let failed = self.ledger.outcomes.iter().find(|outcome| outcome.sqlstate.is_some());
        // None where it was refused before it was to be run.
        let failed = failed.and_then(|outcome| Some((self.ledger.runs.get(outcome.run)?, outcome.statement)));
        if let Some((run, statement)) = failed {
            self.proxy.statistics.count_heal(&run.analysis, statement);
        }
        if let Some(server) = &self.server {
            self.proxy.audit.tell(Event::Heal {
                who: self.who(),
                node: (&server.checkout.node.name).into(),
                sqlstate: String::from_utf8_lossy(&sqlstate).into_owned(),
                text: failed.map(|(run, statement)| self.text_of(run, statement)).unwrap_or_default(),
            });
        }
    }

    /// The client is refused something by the proxy itself.
    pub(super) fn note_refusal(&self, reply: &ErrorReply) {
        self.proxy.audit.tell(Event::StatementRefused {
            who: self.who(),
            sqlstate: reply.sqlstate,
            message: reply.message.clone(),
        });
    }

    /// Counts what was run on the server connection that is held, everywhere.
    pub(super) fn account(&mut self, end: End) {
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.close_rest(end);
        if let Some(server) = &self.server {
            self.settle(&ledger, server);
        }
        ledger.clear();
        self.ledger = ledger;
    }

    /// Likewise, of one that was lost.
    pub(super) fn account_lost(&mut self, server: &Attached) {
        let mut ledger = std::mem::take(&mut self.ledger);
        ledger.close_rest(End::Lost);
        self.settle(&ledger, server);
    }

    fn settle(&self, ledger: &Ledger, server: &Attached) {
        let Some(since) = ledger.since.filter(|_| !ledger.outcomes.is_empty()) else { return };
        let audits = self.proxy.audit.wants_statements();
        let (end, mut before) = (self.overhead.ended_at(), since);
        for outcome in &ledger.outcomes {
            let Some(run) = ledger.runs.get(outcome.run) else { continue };
            let took = outcome.at.unwrap_or(end).saturating_duration_since(before);
            before = outcome.at.unwrap_or(before);
            self.count_one(server, run, outcome, took);
            if audits {
                self.audit_statement(server, run, outcome, took);
            }
        }
        let count = u64::try_from(ledger.outcomes.len()).unwrap_or(u64::MAX);
        let took = end.saturating_duration_since(since);
        self.proxy.count_statements(&server.shard, server.role, server.reason, count, took);
    }

    fn count_one(&self, server: &Attached, run: &Run, outcome: &Outcome, took: Duration) {
        let statistics = &self.proxy.statistics;
        let occurrence = Occurrence {
            reason: server.reason.index(),
            on_replica: server.role == Role::Replica,
            rows: outcome.rows,
            took,
            failed: outcome.sqlstate.is_some(),
        };
        statistics.count(&run.analysis, outcome.statement, (!run.is_read).then_some(NOT_READ), &occurrence);
    }

    fn audit_statement(&self, server: &Attached, run: &Run, outcome: &Outcome, took: Duration) {
        let catalog = self.proxy.catalogs().get(&self.identity.database);
        let statement = run.analysis.statements.get(outcome.statement);
        let Some(kind) = self.proxy.audit.chooses(statement, catalog.as_deref()) else { return };
        self.proxy.audit.tell(Event::Statement {
            who: self.who(),
            shard: (&server.shard).into(),
            node: (&server.checkout.node.name).into(),
            role: server.role.name(),
            reason: server.reason.name(),
            kind,
            text: self.text_of(run, outcome.statement),
            duration_seconds: took.as_secs_f64(),
            rows: outcome.rows,
            sqlstate: outcome.sqlstate.map(|code| String::from_utf8_lossy(&code).into_owned()),
        });
    }

    /// The text of the statement whose answer is next.
    pub(super) fn text_under_way(&self) -> StatementText {
        let (run, statement) = self.ledger.next;
        self.ledger.runs.get(run).map(|run| self.text_of(run, statement)).unwrap_or_default()
    }

    /// As much of it as `audit.text` allows.
    fn text_of(&self, run: &Run, statement: usize) -> StatementText {
        let label = self.proxy.statistics.label(&run.analysis, statement).filter(|_| run.is_read);
        let fingerprint = label.as_ref().map(|(fingerprint, _)| format!("{fingerprint:016x}"));
        let text = match self.proxy.audit.text() {
            AuditText::None => None,
            AuditText::Normalised => label.map(|(_, text)| (&text).into()),
            AuditText::Full => run.full_text(statement),
        };
        StatementText { fingerprint, text }
    }
}

impl Run {
    fn full_text(&self, statement: usize) -> Option<Name> {
        let text = match &self.source {
            Source::Unknown => return None,
            Source::Text(text) => text,
            Source::Prepared(prepared) => &prepared.text,
        };
        let one = if self.statements > 1 {
            crate::sql::spans(text, statement + 1).pop().and_then(|span| text.get(span))?
        } else {
            text
        };
        Some((&*String::from_utf8_lossy(one.get(..MAX_FULL_TEXT).unwrap_or(one))).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyse;

    fn ledger(texts: &[(&str, bool)]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin(Instant::now());
        for (text, is_text) in texts {
            let analysis = Arc::new(analyse(text));
            let statements = if *is_text { analysis.statements.len().max(1) } else { 1 };
            let source = Source::Unknown;
            ledger.add(Run { analysis, statements, source, is_read: true, is_text: *is_text });
        }
        ledger
    }

    /// Run, statement, rows, and whether it failed.
    fn outcomes(ledger: &Ledger) -> Vec<(usize, usize, u64, bool)> {
        let of = |outcome: &Outcome| (outcome.run, outcome.statement, outcome.rows, outcome.sqlstate.is_some());
        ledger.outcomes.iter().map(of).collect()
    }

    #[test]
    fn each_answer_is_the_next_statements() {
        let mut text = ledger(&[("SELECT 1; SELECT 2; SELECT 3", true)]);
        text.answered(1);
        text.failed(*b"22012");
        text.close_rest(End::Answered);
        assert_eq!(outcomes(&text), [(0, 0, 1, false), (0, 1, 0, true)], "the third is passed over");

        let mut pipeline = ledger(&[("SELECT 1", false), ("SELECT 2", false), ("SELECT 3", false)]);
        pipeline.answered(7);
        pipeline.failed(*b"22012");
        pipeline.close_rest(End::Answered);
        assert_eq!(outcomes(&pipeline), [(0, 0, 7, false), (1, 0, 0, true)]);

        let mut call = ledger(&[("SELECT 1", true)]);
        call.close_rest(End::Answered);
        assert_eq!(outcomes(&call), [(0, 0, 0, false)], "a function call has no tag");
    }

    #[test]
    fn what_fails_behind_the_last_run() {
        // A Parse.
        let mut parse = ledger(&[("INSERT INTO t VALUES (1)", false)]);
        parse.answered(1);
        parse.failed(*b"42601");
        assert_eq!(outcomes(&parse), [(0, 0, 1, false)]);
        // The Sync, which commits.
        let mut sync = ledger(&[("INSERT INTO t VALUES (1)", false)]);
        sync.answered(1);
        sync.reopen();
        sync.failed(*b"23503");
        assert_eq!(outcomes(&sync), [(0, 0, 0, true)]);
        // A text of more statements than it was taken for.
        let mut unread = ledger(&[("SELECT 1", true)]);
        unread.answered(1);
        unread.answered(2);
        unread.failed(*b"22012");
        assert_eq!(outcomes(&unread), [(0, 0, 3, true)]);
    }

    #[test]
    fn what_is_left_but_for_commits() {
        let mut left = Vec::new();
        let mut texts = ledger(&[("BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1", true), ("SELECT 2", false)]);
        for _ in 0..5 {
            left.push(texts.unanswered());
            texts.answered(0);
        }
        assert_eq!(left, [4, 3, 2, 2, 1]);
        assert_eq!(texts.unanswered(), 0, "the Sync is left, which may commit");
    }

    #[test]
    fn what_was_lost_counts_and_what_is_cleared_does_not() {
        let mut lost = ledger(&[("SELECT 1", false), ("SELECT 2", false)]);
        lost.answered(1);
        lost.close_rest(End::Lost);
        assert_eq!(outcomes(&lost), [(0, 0, 1, false), (1, 0, 0, true)]);
        lost.clear();
        lost.close_rest(End::Lost);
        assert!(outcomes(&lost).is_empty());
    }
}

//! What an exchange has changed: settings, prepared statements, pins, what the session has seen.

use std::sync::Arc;
use std::time::Instant;

use super::ledger::End;
use super::tracked::Course;
use super::understand::Understood;
use super::{Fault, Session};
use crate::sql::{Analysis, Discard, Kind, Pin, PrimaryCause, Statement};
use crate::topology::Role;
use crate::wire::backend::TransactionStatus;

/// Whether it may have read or written rows.
fn touches_rows(statement: &Statement) -> bool {
    matches!(
        statement.kind,
        Kind::Query | Kind::Write | Kind::Ddl | Kind::Utility | Kind::Execute { .. } | Kind::TwoPhase
    )
}

impl Session {
    /// Takes note of what was answered, and lets the connection go when nothing holds it.
    pub(super) async fn conclude(&mut self, understood: &Understood) -> Result<(), Fault> {
        self.count_overhead(understood);
        if self.in_batch {
            // The pipeline goes on; all of it is judged by how it ends.
            return Ok(());
        }
        self.account(End::Answered);
        let mut executed = std::mem::take(&mut self.executed);
        self.count_parse_failures(&executed);
        let failed = self.tally.failed.take().is_some();
        let may_have_worked = !failed || std::mem::take(&mut self.tally.completed) > 0;
        self.tally.completed = 0;
        self.named_here.clear();
        self.opening.follow(&executed, failed, self.status);
        self.follow_settings(&executed, failed);
        self.adopt_own_settings();
        for statement in executed.iter().flat_map(|analysis| &analysis.statements) {
            self.note_statement(statement, failed, may_have_worked);
        }
        executed.clear();
        self.executed = executed;
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
            self.end_transaction();
            if self.tracked.is_uncertain() && self.server.is_some() {
                Box::pin(self.probe_settings()).await?;
                self.adopt_own_settings();
            }
            if std::mem::take(&mut self.unsure_of_pins) && !self.pins.is_empty() && self.server.is_some() {
                Box::pin(self.review_pins()).await?;
            }
        }
        if let Some(body) = self.tally.own_failure.take() {
            // Sent ahead because this server had taken the same values before: nothing may go on under others.
            self.server = None;
            let message =
                crate::wire::backend::error_field(&body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
            let reply =
                crate::wire::ErrorReply::fatal("08006", format!("a setting of this session was refused: {message}"));
            return Err(Fault::Fatal(reply));
        }
        if let Some(server) = &self.server {
            server.checkout.node.note_answer();
        }
        self.account_for_pins();
        if self.is_sharded && !self.is_alone() {
            Box::pin(self.follow_transaction()).await?;
        }
        self.release_if_free().await;
        Ok(())
    }

    fn follow_settings(&mut self, executed: &[Arc<Analysis>], failed: bool) {
        let Some(server) = &mut self.server else { return };
        server.is_fresh = false;
        let tail = self.tail_sent.take();
        if let (true, Some(tail)) = (failed, tail) {
            // The tail may have gone through all the same; the next statement's settings put that right.
            server.checkout.settings = Arc::new(tail.over(&server.checkout.settings));
        }
        let course = Course { failed, before: self.status_before, after: self.status };
        self.tracked.follow(executed, course, &mut server.checkout.settings);
        self.status_before = self.status;
    }

    fn note_statement(&mut self, statement: &Statement, failed: bool, may_have_worked: bool) {
        let on_primary = self.server.as_ref().is_some_and(|server| server.role == Role::Primary);
        self.may_have_sequences |= on_primary
            && (statement.kind == Kind::Write || !statement.functions.is_empty() || statement.changes_settings);
        let touches = statement.changes_settings
            || on_primary && !statement.functions.is_empty() && {
                let catalog = self.proxy.catalogs().get(&self.identity.database);
                catalog.as_deref().is_none_or(|catalog| catalog.calls_volatile(statement))
            };
        if touches && let Some(server) = &mut self.server {
            server.checkout.touched_by = Some(self.registration.key().pid);
        }
        self.saw_rows |= touches_rows(statement);
        match statement.kind {
            Kind::Ddl if may_have_worked => {
                for database in &statement.databases {
                    let shard = self.server.as_ref().map_or_else(|| "".into(), |server| Arc::clone(&server.shard));
                    self.proxy.database(&Arc::from(&**database)).note_catalog_change(&shard, Instant::now());
                }
                self.changed_catalog = true;
                if self.is_sharded && statement.pin.is_none() {
                    self.across.made.change();
                }
            }
            Kind::Savepoint { rollback: true } => {
                if let Some(across) = self.across.existing() {
                    across.made.reconsider();
                }
            }
            Kind::Commit { .. } | Kind::Rollback { .. } => {
                if let Some(across) = self.across.existing() {
                    across.made.end();
                }
                if self.changed_catalog && self.status != TransactionStatus::Idle {
                    // AND CHAIN.
                    self.proxy.monitor.catalog_changed(&self.identity.database);
                }
            }
            Kind::Discard(Discard::All) if !failed => {
                self.pins.clear();
                self.prepared_by_sql.clear();
                self.forget_statements();
            }
            Kind::Discard(Discard::Temp) if !failed => self.pins.retain(|pin| *pin != Pin::Temporary),
            Kind::Prepare { ref name } if may_have_worked => self.prepared_by_sql.push(name.clone()),
            Kind::Deallocate { name: None, .. } if !failed => {
                self.prepared_by_sql.clear();
                self.pins.retain(|pin| *pin != Pin::Prepare);
                self.forget_statements();
            }
            Kind::Deallocate { name: Some(ref name), .. } if !failed => {
                self.forget_statement(name.as_bytes());
                self.unprepare_by_sql(name);
            }
            _ => {}
        }
        if let Some(pin) = statement.pin.filter(|_| may_have_worked) {
            self.pin(pin);
            self.unsure_of_pins |= failed || self.status != TransactionStatus::Idle;
        }
        self.unsure_of_pins |= statement.may_unpin;
    }

    fn forget_statements(&mut self) {
        self.statements.clear();
        if let Some(server) = &mut self.server {
            server.checkout.prepared.clear();
            server.checkout.unnamed = None;
        }
    }

    /// Takes note that such a statement is no more.
    pub(super) fn unprepare_by_sql(&mut self, name: &str) {
        self.prepared_by_sql.retain(|prepared| **prepared != *name);
        if self.prepared_by_sql.is_empty() {
            self.pins.retain(|pin| *pin != Pin::Prepare);
        }
    }

    fn forget_statement(&mut self, name: &[u8]) {
        if let Some(held) = self.statements.remove(name)
            && let Some(server) = &mut self.server
        {
            server.checkout.prepared.remove(&held.statement.id);
        }
    }

    /// Tells the sessions that have to see it what the transaction, now over on a server of this role, has changed:
    /// before the client learns of the end, and can tell another one.
    pub(super) fn tell_others(&self, shard: &Arc<str>, role: Role) {
        if self.changed_catalog || self.executed.iter().any(|analysis| analysis.has_ddl()) {
            self.database.note_catalog_change(shard, Instant::now());
        }
        let mut run = self.executed.iter().flat_map(|analysis| &analysis.statements);
        if role == Role::Primary
            && let Some(key) = self.shared
            && (self.saw_rows || run.any(touches_rows))
        {
            // Of the moment alone: what this connection says of its position may not cover what another session with
            // this key has written meanwhile.
            self.proxy.session_keys.horizon(key, shard).saw_primary(Instant::now(), None);
        }
    }

    /// Remembers what the transaction, now over, has shown to this session.
    fn end_transaction(&mut self) {
        let saw_rows = std::mem::take(&mut self.saw_rows);
        let changed_catalog = std::mem::take(&mut self.changed_catalog);
        let lsn = self.tally.position.take();
        let Some(server) = &self.server else { return };
        if saw_rows {
            let now = self.overhead.ended_at();
            let (node, incarnation) = (&server.checkout.node, server.checkout.incarnation);
            let position = lsn.filter(|_| node.incarnation() == incarnation).and_then(|lsn| node.position_at(lsn));
            let horizon = self.horizons.of(&server.shard);
            match server.role {
                Role::Replica => horizon.saw_replica(node, incarnation, now, position),
                // Those who share its key have been told.
                _ => horizon.saw_primary(now, position),
            }
        }
        if changed_catalog {
            self.proxy.monitor.catalog_changed(&self.identity.database);
            // A role may have another password now, or be another one of the same name.
            self.proxy.users.clear();
        }
    }

    fn count_overhead(&self, understood: &Understood) {
        if self.server.is_some() && understood.waits {
            self.proxy.metrics.proxy_overhead.record(self.overhead.total());
        }
    }

    /// Each time that such a statement is run, whether its text was known or new: so that the number
    /// tells, beside that of all statements, how much of the traffic is not understood.
    fn count_parse_failures(&self, executed: &[Arc<Analysis>]) {
        let statements = executed.iter().flat_map(|analysis| &analysis.statements);
        let failures = statements.filter(|statement| statement.primary == Some(PrimaryCause::Unparsed)).count();
        if failures > 0 {
            self.proxy.metrics.parse_failures.increment(u64::try_from(failures).unwrap_or(u64::MAX));
        }
    }
}

//! A read that needs rows of several shards together runs on the coordinator (`gather/coordinator/`), as it is: its
//! unqualified names are made to mean the views over all shards, by `search_path`, for this one statement.
//!
//! Before each, the coordinator is asked whether it has these views as the config wants them: otherwise a name would mean the
//! coordinator's own part of a table, and rows would be missing.

use std::sync::Arc;
use std::time::Instant;

use super::hand::first_text;
use super::understand::Understood;
use super::{Fault, Session};
use crate::commit::RunError;
use crate::gather::coordinator::{READY, VIEWS, ready_mark};
use crate::pool::quote_literal;
use crate::route::places::{Distribution, Placement};
use crate::route::{Demand, Reason};
use crate::sql::{Kind, Name, PrimaryCause, Statement};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;

/// What a statement on the coordinator needs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Views {
    /// The shard whose primary it is.
    pub(super) shard: Arc<str>,
    /// The tables whose rows are not all there: each must have its view.
    pub(super) tables: Vec<Box<str>>,
}

impl Views {
    /// Of two statements that go together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.tables.extend(other.tables);
        self
    }
}

impl Session {
    /// What a statement for several shards needs on the coordinator; why it cannot run there.
    pub(super) fn views_for(&self, statement: &Statement, distribution: &Distribution) -> Result<Views, ErrorReply> {
        let config = self.proxy.config.load();
        let Some(coordinator) = &config.coordinator else {
            return Err(together().hint(
                "Give the shard key's value for each table that has one, or name a [coordinator] in pgsluice's config.",
            ));
        };
        if statement.kind != Kind::Query || statement.primary == Some(PrimaryCause::LockingClause) {
            return Err(together()
                .detail("The coordinator only reads.")
                .hint("Give the shard key's value, such as WHERE key = …, for each table that has one."));
        }
        let uses = statement.uses.as_deref();
        let mut tables = Vec::new();
        for used in uses.iter().flat_map(|uses| &uses.tables) {
            let known = distribution.table(&used.relation).ok().flatten();
            let is_elsewhere = match known.map(|table| &table.placement) {
                Some(Placement::Key(_)) => true,
                Some(Placement::Shard(shard)) => **shard != *coordinator.shard,
                Some(Placement::Reference) | None => false,
            };
            if is_elsewhere {
                tables.push(unqualified(&used.relation)?);
            }
        }
        Ok(Views { shard: coordinator.shard.as_str().into(), tables })
    }

    /// Goes to the coordinator, and makes names mean all rows there.
    pub(super) async fn go_to_coordinator(
        &mut self,
        views: &Views,
        understood: &mut Understood,
    ) -> Result<Result<(), ErrorReply>, Fault> {
        for shard in self.unsettled_shards() {
            if let Err(reply) = self.await_settled(&shard).await {
                return Ok(Err(reply));
            }
        }
        understood.demand = Demand::Primary(Reason::Coordinator);
        let gone = match self.status {
            TransactionStatus::Idle => self.reach_shard(&views.shard, understood).await?,
            _ if self.across.has_written => Err(together()
                .detail("This transaction may have written, and what it has written is not seen on the coordinator.")
                .hint("Read across shards before the transaction writes, or outside of it.")),
            _ if self.server.as_ref().is_some_and(|server| server.shard == views.shard) => Ok(()),
            _ => self.join(&views.shard).await?,
        };
        if let Err(reply) = gone {
            return Ok(Err(reply));
        }
        let is_local = self.status != TransactionStatus::Idle;
        let Some(server) = &mut self.server else { return Err(Fault::ServerLost(None)) };
        server.reason = Reason::Coordinator;
        let path =
            format!("pg_catalog.concat_ws(', ', '{VIEWS}', NULLIF(pg_catalog.current_setting('search_path'), ''))");
        let sql = format!(
            "{READY}; SELECT pg_catalog.current_setting('search_path'); \
             SELECT pg_catalog.set_config('search_path', {path}, {is_local})"
        );
        server.views_over = Some("".into());
        let own = match server.run_own(&sql).await {
            Ok(own) => own,
            Err(RunError::Refused(refusal)) => return Ok(Err(super::attach::as_told(&refusal.0))),
            Err(RunError::Lost(_)) => return Err(Fault::ServerLost(None)),
        };
        server.views_over = own.rows.get(1).and_then(|row| first_text(row)).map(Into::into);
        let is_ready = own.rows.first().is_some_and(|row| self.has_views(row, views));
        if !is_ready {
            self.leave_coordinator().await?;
            return Ok(Err(ErrorReply::error("55000", "the coordinator is not set up for this statement's tables")
                .detail("It has no view over all shards for each of them, as pgsluice's config has them.")
                .hint("Run pgsluice coordinator setup --database with this database's name.")));
        }
        Ok(Ok(()))
    }

    /// Of the row that [`READY`] gives.
    fn has_views(&self, row: &[u8], views: &Views) -> bool {
        let Some(mark) = first_text(row) else { return false };
        let names = row.get(6 + mark.len()..).and_then(|rest| rest.get(4..)).unwrap_or_default();
        let names = crate::route::places::text_array(names).unwrap_or_default();
        mark == ready_mark(&self.proxy.config.load())
            && views.tables.iter().all(|table| names.iter().any(|name| **name == **table))
    }

    /// A connection to the shard, or the one that is pinned there.
    async fn reach_shard(
        &mut self,
        shard: &Arc<str>,
        understood: &Understood,
    ) -> Result<Result<(), ErrorReply>, Fault> {
        if let Some(server) = &self.server {
            if server.shard == *shard {
                return Ok(Ok(()));
            }
            return Ok(Err(together()
                .detail("This session is pinned to a server of another shard than the coordinator's.")
                .hint(
                    "Use another connection, or end what pins this one: see SHOW CLIENTS in the database pgsluice.",
                )));
        }
        let place = super::place::Place::One(Arc::clone(shard));
        let there = Understood { place, ..Understood::nothing(understood.demand) };
        self.reach_for(&there).await
    }

    /// Names mean again what they meant before.
    pub(super) async fn leave_coordinator(&mut self) -> Result<(), Fault> {
        let status = self.status;
        let Some(server) = &mut self.server else { return Ok(()) };
        let Some(path) = server.views_over.take() else { return Ok(()) };
        // Its rows may be from any shard's primary: they must not be unseen again.
        for shard in &self.proxy.topology.load().shards {
            self.horizons.of(&shard.name).saw_primary(Instant::now(), None);
        }
        if status == TransactionStatus::Failed {
            // The rollback does it.
            return Ok(());
        }
        let is_local = status != TransactionStatus::Idle;
        let sql = format!("SELECT pg_catalog.set_config('search_path', {}, {is_local})", quote_literal(&path));
        server.run_own(&sql).await.map(drop).map_err(|_| Fault::ServerLost(None))
    }
}

/// Views are found by their names alone.
fn unqualified(name: &Name) -> Result<Box<str>, ErrorReply> {
    match name.schema {
        None => Ok(name.name.clone()),
        Some(_) => Err(together()
            .detail(format!("The coordinator knows no {name}, but only {}.", name.name))
            .hint(format!("Write \"{}\" without its schema.", name.name))),
    }
}

fn together() -> ErrorReply {
    ErrorReply::error("0A000", "this statement needs rows of several shards together")
}

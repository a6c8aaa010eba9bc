//! What the gathered messages are about, and what they need.

use std::sync::Arc;
use std::time::Instant;

use super::place::{Parsed, ParsedHere, Place};
use super::serve::Work;
use super::wish::{Wish, constant, object_to_setting, object_to_show};
use super::{Fault, Session};
use crate::config::PoolMode;
use crate::route::{Demand, Reason};
use crate::sql::{Analysis, Catalog, Kind, PrimaryCause, Setting, Statement, TransactionModes, Upkeep, judge};
use crate::topology::Role;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, Bind, Parse, Target, tag};
use crate::wire::{ErrorReply, Frame, Frames};

/// What the gathered messages are about.
#[derive(Debug)]
pub(super) struct Understood {
    /// All texts that they parse, bind or run.
    pub(super) analyses: Vec<Arc<Analysis>>,
    /// Where they have to go.
    pub(super) demand: Demand,
    /// How many statements are run.
    pub(super) runs: usize,
    /// The client waits for answers.
    pub(super) waits: bool,
    /// A pipeline ends with it.
    pub(super) is_synced: bool,
    /// All of it is here, from its beginning: it could be sent to another node as well.
    pub(super) is_repeatable: bool,
    /// A replica that might have caught up had not.
    pub(super) is_disproved: bool,
    /// What the client wants of their way, where that is not what its session has set.
    pub(super) hinted: Option<Wish>,
    /// Which shard it is for.
    pub(super) place: Place,
    /// Each `Bind`, in order: its portal, and where it is for.
    pub(super) binds: Vec<(Box<[u8]>, Place)>,
    /// The version of the bucket map that says so; 0 where there is none.
    pub(super) version: i64,
    /// When it had come.
    pub(super) asked_at: Instant,
}

impl Understood {
    /// Of no messages at all.
    pub(super) fn nothing(demand: Demand) -> Self {
        let asked_at = Instant::now();
        Self {
            analyses: Vec::new(),
            demand,
            runs: 0,
            waits: true,
            is_synced: false,
            is_repeatable: false,
            is_disproved: false,
            hinted: None,
            place: Place::Any,
            binds: Vec::new(),
            version: 0,
            asked_at,
        }
    }

    /// Whether it asks for rows, and does nothing else.
    pub(super) fn is_query(&self) -> bool {
        let mut statements = self.analyses.iter().flat_map(|analysis| &analysis.statements);
        self.runs > 0 && statements.all(|statement| statement.kind == Kind::Query)
    }

    /// All statements that it is about.
    pub(super) fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.analyses.iter().flat_map(|analysis| &analysis.statements)
    }

    /// Where it runs one such command and nothing else.
    pub(super) fn only_upkeep(&self) -> Option<&Upkeep> {
        let mut statements = self.statements();
        let first = statements.next()?;
        if self.runs == 1 && statements.next().is_none() { first.upkeep.as_deref() } else { None }
    }

    fn add_place(&mut self, place: Place) {
        self.place = std::mem::replace(&mut self.place, Place::Any).and(place);
    }

    /// Whether it is the end of a transaction, and no other begins with it.
    pub(super) fn is_commit(&self) -> bool {
        let ends = |statement: &Statement| {
            matches!(statement.kind, Kind::Commit { chain: false } | Kind::Rollback { chain: false })
        };
        self.runs == 1 && matches!(&*self.analyses, [only] if matches!(&*only.statements, [one] if ends(one)))
    }

    /// Whether something may have been committed by it, when no answer has come.
    pub(super) fn may_commit(&self, in_transaction: bool) -> bool {
        let commits = |statement: &Statement| matches!(statement.kind, Kind::Commit { .. } | Kind::TwoPhase);
        let has_commit = self.analyses.iter().flat_map(|analysis| &analysis.statements).any(commits);
        has_commit || !in_transaction && matches!(self.demand, Demand::Primary(_)) && self.runs > 0
    }
}

impl Session {
    /// Reads what the messages are about. Sends nothing and changes nothing.
    pub(super) fn understand(&self, work: &Work) -> Result<Understood, Fault> {
        let mut understood = Understood::nothing(Demand::Replica(Reason::FreshReplica));
        // Mostly one.
        understood.analyses = Vec::with_capacity(1);
        understood.version = self.known_version();
        understood.is_repeatable = !self.in_batch && self.status == TransactionStatus::Idle;
        match work {
            Work::Messages { bytes, waits } => {
                understood.waits = *waits;
                self.understand_messages(bytes, &mut understood)?;
            }
            Work::Long(header) => {
                understood.demand = Demand::Primary(Reason::TooLong);
                understood.waits = matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL);
                understood.runs = usize::from(understood.waits);
            }
        }
        understood.is_repeatable &= understood.waits;
        self.decide_demand(&mut understood, []);
        if matches!((work, understood.demand), (Work::Messages { waits: false, .. }, Demand::Replica(_))) {
            // What else the pipeline holds is not known yet.
            understood.demand = Demand::Primary(Reason::TooLong);
        }
        Ok(understood)
    }

    /// Whether these messages, the first of a pipeline or some in the middle of one, go where they go whatever follows.
    pub(super) fn is_decided(&self, messages: &[u8]) -> Result<bool, Fault> {
        if let Some(server) = &self.server {
            return Ok(server.role == Role::Primary);
        }
        let mut understood = Understood::nothing(Demand::Replica(Reason::FreshReplica));
        self.understand_messages(messages, &mut understood)?;
        self.decide_demand(&mut understood, []);
        Ok(matches!(understood.demand, Demand::Primary(_)))
    }

    fn understand_messages(&self, messages: &[u8], understood: &mut Understood) -> Result<(), Fault> {
        let mut parsed = ParsedHere::default();
        Frames::new(messages)
            .try_for_each(|frame| self.understand_message(&frame.map_err(Fault::from)?, understood, &mut parsed))
    }

    /// What the texts need, where nothing else has decided that; `unread` has not been looked at yet.
    pub(super) fn decide_demand<'a>(&self, understood: &mut Understood, unread: impl IntoIterator<Item = &'a [u8]>) {
        if unread.into_iter().any(|text| !self.told.can_read(text)) {
            understood.demand = Demand::Primary(Reason::UnreadableText);
        }
        if let Demand::Replica(_) = understood.demand {
            understood.demand = self.demand(&understood.analyses);
        }
        if understood.analyses.iter().any(|analysis| !analysis.hints.is_empty()) {
            understood.hinted = Some(self.wish().with_hints(&understood.analyses));
        }
    }

    /// `parsed`: names that the messages before have given to texts of their own.
    fn understand_message<'a>(
        &self,
        frame: &Frame<'a>,
        understood: &mut Understood,
        parsed: &mut ParsedHere<'a>,
    ) -> Result<(), Fault> {
        let mut uses = |name: &[u8]| {
            if parsed.get(name).is_none() {
                let held = self.statements.get(name);
                understood.analyses.extend(held.map(|held| Arc::clone(&held.statement.analysis)));
            }
        };
        let text = match frame.tag {
            tag::QUERY => frontend::query(frame.body)?,
            tag::PARSE => {
                let Parse { name, text, types } = Parse::read(frame.body)?;
                let analysis = self.understand_text(text, understood);
                parsed.insert(name, Parsed { analysis, text, types });
                return Ok(());
            }
            tag::BIND => {
                let bind = Bind::read(frame.body)?;
                uses(bind.statement);
                return self.place_bind(bind, understood, parsed);
            }
            tag::DESCRIBE => {
                if let Target::Statement(name) = Target::read(frame.body, "Describe")? {
                    uses(name);
                }
                return Ok(());
            }
            tag::EXECUTE => {
                understood.runs += 1;
                if !self.bound.is_empty() {
                    self.place_execute(frame.body, understood)?;
                }
                return Ok(());
            }
            tag::CLOSE => {
                // Taken back together with the names that a repetition would give anew, it would be lost.
                understood.is_repeatable = false;
                return Ok(());
            }
            tag::SYNC => {
                understood.is_synced = true;
                return Ok(());
            }
            tag::FUNCTION_CALL => {
                understood.runs += 1;
                understood.demand = Demand::Primary(Reason::FunctionCall);
                return Ok(());
            }
            _ => return Ok(()),
        };
        let analysis = self.understand_text(text, understood);
        understood.runs += analysis.statements.len().max(1);
        if self.is_sharded {
            let here = Parsed { analysis, text, types: b"" };
            understood.add_place(self.place_of(&here, None)?);
        }
        Ok(())
    }

    fn understand_text(&self, text: &[u8], understood: &mut Understood) -> Arc<Analysis> {
        let analysis = self.analysis_of(text);
        if !self.told.can_read(text) {
            understood.demand = Demand::Primary(Reason::UnreadableText);
        }
        understood.analyses.push(Arc::clone(&analysis));
        analysis
    }

    /// With the values that are bound.
    fn place_bind(&self, bind: Bind<'_>, understood: &mut Understood, parsed: &ParsedHere<'_>) -> Result<(), Fault> {
        if !self.is_sharded {
            return Ok(());
        }
        let held = self.statements.get(bind.statement).map(|held| &held.statement);
        let place = match (parsed.get(bind.statement), held) {
            (Some(here), _) => self.place_of(here, Some(bind))?,
            (None, Some(held)) => {
                let held = Parsed { analysis: Arc::clone(&held.analysis), text: &held.text, types: &held.types };
                self.place_of(&held, Some(bind))?
            }
            // It will be refused, or it lives where this session is pinned.
            (None, None) => Place::Any,
        };
        understood.binds.push((bind.portal.into(), place.clone()));
        understood.place = std::mem::replace(&mut understood.place, Place::Any).then(place);
        Ok(())
    }

    /// Portals that outlive these messages: those of a transaction, or of a pipeline that goes on.
    pub(super) fn keep_portals(&mut self, understood: &Understood) {
        let begins = || understood.statements().any(|statement| matches!(statement.kind, Kind::Begin(_)));
        if self.status != TransactionStatus::Idle || !understood.is_synced || begins() {
            self.bound.extend(understood.binds.iter().cloned());
        }
    }

    /// Of a portal that was bound by earlier messages.
    fn place_execute(&self, body: &[u8], understood: &mut Understood) -> Result<(), Fault> {
        let (portal, _) = frontend::execute(body)?;
        let is_it = |(name, _): &&(Box<[u8]>, Place)| **name == *portal;
        if understood.binds.iter().any(|bound| is_it(&bound)) {
            return Ok(());
        }
        match self.bound.iter().rev().find(is_it).map(|(_, place)| place) {
            Some(Place::Everywhere(_) | Place::RowByRow) => understood.add_place(Place::Refused(Box::new(
                ErrorReply::error("0A000", "a statement for every shard cannot be sent in this way")
                    .hint("Send its Bind and its Execute together."),
            ))),
            Some(place) => understood.add_place(place.clone()),
            None => {}
        }
        Ok(())
    }

    /// Where these texts have to go, taken together.
    fn demand(&self, analyses: &[Arc<Analysis>]) -> Demand {
        if self.config.pool.mode == PoolMode::Session {
            return Demand::Primary(Reason::SessionPooling);
        }
        let looked_up;
        let catalog = match &self.rows {
            Some(rows) => Some(&*rows.catalog),
            None => {
                looked_up = self.proxy.catalogs().get(&self.identity.database);
                looked_up.as_deref()
            }
        };
        let mut demand = Demand::Replica(Reason::FreshReplica);
        for analysis in analyses {
            if analysis.was_refused_by_standby() {
                return Demand::Primary(Reason::RefusedByStandby);
            }
            for statement in &analysis.statements {
                match self.demand_of(statement, catalog) {
                    Demand::Replica(Reason::FreshReplica) => {}
                    Demand::Replica(reason) => demand = Demand::Replica(reason),
                    primary => return primary,
                }
            }
        }
        demand
    }

    fn demand_of(&self, statement: &Statement, catalog: Option<&Catalog>) -> Demand {
        match &statement.kind {
            Kind::Begin(modes) => self.demand_of_begin(*modes),
            Kind::Commit { .. } | Kind::Rollback { .. } => Demand::Replica(Reason::FreshReplica),
            Kind::Savepoint { .. } | Kind::SetTransaction(_) => Demand::Primary(Reason::Transaction),
            Kind::TwoPhase => Demand::Primary(Reason::Statement(PrimaryCause::Utility)),
            Kind::Set(_)
            | Kind::Discard(_)
            | Kind::Prepare { .. }
            | Kind::Execute { .. }
            | Kind::Deallocate { .. }
            | Kind::Listen => Demand::Primary(Reason::Statement(PrimaryCause::SessionState)),
            Kind::ExplainRoute | Kind::ShowOwn { .. } => match statement.primary {
                Some(cause) => Demand::Primary(Reason::Statement(cause)),
                // A server says the answer, in a transaction of its own.
                None if self.is_serializable_by_default() => Demand::Primary(Reason::Serializable),
                None => Demand::Replica(Reason::FreshReplica),
            },
            Kind::Query | Kind::Write | Kind::Ddl | Kind::Utility => match judge(statement, catalog) {
                Some(cause) => Demand::Primary(Reason::Statement(cause)),
                None if self.is_serializable_by_default() => Demand::Primary(Reason::Serializable),
                None => Demand::Replica(Reason::FreshReplica),
            },
        }
    }

    fn demand_of_begin(&self, modes: TransactionModes) -> Demand {
        let is_serializable = modes.serializable.unwrap_or_else(|| self.is_serializable_by_default());
        let is_read_only = modes.read_only.unwrap_or_else(|| self.is_set("default_transaction_read_only"));
        match (is_serializable, is_read_only) {
            (true, _) => Demand::Primary(Reason::Serializable),
            (_, true) => Demand::Replica(Reason::ReadOnlyTransaction),
            _ => Demand::Primary(Reason::Transaction),
        }
    }

    pub(super) fn is_serializable_by_default(&self) -> bool {
        let settings = self.tracked.current();
        settings.has_transaction_defaults()
            && constant(settings, "default_transaction_isolation")
                .is_some_and(|level| level.eq_ignore_ascii_case("serializable"))
    }

    /// A boolean setting: by what the client set, or else by what the server reported.
    fn is_set(&self, name: &str) -> bool {
        match constant(self.tracked.current(), name) {
            Some(value) => ["on", "true", "yes", "1", "t", "y"].iter().any(|yes| value.eq_ignore_ascii_case(yes)),
            None => self.told.get(name) == Some(b"on"),
        }
    }

    /// Why a text must not be sent where this session stands.
    pub(super) fn objection(&self, analysis: &Analysis) -> Option<ErrorReply> {
        let on_replica = self.status != TransactionStatus::Idle
            && self.server.as_ref().is_some_and(|server| server.role == Role::Replica);
        let by_statement = analysis.statements.iter().find_map(|statement| match &statement.kind {
            Kind::Set(Setting::Session { name, value: Some(value) } | Setting::Local { name, value: Some(value) }) => {
                object_to_setting(name, value, &self.proxy.config.load())
            }
            Kind::ShowOwn { name } => object_to_show(name),
            _ if on_replica && self.takes_advisory_lock(statement) => Some(
                ErrorReply::error("0A000", "an advisory lock cannot be taken in this transaction")
                    .detail("It is read only and runs on a replica, where a lock holds up nobody.")
                    .hint("Begin the transaction READ WRITE, or SET pgsluice.route = 'primary' before it."),
            ),
            _ => None,
        });
        by_statement.or_else(|| self.object_to_hints(analysis))
    }

    fn takes_advisory_lock(&self, statement: &Statement) -> bool {
        let catalog = self.proxy.catalogs().get(&self.identity.database);
        judge(statement, catalog.as_deref()) == Some(PrimaryCause::AdvisoryLock)
    }
}

//! Which shards the gathered messages are for. With one shard there is nothing to ask.

use std::collections::HashMap;
use std::sync::Arc;

use super::alone::of_server;
use super::coordinate::Views;
use super::scatter::Scatter;
use super::{Fault, Session};
use crate::monitor::Rows;
use crate::route::places::{
    Distribution, Lot, Parameter, Places, Reading, Spread, Unplaced, Values, places, places_of_rows,
};
use crate::shard::Charset;
use crate::sql::{Analysis, Catalog, Gathering, Kind, Name, Pin, Statement, Upkeep, Uses, gathering, judge};
use crate::wire::ErrorReply;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::Bind;

/// Where they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Wherever the session is.
    Any,
    /// This shard.
    One(Arc<str>),
    /// Each of them is to have it, all or none.
    Everywhere(Scatter),
    /// Each `Bind` is for one shard, and they are not all for the same.
    InTurn,
    /// COPY from the client: each of its rows is for one shard, or for every one.
    RowByRow,
    /// A read that each shard answers for its own rows.
    Merged(Box<Merging>),
    /// A read of rows of several shards: the coordinator.
    Together(Views),
    /// A key of theirs is about to move to another shard; the error is for who cannot wait.
    Moving(Box<ErrorReply>),
    /// They need several, in a way that is not done.
    Refused(Box<ErrorReply>),
}

/// A read whose rows are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merging {
    /// How.
    pub(super) gathering: Gathering,
    /// The shards that have some of the rows.
    pub(super) shards: Box<[Arc<str>]>,
    /// Where it is for when that cannot be done, as is known only then.
    pub(super) otherwise: Place,
}

/// A statement that the messages at hand have parsed themselves.
#[derive(Debug, Clone)]
pub(super) struct Parsed<'a> {
    pub(super) analysis: Arc<Analysis>,
    pub(super) text: &'a [u8],
    /// As in `Parse`.
    pub(super) types: &'a [u8],
}

/// By the name that the messages have given it. Mostly there is one, or none.
#[derive(Debug, Default)]
pub(super) struct ParsedHere<'a> {
    last: Option<(&'a [u8], Parsed<'a>)>,
    others: HashMap<&'a [u8], Parsed<'a>>,
}

impl<'a> ParsedHere<'a> {
    /// A name is given, maybe anew.
    pub(super) fn insert(&mut self, name: &'a [u8], parsed: Parsed<'a>) {
        if let Some((before, other)) = self.last.replace((name, parsed))
            && before != name
        {
            self.others.insert(before, other);
        }
    }

    /// What it stands for, where the messages have given it.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Parsed<'a>> {
        match &self.last {
            Some((last, parsed)) if *last == name => Some(parsed),
            Some(_) => self.others.get(name),
            None => None,
        }
    }
}

impl Place {
    /// With a `Bind` behind it in one pipeline.
    pub(super) fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::One(one), Self::One(other)) if one != other => Self::InTurn,
            (Self::InTurn, Self::One(_) | Self::Any) => Self::InTurn,
            (before, next) => before.and(next),
        }
    }

    /// Both together: one implicit transaction.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, other) => other,
            (other, Self::Any) => other,
            // It is merged alone.
            (Self::Merged(merging), other) => merging.otherwise.and(other),
            (other, Self::Merged(merging)) => other.and(merging.otherwise),
            (Self::One(one), Self::One(other)) if one == other => Self::One(one),
            (Self::Everywhere(Scatter::Same | Scatter::Alone), Self::Everywhere(Scatter::Same | Scatter::Alone)) => {
                Self::Everywhere(Scatter::Same)
            }
            (Self::Together(one), Self::Together(other)) => Self::Together(one.and(other)),
            (refused @ Self::Refused(_), _) | (_, refused @ Self::Refused(_)) => refused,
            (moving @ Self::Moving(_), _) | (_, moving @ Self::Moving(_)) => moving,
            (Self::One(one), Self::One(other)) => Self::Refused(Box::new(
                ErrorReply::error("0A000", "one message of several statements cannot be for several shards")
                    .detail(format!("One of its statements is for shard \"{one}\", and one for shard \"{other}\"."))
                    .hint("Send them one by one, in a transaction where they belong together."),
            )),
            _ => Self::Refused(Box::new(
                ErrorReply::error("0A000", "one message of several statements cannot be for several shards")
                    .detail("One of its statements is for several shards by itself.")
                    .hint("Send them one by one, in a transaction where they belong together."),
            )),
        }
    }
}

impl Session {
    /// Where one execution of a text is for.
    pub(super) fn place_of(&self, parsed: &Parsed<'_>, parameters: Option<Bind<'_>>) -> Result<Place, Fault> {
        if let Some(shard) = self.wished_shard(&parsed.analysis) {
            return Ok(Place::One(shard));
        }
        let given = parameters.map(|bind| bind.parameters()).transpose()?.unwrap_or_default();
        let type_of = |index: usize| {
            let bytes = parsed.types.get(2 + 4 * index..6 + 4 * index);
            bytes.and_then(|bytes| bytes.first_chunk()).map_or(0, |oid| u32::from_be_bytes(*oid))
        };
        let parameter = |(index, (is_binary, value))| Parameter { oid: type_of(index), is_binary, value };
        let parameters: Vec<Parameter<'_>> = given.into_iter().enumerate().map(parameter).collect();
        let has_temporary = self.pins.contains(&Pin::Temporary);
        let temporary = self.server.as_ref().filter(|_| has_temporary).map(|server| &server.shard);
        let lot = Lot { here: self.bound_to(), bucket: self.lot };
        let values = Values { text: parsed.text, parameters: &parameters, charset: self.charset(), temporary, lot };
        let looked_up;
        let rows = match &self.rows {
            Some(rows) => Some(rows),
            None => {
                looked_up = self.known_rows();
                looked_up.as_ref()
            }
        };
        let Some(Rows { catalog, distribution, .. }) = rows.map(|rows| &**rows) else {
            return Ok(Place::Refused(Box::new(
                ErrorReply::error("57P03", "where this database's rows are has not been read yet")
                    .hint("It is read when the first client of a database comes. Try again in a moment."),
            )));
        };
        let statements = parsed.analysis.statements.iter();
        Ok(statements.fold(Place::Any, |all, statement| {
            all.and(self.place_of_statement(statement, catalog, distribution, values))
        }))
    }

    fn place_of_statement(
        &self,
        statement: &Statement,
        catalog: &Catalog,
        distribution: &Distribution,
        values: Values<'_>,
    ) -> Place {
        match &statement.kind {
            _ if matches!(statement.upkeep.as_deref(), Some(Upkeep::OfServer)) => Place::Refused(Box::new(of_server())),
            Kind::Ddl | Kind::Utility if statement.upkeep.is_some() && !self.pins.contains(&Pin::Temporary) => {
                Place::Everywhere(Scatter::Alone)
            }
            // CREATE TABLE AS: what it reads is not known.
            Kind::Ddl if statement.uses.is_none() => unknown("what it reads is not known from its text"),
            Kind::Ddl if statement.pin.is_some() => Place::Any,
            Kind::Ddl if self.pins.contains(&Pin::Temporary) => Place::Refused(Box::new(
                ErrorReply::error("0A000", "whether this is about a temporary table is not known")
                    .detail("This session has some, on one shard; any other DDL is for all shards.")
                    .hint(
                        "For a temporary table name the shard: SET pgsluice.shard, or /* pgsluice: shard=name */; DISCARD TEMP \
                         drops all of them. For others use another connection.",
                    ),
            )),
            Kind::Ddl => Place::Everywhere(Scatter::Same),
            Kind::Query | Kind::Write => match &statement.uses {
                Some(uses) => match places(uses, distribution, values) {
                    Ok(Places::Any) if tells_oids_of_types(uses) && self.can_leave() => self.home(),
                    Ok(Places::Any) => self.place_by_functions(statement, catalog),
                    Ok(Places::One(shard)) => Place::One(shard),
                    Ok(Places::Several { spread: Spread::Rows, .. }) if statement.kind == Kind::Write => {
                        match places_of_rows(uses, distribution, values) {
                            Ok(rows) => Place::Everywhere(Scatter::Rows(rows.unwrap_or_default().into())),
                            Err(unplaced) => no_place(&unplaced),
                        }
                    }
                    Ok(Places::Several { spread, why }) => {
                        let otherwise = self.several(statement, catalog, distribution, (spread, &why));
                        match self.merging(statement, catalog, distribution, values.text) {
                            Some((gathering, shards)) => {
                                Place::Merged(Box::new(Merging { gathering, shards, otherwise }))
                            }
                            None => otherwise,
                        }
                    }
                    Err(unplaced) => no_place(&unplaced),
                },
                None => unknown("which tables it is about cannot be read from its text"),
            },
            // NOTIFY.
            Kind::Utility if statement.uses.is_some() => self.home(),
            Kind::Listen => self.home(),
            Kind::Utility | Kind::Execute { .. } | Kind::TwoPhase => unknown("what it is about is not in its text"),
            _ => Place::Any,
        }
    }

    /// Of a statement that names no table, or only such as are everywhere.
    fn place_by_functions(&self, statement: &Statement, catalog: &Catalog) -> Place {
        if statement.functions.iter().any(|name| &*name.name == "setval") {
            return Place::Refused(Box::new(
                ErrorReply::error("0A000", "setval would set the sequence of one shard only")
                    .detail("Each shard's sequence gives values of its own.")
                    .hint("ALTER SEQUENCE … RESTART WITH sets it on all of them."),
            ));
        }
        let meets_others = |name: &Name| {
            name.name.starts_with("pg_advisory")
                || name.name.starts_with("pg_try_advisory")
                || &*name.name == "pg_notify"
        };
        if statement.functions.iter().any(meets_others) {
            return self.home();
        }
        match statement.functions.iter().find(|name| catalog.may_read_rows(name)) {
            Some(name) => Place::Refused(Box::new(
                ErrorReply::error("0A000", format!("which shard a call of function {name} is for is not known"))
                    .detail("It may read or change rows, and the statement names no table that tells where they are.")
                    .hint(BY_HAND),
            )),
            None => Place::Any,
        }
    }

    fn several(
        &self,
        statement: &Statement,
        catalog: &Catalog,
        distribution: &Distribution,
        (spread, why): (Spread, &str),
    ) -> Place {
        let varying = || statement.functions.iter().find(|name| catalog.varies(name));
        let refused = match (spread, varying()) {
            (Spread::Copied { is_same: true }, Some(name)) => {
                ErrorReply::error("0A000", format!("{name} may choose other rows on each shard"))
                    .detail("A reference table has the same rows on every shard.")
                    .hint("Leave the WHERE clause out.")
            }
            (Spread::Copied { .. }, _) => return Place::RowByRow,
            (Spread::Own, _) if statement.kind == Kind::Write => return Place::Everywhere(Scatter::Own),
            (Spread::Same, None) => return Place::Everywhere(Scatter::Same),
            (Spread::Same, Some(name)) => {
                ErrorReply::error("0A000", format!("{name} would give each shard another value"))
                    .detail("A reference table has the same rows on every shard.")
                    .hint("Give the value itself, as a literal or a parameter.")
            }
            (Spread::Own | Spread::Rows | Spread::Mixed, _) => match self.views_for(statement, distribution) {
                Ok(views) => match self.place_by_functions(statement, catalog) {
                    Place::Any => return Place::Together(views),
                    refused => return refused,
                },
                Err(reply) if reply.detail.is_none() => reply.detail(format!("As far as pgsluice can tell, {why}.")),
                Err(reply) => reply,
            },
        };
        Place::Refused(Box::new(refused))
    }

    /// How a read of several shards is put together, and of which; `None` where that is not certain, or not now.
    fn merging(
        &self,
        statement: &Statement,
        catalog: &Catalog,
        distribution: &Distribution,
        text: &[u8],
    ) -> Option<(Gathering, Box<[Arc<str>]>)> {
        let is_read = statement.kind == Kind::Query
            && judge(statement, Some(catalog)).is_none()
            && !statement.changes_settings
            && statement.pin.is_none();
        let is_free = self.status != TransactionStatus::Failed && self.pins.is_empty();
        if !is_read || !is_free || !self.told.can_read(text) {
            return None;
        }
        let map = distribution.versions.in_force.as_deref()?;
        let shards = map.shards().iter().map(|shard| Arc::clone(&shard.name)).collect();
        Some((gathering(text, &Reading { distribution, catalog })?, shards))
    }

    /// The shard that a write should stay on if it can: elsewhere it would be refused, or make the transaction one over
    /// several shards.
    fn bound_to(&self) -> Option<&Arc<str>> {
        let is_bound = !self.pins.is_empty()
            || self.in_batch
            || self.status == TransactionStatus::Transaction && self.across.has_written;
        self.server.as_ref().filter(|_| is_bound).map(|server| &server.shard)
    }

    /// Whether it is not bound to the server that it is on.
    fn can_leave(&self) -> bool {
        self.pins.is_empty() && (self.server.is_none() || self.status == TransactionStatus::Transaction)
    }

    /// Where those meet who do not meet over rows: for notifications, and advisory locks.
    fn home(&self) -> Place {
        self.proxy.config.load().shards.first().map_or(Place::Any, |first| Place::One(first.name.as_str().into()))
    }

    pub(super) fn charset(&self) -> Charset {
        self.told.charset()
    }
}

/// Whether it reads the numbers by which clients know types: those of the first shard.
fn tells_oids_of_types(uses: &Uses) -> bool {
    uses.tables.iter().any(|table| {
        let name = &table.relation;
        name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
            && matches!(&*name.name, "pg_type" | "pg_enum" | "pg_range")
    })
}

/// What to do where pgsluice does not know.
const BY_HAND: &str =
    "Name the shard: SET pgsluice.shard = 'name', or /* pgsluice: shard=name */ in front of the statement.";

fn unknown(why: &str) -> Place {
    Place::Refused(Box::new(
        ErrorReply::error("0A000", "which shard this statement is for is not known")
            .detail(format!("It is not certain: {why}."))
            .hint(BY_HAND),
    ))
}

fn no_place(unplaced: &Unplaced) -> Place {
    let reply = Box::new(unplaced_reply(unplaced));
    match unplaced {
        Unplaced::Moving { .. } => Place::Moving(reply),
        _ => Place::Refused(reply),
    }
}

fn unplaced_reply(unplaced: &Unplaced) -> ErrorReply {
    let (sqlstate, hint) = match unplaced {
        Unplaced::Undeclared(name) => (
            "0A000",
            format!(
                "Declare it in pgsluice's config: [[tables]] name = \"{name}\", with shard_key, reference or shard."
            ),
        ),
        Unplaced::Unfit { .. } => ("0A000", "Compare [[tables]] in pgsluice's config with the table.".to_owned()),
        Unplaced::NoMap => ("55000", "Run pgsluice shards init --database with its name.".to_owned()),
        Unplaced::NoKey { column, .. } => (
            "0A000",
            format!(
                "Give \"{column}\" a value: a literal or a parameter, and no expression. A default will do where it is pgsluice.next_key()."
            ),
        ),
        Unplaced::Varies { column, .. } => ("0A000", format!("Give \"{column}\" its value in the statement.")),
        Unplaced::NullKey { .. } => ("23502", "A row needs its shard key.".to_owned()),
        Unplaced::Value { .. } => ("0A000", BY_HAND.to_owned()),
        Unplaced::Moving { .. } => (
            "40001",
            "Run the transaction again. If nobody is changing the bucket map any more, run pgsluice shards init."
                .to_owned(),
        ),
        Unplaced::MovesRow { .. } => {
            ("0A000", "Delete the row and insert it with its new key, in one transaction.".to_owned())
        }
    };
    ErrorReply::error(sqlstate, unplaced.to_string()).hint(hint)
}

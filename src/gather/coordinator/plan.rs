//! From what is there to what is wanted: the steps, and the SQL of each. Pure.
//!
//! Views go before the tables that they are over and come after them; what has to change its columns is made anew.
//! Nothing without our mark is touched: it is an error if it stands in the way.

use std::collections::BTreeSet;
use std::fmt;

use super::catalog::{Column, Reader};
use super::error::CoordinatorError;
use super::foreign::{Kind, Made, Schema, Server, Wanted};
use super::names::MADE;
use super::quote::{identifier, literal, options, qualified};
use super::state::{Found, FoundRelation, FoundServer, is_ours};
use crate::config::Secret;

/// What a step does to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Create,
    /// It was another.
    Change,
    /// It is not declared any more.
    Drop,
}

/// One thing that is not as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done about it.
    pub action: Action,
    /// `view pgsluice_all.orders`
    pub what: String,
}

/// One statement. `Display` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// As it stands.
    Sql(String),
    /// Gives the user mapping its password: `ALTER USER MAPPING … OPTIONS (ADD password …)`.
    Password {
        /// Up to where the password stands, as a literal.
        before: String,
        /// What it is.
        password: Secret,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(text) => write!(f, "{text};"),
            Self::Password { before, .. } => write!(f, "{before}'…');"),
        }
    }
}

/// Steps for people, and their statements in the order in which they must run.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) commands: Vec<Command>,
}

impl Plan {
    /// # Errors
    /// Something of another origin has a name that is wanted, or a right is missing.
    pub(super) fn new(wanted: &Wanted, found: &Found, database: &str) -> Result<Self, CoordinatorError> {
        check_rights(wanted, found, database)?;
        let mut plan = Self::default();
        let stale = stale(wanted, found)?;
        plan.drop_relations(wanted, found, &stale);
        plan.drop_the_rest(wanted, found);
        if !found.rights.extension {
            plan.step(Action::Create, "extension postgres_fdw".to_owned());
            plan.sql("CREATE EXTENSION IF NOT EXISTS postgres_fdw".to_owned());
        }
        for server in &wanted.servers {
            plan.server(server, found.servers.get(&server.name))?;
            plan.mapping(server, &wanted.account, found.servers.get(&server.name));
        }
        for schema in &wanted.schemas {
            plan.schema(schema, found)?;
        }
        for made in &wanted.relations {
            let there = find(found, made);
            match there {
                Some(there) if !stale.contains(&key(made)) => plan.grants(made, &there.readers),
                _ => plan.make(made),
            }
        }
        Ok(plan)
    }

    fn step(&mut self, action: Action, what: String) {
        self.steps.push(Step { action, what });
    }

    fn sql(&mut self, text: String) {
        self.commands.push(Command::Sql(text));
    }

    /// Views first.
    fn drop_relations(&mut self, wanted: &Wanted, found: &Found, stale: &BTreeSet<Key<'_>>) {
        for kind in [Kind::View, Kind::ForeignTable] {
            for there in
                found.relations.iter().filter(|there| is_ours(there.comment.as_deref()) && kind_of(there) == Some(kind))
            {
                let key = (kind, &*there.schema, &*there.name);
                let what = format!("{} {}.{}", kind.words(), there.schema, there.name);
                if stale.contains(&key) {
                    self.step(Action::Change, what);
                } else if !wanted.relations.iter().any(|made| self::key(made) == key) {
                    self.step(Action::Drop, what);
                } else {
                    continue;
                }
                self.sql(format!("DROP {} {}", kind.sql(), qualified(&there.schema, &there.name)));
            }
        }
    }

    /// Schemas and servers of shards that are gone, and mappings that nobody uses.
    fn drop_the_rest(&mut self, wanted: &Wanted, found: &Found) {
        for schema in found.schemas.values().filter(|schema| is_ours(schema.comment.as_deref())) {
            if !wanted.schemas.iter().any(|other| other.name == schema.name) {
                self.step(Action::Drop, format!("schema {}", schema.name));
                self.sql(format!("DROP SCHEMA {}", identifier(&schema.name)));
            }
        }
        for (name, server) in found.servers.iter().filter(|(_, server)| is_ours(server.comment.as_deref())) {
            let is_wanted = wanted.servers.iter().any(|other| other.name == *name);
            for user in server.mappings.keys().filter(|user| !is_wanted || **user != wanted.account) {
                let shown = if user.is_empty() { "PUBLIC" } else { user };
                self.step(Action::Drop, format!("user mapping for {shown} on server {name}"));
                self.sql(format!("DROP USER MAPPING FOR {} SERVER {}", role(Some(user)), identifier(name)));
            }
            if !is_wanted {
                self.step(Action::Drop, format!("server {name}"));
                self.sql(format!("DROP SERVER {}", identifier(name)));
            }
        }
    }

    fn server(&mut self, server: &Server, there: Option<&FoundServer>) -> Result<(), CoordinatorError> {
        let what = format!("server {}", server.name);
        match there {
            None => {
                self.step(Action::Create, what);
                self.sql(server.create());
                self.sql(format!(
                    "COMMENT ON SERVER {} IS {}",
                    identifier(&server.name),
                    literal(&format!("{MADE}server"))
                ));
            }
            Some(there) if !is_ours(there.comment.as_deref()) => return Err(CoordinatorError::NotOurs { what }),
            Some(there) => {
                if let Some(alter) = server.alter(&there.options) {
                    self.step(Action::Change, what);
                    self.sql(alter);
                }
            }
        }
        Ok(())
    }

    /// Whom the account is on the shard. The password has a statement of its own, which cannot fail for the want of a right.
    fn mapping(&mut self, server: &Server, account: &str, there: Option<&FoundServer>) {
        let name = format!("FOR {} SERVER {}", role(Some(account)), identifier(&server.name));
        let what = format!("user mapping for {account} on server {}", server.name);
        let is = there.and_then(|there| there.mappings.get(account));
        let value = |name: &str| is?.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        let (user, password) = (value("user"), value("password"));
        let before = |verb: &str| format!("ALTER USER MAPPING {name} OPTIONS ({verb} \"password\" ");
        let mut commands = Vec::new();
        if is.is_none() {
            commands.push(Command::Sql(format!(
                "CREATE USER MAPPING {name} OPTIONS ({})",
                options([("user", &*server.user)])
            )));
        } else if user.is_none_or(|user| user.expose() != server.user) {
            let verb = if user.is_some() { "SET" } else { "ADD" };
            commands.push(Command::Sql(format!(
                "ALTER USER MAPPING {name} OPTIONS ({verb} {})",
                options([("user", &*server.user)])
            )));
        }
        match (password, &server.password) {
            (None, None) => {}
            (Some(is), Some(wanted)) if is == wanted => {}
            (Some(_), None) => {
                commands.push(Command::Sql(format!("ALTER USER MAPPING {name} OPTIONS (DROP \"password\")")))
            }
            (is, Some(wanted)) => {
                let before = before(if is.is_some() { "SET" } else { "ADD" });
                commands.push(Command::Password { before, password: wanted.clone() });
            }
        }
        if !commands.is_empty() {
            self.step(if is.is_none() { Action::Create } else { Action::Change }, what);
            self.commands.extend(commands);
        }
    }

    fn schema(&mut self, schema: &Schema, found: &Found) -> Result<(), CoordinatorError> {
        let (name, what) = (identifier(&schema.name), format!("schema {}", schema.name));
        let there = found.schemas.get(&schema.name);
        let is_same = there.is_some_and(|there| {
            there.comment.as_ref() == Some(&schema.mark) && (there.is_public || !schema.is_public)
        });
        match there {
            Some(there) if !is_ours(there.comment.as_deref()) => return Err(CoordinatorError::NotOurs { what }),
            Some(_) if is_same => return Ok(()),
            Some(_) => self.step(Action::Change, what),
            None => {
                self.step(Action::Create, what);
                self.sql(format!("CREATE SCHEMA {name}"));
            }
        }
        self.sql(format!("COMMENT ON SCHEMA {name} IS {}", literal(&schema.mark)));
        if schema.is_public {
            self.sql(format!("GRANT USAGE ON SCHEMA {name} TO PUBLIC"));
        }
        Ok(())
    }

    /// One that is not there, or not any more.
    fn make(&mut self, made: &Made) {
        let what = format!("{} {}.{}", made.kind.words(), made.schema, made.name);
        if !self.steps.iter().any(|step| step.what == what) {
            self.step(Action::Create, what);
        }
        let name = qualified(&made.schema, &made.name);
        self.sql(made.create.clone());
        self.sql(format!("COMMENT ON {} {name} IS {}", made.kind.sql(), literal(&made.mark)));
        for reader in &made.readers {
            self.sql(format!("GRANT {} ON {name} TO {}", select(reader), role(reader.role.as_deref())));
        }
    }

    /// Of one that stays.
    fn grants(&mut self, made: &Made, there: &[Reader]) {
        let name = qualified(&made.schema, &made.name);
        let revoked = there.iter().filter(|reader| !made.readers.contains(reader));
        let granted = made.readers.iter().filter(|reader| !there.contains(reader));
        let commands: Vec<Command> = revoked
            .map(|reader| format!("REVOKE {} ON {name} FROM {}", select(reader), role(reader.role.as_deref())))
            .chain(
                granted.map(|reader| format!("GRANT {} ON {name} TO {}", select(reader), role(reader.role.as_deref()))),
            )
            .map(Command::Sql)
            .collect();
        if !commands.is_empty() {
            self.step(Action::Change, format!("privileges on {} {}.{}", made.kind.words(), made.schema, made.name));
            self.commands.extend(commands);
        }
    }
}

fn select(reader: &Reader) -> String {
    reader.column.as_ref().map_or_else(|| "SELECT".to_owned(), |column| format!("SELECT ({})", identifier(column)))
}

/// Nobody, or nobody in particular, is everybody.
fn role(name: Option<&str>) -> String {
    name.filter(|name| !name.is_empty()).map_or_else(|| "PUBLIC".to_owned(), identifier)
}

type Key<'a> = (Kind, &'a str, &'a str);

fn key(made: &Made) -> Key<'_> {
    (made.kind, &made.schema, &made.name)
}

fn kind_of(there: &FoundRelation) -> Option<Kind> {
    match there.kind {
        'f' => Some(Kind::ForeignTable),
        'v' => Some(Kind::View),
        _ => None,
    }
}

fn find<'f>(found: &'f Found, made: &Made) -> Option<&'f FoundRelation> {
    found.relations.iter().find(|there| there.schema == made.schema && there.name == made.name)
}

/// Which of those that are there have to be made anew. A view has, if one of its tables has.
fn stale<'w>(wanted: &'w Wanted, found: &Found) -> Result<BTreeSet<Key<'w>>, CoordinatorError> {
    let mut stale = BTreeSet::new();
    let mut missing = BTreeSet::new();
    for made in &wanted.relations {
        let Some(there) = find(found, made) else {
            missing.insert(&made.name);
            continue;
        };
        if !is_ours(there.comment.as_deref()) || kind_of(there) != Some(made.kind) {
            return Err(CoordinatorError::NotOurs { what: format!("{}.{}", made.schema, made.name) });
        }
        let column = |column: &Column| match made.kind {
            Kind::ForeignTable => column.definition(),
            Kind::View => column.typed(),
        };
        let columns: Vec<String> = there.columns.iter().map(column).collect();
        let is_same = there.comment.as_ref() == Some(&made.mark) && there.is_owned && columns == made.columns;
        let of_changed = made.kind == Kind::View
            && (missing.contains(&made.name) || stale.iter().any(|(_, _, name)| *name == made.name));
        if !is_same || of_changed {
            stale.insert(key(made));
        }
    }
    Ok(stale)
}

/// All that is known to be missing, in one message.
fn check_rights(wanted: &Wanted, found: &Found, database: &str) -> Result<(), CoordinatorError> {
    let rights = &found.rights;
    if !rights.available && !rights.extension {
        return Err(CoordinatorError::NotInstalled);
    }
    let account = identifier(&wanted.account);
    let mut needed = Vec::new();
    let is_there = |schema: &Schema| found.schemas.contains_key(&schema.name);
    if !rights.may_create_schemas && !wanted.schemas.iter().all(is_there) {
        needed.push(format!("GRANT CREATE ON DATABASE {} TO {account}", identifier(database)));
    }
    if rights.extension && !rights.may_use_wrapper {
        needed.push(use_wrapper(&wanted.account));
    }
    if needed.is_empty() {
        return Ok(());
    }
    // Whether it may make the extension, only trying shows.
    if !rights.extension {
        needed.push(make_extension(&wanted.account));
    }
    Err(CoordinatorError::NotPermitted { account: wanted.account.clone(), needed: needed.join("; ") })
}

/// For a superuser, where the account may not do it.
pub(super) fn make_extension(account: &str) -> String {
    format!("CREATE EXTENSION postgres_fdw; {}", use_wrapper(account))
}

fn use_wrapper(account: &str) -> String {
    format!("GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {}", identifier(account))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

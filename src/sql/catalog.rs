//! What one database's catalog says, reduced to what routing asks.
//!
//! Built whole from the catalog's rows, then immutable. Unqualified names match any schema, the worst
//! of them counting: `search_path` is not consulted. Relations that are plain tables are not in it.

use super::{
    functions::{self, Builtin},
    judge::judge,
    statement::{Name, PrimaryCause, Statement},
    text::analyse,
};
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// `pg_proc.provolatile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volatility {
    /// `i`
    Immutable,
    /// `s`
    Stable,
    /// `v`
    Volatile,
}

/// Relations that a standby cannot read, or shows otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// `relpersistence = 'u'`
    Unlogged,
    /// `relpersistence = 't'`
    Temporary,
    /// `relkind = 'S'`: logged ahead (`SEQ_LOG_VALS`), so a standby shows up to 32 values more than were taken.
    Sequence,
}

type Names<V> = HashMap<Name, V, RandomState>;
type Words<V> = HashMap<Box<str>, V, RandomState>;

/// One database's functions and special relations. Lookups do not allocate.
#[derive(Debug, Default)]
pub struct Catalog {
    functions: Facts<Option<PrimaryCause>>,
    relations: Facts<PrimaryCause>,
    /// Functions that are not IMMUTABLE, in whatever schema; true where that is not the system's own.
    varying: Words<bool>,
    /// Names of functions that are not the system's own.
    of_users: Words<()>,
}

/// Facts by qualified name, and by the last part alone.
#[derive(Debug)]
struct Facts<V> {
    qualified: Names<V>,
    bare: Words<V>,
}

impl<V> Default for Facts<V> {
    fn default() -> Self {
        Self { qualified: HashMap::default(), bare: HashMap::default() }
    }
}

impl<V: Copy> Facts<V> {
    fn get(&self, name: &Name) -> Option<V> {
        let found = self.bare.get(&name.name).copied()?;
        if name.schema.is_none() { Some(found) } else { self.qualified.get(name).copied() }
    }
}

impl Facts<PrimaryCause> {
    /// `true` if it was not known.
    fn add(&mut self, name: Name, cause: PrimaryCause) -> bool {
        self.bare.entry(name.name.clone()).or_insert(cause);
        let new = !self.qualified.contains_key(&name);
        self.qualified.entry(name).or_insert(cause);
        new
    }
}

impl Catalog {
    /// Starts an empty one.
    pub fn builder() -> CatalogBuilder {
        CatalogBuilder::default()
    }

    /// Why a call of the function belongs on the primary; `UnknownFunction` for one that is not here.
    pub(super) fn function(&self, name: &Name) -> Option<PrimaryCause> {
        self.functions.get(name).unwrap_or(Some(PrimaryCause::UnknownFunction))
    }

    /// Whether a call of one of the statement's functions may do anything, such as set settings.
    pub fn calls_volatile(&self, statement: &Statement) -> bool {
        use PrimaryCause::{UnknownFunction, VolatileFunction};
        statement.functions.iter().any(|name| matches!(self.function(name), Some(VolatileFunction | UnknownFunction)))
    }

    /// Whether a call of the function may give another value on another server.
    pub fn varies(&self, name: &Name) -> bool {
        !functions::is_syntax(&name.name) && (self.varying.contains_key(&name.name) || self.is_unknown(name))
            || functions::tells_the_time_or_place(&name.name)
    }

    /// Whether a call of the function may read, or change, the application's rows: it is not the system's, and not
    /// IMMUTABLE, or nothing is known of it.
    pub fn may_read_rows(&self, name: &Name) -> bool {
        !functions::is_syntax(&name.name)
            && !functions::tells_of_placement(name)
            && (self.varying.get(&name.name).is_some_and(|is_users| *is_users)
                || self.is_unknown(name)
                || functions::runs_a_text(&name.name))
    }

    /// Whether the name means a function of the system's and no other, which gives the same on every server to sessions
    /// with the same settings; or one of pgsluice's own that tells where rows belong.
    pub fn is_even(&self, name: &Name) -> bool {
        let own = qualified("pg_catalog", &name.name);
        let is_own = functions::may_be_builtin(name)
            && self.functions.qualified.contains_key(&own)
            && !self.of_users.contains_key(&name.name);
        let varies = self.varying.contains_key(&name.name) || functions::runs_a_text(&name.name);
        is_own && (!varies || functions::is_even_by_settings(&name.name)) || functions::tells_of_placement(name)
    }

    fn is_unknown(&self, name: &Name) -> bool {
        self.functions.get(name).is_none()
    }

    /// Why reading the relation belongs on the primary; `None` for plain tables.
    pub(super) fn relation(&self, name: &Name) -> Option<PrimaryCause> {
        self.relations.get(name)
    }

    /// How many functions and how many special relations it knows.
    pub fn len(&self) -> (usize, usize) {
        (self.functions.qualified.len(), self.relations.qualified.len())
    }
}

/// Collects a catalog's rows; order does not matter.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    functions: Names<Option<PrimaryCause>>,
    varying: Words<bool>,
    of_users: Words<()>,
    relations: Facts<PrimaryCause>,
    rules: Vec<(Name, Box<[Statement]>)>,
}

impl CatalogBuilder {
    /// A function, procedure or aggregate, `pg_catalog`'s own included; of overloads the worst counts.
    pub fn function(&mut self, schema: &str, name: &str, volatility: Volatility) -> &mut Self {
        let volatile = (volatility == Volatility::Volatile).then_some(PrimaryCause::VolatileFunction);
        let listed = if schema == "pg_catalog" { functions::builtin(name) } else { None };
        let cause = match listed {
            Some(Builtin::Harmless) => None,
            Some(Builtin::Primary(cause)) => Some(cause),
            None => volatile,
        };
        if volatility != Volatility::Immutable {
            *self.varying.entry(name.into()).or_default() |= schema != "pg_catalog";
        }
        if schema != "pg_catalog" {
            self.of_users.insert(name.into(), ());
        }
        let known = self.functions.entry(qualified(schema, name)).or_insert(cause);
        *known = known.or(cause);
        self
    }

    /// A relation that standbys do not have, or not as the primary has it.
    pub fn relation(&mut self, schema: &str, name: &str, kind: RelationKind) -> &mut Self {
        let cause = match kind {
            RelationKind::Unlogged | RelationKind::Temporary => PrimaryCause::Unlogged,
            RelationKind::Sequence => PrimaryCause::ServerRelation,
        };
        self.relations.add(qualified(schema, name), cause);
        self
    }

    /// A view and its query (`pg_get_viewdef`). It is parsed here: about 0.1 ms for a large one.
    pub fn view(&mut self, schema: &str, name: &str, definition_sql: &str) -> &mut Self {
        self.rule(schema, name, definition_sql)
    }

    /// A row-security policy of a table: one of its expressions (`pg_get_expr`).
    pub fn policy(&mut self, schema: &str, table: &str, expr_sql: &str) -> &mut Self {
        self.rule(schema, table, &format!("SELECT ({expr_sql})"))
    }

    fn rule(&mut self, schema: &str, name: &str, sql: &str) -> &mut Self {
        self.rules.push((qualified(schema, name), analyse(sql).statements));
        self
    }

    /// The catalog, with views resolved through views.
    pub fn build(self) -> Catalog {
        let mut functions = Facts { bare: HashMap::default(), qualified: self.functions };
        for name in functions::SYNTAX {
            functions.bare.insert((*name).into(), None);
        }
        for (name, cause) in &functions.qualified {
            let worst = functions.bare.entry(name.name.clone()).or_insert(*cause);
            *worst = worst.or(*cause);
        }
        let mut catalog =
            Catalog { functions, relations: self.relations, varying: self.varying, of_users: self.of_users };
        resolve(&mut catalog, self.rules);
        catalog
    }
}

/// Until nothing new is learnt: causes are only ever added, so cycles end.
fn resolve(catalog: &mut Catalog, mut rules: Vec<(Name, Box<[Statement]>)>) {
    loop {
        let before = rules.len();
        rules.retain(|(name, statements)| {
            let Some(cause) = statements.iter().find_map(|s| judge(s, Some(catalog))) else { return true };
            catalog.relations.add(name.clone(), cause);
            false
        });
        if rules.len() == before {
            return;
        }
    }
}

fn qualified(schema: &str, name: &str) -> Name {
    Name { schema: Some(schema.into()), name: name.into() }
}

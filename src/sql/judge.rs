//! A statement and a catalog → may it run on a standby?

use super::{
    catalog::Catalog,
    functions::{self, Builtin},
    statement::{Name, PrimaryCause, Statement},
};

/// Why the statement belongs on the primary; `None`: it may run on a standby.
///
/// Without a catalog a function is unknown unless the lists of this room settle it.
pub fn judge(statement: &Statement, catalog: Option<&Catalog>) -> Option<PrimaryCause> {
    if statement.primary.is_some() {
        return statement.primary;
    }
    let by_function = statement.functions.iter().find_map(|name| match catalog {
        Some(catalog) => catalog.function(name),
        None => without_catalog(name),
    });
    by_function.or_else(|| {
        let catalog = catalog?;
        statement.relations.iter().find_map(|name| catalog.relation(name))
    })
}

fn without_catalog(name: &Name) -> Option<PrimaryCause> {
    match functions::builtin(&name.name).filter(|_| functions::may_be_builtin(name)) {
        Some(Builtin::Harmless) => None,
        Some(Builtin::Primary(cause)) => Some(cause),
        None => Some(PrimaryCause::UnknownFunction),
    }
}

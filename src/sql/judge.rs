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
    judge_with_name(statement, catalog).map(|(cause, _)| cause)
}

/// As [`judge`], with the function or relation that is the cause, where one is.
pub fn judge_with_name<'a>(
    statement: &'a Statement,
    catalog: Option<&Catalog>,
) -> Option<(PrimaryCause, Option<&'a Name>)> {
    if let Some(cause) = statement.primary {
        return Some((cause, None));
    }
    let by_function = statement.functions.iter().find_map(|name| {
        let cause = match catalog {
            Some(catalog) => catalog.function(name),
            None => without_catalog(name),
        };
        Some((cause?, Some(name)))
    });
    by_function.or_else(|| {
        let catalog = catalog?;
        statement.relations.iter().find_map(|name| Some((catalog.relation(name)?, Some(name))))
    })
}

fn without_catalog(name: &Name) -> Option<PrimaryCause> {
    match functions::builtin(&name.name).filter(|_| functions::may_be_builtin(name)) {
        Some(Builtin::Harmless) => None,
        Some(Builtin::Primary(cause)) => Some(cause),
        None => Some(PrimaryCause::UnknownFunction),
    }
}

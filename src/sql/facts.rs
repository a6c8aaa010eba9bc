//! What has been found in one statement so far.

use super::{
    functions::{self, Builtin},
    statement::{Kind, Name, Pin, PrimaryCause, Statement},
};

/// Collected while a statement is walked, by its tree or by its tokens.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) relations: Vec<Name>,
    pub(super) functions: Vec<Name>,
    pub(super) pin: Option<Pin>,
    pub(super) changes_settings: bool,
    cause: Option<PrimaryCause>,
}

impl Facts {
    /// A reason for the primary; the first one stays.
    pub(super) fn cause(&mut self, cause: PrimaryCause) {
        self.cause.get_or_insert(cause);
    }

    /// A called function. What `set_config` does depends on its arguments: see [`Facts::set_config`].
    pub(super) fn function(&mut self, name: Name) {
        if name.schema.is_none() && functions::is_syntax(&name.name) && !functions::tells_the_time_or_place(&name.name)
        {
            return;
        }
        if functions::is_temporary_schema(name.schema.as_deref()) {
            self.cause(PrimaryCause::SessionState);
        }
        if functions::may_be_builtin(&name)
            && let Some(Builtin::Primary(cause)) = functions::builtin(&name.name)
        {
            self.cause(cause);
        }
        if let Some(pin) = functions::pin(&name.name) {
            self.pin = Some(pin);
        }
        self.functions.push(name);
    }

    /// A call of `set_config` whose third argument is not literally `true`.
    pub(super) fn set_config(&mut self) {
        self.cause(PrimaryCause::SessionState);
        self.changes_settings = true;
    }

    /// A relation that is read or written.
    pub(super) fn relation(&mut self, name: Name) {
        if functions::is_temporary_schema(name.schema.as_deref()) {
            self.cause(PrimaryCause::SessionState);
        } else if functions::may_be_builtin(&name) && functions::is_server_relation(&name.name) {
            self.cause(PrimaryCause::ServerRelation);
        }
        self.relations.push(name);
    }

    /// The summary. `stronger` is a reason that comes before those found on the way.
    pub(super) fn into_statement(self, kind: Kind, stronger: Option<PrimaryCause>) -> Statement {
        // A rule of this view turns an UPDATE into set_config().
        let is_pg_settings = |name: &Name| functions::may_be_builtin(name) && *name.name == *"pg_settings";
        let updates_settings = kind == Kind::Write && self.relations.iter().any(is_pg_settings);
        Statement {
            kind,
            primary: stronger.or(self.cause),
            relations: unique(self.relations),
            functions: unique(self.functions),
            pin: self.pin,
            may_unpin: false,
            changes_settings: self.changes_settings || updates_settings,
            databases: [].into(),
            two_part_names: [].into(),
            uses: None,
            upkeep: None,
        }
    }
}

fn unique(mut names: Vec<Name>) -> Box<[Name]> {
    names.sort_unstable();
    names.dedup();
    names.into()
}

//! What is written, by the config.

use serde::Serialize;

use super::event::Event;
use crate::config::{Audit, AuditEvents, AuditStatements, AuditText, TableName};
use crate::sql::{Catalog, Kind, PrimaryCause, Statement, judge};

/// What a statement does, for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StatementKind {
    /// Reads, and cannot change anything.
    Read,
    /// Changes rows, or may: also DO, CALL, EXECUTE, functions that may write, and what could not be read.
    Write,
    /// Changes a catalog.
    Ddl,
    /// BEGIN, COMMIT, SET, PREPARE, LISTEN and the like.
    Other,
}

impl StatementKind {
    /// Without a text, or of a text without a statement: anything, and nothing.
    fn of(statement: Option<&Statement>, catalog: Option<&Catalog>) -> Self {
        let Some(statement) = statement else { return Self::Other };
        match statement.kind {
            Kind::Ddl => Self::Ddl,
            Kind::Write | Kind::Utility | Kind::Execute { .. } | Kind::TwoPhase => Self::Write,
            Kind::Query => match judge(statement, catalog) {
                Some(
                    PrimaryCause::Write
                    | PrimaryCause::DataModifyingCte
                    | PrimaryCause::VolatileFunction
                    | PrimaryCause::UnknownFunction
                    | PrimaryCause::Unparsed,
                ) => Self::Write,
                _ => Self::Read,
            },
            _ => Self::Other,
        }
    }

    fn is_chosen(self, by: AuditStatements) -> bool {
        match by {
            AuditStatements::All => true,
            AuditStatements::Write => self == Self::Write,
            AuditStatements::Ddl => self == Self::Ddl,
            AuditStatements::Read => self == Self::Read,
        }
    }
}

/// What the config chooses.
#[derive(Debug)]
pub(super) struct Choice {
    is_on: bool,
    events: Vec<AuditEvents>,
    statements: Vec<AuditStatements>,
    tables: Vec<TableName>,
    pub(super) text: AuditText,
}

impl Default for Choice {
    /// Nothing.
    fn default() -> Self {
        let text = AuditText::Normalised;
        Self { is_on: false, events: Vec::new(), statements: Vec::new(), tables: Vec::new(), text }
    }
}

impl Choice {
    pub(super) fn new(config: &Audit) -> Self {
        Self {
            is_on: config.file.is_some(),
            events: config.events.clone(),
            statements: config.statements.clone(),
            tables: config.tables.clone(),
            text: config.text,
        }
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        let is_chosen = |group| self.events.iter().any(|chosen| [AuditEvents::All, group].contains(chosen));
        self.is_on && event.group().is_none_or(is_chosen)
    }

    pub(super) fn wants_statements(&self) -> bool {
        self.is_on && !(self.statements.is_empty() && self.tables.is_empty())
    }

    /// Its kind, where it is one of those that are chosen by their kind or by a table.
    pub(super) fn chooses(&self, statement: Option<&Statement>, catalog: Option<&Catalog>) -> Option<StatementKind> {
        let kind = StatementKind::of(statement, catalog);
        let by_kind = self.statements.iter().any(|chosen| kind.is_chosen(*chosen));
        let by_table = || statement.is_some_and(|statement| names_one_of(statement, &self.tables));
        (self.is_on && (by_kind || by_table())).then_some(kind)
    }
}

/// Whether it names one of the tables, or may: a name without a schema may be in any.
fn names_one_of(statement: &Statement, tables: &[TableName]) -> bool {
    if tables.is_empty() {
        return false;
    }
    let is_hidden = matches!(statement.kind, Kind::Utility | Kind::Execute { .. })
        && (statement.changes_settings || statement.primary == Some(PrimaryCause::Unparsed));
    is_hidden
        || statement.relations.iter().any(|name| {
            tables.iter().any(|table| {
                let schema = table.schema.as_deref().zip(name.schema.as_deref());
                table.name == *name.name && schema.is_none_or(|(wanted, found)| wanted == found)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyse;

    fn choice(statements: &[AuditStatements], tables: &[(Option<&str>, &str)]) -> Choice {
        let table = |(schema, name): &(Option<&str>, &str)| TableName {
            schema: schema.map(str::to_owned),
            name: (*name).to_owned(),
        };
        let tables = tables.iter().map(table).collect();
        Choice { is_on: true, statements: statements.to_vec(), tables, ..Choice::default() }
    }

    #[test]
    fn kinds() {
        let all = choice(&[AuditStatements::All], &[]);
        for (text, expected) in [
            ("SELECT 1", StatementKind::Read),
            ("SELECT a FROM t WHERE b = 1", StatementKind::Read),
            ("SELECT f()", StatementKind::Write),
            ("WITH a AS (DELETE FROM t RETURNING 1) SELECT * FROM a", StatementKind::Write),
            ("INSERT INTO t VALUES (1)", StatementKind::Write),
            ("COPY t FROM STDIN", StatementKind::Write),
            ("TRUNCATE t", StatementKind::Write),
            ("DO $$ BEGIN END $$", StatementKind::Write),
            ("CALL p()", StatementKind::Write),
            ("EXECUTE p", StatementKind::Write),
            ("what is this", StatementKind::Write),
            ("CREATE TABLE t ()", StatementKind::Ddl),
            ("DROP TABLE t", StatementKind::Ddl),
            ("BEGIN", StatementKind::Other),
            ("SET a = 1", StatementKind::Other),
        ] {
            let analysis = analyse(text);
            assert_eq!(all.chooses(analysis.statements.first(), None), Some(expected), "{text}");
        }
        assert_eq!(all.chooses(None, None), Some(StatementKind::Other));
    }

    #[test]
    fn chosen_by_kind_or_by_table() {
        let writes = choice(&[AuditStatements::Write], &[]);
        let accounts = choice(&[], &[(Some("public"), "accounts")]);
        let everywhere = choice(&[AuditStatements::Ddl], &[(None, "accounts")]);
        for (text, by_kind, by_table, by_either) in [
            ("SELECT * FROM accounts", false, true, true),
            ("SELECT * FROM public.accounts a JOIN b USING (c)", false, true, true),
            ("SELECT * FROM other.accounts", false, false, true),
            ("SELECT accounts FROM t", false, false, false),
            ("UPDATE accounts SET a = 1", true, true, true),
            ("INSERT INTO t VALUES (1)", true, false, false),
            ("CREATE TABLE t ()", false, false, true),
            ("DO $$ BEGIN DELETE FROM accounts; END $$", true, true, true),
        ] {
            let analysis = analyse(text);
            let is_chosen = |choice: &Choice| choice.chooses(analysis.statements.first(), None).is_some();
            let found = (is_chosen(&writes), is_chosen(&accounts), is_chosen(&everywhere));
            assert_eq!(found, (by_kind, by_table, by_either), "{text}");
        }
    }

    #[test]
    fn without_a_file_nothing_is_wanted() {
        let off = Choice { is_on: false, events: vec![AuditEvents::All], ..choice(&[AuditStatements::All], &[]) };
        assert!(!off.wants_statements() && off.chooses(None, None).is_none());
        assert!(Event::examples().iter().all(|event| !off.wants(event)));
        let logins = Choice { is_on: true, events: vec![AuditEvents::Logins], ..Choice::default() };
        let wanted = Event::examples().into_iter().filter(|event| event.group().is_some() && logins.wants(event));
        assert_eq!(wanted.count(), 2);
    }
}

//! Which settings a client has, as its statements and transactions come and go.
//!
//! What a text says exactly (`SET x TO 1`) is followed from the text. Whatever is less plain
//! (`set_config(…)`, DO, savepoints, several statements of which one failed) makes the settings
//! uncertain; then the server is asked what they are, once, when the transaction is over.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::pool::{Change, SettingValue, Settings, quote_literal};
use crate::sql::{Analysis, Discard, Kind, Setting, Statement};
use crate::wire::backend::TransactionStatus;

/// Names that a server is asked about, at most.
const MAX_TWO_PART_NAMES: usize = 1000;

/// A client's settings.
#[derive(Debug)]
pub struct Tracked {
    /// What the startup packet asked for: where RESET goes back to.
    startup: Arc<Settings>,
    /// What holds outside of the transaction that is open.
    current: Arc<Settings>,
    /// What the open transaction has changed, in order.
    journal: Vec<Change>,
    uncertain: bool,
    /// Of statements since the server was last asked: see [`Statement::two_part_names`].
    two_part_names: Vec<Box<str>>,
}

/// What one exchange did, as far as settings care.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// Some statement failed.
    pub failed: bool,
    /// Before it.
    pub before: TransactionStatus,
    /// After it.
    pub after: TransactionStatus,
}

impl Tracked {
    /// After login.
    pub fn new(startup: Arc<Settings>) -> Self {
        Self {
            current: Arc::clone(&startup),
            startup,
            journal: Vec::new(),
            uncertain: false,
            two_part_names: Vec::new(),
        }
    }

    /// What a server connection must be brought to.
    pub fn current(&self) -> &Arc<Settings> {
        &self.current
    }

    /// Whether the server has to be asked.
    pub fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// What has to be set again behind a text that takes settings back: a client's RESET goes back to
    /// its startup packet, a server's to its own login.
    pub fn tail(&self, analysis: &Analysis) -> Option<Settings> {
        let takes_back = |statement: &Statement| matches!(statement.kind, Kind::Set(_) | Kind::Discard(_));
        if !analysis.statements.iter().any(takes_back) {
            return None;
        }
        let mut tail = Settings::default();
        for statement in &analysis.statements {
            match &statement.kind {
                Kind::Set(Setting::Reset { name } | Setting::Session { name, value: None }) => {
                    if let Some(value) = self.startup.get(name) {
                        tail = tail.with(&Change::Set(name.clone(), value.clone()));
                    }
                }
                Kind::Set(Setting::ResetAll) | Kind::Discard(Discard::All) => tail = Settings::clone(&self.startup),
                _ => {}
            }
        }
        Some(tail)
    }

    /// Follows the statements of one exchange. `server` is what is set on the connection
    /// that ran them, and their [`Tracked::tail`].
    pub fn follow(&mut self, statements: &[Arc<Analysis>], course: Course, server: &mut Arc<Settings>) {
        let all = || statements.iter().flat_map(|analysis| &analysis.statements);
        let count = all().count();
        let is_alone = count == 1;
        let mut changes = Vec::new();
        let mut control = false;
        for statement in all() {
            self.uncertain |= statement.changes_settings;
            if self.two_part_names.len() < MAX_TWO_PART_NAMES {
                self.two_part_names.extend(statement.two_part_names.iter().cloned());
            }
            match &statement.kind {
                Kind::Set(setting) => changes.extend(self.change(setting)),
                Kind::Discard(Discard::All) if !course.failed => {
                    self.journal.clear();
                    self.current = Arc::clone(&self.startup);
                    *server = Arc::clone(&self.startup);
                    changes.clear();
                }
                Kind::Begin(_) | Kind::TwoPhase => control = true,
                Kind::Commit { .. } => {
                    control = true;
                    self.end(is_alone && course.before == TransactionStatus::Failed, is_alone, course, server);
                }
                Kind::Rollback { .. } => {
                    control = true;
                    self.end(true, is_alone, course, server);
                }
                Kind::Savepoint { rollback } => {
                    control = true;
                    self.uncertain |= *rollback && (!self.journal.is_empty() || !changes.is_empty());
                }
                _ => {}
            }
        }
        if changes.is_empty() {
            return;
        }
        if course.failed {
            // Alone, or in one implicit transaction: nothing of it stays. Otherwise some of it may.
            self.uncertain |= control || !is_alone && course.before != TransactionStatus::Idle;
        } else if control {
            self.uncertain = true;
        } else if course.after == TransactionStatus::Idle {
            self.apply(&changes, server);
        } else {
            self.journal.append(&mut changes);
        }
    }

    /// The connection was lost with its transaction, or the transaction is gone by other means.
    pub fn forget_transaction(&mut self) {
        self.journal.clear();
        self.uncertain = false;
        self.two_part_names.clear();
    }

    /// The server has said what is set.
    pub fn learn(&mut self, settings: Settings, server: &mut Arc<Settings>) {
        let settings = Arc::new(self.current.as_told(settings));
        *server = Arc::clone(&settings);
        // What RESET took away is to be as in the startup packet.
        self.current = Arc::new(settings.over(&self.startup));
        self.uncertain = false;
        self.two_part_names.clear();
    }

    /// The query that [`Tracked::learn`] needs: names and values of all that has been set in
    /// the session of `user`.
    pub fn probe(&self, user: &str) -> String {
        // Settings of no known module are not listed by pg_settings, so their names must be given.
        let known = self.current.iter().map(|(name, _)| name).filter(|name| name.contains('.'));
        let custom: BTreeSet<String> =
            known.chain(self.two_part_names.iter().map(|name| &**name)).map(quote_literal).collect();
        let custom = Vec::from_iter(custom);
        format!(
            "SELECT pg_catalog.lower(name), setting FROM pg_catalog.pg_settings WHERE source = 'session' AND context IN ('user', 'superuser') \
             AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable', 'pgsluice.consistency', 'pgsluice.route') \
             UNION ALL SELECT n, pg_catalog.current_setting(n, true) FROM \
             pg_catalog.unnest(ARRAY['pgsluice.consistency', 'pgsluice.route'{}{}]::pg_catalog.text[]) AS n \
             WHERE pg_catalog.current_setting(n, true) IS NOT NULL \
             UNION ALL SELECT 'role', pg_catalog.current_setting('role') WHERE pg_catalog.current_setting('role') <> 'none' \
             UNION ALL SELECT 'session_authorization', pg_catalog.current_setting('session_authorization') \
             WHERE pg_catalog.current_setting('session_authorization') <> {}",
            if custom.is_empty() { "" } else { ", " },
            custom.join(", "),
            quote_literal(user)
        )
    }

    fn end(&mut self, rolled_back: bool, is_alone: bool, course: Course, server: &mut Arc<Settings>) {
        let journal = std::mem::take(&mut self.journal);
        if journal.is_empty() {
            return;
        }
        if !is_alone {
            self.uncertain = true;
        } else if !rolled_back && !course.failed {
            self.apply(&journal, server);
        }
    }

    fn change(&mut self, setting: &Setting) -> Option<Change> {
        match setting {
            Setting::Session { name, value } => {
                // It takes the role with it.
                // One takes the role with it; a value of the other may give only half of it.
                self.uncertain |= matches!(&**name, "session_authorization" | "datestyle");
                Some(match value {
                    Some(value) => Change::Set(name.clone(), SettingValue::Sql(value.clone())),
                    None => Change::Reset(name.clone()),
                })
            }
            Setting::Reset { name } => {
                self.uncertain |= **name == *"session_authorization";
                Some(Change::Reset(name.clone()))
            }
            Setting::ResetAll => Some(Change::ResetAll),
            Setting::Local { .. } | Setting::Opaque => None,
        }
    }

    fn apply(&mut self, changes: &[Change], server: &mut Arc<Settings>) {
        let mut settings = Settings::clone(&self.current);
        for change in changes {
            settings = match change {
                Change::Reset(name) => match self.startup.get(name) {
                    Some(value) => settings.with(&Change::Set(name.clone(), value.clone())),
                    None => settings.with(change),
                },
                Change::ResetAll => settings.with(change).over(&self.startup),
                Change::Set(..) => settings.with(change),
            };
        }
        self.current = Arc::new(settings);
        *server = Arc::clone(&self.current);
    }
}

#[cfg(test)]
mod tests {
    use TransactionStatus::{Failed, Idle, Transaction};

    use super::*;
    use crate::sql::analyse;

    struct Client {
        tracked: Tracked,
        server: Arc<Settings>,
    }

    impl Client {
        fn new(startup: &[(&str, &str)]) -> Self {
            let values = startup.iter().map(|(name, value)| ((*name).into(), SettingValue::Text((*value).into())));
            let startup = Arc::new(Settings::new(values));
            Self { tracked: Tracked::new(Arc::clone(&startup)), server: startup }
        }

        fn run(&mut self, sql: &str, before: TransactionStatus, after: TransactionStatus, failed: bool) {
            let course = Course { failed, before, after };
            self.tracked.follow(&[Arc::new(analyse(sql))], course, &mut self.server);
        }

        fn current(&self) -> String {
            show(&self.tracked.current)
        }
    }

    fn show(settings: &Settings) -> String {
        let shown: Vec<_> = settings
            .iter()
            .map(|(name, value)| match value {
                SettingValue::Sql(value) | SettingValue::Text(value) => format!("{name}={value}"),
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn set_and_reset_outside_of_a_transaction() {
        let mut client = Client::new(&[("timezone", "UTC")]);
        client.run("SET work_mem = '8MB'", Idle, Idle, false);
        client.run("SET timezone TO 'Asia/Tokyo'", Idle, Idle, false);
        assert_eq!(client.current(), "timezone='Asia/Tokyo' work_mem='8MB'");
        client.run("SET work_mem = 'x'", Idle, Idle, true);
        assert_eq!(client.current(), "timezone='Asia/Tokyo' work_mem='8MB'");
        client.run("RESET timezone", Idle, Idle, false);
        assert_eq!(client.current(), "timezone=UTC work_mem='8MB'");
        assert_eq!(
            show(&client.tracked.tail(&analyse("RESET timezone")).unwrap()),
            "timezone=UTC",
            "the server goes back further"
        );
        assert_eq!(show(&client.tracked.tail(&analyse("RESET work_mem")).unwrap()), "");
        client.run("RESET ALL", Idle, Idle, false);
        assert_eq!(client.current(), "timezone=UTC");
        assert!(!client.tracked.is_uncertain());
    }

    #[test]
    fn transactions_keep_or_undo() {
        let mut client = Client::new(&[]);
        client.run("BEGIN", Idle, Transaction, false);
        client.run("SET work_mem = '8MB'", Transaction, Transaction, false);
        assert_eq!(client.current(), "");
        client.run("ROLLBACK", Transaction, Idle, false);
        assert_eq!(client.current(), "");
        client.run("BEGIN", Idle, Transaction, false);
        client.run("SET work_mem = '8MB'", Transaction, Transaction, false);
        client.run("SET LOCAL jit = off", Transaction, Transaction, false);
        client.run("COMMIT", Transaction, Idle, false);
        assert_eq!(client.current(), "work_mem='8MB'");
        client.run("BEGIN", Idle, Transaction, false);
        client.run("SET work_mem = '9MB'", Transaction, Transaction, false);
        client.run("SELECT 1/0", Transaction, Failed, true);
        client.run("COMMIT", Failed, Idle, false);
        assert_eq!(client.current(), "work_mem='8MB'");
        assert!(!client.tracked.is_uncertain());
    }

    #[test]
    fn what_is_not_plain_is_asked() {
        for script in [
            "SELECT set_config('work_mem', '1MB', false)",
            "DO $$ BEGIN END $$",
            "BEGIN; SET work_mem = '1MB'; COMMIT",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        ] {
            let mut client = Client::new(&[]);
            client.run(script, Idle, Idle, false);
            assert!(client.tracked.is_uncertain(), "{script}");
            let settings = Settings::new([("work_mem".into(), SettingValue::Text("1024".into()))]);
            client.tracked.learn(settings, &mut client.server);
            assert_eq!(client.current(), "work_mem=1024");
        }
        let mut client = Client::new(&[]);
        client.run("BEGIN", Idle, Transaction, false);
        client.run("SET work_mem = '1MB'", Transaction, Transaction, false);
        client.run("ROLLBACK TO a", Transaction, Transaction, false);
        assert!(client.tracked.is_uncertain());
    }

    #[test]
    fn discard_all_goes_back_to_the_start() {
        let mut client = Client::new(&[("timezone", "UTC")]);
        client.run("SET work_mem = '8MB'", Idle, Idle, false);
        client.run("DISCARD ALL", Idle, Idle, false);
        assert_eq!(client.current(), "timezone=UTC");
        assert_eq!(show(&client.server), "timezone=UTC");
        assert_eq!(show(&client.tracked.tail(&analyse("DISCARD ALL")).unwrap()), "timezone=UTC");
    }
}

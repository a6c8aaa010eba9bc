//! What is known of a statement from its text alone.
//!
//! An [`Analysis`] is made once for each distinct text and shared by all who send it. It holds names
//! and facts, nothing of a parser's tree, so that the parser can be another one tomorrow.

use super::hint::Hint;
use super::upkeep::Upkeep;
use super::uses::Uses;
use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A text, understood: the statements of one `Query` or `Parse` message.
#[derive(Debug)]
pub struct Analysis {
    /// In the text's order; empty for an empty text.
    pub statements: Box<[Statement]>,
    /// What stands in a comment in front of them for pgsluice.
    pub hints: Box<[Hint]>,
    refused_by_standby: AtomicBool,
    places: Box<[AtomicU64]>,
}

/// Statements of one text that are counted apart; what follows is counted together.
const MAX_PLACES: usize = 100;

impl Default for Analysis {
    fn default() -> Self {
        Self::new([])
    }
}

impl Analysis {
    /// Takes the statements of one text.
    pub fn new(statements: impl Into<Box<[Statement]>>) -> Self {
        let statements = statements.into();
        // An empty text is run, and counted, like any other.
        let places = (0..statements.len().clamp(1, MAX_PLACES)).map(|_| AtomicU64::new(0)).collect();
        Self { statements, hints: [].into(), refused_by_standby: AtomicBool::new(false), places }
    }

    /// With these in front.
    #[must_use]
    pub fn with_hints(self, hints: Box<[Hint]>) -> Self {
        Self { hints, ..self }
    }

    /// A standby has refused this text as a write (25006): it goes to the primary from now on.
    pub fn note_refused_by_standby(&self) {
        self.refused_by_standby.store(true, Ordering::Relaxed);
    }

    /// Whether a standby has ever refused it.
    pub fn was_refused_by_standby(&self) -> bool {
        self.refused_by_standby.load(Ordering::Relaxed)
    }

    /// For whoever keeps count of statements: where it keeps each of these, in the text's order, as it last noted
    /// here; 0 at first. Means nothing to anybody else.
    pub fn places(&self) -> &[AtomicU64] {
        &self.places
    }

    /// Whether pgsluice itself knows the answer.
    pub fn is_own(&self) -> bool {
        matches!(&*self.statements, [only] if matches!(only.kind, Kind::ExplainRoute | Kind::ShowOwn { .. }))
    }

    /// Whether a statement in it changes the catalog.
    pub fn has_ddl(&self) -> bool {
        self.statements.iter().any(|statement| matches!(statement.kind, Kind::Ddl))
    }
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it does.
    pub kind: Kind,
    /// Why its text alone says that it belongs on the primary; `None` leaves it to `judge`.
    pub primary: Option<PrimaryCause>,
    /// Tables, views and the like that it names, but for its own CTEs.
    pub relations: Box<[Name]>,
    /// Functions that it calls by name.
    pub functions: Box<[Name]>,
    /// State that it leaves in the server's session, beyond settings.
    pub pin: Option<Pin>,
    /// It may end what a pin is there for: CLOSE, DROP, UNLISTEN, `pg_advisory_unlock…()`.
    pub may_unpin: bool,
    /// It may change settings in a way that `kind` does not say: `set_config(…)` that is not literally
    /// local, DO, CALL, EXECUTE, [`Setting::Opaque`], and for PREPARE and DECLARE what they will run.
    pub changes_settings: bool,
    /// Databases that a server does this to only while nobody else is connected to them: CREATE, ALTER and DROP
    /// DATABASE.
    pub databases: Box<[Box<str>]>,
    /// Where `changes_settings`: what its text holds of two-part names, any of which may be the setting's. A server
    /// does not list those of no known module.
    pub two_part_names: Box<[Box<str>]>,
    /// Where it names tables, and with which values; `None`: that is not known.
    pub uses: Option<Box<Uses>>,
    /// A server runs it in no transaction block, or it tends files and not rows.
    pub upkeep: Option<Box<Upkeep>>,
}

impl Statement {
    /// A statement that names nothing and leaves nothing.
    pub fn new(kind: Kind, primary: Option<PrimaryCause>) -> Self {
        let changes_settings = matches!(kind, Kind::Set(Setting::Opaque));
        Self {
            kind,
            primary,
            relations: [].into(),
            functions: [].into(),
            pin: None,
            may_unpin: false,
            changes_settings,
            databases: [].into(),
            two_part_names: [].into(),
            uses: None,
            upkeep: None,
        }
    }

    /// As one of which it is known that it names no table.
    pub(super) fn without_tables(mut self) -> Self {
        self.uses = Some(Box::default());
        self
    }

    /// With this mark left in the server's session.
    pub fn with_pin(mut self, pin: Option<Pin>) -> Self {
        self.pin = pin;
        self
    }
}

/// A possibly qualified name, folded as PostgreSQL folds it (lower case unless quoted).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// As written; `None` leaves it to `search_path`.
    pub schema: Option<Box<str>>,
    /// The last part.
    pub name: Box<str>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What a statement does, as far as routing and session state care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Answers with rows, or explains: SELECT, VALUES, TABLE, SHOW, EXPLAIN, COPY … TO, FETCH, CLOSE, DECLARE.
    Query,
    /// Changes rows: INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY … FROM, SELECT INTO.
    Write,
    /// Changes a catalog: CREATE, ALTER, DROP, GRANT, REVOKE, COMMENT, …
    Ddl,
    /// Everything else: VACUUM, LOCK, NOTIFY, CHECKPOINT, …, and what cannot be parsed.
    Utility,
    /// BEGIN, START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Savepoint {
        /// ROLLBACK TO: settings may have gone back.
        rollback: bool,
    },
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
    /// SET TRANSACTION (for SET SESSION CHARACTERISTICS see [`Setting::Opaque`]).
    SetTransaction(TransactionModes),
    /// SET, RESET, and whatever else changes settings.
    Set(Setting),
    /// DISCARD.
    Discard(Discard),
    /// SQL-level PREPARE.
    Prepare {
        /// The statement's name.
        name: Box<str>,
    },
    /// SQL-level EXECUTE.
    Execute {
        /// The statement's name.
        name: Box<str>,
        /// Where the name stands in the text, in bytes, with its quotes.
        name_span: Range<usize>,
    },
    /// SQL-level DEALLOCATE.
    Deallocate {
        /// `None` is ALL.
        name: Option<Box<str>>,
        /// Where the name (or ALL) stands in the text, in bytes, with its quotes.
        name_span: Range<usize>,
    },
    /// LISTEN, UNLISTEN.
    Listen,
    /// `EXPLAIN ROUTE`: pgsluice's own.
    ExplainRoute,
    /// `SHOW pgsluice.…`: pgsluice's own.
    ShowOwn {
        /// The parameter's name without `pgsluice.`, in lower case.
        name: Box<str>,
    },
}

/// The modes of BEGIN and SET TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionModes {
    /// `Some(true)`: READ ONLY; `Some(false)`: READ WRITE.
    pub read_only: Option<bool>,
    /// `Some(true)`: SERIALIZABLE; `Some(false)`: another level was named.
    pub serializable: Option<bool>,
}

/// A change of settings (GUCs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `SET [SESSION] name TO value`, also in its special spellings (`SET TIME ZONE`, `SET NAMES`,
    /// `SET SCHEMA`, `SET ROLE`, `SET SESSION AUTHORIZATION`), under the setting's own name
    /// (`timezone`, `client_encoding`, `search_path`, `role`, `session_authorization`).
    Session {
        /// Lower case.
        name: Box<str>,
        /// The value as SQL, such that `SET name TO <value>` says the same; `None` is DEFAULT.
        value: Option<Box<str>>,
    },
    /// `SET LOCAL`: ends with the transaction.
    Local {
        /// Lower case.
        name: Box<str>,
        /// As for `Session`.
        value: Option<Box<str>>,
    },
    /// `RESET name`.
    Reset {
        /// Lower case.
        name: Box<str>,
    },
    /// `RESET ALL`.
    ResetAll,
    /// Something changed that the text does not say exactly: SET SESSION CHARACTERISTICS, and
    /// values that are not plain constants.
    Opaque,
}

/// What DISCARD discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// ALL
    All,
    /// PLANS
    Plans,
    /// SEQUENCES
    Sequences,
    /// TEMP
    Temp,
}

/// State that lives in one server session, so that its client must stay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pin {
    /// A temporary table, view or sequence.
    Temporary,
    /// A cursor WITH HOLD.
    HoldCursor,
    /// LISTEN.
    Listen,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// SQL-level PREPARE.
    Prepare,
    /// LOAD, and other state that cannot be carried over.
    Library,
}

impl Pin {
    /// All of them, for metrics that list a closed set.
    pub const ALL: [Self; 6] =
        [Self::Temporary, Self::HoldCursor, Self::Listen, Self::AdvisoryLock, Self::Prepare, Self::Library];

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::HoldCursor => "hold_cursor",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::Prepare => "prepare",
            Self::Library => "library",
        }
    }
}

/// Why a statement belongs on the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrimaryCause {
    /// It changes rows.
    Write,
    /// It changes a catalog.
    Ddl,
    /// A utility command that is not known to be harmless on a standby.
    Utility,
    /// FOR UPDATE, FOR SHARE, …
    LockingClause,
    /// WITH … AS (INSERT …).
    DataModifyingCte,
    /// A function that may write (VOLATILE), in itself or through a view.
    VolatileFunction,
    /// A function of which the catalog knows nothing (yet).
    UnknownFunction,
    /// A function that asks about, or acts on, one server: `pg_is_in_recovery()`, `pg_backend_pid()` …
    ServerFunction,
    /// An advisory lock: on a replica it would succeed, and be worthless.
    AdvisoryLock,
    /// `currval`, `lastval`: only the server session that ran `nextval` knows.
    SequenceState,
    /// A view about one server (`pg_stat_*`, `pg_locks` …), or a sequence, which on a standby is ahead.
    ServerRelation,
    /// A temporary or an unlogged table: standbys do not have them.
    Unlogged,
    /// It leaves state in the server session: LISTEN, PREPARE, WITH HOLD, temporary tables.
    SessionState,
    /// The parser could not parse it.
    Unparsed,
}

impl PrimaryCause {
    /// All of them, for metrics that list a closed set.
    pub const ALL: [Self; 14] = [
        Self::Write,
        Self::Ddl,
        Self::Utility,
        Self::LockingClause,
        Self::DataModifyingCte,
        Self::VolatileFunction,
        Self::UnknownFunction,
        Self::ServerFunction,
        Self::AdvisoryLock,
        Self::SequenceState,
        Self::ServerRelation,
        Self::Unlogged,
        Self::SessionState,
        Self::Unparsed,
    ];

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Ddl => "ddl",
            Self::Utility => "utility",
            Self::LockingClause => "locking_clause",
            Self::DataModifyingCte => "data_modifying_cte",
            Self::VolatileFunction => "volatile_function",
            Self::UnknownFunction => "unknown_function",
            Self::ServerFunction => "server_function",
            Self::AdvisoryLock => "advisory_lock",
            Self::SequenceState => "sequence_state",
            Self::ServerRelation => "server_relation",
            Self::Unlogged => "unlogged",
            Self::SessionState => "session_state",
            Self::Unparsed => "unparsed",
        }
    }

    /// In words, for whoever asks why.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Write => "it changes rows",
            Self::Ddl => "it changes a catalog",
            Self::Utility => "a command that is not known to be harmless on a standby",
            Self::LockingClause => "it locks rows (FOR UPDATE, FOR SHARE ...)",
            Self::DataModifyingCte => "a WITH clause changes rows",
            Self::VolatileFunction => "it calls a function that may write (VOLATILE), itself or through a view",
            Self::UnknownFunction => "it calls a function that the catalog does not know (yet)",
            Self::ServerFunction => "it asks about, or acts on, one server",
            Self::AdvisoryLock => "an advisory lock on a replica would hold up nobody",
            Self::SequenceState => "only the server session that ran nextval knows",
            Self::ServerRelation => "it reads a view about one server, or a sequence, which on a standby is ahead",
            Self::Unlogged => "standbys do not have temporary and unlogged tables",
            Self::SessionState => "it leaves state in the server session",
            Self::Unparsed => "the parser could not parse it",
        }
    }
}

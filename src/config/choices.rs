//! How the enumerated values of the schema are spelt, once for reading and for showing.

use super::rules::RuleTls;
use super::schema::{
    AuditEvents, AuditStatements, AuditText, AuthMethod, ConsistencyLevel, LogFormat, PoolMode, ReplicationMode,
    SslMode, TlsMode, WhenNone,
};
use super::values::Choices;

impl AuthMethod {
    /// As in the config.
    pub fn name(self) -> &'static str {
        AUTH_METHOD.name(self)
    }
}

pub(super) const TLS_MODE: Choices<TlsMode> = Choices {
    values: &[
        ("off", TlsMode::Off),
        ("prefer", TlsMode::Prefer),
        ("require", TlsMode::Require),
        ("verify-client", TlsMode::VerifyClient),
    ],
    later: &[],
};
pub(super) const SSL_MODE: Choices<SslMode> = Choices {
    values: &[
        ("disable", SslMode::Disable),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ],
    later: &[],
};
pub(super) const REPLICATION_MODE: Choices<ReplicationMode> =
    Choices { values: &[("off", ReplicationMode::Off), ("pass", ReplicationMode::Pass)], later: &[] };
pub(super) const LOG_FORMAT: Choices<LogFormat> =
    Choices { values: &[("text", LogFormat::Text), ("json", LogFormat::Json)], later: &[] };
pub(super) const AUDIT_EVENTS: Choices<AuditEvents> = Choices {
    values: &[
        ("all", AuditEvents::All),
        ("logins", AuditEvents::Logins),
        ("refusals", AuditEvents::Refusals),
        ("config", AuditEvents::Config),
        ("nodes", AuditEvents::Nodes),
        ("operators", AuditEvents::Operators),
        ("heals", AuditEvents::Heals),
        ("process", AuditEvents::Process),
    ],
    later: &[],
};
pub(super) const AUDIT_STATEMENTS: Choices<AuditStatements> = Choices {
    values: &[
        ("write", AuditStatements::Write),
        ("ddl", AuditStatements::Ddl),
        ("read", AuditStatements::Read),
        ("all", AuditStatements::All),
    ],
    later: &[],
};
pub(super) const AUDIT_TEXT: Choices<AuditText> = Choices {
    values: &[("normalised", AuditText::Normalised), ("full", AuditText::Full), ("none", AuditText::None)],
    later: &[],
};
pub(super) const AUTH_METHOD: Choices<AuthMethod> = Choices {
    values: &[("scram-sha-256", AuthMethod::ScramSha256), ("cert", AuthMethod::Cert), ("trust", AuthMethod::Trust)],
    later: &[],
};
pub(super) const RULE_METHOD: Choices<AuthMethod> = Choices {
    values: &[
        ("scram-sha-256", AuthMethod::ScramSha256),
        ("cert", AuthMethod::Cert),
        ("trust", AuthMethod::Trust),
        ("reject", AuthMethod::Reject),
    ],
    later: &[],
};
pub(super) const RULE_TLS: Choices<RuleTls> =
    Choices { values: &[("any", RuleTls::Any), ("required", RuleTls::Required), ("off", RuleTls::Off)], later: &[] };
pub(super) const POOL_MODE: Choices<PoolMode> = Choices {
    values: &[("transaction", PoolMode::Transaction), ("session", PoolMode::Session)],
    later: &["statement"],
};
pub(super) const CONSISTENCY_LEVEL: Choices<ConsistencyLevel> = Choices {
    values: &[
        ("strong", ConsistencyLevel::Strong),
        ("bounded", ConsistencyLevel::Bounded),
        ("session", ConsistencyLevel::Session),
        ("eventual", ConsistencyLevel::Eventual),
        ("primary", ConsistencyLevel::Primary),
    ],
    later: &[],
};
pub(super) const WHEN_NONE: Choices<WhenNone> = Choices {
    values: &[("primary", WhenNone::Primary), ("stalest", WhenNone::Stalest), ("error", WhenNone::Error)],
    later: &[],
};

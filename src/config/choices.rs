//! How the enumerated values of the schema are spelt, once for reading and for showing.

use super::rules::RuleTls;
use super::schema::{AuthMethod, ConsistencyLevel, LogFormat, PoolMode, ReplicationMode, TlsMode, WhenNone};
use super::values::Choices;

pub(super) const TLS_MODE: Choices<TlsMode> = Choices {
    values: &[("off", TlsMode::Off), ("prefer", TlsMode::Prefer), ("require", TlsMode::Require)],
    later: &["verify-client"],
};
pub(super) const REPLICATION_MODE: Choices<ReplicationMode> =
    Choices { values: &[("off", ReplicationMode::Off), ("pass", ReplicationMode::Pass)], later: &[] };
pub(super) const LOG_FORMAT: Choices<LogFormat> =
    Choices { values: &[("text", LogFormat::Text), ("json", LogFormat::Json)], later: &[] };
pub(super) const AUTH_METHOD: Choices<AuthMethod> =
    Choices { values: &[("scram-sha-256", AuthMethod::ScramSha256), ("trust", AuthMethod::Trust)], later: &["cert"] };
pub(super) const RULE_METHOD: Choices<AuthMethod> = Choices {
    values: &[("scram-sha-256", AuthMethod::ScramSha256), ("trust", AuthMethod::Trust), ("reject", AuthMethod::Reject)],
    later: AUTH_METHOD.later,
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

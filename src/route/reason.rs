//! Why a statement went where it did: a closed set, the same in metrics, logs and answers.

use crate::sql::PrimaryCause;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// To a replica: a read, and the replica is fresh enough.
    FreshReplica,
    /// To a replica: a transaction that was begun READ ONLY.
    ReadOnlyTransaction,
    /// To a replica: the session asked for one (`pgsluice.route`).
    RouteReplica,
    /// To a replica that no longer counts as fresh: `lag.when_none = "stalest"`.
    Stalest,
    /// To the primary: the statement itself demands it.
    Statement(PrimaryCause),
    /// To the primary: a read-write transaction is.
    Transaction,
    /// To the primary: standbys refuse SERIALIZABLE.
    Serializable,
    /// To the primary: a standby has refused this text as a write before.
    RefusedByStandby,
    /// To the primary: a standby failed it in a way that the primary may not.
    StandbyError,
    /// To the primary: `consistency.level`, or `pgsluice.consistency`, is `primary`.
    ConsistencyPrimary,
    /// To the primary: the session asked for it (`pgsluice.route`).
    RoutePrimary,
    /// To the primary: no replica is known to have this session's writes, or what it has read.
    NotFresh,
    /// To the primary: no replica is eligible (`lag.when_none = "primary"`).
    NoReplica,
    /// To the primary: session pooling.
    SessionPooling,
    /// To the primary: text in an encoding, or under settings, that make it unsafe to read.
    UnreadableText,
    /// To the primary: longer than `limits.max_statement_bytes`, or a pipeline too long to be looked at whole.
    TooLong,
    /// To the primary: the fast-path function call protocol.
    FunctionCall,
    /// To the coordinator's primary: it needs rows of several shards.
    Coordinator,
    /// To each shard, where a node is chosen as for any statement: a read whose rows are put together by pgsluice.
    Merged,
}

impl Reason {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::FreshReplica,
            Self::ReadOnlyTransaction,
            Self::RouteReplica,
            Self::Stalest,
            Self::Transaction,
            Self::Serializable,
            Self::RefusedByStandby,
            Self::StandbyError,
            Self::ConsistencyPrimary,
            Self::RoutePrimary,
            Self::NotFresh,
            Self::NoReplica,
            Self::SessionPooling,
            Self::UnreadableText,
            Self::TooLong,
            Self::FunctionCall,
            Self::Coordinator,
            Self::Merged,
        ]
        .into_iter()
        .chain(PrimaryCause::ALL.into_iter().map(Self::Statement))
    }

    /// Its place in [`Reason::all`].
    pub fn index(self) -> usize {
        match self {
            Self::FreshReplica => 0,
            Self::ReadOnlyTransaction => 1,
            Self::RouteReplica => 2,
            Self::Stalest => 3,
            Self::Transaction => 4,
            Self::Serializable => 5,
            Self::RefusedByStandby => 6,
            Self::StandbyError => 7,
            Self::ConsistencyPrimary => 8,
            Self::RoutePrimary => 9,
            Self::NotFresh => 10,
            Self::NoReplica => 11,
            Self::SessionPooling => 12,
            Self::UnreadableText => 13,
            Self::TooLong => 14,
            Self::FunctionCall => 15,
            Self::Coordinator => 16,
            Self::Merged => 17,
            Self::Statement(cause) => 18 + cause as usize,
        }
    }

    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::FreshReplica => "fresh_replica",
            Self::ReadOnlyTransaction => "read_only_transaction",
            Self::RouteReplica => "route_replica",
            Self::Stalest => "stalest",
            Self::Statement(cause) => cause.name(),
            Self::Transaction => "transaction",
            Self::Serializable => "serializable",
            Self::RefusedByStandby => "refused_by_standby",
            Self::StandbyError => "standby_error",
            Self::ConsistencyPrimary => "consistency_primary",
            Self::RoutePrimary => "route_primary",
            Self::NotFresh => "not_fresh",
            Self::NoReplica => "no_replica",
            Self::SessionPooling => "session_pooling",
            Self::UnreadableText => "unreadable_text",
            Self::TooLong => "too_long",
            Self::FunctionCall => "function_call",
            Self::Coordinator => "coordinator",
            Self::Merged => "merged",
        }
    }

    /// In words, for whoever asks why.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::FreshReplica => "a read, and the replica is fresh enough for this session",
            Self::ReadOnlyTransaction => "a transaction that is begun READ ONLY",
            Self::RouteReplica => "pgsluice.route asks for a replica",
            Self::Stalest => "no replica is eligible, and lag.when_none = \"stalest\"",
            Self::Statement(cause) => cause.meaning(),
            Self::Transaction => "a transaction that may write",
            Self::Serializable => "standbys refuse SERIALIZABLE",
            Self::RefusedByStandby => "a standby has refused this text as a write before",
            Self::StandbyError => "a standby failed it in a way that the primary may not",
            Self::ConsistencyPrimary => "the consistency level sends reads to the primary",
            Self::RoutePrimary => "pgsluice.route asks for the primary",
            Self::NotFresh => "no replica is known to show what this session has seen",
            Self::NoReplica => "no replica is eligible",
            Self::SessionPooling => "with session pooling a client keeps one server connection",
            Self::UnreadableText => "the client's encoding or settings make the text unsafe to read",
            Self::TooLong => "it is too long to be looked at whole",
            Self::FunctionCall => "the fast-path function call protocol",
            Self::Coordinator => "it needs rows of several shards together: the coordinator reads them",
            Self::Merged => "each shard answers for its own rows, and pgsluice puts them together",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_its_place() {
        assert!(Reason::all().enumerate().all(|(index, reason)| reason.index() == index));
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Reason::all().map(Reason::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

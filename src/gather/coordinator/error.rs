//! What can go wrong with a coordinator, said so that it can be mended. No message has a password in it.

use thiserror::Error;

use super::compare::Problem;

/// Why there is no coordinator, or none that is up to date.
#[derive(Debug, Error)]
pub enum CoordinatorError {
    /// The config has none.
    #[error("the config has no [coordinator], which says on which shard this is to be set up")]
    NoCoordinator,
    /// No node of the shard lets the account in and is a primary.
    #[error("the primary of shard {shard} is not to be reached: {}", words(source))]
    Connect {
        /// The shard.
        shard: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// The shards' tables cannot be served; all that is wrong with them.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
    /// postgres_fdw is not on the coordinator's disk.
    #[error(
        "postgres_fdw is not installed on the coordinator's server: it comes with PostgreSQL's contrib modules \
         (on RPM systems the package postgresql-contrib; on Debian's a part of postgresql-NN)"
    )]
    NotInstalled,
    /// The account lacks a right.
    #[error("{account} lacks a right on the coordinator; a superuser can give it, in this database: {needed}")]
    NotPermitted {
        /// The account.
        account: String,
        /// What a superuser can do about it, as SQL.
        needed: String,
    },
    /// Something of a name that is needed.
    #[error("{what} is there, and was not made by pgsluice coordinator setup; rename it")]
    NotOurs {
        /// What.
        what: String,
    },
    /// A question was not answered.
    #[error("shard {shard} did not answer: {}", words(source))]
    Ask {
        /// The shard.
        shard: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// An answer is not what was asked for.
    #[error("shard {shard} answered what cannot be read: {source}")]
    Answer {
        /// The shard.
        shard: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A statement failed, and all was rolled back.
    #[error("nothing was changed; the coordinator refused {command}: {}", words(source))]
    Refused {
        /// The statement, without its password.
        command: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// The schema is as it should be, and the coordinator cannot read a shard.
    #[error("the coordinator cannot read shard {shard}: {}", words(source))]
    Unreachable {
        /// The shard.
        shard: String,
        /// Why.
        source: tokio_postgres::Error,
    },
}

/// PostgreSQL's message, detail and hint. Not its context: that can quote statements.
fn words(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return error.to_string() };
    let more = [("detail", error.detail()), ("hint", error.hint())];
    let more: String = more.iter().filter_map(|(name, text)| Some(format!(" ({name}: {})", (*text)?))).collect();
    format!("{}{more}", error.message())
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

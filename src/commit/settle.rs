//! One round of recovery: what is prepared, what was decided on it, and then so be it.
//!
//! Each step goes to all shards at the same time, and each question has a limit: a shard that does not answer holds a
//! round up by that, and leaves undone only what needs it. Everything here can be done by several processes at once:
//! who comes second finds it done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::kept::Lent;
use super::name::{Gid, PREFIX, ShardName, TransactionId};
use super::reach::{ConnectError, Reach};
use super::sql;

/// For a connection, and for each question. Longer than recovery's `statement_timeout`, whose answer says more.
const PATIENCE: Duration = Duration::from_secs(12);

/// For a connection alone.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What was decided on a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// COMMIT PREPARED, wherever it is prepared.
    Commit,
    /// ROLLBACK PREPARED.
    Rollback,
}

/// A transaction's part on one shard.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) shard: ShardName,
    pub(super) gid: Gid,
    pub(super) owner: Option<String>,
    pub(super) database: String,
    pub(super) age: Duration,
}

/// Something that this round could not settle; the next one tries again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where.
    pub shard: ShardName,
    /// What is prepared there. `None`: all of the shard, which cannot be looked at.
    pub gid: Option<String>,
    /// Why it was left.
    pub why: Why,
}

/// Why something was left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The shard itself.
    #[error("the shard cannot be asked: {0}")]
    Unreachable(String),
    /// What is prepared stays so, whatever it locks: the decision may have been to commit.
    #[error("the decision is on shard {decider}, which cannot be asked: {error}")]
    NoVerdict {
        /// Where the decision is found.
        decider: ShardName,
        /// What is wrong there.
        error: String,
    },
    /// A transaction is about to decide; or somebody else is settling it just now.
    #[error("somebody is at it")]
    Busy,
    /// Of another version of pgsluice, which will have to settle it.
    #[error("the name is not of a form that this version of pgsluice knows")]
    UnknownForm,
    /// Only the role that has prepared it, and superusers, may settle it; and who may SET ROLE to that role.
    #[error("it was prepared by the role {owner:?}, and {error}; GRANT that role to the account that recovers")]
    NotPermitted {
        /// Who has prepared it.
        owner: String,
        /// What the server says.
        error: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", words(.0))]
    Query(#[from] tokio_postgres::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("it is a standby")]
    Standby,
    #[error("the decision was deleted meanwhile")]
    Gone,
}

impl AskError {
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Query(error) => error.code(),
            _ => None,
        }
    }
}

/// The driver's own text says what kind of error it is; what has happened is in its sources.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(error), _) => format!("{} ({})", error.message(), error.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// A connection for recovery, to a server that is no standby.
pub(super) async fn session<R: Reach>(reach: &R, shard: &ShardName, database: Option<&str>) -> Result<Lent, AskError> {
    loop {
        let connected = timeout(CONNECT_PATIENCE, reach.connect(shard, database)).await;
        let client = connected.map_err(|_| AskError::Timeout)??;
        match begin(&client).await {
            Ok(()) => return Ok(client),
            // It was lost since it was used last: the next one is another.
            Err(AskError::Query(_) | AskError::Standby) if client.was_kept() => {}
            Err(error) => return Err(error),
        }
    }
}

async fn begin(client: &Client) -> Result<(), AskError> {
    let told = ask(client.simple_query(sql::RECOVERY_SESSION)).await?;
    let is_standby = told.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0) != Some("f"),
        _ => false,
    });
    if is_standby { Err(AskError::Standby) } else { Ok(()) }
}

/// Bounds a question.
pub(super) async fn ask<T>(question: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, AskError> {
    timeout(PATIENCE, question).await.map_err(|_| AskError::Timeout)?.map_err(AskError::from)
}

/// What is prepared on a shard, in whatever database, and names of another form.
pub(super) async fn prepared<R: Reach>(reach: &R, shard: &ShardName) -> Result<(Vec<Prepared>, Vec<String>), AskError> {
    let client = session(reach, shard, None).await?;
    let rows = ask(client.query(sql::PREPARED, &[&PREFIX])).await?;
    let (mut ours, mut strange) = (Vec::new(), Vec::new());
    for row in rows {
        if row.try_get("standby")? {
            return Err(AskError::Standby);
        }
        let Some(text) = row.try_get::<_, Option<String>>("gid")? else { continue };
        let Ok(gid) = text.parse() else {
            strange.push(text);
            continue;
        };
        let age = Duration::try_from_secs_f64(row.try_get("age")?).unwrap_or_default();
        let (owner, database) = (row.try_get("owner")?, row.try_get("database")?);
        ours.push(Prepared { shard: shard.clone(), gid, owner, database, age });
    }
    client.give_back();
    Ok((ours, strange))
}

/// Settles all of these. What was done, and what was left.
pub(super) async fn settle<R: Reach>(reach: &R, due: Vec<Prepared>) -> (Vec<(Prepared, Verdict)>, Vec<Left>) {
    let verdicts = verdicts(reach, &due).await;
    let mut by_place: BTreeMap<(ShardName, String), Vec<(Prepared, Verdict)>> = BTreeMap::new();
    let mut left = Vec::new();
    for part in due {
        match verdicts.get(&(part.gid.id, part.database.clone())) {
            Some(Ok(verdict)) => {
                let place = (part.shard.clone(), part.database.clone());
                by_place.entry(place).or_default().push((part, *verdict));
            }
            Some(Err(why)) => left.push(left_part(&part, why.clone())),
            None => {}
        }
    }
    let places = by_place.iter().map(|((shard, database), parts)| finish_at(reach, shard, database, parts));
    let results = join_all(places).await.into_iter().flatten();
    let mut done = Vec::new();
    for (part, result) in by_place.into_values().flatten().zip(results) {
        match result {
            Ok(()) => done.push(part),
            Err(why) => left.push(left_part(&part.0, why)),
        }
    }
    (done, left)
}

fn left_part(part: &Prepared, why: Why) -> Left {
    Left { shard: part.shard.clone(), gid: Some(part.gid.to_string()), why }
}

type Verdicts = HashMap<(TransactionId, String), Result<Verdict, Why>>;

/// Asks each decider once for each transaction.
async fn verdicts<R: Reach>(reach: &R, due: &[Prepared]) -> Verdicts {
    let mut questions: BTreeMap<(&ShardName, &str), BTreeSet<TransactionId>> = BTreeMap::new();
    for part in due {
        questions.entry((&part.gid.decider, &part.database)).or_default().insert(part.gid.id);
    }
    let asked = questions.into_iter().map(|((decider, database), ids)| async move {
        let session = session(reach, decider, Some(database)).await;
        let mut answers: Vec<((TransactionId, String), Result<Verdict, Why>)> = Vec::new();
        for id in ids {
            let verdict = match &session {
                Ok(client) => verdict(client, id).await.map_err(|error| no_verdict(decider, &error)),
                Err(error) => Err(no_verdict(decider, error)),
            };
            answers.push(((id, database.to_owned()), verdict));
        }
        if let (Ok(client), true) = (session, answers.iter().all(|(_, answer)| answer.is_ok())) {
            client.give_back();
        }
        answers
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn no_verdict(decider: &ShardName, error: &AskError) -> Why {
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return Why::Busy;
    }
    Why::NoVerdict { decider: decider.clone(), error: error.to_string() }
}

/// What was decided; that it is rolled back, where nothing was.
async fn verdict(client: &Client, id: TransactionId) -> Result<Verdict, AskError> {
    let id = id.to_string();
    // In force when this is answered: it is a transaction of its own.
    ask(client.execute(sql::CLAIM_ROLLBACK, &[&id])).await?;
    let row = ask(client.query_opt(sql::VERDICT, &[&id])).await?.ok_or(AskError::Gone)?;
    Ok(if row.try_get(0)? { Verdict::Commit } else { Verdict::Rollback })
}

/// Carries verdicts out in one database, one after the other: each may need another role.
async fn finish_at<R: Reach>(
    reach: &R,
    shard: &ShardName,
    database: &str,
    parts: &[(Prepared, Verdict)],
) -> Vec<Result<(), Why>> {
    let client = match session(reach, shard, Some(database)).await {
        Ok(client) => client,
        Err(error) => return vec![Err(Why::Unreachable(error.to_string())); parts.len()],
    };
    let mut results = Vec::new();
    for (part, verdict) in parts {
        results.push(finish(&client, part, *verdict).await);
    }
    if results.iter().all(Result::is_ok) {
        client.give_back();
    }
    results
}

async fn finish(client: &Client, part: &Prepared, verdict: Verdict) -> Result<(), Why> {
    let statement = match verdict {
        Verdict::Commit => sql::commit_prepared(&part.gid),
        Verdict::Rollback => sql::rollback_prepared(&part.gid),
    };
    let result = run_as(client, "RESET ROLE", &statement).await;
    let (result, owner) = match (result, &part.owner) {
        (Err(error), Some(owner)) if is_denied(&error) => {
            (run_as(client, &sql::set_role(owner), &statement).await, owner.clone())
        }
        (result, owner) => (result, owner.clone().unwrap_or_default()),
    };
    match result {
        Ok(()) => Ok(()),
        Err(error) if is_denied(&error) => Err(Why::NotPermitted { owner, error: error.to_string() }),
        Err(error) => match error.code() {
            // Somebody was quicker.
            Some(code) if *code == SqlState::UNDEFINED_OBJECT => Ok(()),
            Some(code) if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => Err(Why::Busy),
            _ => Err(Why::Failed(error.to_string())),
        },
    }
}

/// COMMIT PREPARED goes by the current role, and cannot stand in a function or beside another statement.
async fn run_as(client: &Client, role: &str, statement: &str) -> Result<(), AskError> {
    ask(client.batch_execute(role)).await?;
    ask(client.batch_execute(statement)).await
}

fn is_denied(error: &AskError) -> bool {
    error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

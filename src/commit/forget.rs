//! Deletes decisions that nobody will ask for any more.
//!
//! A *commit* is needed as long as something is prepared under it. Candidates are read first and then it is looked
//! where something is prepared, never the other way round: whatever was decided was prepared before, so what is not
//! prepared afterwards never will be. A *rollback* is needed as long as the late decider's transaction may still be
//! open, which began before the rollback was claimed: so the transactions that were open then are noted, and when all
//! of them are over it is deleted. Neither depends on clocks: the age is a margin for those who want to look.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::kept::Lent;
use super::name::{ShardName, TransactionId};
use super::reach::Reach;
use super::settle::{AskError, Prepared, ask, session};
use super::sql;

/// Shards and databases that are asked at a time.
const AT_A_TIME: usize = 8;

/// Commits in one database of one shard that are old enough.
pub(super) struct Candidates {
    shard: ShardName,
    database: String,
    client: Lent,
    /// With the shards where something was prepared.
    commits: Vec<(TransactionId, Vec<String>)>,
}

/// Before it is looked where something is prepared. Databases without decisions, and shards that do not answer, have
/// none.
pub(super) async fn candidates<R: Reach>(
    reach: &R,
    databases: &BTreeSet<String>,
    older_than: Duration,
) -> Vec<Candidates> {
    let shards = reach.shards();
    let places: Vec<_> =
        shards.iter().flat_map(|shard| databases.iter().map(move |database| (shard, database))).collect();
    let mut found = Vec::new();
    for places in places.chunks(AT_A_TIME) {
        let asked = places.iter().map(|(shard, database)| candidates_at(reach, shard, database, older_than));
        found.extend(join_all(asked).await.into_iter().flatten());
    }
    found
}

async fn candidates_at<R: Reach>(
    reach: &R,
    shard: &ShardName,
    database: &str,
    older_than: Duration,
) -> Option<Candidates> {
    match old_commits(reach, shard, database, older_than).await {
        Ok((client, commits)) => {
            Some(Candidates { shard: shard.clone(), database: database.to_owned(), client, commits })
        }
        Err(error) => {
            if !has_none(&error) {
                tracing::debug!(%shard, database, %error, "old decisions cannot be read");
            }
            None
        }
    }
}

/// Not every database takes part, nor is every one of them on every shard.
fn has_none(error: &AskError) -> bool {
    let none = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INVALID_CATALOG_NAME];
    error.code().is_some_and(|code| none.contains(code))
}

async fn old_commits<R: Reach>(
    reach: &R,
    shard: &ShardName,
    database: &str,
    older_than: Duration,
) -> Result<(Lent, Vec<(TransactionId, Vec<String>)>), AskError> {
    let client = session(reach, shard, Some(database)).await?;
    let shards: Vec<String> = reach.shards().iter().map(ShardName::to_string).collect();
    let rows = match ask(client.query(sql::OLD_COMMITS, &[&older_than.as_secs_f64(), &shards])).await {
        Err(error) if has_none(&error) => {
            client.give_back();
            return Err(error);
        }
        asked => asked?,
    };
    let mut commits = Vec::new();
    for row in rows {
        if let Ok(id) = row.try_get::<_, String>(0)?.parse() {
            commits.push((id, row.try_get(1)?));
        }
    }
    Ok((client, commits))
}

/// After it was looked what is prepared: `seen` has every shard that could be asked. How many decisions were deleted.
pub(super) async fn forget(
    candidates: Vec<Candidates>,
    seen: &HashMap<ShardName, Vec<Prepared>>,
    older_than: Duration,
) -> u64 {
    let needed: HashSet<(&str, TransactionId)> =
        seen.iter().flat_map(|(shard, parts)| parts.iter().map(|part| (shard.as_str(), part.gid.id))).collect();
    let looked_at: HashSet<&str> = seen.keys().map(ShardName::as_str).collect();
    let is_over = |id: TransactionId, shard: &str| looked_at.contains(shard) && !needed.contains(&(shard, id));
    let deleted = candidates.into_iter().map(|place| async move {
        let over = place.commits.iter().filter(|(id, shards)| shards.iter().all(|shard| is_over(*id, shard)));
        let over: Vec<String> = over.map(|(id, _)| id.to_string()).collect();
        match delete(&place.client, &over, older_than).await {
            Ok(deleted) => {
                place.client.give_back();
                deleted
            }
            Err(error) => {
                tracing::debug!(shard = %place.shard, database = place.database, %error, "old decisions cannot be deleted");
                0
            }
        }
    });
    join_all(deleted).await.into_iter().sum()
}

async fn delete(client: &Client, over: &[String], older_than: Duration) -> Result<u64, AskError> {
    let commits = if over.is_empty() { 0 } else { ask(client.execute(sql::FORGET_COMMITS, &[&over])).await? };
    ask(client.execute(sql::NOTE_OPEN, &[])).await?;
    let rollbacks = ask(client.execute(sql::FORGET_ROLLBACKS, &[&older_than.as_secs_f64()])).await?;
    Ok(commits + rollbacks)
}

//! What the monitor asks a server, and how the answer reads.
//!
//! Two statements, both for PostgreSQL 14 to 18 and for primary and standby alike, both readable by a
//! member of `pg_monitor`: [`FACTS`] once per connection, [`POSITION`] at each poll. Neither writes, locks a relation, or
//! reads a table.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use crate::topology::{Lsn, Position, WalLayout};

/// What does not change while a connection lives.
///
/// The checkpointer's start tells one life of a server from the next where the postmaster's does not: after a
/// backend crashed, the postmaster goes on and starts everything else anew.
pub const FACTS: &str = "\
SELECT s.system_identifier, i.wal_block_size, i.bytes_per_wal_segment,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS postmaster_start,
       (SELECT (extract(epoch FROM max(a.backend_start)) * 1000000)::bigint
          FROM pg_stat_get_activity(NULL) a WHERE a.backend_type = 'checkpointer') AS checkpointer_start
  FROM pg_control_system() s, pg_control_init() i";

/// Where the server is. The order of evaluation matters and is forced by OFFSET 0 and LATERAL: the replay position
/// first, then the timeline (which may only be *newer* than the position, see [`Answer`]), last what the
/// startup process does. The costly parts (control file, list of processes) are behind CASE and COALESCE.
pub const POSITION: &str = "\
SELECT here.standby, here.lsn, here.edge,
       CASE WHEN NOT here.standby THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS wal_file,
       CASE WHEN here.standby THEN COALESCE(receiver.received_tli,
            (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
               FROM pg_control_checkpoint() c, pg_control_recovery() r)) END AS timeline,
       receiver.pid IS NOT NULL AS has_receiver,
       receiver.status AS receiver_status,
       (extract(epoch FROM clock_timestamp() - receiver.last_msg_receipt_time) * 1000000)::bigint AS silent_micros,
       CASE WHEN here.standby AND here.lsn <> here.edge
            THEN EXISTS (SELECT FROM pg_stat_get_activity(NULL) a
                          WHERE a.backend_type = 'startup' AND a.wait_event = 'RecoveryWalStream')
            ELSE false END AS waits_for_wal
  FROM (SELECT r.standby,
               CASE WHEN r.standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END AS lsn,
               CASE WHEN r.standby THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END AS edge
          FROM (SELECT pg_is_in_recovery() AS standby OFFSET 0) r OFFSET 0) here
  LEFT JOIN LATERAL (SELECT w.* FROM pg_stat_get_wal_receiver() w WHERE here.standby OFFSET 0) receiver ON true";

/// What does not change while a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The cluster.
    pub system_identifier: i64,
    /// Sizes of WAL pages and segments.
    pub layout: WalLayout,
    /// This life of the server: differs after each restart, also after one that a crashed backend caused.
    pub life: (i64, Option<i64>),
}

/// Where a server is, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Not in recovery.
    Primary {
        /// The insert position, normalised to what replay can reach: no acknowledged commit is beyond it.
        insert: Position,
        /// What is flushed, and so can be sent to standbys.
        flush: Lsn,
    },
    /// In recovery.
    Standby {
        /// The replayed position. Its timeline is the one that the startup process asked its upstream for, which it does
        /// only when it has replayed the older one up to the switch point. So it is never older
        /// than the timeline of the last replayed record, and where it is newer the position is the switch point
        /// itself, which is on both.
        replay: Position,
        /// The end of what has been received, at least `replay`.
        received: Lsn,
        /// The WAL receiver.
        receiver: Receiver,
        /// All that was received is replayed, up to a record that is not there whole.
        waits_for_wal: bool,
    },
}

impl Answer {
    /// The position for the data plane.
    pub fn position(&self) -> Position {
        match *self {
            Self::Primary { insert, .. } => insert,
            Self::Standby { replay, .. } => replay,
        }
    }

    /// `pg_is_in_recovery()`.
    pub fn in_recovery(&self) -> bool {
        matches!(self, Self::Standby { .. })
    }
}

/// A standby's WAL receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// There is none.
    Gone,
    /// There is one that does not stream: starting, waiting, stopping.
    Idle,
    /// It streams, and heard from its upstream this long ago (by the server's own clock).
    Streaming(Duration),
    /// There is one; the account may not see more of it.
    Hidden,
}

/// An answer that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// A column is missing or has another type.
    #[error("unexpected answer: {0}")]
    Column(#[from] tokio_postgres::Error),
    /// A column is NULL, or not what it should be.
    #[error("unexpected answer: no {0}")]
    Missing(&'static str),
}

/// Reads a row of [`FACTS`].
pub fn read_facts(row: &Row) -> Result<Facts, AnswerError> {
    let size = |name| -> Result<u64, AnswerError> {
        u64::try_from(row.try_get::<_, i32>(name)?).map_err(|_| AnswerError::Missing(name))
    };
    Ok(Facts {
        system_identifier: row.try_get("system_identifier")?,
        layout: WalLayout { page: size("wal_block_size")?, segment: size("bytes_per_wal_segment")? },
        life: (row.try_get("postmaster_start")?, row.try_get("checkpointer_start")?),
    })
}

/// Reads a row of [`POSITION`].
pub fn read_position(row: &Row, facts: &Facts) -> Result<Answer, AnswerError> {
    let lsn = |name| -> Result<Option<Lsn>, AnswerError> {
        Ok(row.try_get::<_, Option<PgLsn>>(name)?.map(|lsn| Lsn(lsn.into())))
    };
    let here = lsn("lsn")?.ok_or(AnswerError::Missing("position"))?;
    let edge = lsn("edge")?;
    if !row.try_get::<_, bool>("standby")? {
        let file: Option<&str> = row.try_get("wal_file")?;
        let timeline = file.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let timeline = timeline.ok_or(AnswerError::Missing("timeline"))?;
        let insert = Position { timeline, lsn: facts.layout.replayable(here) };
        return Ok(Answer::Primary { insert, flush: edge.ok_or(AnswerError::Missing("flush position"))? });
    }
    let timeline = row.try_get::<_, Option<i32>>("timeline")?.and_then(|tli| u32::try_from(tli).ok());
    let timeline = timeline.ok_or(AnswerError::Missing("timeline"))?;
    Ok(Answer::Standby {
        replay: Position { timeline, lsn: here },
        received: edge.unwrap_or(here).max(here),
        receiver: read_receiver(row)?,
        waits_for_wal: row.try_get("waits_for_wal")?,
    })
}

fn read_receiver(row: &Row) -> Result<Receiver, AnswerError> {
    if !row.try_get::<_, bool>("has_receiver")? {
        return Ok(Receiver::Gone);
    }
    let silent: Option<i64> = row.try_get("silent_micros")?;
    let silent = Duration::from_micros(silent.and_then(|micros| u64::try_from(micros).ok()).unwrap_or(0));
    Ok(match row.try_get::<_, Option<&str>>("receiver_status")? {
        None => Receiver::Hidden,
        Some("streaming") => Receiver::Streaming(silent),
        Some(_) => Receiver::Idle,
    })
}

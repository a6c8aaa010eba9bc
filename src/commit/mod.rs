//! Transactions over several shards: all of them commit, or none does, whatever is killed in between.
//!
//! Two-phase commit in which the last agent decides. Of the shards that have written, all but one *prepare*; then the
//! one that is left writes the decision into its own transaction and commits it. That COMMIT is the commit point:
//! before it nothing is committed anywhere, after it everything is, if not carried out yet. Then what is prepared is
//! committed.
//!
//! - [`commit`] does this with connections that somebody else has ([`Participant`]), and says what came of it
//!   ([`Outcome`]).
//! - [`Recovery`] settles what was left: it goes by what is prepared on the shards, and asks the shard that the gid names
//!   for the decision. Where there is none it claims the rollback, under the same primary key; so it never concludes from the
//!   absence of a decision that there will be none.
//! - [`sql::INSTALL`] makes the table of decisions.
//!
//! Invariants: COMMIT PREPARED is never sent before the decision's COMMIT was acknowledged or read; ROLLBACK PREPARED
//! never while that COMMIT may still succeed; a gid that is not ours is never touched. This room knows nothing of
//! clients, and keeps nothing that a restart would need: all of it is on the shards. `docs/sharding.md` says what an
//! operator sees of it.

mod coordinators;
mod forget;
mod kept;
mod name;
mod participant;
mod protocol;
mod reach;
mod recovery;
mod settle;
pub mod sql;

pub use coordinators::Coordinators;
pub use kept::Lent;
pub use name::{Gid, NotOurs, PREFIX, ShardName, TransactionId, UnfitName};
pub use participant::{Participant, Refusal, RunError};
pub use protocol::{Cause, Outcome, Way, commit, way};
pub use reach::{ConnectError, Primaries, Reach};
pub use recovery::{Recovery, Round, Settings};
pub use settle::{Left, Verdict, Why};

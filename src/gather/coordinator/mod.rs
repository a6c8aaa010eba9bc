//! The coordinator: a database of one shard's primary in which a statement over several shards runs unchanged, on
//! foreign tables over all of them.
//!
//! For every declared table whose rows are not all there, the schema [`VIEWS`] has a view of the table's name, over
//! one foreign table for each shard; with `search_path = pgsluice_all, public` an unqualified name means all rows.
//! Reference tables and tables of the coordinator's own shard have none: the real ones serve.
//!
//! - `names`: what things are called. `foreign`: what there is to be. `quote`: SQL's quoting.
//! - `catalog`: what the shards say of their tables; `compare`: where they disagree, and what cannot be served.
//! - `state`: what is there. `plan`: the steps from one to the other, as SQL.
//! - `hands`: the only part that speaks to servers.
//!
//! Invariants: a setup is one transaction; nothing is changed or dropped that was not made here; no password is in any
//! message, plan or error. The views belong to the shards' own account, whose user mapping they use, so a client's
//! privileges on a view are all that it has: they are never more than its privileges on the table on every shard.
//! The own shard's rows come through a foreign table too: a view on the real table would forbid its owner to alter it.

mod catalog;
mod compare;
mod error;
mod foreign;
mod hands;
mod names;
mod plan;
mod quote;
mod state;

pub use compare::Problem;
pub use error::CoordinatorError;
pub use hands::{Report, check, rehearse, setup};
pub use names::{MADE, READY, VIEWS, ready_mark};
pub use plan::{Action, Command, Step};

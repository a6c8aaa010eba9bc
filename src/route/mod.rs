//! The decision: which node a statement goes to, and why.
//!
//! Pure functions over a snapshot; the time and the dice are arguments. Whoever wants to explain a
//! decision asks the same function and reads the same [`Reason`].

mod decide;
mod explain;
mod horizon;
pub mod places;
mod reason;
pub mod rows;
mod session_keys;

pub use decide::{Demand, Plan, Question, Refusal, RouteSetting, decide};
pub use explain::{Considered, explain};
pub use horizon::{Horizon, Horizons};
pub use reason::Reason;
pub use session_keys::{SessionKey, SessionKeys};

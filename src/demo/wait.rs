//! Waiting for a condition, never for a time.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::DemoError;

/// How long anything may take. Generous: a loaded machine must not fail what merely takes longer.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until `condition` holds or fails.
///
/// # Errors
/// The condition's own error, or [`DemoError::Timeout`] after [`DEADLINE`], naming `what`.
pub(super) async fn until<F>(what: &str, mut condition: impl FnMut() -> F) -> Result<(), DemoError>
where
    F: Future<Output = Result<bool, DemoError>>,
{
    let deadline = Instant::now() + DEADLINE;
    while !condition().await? {
        if Instant::now() >= deadline {
            return Err(timeout(what));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Bounds one operation that might never answer.
///
/// # Errors
/// [`DemoError::Timeout`] after [`DEADLINE`], naming `what`.
pub(super) async fn bounded<T>(what: &str, operation: impl Future<Output = T>) -> Result<T, DemoError> {
    tokio::time::timeout(DEADLINE, operation).await.map_err(|_| timeout(what))
}

fn timeout(what: &str) -> DemoError {
    DemoError::Timeout { what: what.to_owned(), seconds: DEADLINE.as_secs() }
}

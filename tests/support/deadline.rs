//! Waiting with a deadline: every awaited event has a deadline and a name.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Long enough for a slow machine under load, short enough to notice a hang.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, described by `what`, for at most `deadline`.
///
/// # Panics
///
/// Naming `what`, if the deadline passes.
pub async fn within<F: Future>(deadline: Duration, what: &str, future: F) -> F::Output {
    let waited = timeout(deadline, future).await;
    waited.unwrap_or_else(|_| panic!("waited {deadline:?} in vain for {what}"))
}

/// Polls `check` every 10 ms until it returns a value, for at most [`DEADLINE`]. For state that cannot be awaited.
///
/// # Panics
///
/// Naming `what`, if the deadline passes.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        let checked = timeout_at(end, check()).await;
        match checked {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < end => sleep(Duration::from_millis(10)).await,
            _ => panic!("waited {DEADLINE:?} in vain for {what}"),
        }
    }
}

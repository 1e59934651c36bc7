//! Waiting with an end: every event that a test awaits has a deadline and a name.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Long enough for a slow machine under load, short enough to find out that something hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`, which is `what`, for at most `deadline`.
///
/// # Panics
///
/// Naming `what`, if it takes longer.
pub async fn within<F: Future>(deadline: Duration, what: &str, future: F) -> F::Output {
    let waited = timeout(deadline, future).await;
    waited.unwrap_or_else(|_| panic!("waited {deadline:?} in vain for {what}"))
}

/// Awaits that `check` gives a value, for things that can only be asked for: asks every 10 ms for at most [`DEADLINE`].
///
/// # Panics
///
/// Naming `what`, if it takes longer.
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

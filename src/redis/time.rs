//! Times in the form in which Redis takes them.

use std::time::Duration;

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

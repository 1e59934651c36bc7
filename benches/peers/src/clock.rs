//! A clock that all processes of the machine share, Python's and Node's included.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the monotonic clock starts at 0");
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).expect("a part of a second is not negative")
}

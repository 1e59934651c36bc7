//! How a panic of a reader is reported.

/// The name of readers in the count of panics.
pub(crate) const TASK: &str = "reader of Redis";
/// The reason in the quarantine record of an entry at which a reader panicked.
pub(crate) const PANICKED: &str = "a panic while it was read";

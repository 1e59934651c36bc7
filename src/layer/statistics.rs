//! `Statistics`: the counters of one channel, or of all channels.

use std::time::Duration;

/// Counters of one channel, or of all channels together. On Redis the counts of other processes are up to one second
/// old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Messages sent. The counter of a channel restarts after at most an hour without messages, the counter of all
    /// channels after at most a day.
    pub messages_count: u64,
    /// Messages refused because the channel was full. Restarts together with `messages_count`.
    pub channel_full_count: u64,
    /// Messages that are waiting now. Expired messages count until they are removed.
    pub messages_pending: u64,
    /// Age of the oldest waiting message.
    pub messages_max_age: Duration,
}

impl Statistics {
    /// Adds the counters of two sets of channels.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self {
            messages_count: self.messages_count + other.messages_count,
            channel_full_count: self.channel_full_count + other.channel_full_count,
            messages_pending: self.messages_pending + other.messages_pending,
            messages_max_age: self.messages_max_age.max(other.messages_max_age),
        }
    }
}

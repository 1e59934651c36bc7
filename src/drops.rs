//! Counting messages that are not delivered, so that none is lost silently.

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// It waited longer than the layer's expiry.
    Expired,
    /// A channel was at capacity when the message came by way of a group.
    Full,
    /// The queue of a reader that falls behind was full; of a layer that cannot refuse a message for that.
    Overflow,
    /// Nobody was listening when it was published.
    NoReader,
    /// The connection broke while it was being published, and it may have arrived or not.
    Unconfirmed,
    /// It could not be opened with any configured key.
    Undecryptable,
    /// Its bytes were no message.
    Undecodable,
    /// The layer closed, and nobody else can read what it held.
    Closed,
    /// It was none that its reader understands.
    Malformed,
    /// A server was away when the message had to be put back, or its group looked up.
    ShardDown,
    /// A worker was stopped before it had begun with it, and its channel took it back no more.
    Stopped,
}

/// The label of the metric.
impl From<DropReason> for &'static str {
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::Expired => "expired",
            DropReason::Full => "full",
            DropReason::Overflow => "overflow",
            DropReason::NoReader => "no_reader",
            DropReason::Unconfirmed => "unconfirmed",
            DropReason::Undecryptable => "undecryptable",
            DropReason::Undecodable => "undecodable",
            DropReason::Closed => "closed",
            DropReason::Malformed => "malformed",
            DropReason::ShardDown => "shard_down",
            DropReason::Stopped => "stopped",
        }
    }
}

/// Counts `messages` as dropped, under the label of a reason.
pub(crate) fn count(reason: impl Into<&'static str>, messages: usize) {
    if messages > 0 {
        metrics::counter!("channel_layer_dropped_total", "reason" => reason.into()).increment(messages as u64);
    }
}

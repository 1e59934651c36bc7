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
    /// The client that a reply was for has gone.
    ClientGone,
    /// The client that a reply was for does not read as fast as it is sent to.
    SlowConsumer,
    /// A reply was none that an interface server understands.
    Malformed,
    /// A server was away when the message had to be put back, or its group looked up.
    ShardDown,
    /// A worker was stopped before it had begun with it, and its channel took it back no more.
    Stopped,
}

impl DropReason {
    fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Full => "full",
            Self::Overflow => "overflow",
            Self::NoReader => "no_reader",
            Self::Unconfirmed => "unconfirmed",
            Self::Undecryptable => "undecryptable",
            Self::Undecodable => "undecodable",
            Self::Closed => "closed",
            Self::ClientGone => "client_gone",
            Self::SlowConsumer => "slow_consumer",
            Self::Malformed => "malformed",
            Self::ShardDown => "shard_down",
            Self::Stopped => "stopped",
        }
    }
}

/// Counts `messages` as dropped.
pub(crate) fn count(reason: DropReason, messages: usize) {
    if messages > 0 {
        metrics::counter!("channel_layer_dropped_total", "reason" => reason.label()).increment(messages as u64);
    }
}

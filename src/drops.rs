//! Counting messages that are not delivered, so that none is lost silently.

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drop {
    /// It waited longer than the layer's expiry.
    Expired,
    /// A channel was at capacity when the message came by way of a group.
    Full,
    /// It could not be opened with any configured key.
    Undecryptable,
    /// Its bytes were no message.
    Undecodable,
    /// A server was away when the message had to be put back, or its group looked up.
    ShardDown,
}

impl Drop {
    fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Full => "full",
            Self::Undecryptable => "undecryptable",
            Self::Undecodable => "undecodable",
            Self::ShardDown => "shard_down",
        }
    }
}

/// Counts `count` messages as dropped.
pub(crate) fn count(drop: Drop, count: u64) {
    if count > 0 {
        metrics::counter!("channel_layer_dropped_total", "reason" => drop.reason()).increment(count);
    }
}

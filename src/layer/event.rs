//! `Event`: a change of state of a server behind a layer.

use std::time::SystemTime;

use crate::name::ChannelName;

/// A change of state of a server behind a layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A server is unreachable. Calls for its channels and groups fail until it returns. Sent again when the reason
    /// changes. Not sent while a cluster replaces a master as planned, which is shorter than the command timeout.
    ShardDown {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// The error of the connection.
        reason: String,
    },
    /// A server is reachable, for the first time or again.
    ShardUp {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
    },
    /// A server has left the cluster. Others have its slots, and its number is not used again.
    ShardRemoved {
        /// Its number in the cluster.
        shard: usize,
    },
    /// A server came back without its data: groups on it are empty, and clients have to join again.
    DataLost {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
    },
    /// A connection broke while it waited for messages of `channels`. Messages that the server had popped for it and
    /// not yet delivered are lost, at most one batch.
    ReadInterrupted {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// The channels that the connection read.
        channels: Vec<ChannelName>,
        /// Time at which the break was noticed.
        at: SystemTime,
    },
    /// The connection that carries a server's messages to this process broke. Messages that other processes publish
    /// before [`SubscriptionRestored`](Self::SubscriptionRestored) do not arrive.
    SubscriptionLost {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// The error of the connection.
        reason: String,
    },
    /// All subscriptions on the server are active again, and its messages arrive.
    SubscriptionRestored {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
    },
    /// Messages for names on a server stay in this process until the server returns. Sent again when the reason
    /// changes.
    LocalOnly {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// Why the server is unreachable.
        reason: String,
    },
    /// Messages for names on a server are sent to the server again.
    Remote {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
    },
    /// Entries that cannot be decrypted or decoded were moved to [quarantine](crate::RedisLayer::quarantine). Sent once
    /// per cause.
    Quarantined {
        /// Position of the server in the configured hosts, or its number in a cluster.
        shard: usize,
        /// Why the entries cannot be decrypted or decoded.
        reason: String,
    },
}

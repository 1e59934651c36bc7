//! What can be set about sockets, whoever holds them: queues, times and limits.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// What becomes of a client that does not read as fast as it is sent to, when its queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is closed with 1013, and can come back. Nothing is missing from what it got.
    #[default]
    Close,
    /// The oldest messages that wait make room. For values of which only the last ones matter.
    DropOldest,
    /// What does not fit is left out.
    DropNewest,
}

/// How the sockets of a server are held: their queues, times and limits.
///
/// Limits that are not set do not exist. What goes beyond them is refused with 503 before a socket is open, and closed
/// with 1008 (policy) or 1009 (size) and a reason afterwards.
///
/// ```
/// use std::time::Duration;
///
/// use channel_layer::server::{SlowConsumer, SocketOptions};
///
/// let options = SocketOptions::new()
///     .queue(1_000, 1024 * 1024)
///     .slow_consumer(SlowConsumer::DropOldest)
///     .ping(Duration::from_secs(25), Duration::from_secs(10))
///     .max_connections(50_000)
///     .max_connections_per_address(100)
///     .max_messages_per_second(50);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SocketOptions {
    pub(crate) queue: QueueLimits,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) write_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_message_size: usize,
    pub(crate) max_frame_size: usize,
    pub(crate) connections: Option<NonZeroUsize>,
    pub(crate) connections_per_address: Option<NonZeroUsize>,
    pub(crate) connections_per_user: Option<NonZeroUsize>,
    pub(crate) handshakes_per_second: Option<NonZeroU32>,
    pub(crate) messages_per_second: Option<NonZeroU32>,
    pub(crate) bytes_per_second: Option<NonZeroU32>,
}

/// How much may wait for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            queue: QueueLimits { messages: 1_000, bytes: 1024 * 1024 },
            slow_consumer: SlowConsumer::default(),
            write_timeout: Duration::from_secs(10),
            // Proxies cut connections that are silent for 30 s or 60 s.
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_message_size: 1024 * 1024,
            max_frame_size: usize::MAX,
            connections: None,
            connections_per_address: None,
            connections_per_user: None,
            handshakes_per_second: None,
            messages_per_second: None,
            bytes_per_second: None,
        }
    }
}

impl SocketOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much may wait for one client: messages, and the bytes that they take in memory, 128 for each beside its own. A
    /// single message that is larger than `bytes` passes where nothing else waits. Defaults to 1,000 messages and 1 MiB.
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.queue = QueueLimits { messages, bytes };
        self
    }

    /// What becomes of a client whose queue is full. Defaults to [`SlowConsumer::Close`].
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.slow_consumer = policy;
        self
    }

    /// How long a client may take nothing of what is written to it before it is closed with 1013. Defaults to 10 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How often a client is pinged, and how long it may take to be heard then. The first ping comes at a random time
    /// within the interval. Defaults to 25 s and 10 s.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.ping_interval = interval;
        self.pong_timeout = timeout;
        self
    }

    /// How long a client may take to answer a close frame. Defaults to 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// The largest message that a client may send, in bytes; a larger one closes it with 1009. Defaults to 1 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// The largest frame that a client may send, in bytes; a larger one closes it with 1009. Defaults to the largest
    /// message.
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.max_frame_size = bytes;
        self
    }

    /// How many sockets there may be in this process; 0 is no limit. Defaults to no limit.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections = NonZeroUsize::new(connections);
        self
    }

    /// How many sockets there may be from one address, or from one /64 of IPv6; 0 is no limit. Defaults to no limit.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.connections_per_address = NonZeroUsize::new(connections);
        self
    }

    /// How many sockets of this process may belong to one user; 0 is no limit. Defaults to no limit.
    pub fn max_connections_per_user(mut self, connections: usize) -> Self {
        self.connections_per_user = NonZeroUsize::new(connections);
        self
    }

    /// How many handshakes are taken in a second, and as many at once; 0 is no limit. Defaults to no limit.
    pub fn max_handshakes_per_second(mut self, handshakes: u32) -> Self {
        self.handshakes_per_second = NonZeroU32::new(handshakes);
        self
    }

    /// How many messages a client may send in a second, and as many at once, beyond which it is closed with 1008; 0 is
    /// no limit. Defaults to no limit.
    pub fn max_messages_per_second(mut self, messages: u32) -> Self {
        self.messages_per_second = NonZeroU32::new(messages);
        self
    }

    /// How many bytes a client may send in a second, and as many at once, beyond which it is closed with 1008; 0 is no
    /// limit. Defaults to no limit.
    pub fn max_bytes_per_second(mut self, bytes: u32) -> Self {
        self.bytes_per_second = NonZeroU32::new(bytes);
        self
    }
}

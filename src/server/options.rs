//! Options of WebSockets, for interface servers and hubs: queues, timeouts and limits.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::error::{Error, Result};

/// Longest timeout that the server uses: a year, which can be added to an instant without an overflow.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_hours(365 * 24);

/// Checks settings with which a server could serve no client if they were 0.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the first setting that is 0. Each has its name and whether it is 0.
pub(crate) fn check_positive<const N: usize>(settings: [(&str, bool); N]) -> Result<()> {
    match settings.into_iter().find(|(_, is_zero)| *is_zero) {
        Some((name, _)) => Err(Error::config(name, 0, "expected a value above 0")),
        None => Ok(()),
    }
}

/// What the server does with a client that reads too slowly when its queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumer {
    /// Close it with 1013. It can reconnect, and the messages that it received have no gap.
    #[default]
    Close,
    /// Drop the oldest messages in the queue. Suits values that replace earlier ones.
    DropOldest,
    /// Drop the new message.
    DropNewest,
}

/// Queues, timeouts and limits of WebSockets.
///
/// A limit that is not set does not apply. A client above a limit is refused with 503 before its socket is open.
/// Afterwards it is closed with 1008 (policy) or 1009 (size) and a reason.
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

/// Limits on the messages that wait for one client.
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
            // Proxies close connections that are silent for 30 s or 60 s.
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
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how much may wait for one client: a number of messages, and the bytes of memory that they take, which are
    /// the size of each message plus 128. A single message larger than `bytes` fits into an empty queue. Defaults to
    /// 1,000 messages and 1 MiB.
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.queue = QueueLimits { messages, bytes };
        self
    }

    /// Sets what happens to a client whose queue is full. Defaults to [`SlowConsumer::Close`].
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.slow_consumer = policy;
        self
    }

    /// Sets how long a client may accept no bytes before its socket is closed with 1013. Defaults to 10 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets the interval of pings, and how long a client may take to send anything after one. The first ping comes at a
    /// random time within the interval. Defaults to 25 s and 10 s.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> Self {
        self.ping_interval = interval;
        self.pong_timeout = timeout;
        self
    }

    /// Sets how long a client may take to answer a close frame. Defaults to 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets the largest message that a client may send, in bytes. A larger one closes the socket with 1009. Defaults to
    /// 1 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Sets the largest frame that a client may send, in bytes. A larger one closes the socket with 1009. Defaults to
    /// the largest message.
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.max_frame_size = bytes;
        self
    }

    /// Sets the maximum number of sockets in this process; 0 means no limit. Defaults to no limit.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections = NonZeroUsize::new(connections);
        self
    }

    /// Sets the maximum number of sockets from one address, or from one /64 of IPv6; 0 means no limit. Defaults to no
    /// limit.
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.connections_per_address = NonZeroUsize::new(connections);
        self
    }

    /// Sets the maximum number of sockets of one user in this process; 0 means no limit. Defaults to no limit.
    pub fn max_connections_per_user(mut self, connections: usize) -> Self {
        self.connections_per_user = NonZeroUsize::new(connections);
        self
    }

    /// Sets the maximum number of handshakes per second, which is also the burst; 0 means no limit. Defaults to no
    /// limit.
    pub fn max_handshakes_per_second(mut self, handshakes: u32) -> Self {
        self.handshakes_per_second = NonZeroU32::new(handshakes);
        self
    }

    /// Sets the maximum number of messages of a client per second, which is also the burst. A client above it is closed
    /// with 1008. 0 means no limit. Defaults to no limit.
    pub fn max_messages_per_second(mut self, messages: u32) -> Self {
        self.messages_per_second = NonZeroU32::new(messages);
        self
    }

    /// Checks that no setting that has to be above 0 is 0.
    pub(crate) fn validate(&self) -> Result<()> {
        check_positive([
            ("SocketOptions::queue (--queue-messages)", self.queue.messages == 0),
            ("SocketOptions::write_timeout (--write-timeout)", self.write_timeout.is_zero()),
            ("SocketOptions::ping (--ping-interval)", self.ping_interval.is_zero()),
            ("SocketOptions::ping (--pong-timeout)", self.pong_timeout.is_zero()),
            ("SocketOptions::close_timeout", self.close_timeout.is_zero()),
            ("SocketOptions::max_message_size (--max-message-size)", self.max_message_size == 0),
            ("SocketOptions::max_frame_size (--max-frame-size)", self.max_frame_size == 0),
        ])
    }

    /// Sets the maximum number of bytes of a client per second, which is also the burst. A client above it is closed
    /// with 1008. 0 means no limit. Defaults to no limit.
    pub fn max_bytes_per_second(mut self, bytes: u32) -> Self {
        self.bytes_per_second = NonZeroU32::new(bytes);
        self
    }
}

//! What can be set about an interface server, and its defaults.

use std::time::Duration;

/// What an interface server does with its sockets when the layer came back without its data, so that their groups are
/// gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataLoss {
    /// Close them with 1012, so that clients come back and join again. The ASGI specification advises it.
    #[default]
    Close,
    /// Leave them open; the application makes the groups anew.
    Stay,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) accept_timeout: Duration,
    /// How long a frame or the end of a socket waits for room on its channel.
    pub(crate) send_patience: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) pong_timeout: Duration,
    /// How long the client may take to answer a close frame.
    pub(crate) close_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_message_size: usize,
    pub(crate) queue: QueueLimits,
    pub(crate) data_loss: DataLoss,
}

/// How much may wait for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            accept_timeout: Duration::from_secs(30),
            send_patience: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            // Proxies cut connections that are silent for 30 s or 60 s.
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            max_message_size: 1024 * 1024,
            queue: QueueLimits::default(),
            data_loss: DataLoss::default(),
        }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages: 1_000, bytes: 1024 * 1024 }
    }
}

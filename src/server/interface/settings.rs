//! Settings of an interface server and their defaults.

use std::time::Duration;

use crate::server::options::SocketOptions;
use crate::server::websocket::close_code;

/// What an interface server does with its sockets when the layer has lost its data, and with it their groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataLoss {
    /// Close them with 1012, so that clients reconnect and join their groups again. The ASGI specification advises it.
    #[default]
    Close,
    /// Keep them open. The application has to add them to their groups again.
    Stay,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) sockets: SocketOptions,
    pub(crate) accept_timeout: Duration,
    /// How long a frame or a disconnect notice waits for room on its channel.
    pub(crate) send_timeout: Duration,
    /// Time between the end of readiness and the drain.
    pub(crate) shutdown_delay: Duration,
    /// Time over which the closing of all sockets is spread.
    pub(crate) close_spread: Duration,
    /// The close code of sockets in a shutdown.
    pub(crate) shutdown_code: u16,
    pub(crate) drain_timeout: Duration,
    pub(crate) data_loss: DataLoss,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sockets: SocketOptions::default(),
            accept_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(5),
            shutdown_delay: Duration::ZERO,
            close_spread: Duration::from_secs(5),
            shutdown_code: close_code::GOING_AWAY,
            drain_timeout: Duration::from_secs(10),
            data_loss: DataLoss::default(),
        }
    }
}

//! What can be set about an interface server, and its defaults.

use std::time::Duration;

use crate::server::asgi::messages::code;
use crate::server::options::SocketOptions;

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
    pub(crate) sockets: SocketOptions,
    pub(crate) accept_timeout: Duration,
    /// How long a frame or the end of a socket waits for room on its channel.
    pub(crate) send_patience: Duration,
    /// Between the end of readiness and the end of accepting.
    pub(crate) shutdown_delay: Duration,
    /// Over which the closing of all sockets is spread.
    pub(crate) close_spread: Duration,
    /// The code that a shutdown closes sockets with.
    pub(crate) shutdown_code: u16,
    pub(crate) drain_timeout: Duration,
    pub(crate) data_loss: DataLoss,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sockets: SocketOptions::default(),
            accept_timeout: Duration::from_secs(30),
            send_patience: Duration::from_secs(5),
            shutdown_delay: Duration::ZERO,
            close_spread: Duration::from_secs(5),
            shutdown_code: code::GOING_AWAY,
            drain_timeout: Duration::from_secs(10),
            data_loss: DataLoss::default(),
        }
    }
}

//! How a hub stands.

use crate::server::asgi::connections::QueueDepths;
use crate::server::options::SocketOptions;

/// Figures of a hub in this process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The name of the hub.
    pub name: String,
    /// The channel of this process, by which others know it.
    pub process: String,
    /// Clients connected here.
    pub connections: usize,
    /// Rooms that have clients here.
    pub rooms: usize,
    /// Users that have clients here.
    pub users: usize,
    /// What waits for these clients.
    pub queues: QueueDepths,
    /// Whether messages go to other processes.
    pub mode: Mode,
    /// How sockets are held.
    pub options: SocketOptions,
}

/// Whether messages go to other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// There are no others, and messages stay in this process.
    Alone,
    /// There are others, or may be.
    Together,
    /// The layer cannot be reached, and messages get to clients of this process only.
    CutOff,
}

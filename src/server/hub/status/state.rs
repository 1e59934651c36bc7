//! `Status`: the state of a hub in this process.

use crate::server::asgi::connections::QueueDepths;
use crate::server::options::SocketOptions;

/// The state of a hub in this process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The name of the hub.
    pub name: String,
    /// The channel of this process, which identifies it to the others.
    pub process: String,
    /// Number of clients connected to this process.
    pub connections: usize,
    /// Number of rooms with clients in this process.
    pub rooms: usize,
    /// Number of users with clients in this process.
    pub users: usize,
    /// Messages queued for these clients.
    pub queues: QueueDepths,
    /// Whether messages go to other processes.
    pub mode: Mode,
    /// Settings of the sockets.
    pub options: SocketOptions,
}

/// Whether messages go to other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// There are no other processes. Messages stay in this one.
    Alone,
    /// There are other processes, or there may be.
    Together,
    /// The layer is unreachable. Messages reach clients of this process only.
    CutOff,
}

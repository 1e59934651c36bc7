//! WebSockets without an application: the upgrade request, frames, and the protocol of one open socket.
//!
//! [`upgrade`] checks the request and answers it, [`protocol`] runs the open socket, and [`queue`] holds the replies
//! that wait for one client. An encoded [`frame`] is shared by all sockets that it goes to.

pub(crate) mod close_code;
pub(crate) mod frame;
pub(crate) mod gateway_code;
pub(crate) mod heartbeat;
pub(crate) mod protocol;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod socket;
pub(crate) mod upgrade;
mod write_buffer;

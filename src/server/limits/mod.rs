//! Limits on clients: connections, handshakes, origins, and the rate of their messages.
//!
//! Each limit is checked without I/O; the caller refuses or closes the client.

mod limiter;
pub(crate) mod origin;
mod rate;

pub use limiter::Refused;
pub(crate) use limiter::{ConnectionLimiter, ConnectionPermit};
pub(crate) use rate::{MessageRate, RateExceeded};

//! Limits on clients: connections, handshakes, origins, and the rate of their messages.

mod limiter;
pub(crate) mod origin;
mod rate;

pub use limiter::Refused;
pub(crate) use limiter::{ConnectionLimiter, ConnectionPermit};
pub(crate) use rate::{MessageRate, RateExceeded};

//! What clients may take: sockets, addresses, handshakes, and the pace of their messages.

mod limiter;
pub(crate) mod origin;
mod rate;

pub use limiter::Refused;
pub(crate) use limiter::{Admission, Gate};
pub(crate) use rate::{Pace, TooFast};

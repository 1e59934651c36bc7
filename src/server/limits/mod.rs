//! What clients may take: sockets, addresses, handshakes, and the pace of their messages.

mod gate;
mod pace;

pub use gate::Refused;
pub(crate) use gate::{Admission, Gate};
pub(crate) use pace::{Pace, TooFast};

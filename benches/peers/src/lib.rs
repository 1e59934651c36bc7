//! The common code of all programs of the comparison: the conversation with `scripts/bench`, the clock and the
//! messages.

pub mod clock;
pub mod conversation;
pub mod memory;
pub mod message;
pub mod arrivals;

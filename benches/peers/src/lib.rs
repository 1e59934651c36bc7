//! What all programs of the comparison share: the conversation with `scripts/bench`, the clock, the messages.

pub mod clock;
pub mod conversation;
pub mod memory;
pub mod message;
pub mod arrivals;

//! The contract between channel layers and the code that uses them.
//!
//! [`ChannelLayer`] is the trait of every layer, and a [`Receiver`] reads its channels. [`Event`] and [`Mode`] report
//! the state of the servers behind a layer. An implementation of a layer provides a [`Source`] for its receivers.

mod channel_layer;
mod delivery;
mod event;
mod hysteresis;
mod mode;
mod parts;
mod reasons;
mod receiver;
mod retrying;
mod source;
mod statistics;

pub use channel_layer::ChannelLayer;
pub use delivery::Delivery;
pub use event::Event;
pub(crate) use hysteresis::Hysteresis;
pub(crate) use mode::Modes;
pub use mode::{Mode, ShardStatus};
pub(crate) use parts::{GroupSendOutcomes, Parts};
pub(crate) use reasons::Reasons;
pub use receiver::Receiver;
pub(crate) use retrying::{RetryingReceiver, send_while_full};
pub use source::{Sink, Source};
pub use statistics::Statistics;

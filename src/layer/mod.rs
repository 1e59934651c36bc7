//! The contract between channel layers and the code that uses them.

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
pub(crate) use parts::{GroupSendResult, Parts};
pub(crate) use reasons::Reasons;
pub use receiver::Receiver;
pub(crate) use retrying::{RetryingReceiver, send_while_full};
pub use source::{Sink, Source};
pub use statistics::Statistics;

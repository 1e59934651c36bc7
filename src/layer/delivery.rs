//! `Delivery`: a message with the channel that it arrived on.

use crate::message::Message;
use crate::name::ChannelName;

/// A message and the channel that it arrived on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// The channel. A process-local name includes its local part.
    pub channel: ChannelName,
    /// The message.
    pub message: Message,
}

impl Delivery {
    /// Creates a delivery of `message` on `channel`, for implementations of [`ChannelLayer`](super::ChannelLayer).
    pub fn new(channel: ChannelName, message: Message) -> Self {
        Self { channel, message }
    }
}

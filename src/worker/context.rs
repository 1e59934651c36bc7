//! `Context`: the message of a handler, and the ways to answer it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::delay;
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery, send_while_full};
use crate::message::Message;
use crate::name::ChannelName;
use crate::trace::TraceParent;

/// The message that a handler works on, with the layer that it came from.
#[derive(Clone)]
pub struct Context {
    layer: Arc<dyn ChannelLayer>,
    delivery: Delivery,
    trace: Option<TraceParent>,
    reply_timeout: Duration,
}

impl Context {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, delivery: Delivery, reply_timeout: Duration) -> Self {
        Self { trace: TraceParent::of(&delivery.message), layer, delivery, reply_timeout }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.delivery.message
    }

    /// The channel that the message arrived on.
    pub fn channel(&self) -> &ChannelName {
        &self.delivery.channel
    }

    /// The channel for the reply, if the sender named one.
    pub fn reply_channel(&self) -> Option<&str> {
        self.message().text("reply_channel")
    }

    /// The trace span of the message, if it carries one. Messages sent through this context get child spans.
    pub fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    /// The layer that the message came from, for all other calls.
    pub fn layer(&self) -> &Arc<dyn ChannelLayer> {
        &self.layer
    }

    /// Replies on the message's reply channel. While that channel is full, retries for at most the worker's
    /// [`reply_timeout`](super::Worker::reply_timeout).
    ///
    /// # Cancel safety
    ///
    /// When dropped, the reply is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message has no reply channel; otherwise as [`ChannelLayer::send`].
    pub async fn reply(&self, message: Message) -> Result<()> {
        self.send(self.required_reply_channel()?, message).await
    }

    /// Sends to any channel. Retries while it is full, as [`reply`](Self::reply) does.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the message is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// As [`ChannelLayer::send`].
    pub async fn send(&self, channel: &str, message: Message) -> Result<()> {
        send_while_full(&*self.layer, channel, self.traced(message), self.reply_timeout).await
    }

    /// Sends `message` to `channel` after `delay`, rounded down to whole milliseconds. A
    /// [`DelayServer`](super::DelayServer) delivers the message and documents the guarantees.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the message is either delayed once or not at all.
    ///
    /// # Errors
    ///
    /// As [`ChannelLayer::send`], and [`Error::InvalidName`] for a `channel` that cannot be sent to.
    pub async fn send_later(&self, channel: &str, delay: Duration, message: Message) -> Result<()> {
        let channel = ChannelName::parse_target(channel)?;
        self.send(delay::CHANNEL, delay::message(&channel, delay, self.traced(message))).await
    }

    /// Makes the reply channel a member of `group`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either made or not.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message has no reply channel; otherwise as [`ChannelLayer::group_add`].
    pub async fn group_add(&self, group: &str) -> Result<()> {
        self.layer.group_add(group, self.required_reply_channel()?).await
    }

    /// Removes the reply channel from `group`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either ended or not.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message has no reply channel; otherwise as [`ChannelLayer::group_discard`].
    pub async fn group_discard(&self, group: &str) -> Result<()> {
        self.layer.group_discard(group, self.required_reply_channel()?).await
    }

    /// Sends to every member of `group`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each member gets the message once or not at all.
    ///
    /// # Errors
    ///
    /// As [`ChannelLayer::group_send`].
    pub async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.layer.group_send(group, self.traced(message)).await
    }

    /// Returns the channel and the message, so that the message can be requeued.
    pub(crate) fn into_parts(self) -> (ChannelName, Message) {
        (self.delivery.channel, self.delivery.message)
    }

    fn traced(&self, message: Message) -> Message {
        match self.trace {
            Some(trace) => trace.carried_by(message),
            None => message,
        }
    }

    fn required_reply_channel(&self) -> Result<&str> {
        self.reply_channel()
            .ok_or_else(|| Error::decode(format_args!("a message on {} has no reply_channel", self.channel())))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("channel", self.channel()).finish_non_exhaustive()
    }
}

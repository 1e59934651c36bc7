//! What a handler gets: its message, and the ways to answer it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::delay;
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery, send_while_full};
use crate::message::Message;
use crate::name::ChannelName;
use crate::trace::TraceParent;

/// A message in the hands of a handler.
#[derive(Clone)]
pub struct Context {
    layer: Arc<dyn ChannelLayer>,
    delivery: Delivery,
    trace: Option<TraceParent>,
    reply_patience: Duration,
}

impl Context {
    pub(crate) fn new(layer: Arc<dyn ChannelLayer>, delivery: Delivery, reply_patience: Duration) -> Self {
        Self { trace: TraceParent::of(&delivery.message), layer, delivery, reply_patience }
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.delivery.message
    }

    /// The channel that it came on.
    pub fn channel(&self) -> &ChannelName {
        &self.delivery.channel
    }

    /// Where its sender wants the answer, if it said so.
    pub fn reply_channel(&self) -> Option<&str> {
        self.message().text("reply_channel")
    }

    /// Where the message stands in a trace, if it says so. What this context sends is a further step of it.
    pub fn trace(&self) -> Option<TraceParent> {
        self.trace
    }

    /// The layer, for everything else.
    pub fn layer(&self) -> &Arc<dyn ChannelLayer> {
        &self.layer
    }

    /// Answers on the message's reply channel. While that is full it waits and tries again, for the worker's
    /// [`reply_patience`](super::Worker::reply_patience) at the longest.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the answer is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message has no reply channel; otherwise as [`ChannelLayer::send`].
    pub async fn reply(&self, message: Message) -> Result<()> {
        self.send(self.wanted_reply_channel()?, message).await
    }

    /// Sends to any channel, waiting while it is full as [`reply`](Self::reply) does.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the message is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// As [`ChannelLayer::send`].
    pub async fn send(&self, channel: &str, message: Message) -> Result<()> {
        send_while_full(&*self.layer, channel, self.traced(message), self.reply_patience).await
    }

    /// Has `message` sent to `channel` after `delay`, in whole milliseconds, by a [`DelayServer`](super::DelayServer),
    /// which says what that promises.
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
        self.layer.group_add(group, self.wanted_reply_channel()?).await
    }

    /// Takes the reply channel out of `group`.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either ended or not.
    ///
    /// # Errors
    ///
    /// [`Error::Codec`] if the message has no reply channel; otherwise as [`ChannelLayer::group_discard`].
    pub async fn group_discard(&self, group: &str) -> Result<()> {
        self.layer.group_discard(group, self.wanted_reply_channel()?).await
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

    /// The channel and the message, for going back.
    pub(crate) fn into_parts(self) -> (ChannelName, Message) {
        (self.delivery.channel, self.delivery.message)
    }

    fn traced(&self, message: Message) -> Message {
        match self.trace {
            Some(trace) => trace.carried_by(message),
            None => message,
        }
    }

    fn wanted_reply_channel(&self) -> Result<&str> {
        self.reply_channel().ok_or_else(|| Error::decode(format_args!("{} without reply_channel", self.channel())))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("channel", self.channel()).finish_non_exhaustive()
    }
}

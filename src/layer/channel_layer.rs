//! `ChannelLayer`: the contract of every channel layer.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use super::{Delivery, Event, Mode, Receiver, Statistics, mode};
use crate::drops::{CountedIfUnread, Unsent};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::health::{Health, RedisStats};
use crate::message::Message;
use crate::name::ChannelName;

/// Carries messages between processes over named channels and groups.
///
/// Each call checks its names against the grammar of [`ChannelName`] and [`GroupName`](crate::GroupName).
///
/// # Contract
///
/// - **At most once.** A message is delivered to one reader, once. A call that fails with an error other than
///   [`Error::Redis`] or [`Error::Panicked`] has done nothing. After those two, [`may_have_run`](Error::may_have_run)
///   says whether the call may have taken effect. Nothing is sent again.
/// - **Order.** Messages from one writer to one reader of a `!` or `?` channel arrive in the order of the calls if the
///   writer awaits each call before the next. This holds for single sends, batches and group sends.
/// - **Expiry.** A message that has waited for the layer's expiry is never delivered.
/// - **Capacity** is counted on the non-local part of a channel's name. Expired messages do not count.
/// - **Cancellation.** Every future may be dropped at any time. No message is lost or duplicated. A message that was
///   taken for a reader and not handed over returns to the head of its channel with its expiry unchanged.
/// - **No silent loss.** Undelivered messages are counted in the metric `channel_layer_dropped_total` with a `reason`.
///
/// The methods `send_many`, `requeue`, `group_add_for`, `group_send_many`, `lists_all_members`, `health`,
/// `redis_stats`, `max_message_size`, `events`, `mode` and `outage` have default implementations.
#[async_trait]
pub trait ChannelLayer: Send + Sync + 'static {
    /// Sends `message` to `channel` without waiting for a reader.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the message is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::ChannelFull`] at capacity, [`Error::MessageTooLarge`], [`Error::InvalidName`], [`Error::Codec`] for a
    /// message that cannot be encoded, [`Error::Redis`], [`Error::Closed`].
    async fn send(&self, channel: &str, message: Message) -> Result<()>;

    /// Sends many messages in one round trip per server. Returns one result per message, in the order of `messages`.
    ///
    /// Messages to the same channel keep their order.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each message is either sent once or not at all.
    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut unsent = Unsent(messages.len());
        for (channel, message) in messages {
            // The send counts its message from here on.
            unsent.0 -= 1;
            results.push(CountedIfUnread::of_send(self.send(channel, message.clone()).await));
        }
        results.into_iter().map(CountedIfUnread::read).collect()
    }

    /// Appends messages that a reader took and did not handle to the ends of their channels. Returns one result per
    /// message, in the order of `messages`.
    ///
    /// The capacity of a channel does not apply, because the messages counted against it before. Each message gets the
    /// full expiry again. The default implementation calls [`send_many`](Self::send_many), so a full channel refuses
    /// messages.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each message is either sent once or not at all.
    async fn requeue(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.send_many(messages).await
    }

    /// Waits for a message on any of `channels` and takes it.
    ///
    /// Process-local channels are named up to and including the `!`. The delivery carries the full name. A busy channel
    /// does not starve a quiet one.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost: one that was already taken returns to the head of its channel.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Redis`] if the servers of these channels are
    /// unreachable, [`Error::Closed`].
    async fn receive(&self, channels: &[&str]) -> Result<Delivery>;

    /// Takes a message from any of `channels` if one is waiting. Does not wait for one to be sent.
    ///
    /// # Cancel safety
    ///
    /// As [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>>;

    /// Returns a long-lived reader of `channels`, which is faster than repeated calls of [`receive`](Self::receive).
    ///
    /// The reader reads nothing before it is polled. On Redis it then reads ahead from channels with one reader, up to
    /// 256 messages or about 1 MiB. Messages read ahead no longer count against the capacity of their channel, and
    /// return to it if the caller does not take them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Closed`].
    fn receiver(&self, channels: &[&str]) -> Result<Receiver>;

    /// Returns an unused name for a single-reader channel: `pattern`, which ends in `?`, followed by random characters.
    ///
    /// # Cancel safety
    ///
    /// The call has no lasting effect before it completes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] if `pattern` does not end in `?` or the name would be too long, [`Error::Redis`],
    /// [`Error::Closed`].
    async fn new_channel(&self, pattern: &str) -> Result<ChannelName>;

    /// Makes `channel` a member of `group` for [`group_expiry`](Self::group_expiry), or renews its membership.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either made or not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn group_add(&self, group: &str, channel: &str) -> Result<()>;

    /// Makes `channel` a member of `group`, as [`group_add`](Self::group_add), for at most `lasts`. Use it to repeat an
    /// earlier membership without extending it. A membership that lasts longer stays as it is.
    ///
    /// The default implementation ignores `lasts` and calls [`group_add`](Self::group_add).
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either made or not.
    ///
    /// # Errors
    ///
    /// As [`group_add`](Self::group_add).
    async fn group_add_for(&self, group: &str, channel: &str, lasts: Duration) -> Result<()> {
        let _ = lasts;
        self.group_add(group, channel).await
    }

    /// Ends the membership of `channel` in `group`. Succeeds if there was none.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either ended or not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn group_discard(&self, group: &str, channel: &str) -> Result<()>;

    /// Returns the members of `group` in no particular order. Meant for diagnosis: a send does not need it.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>>;

    /// Returns whether [`group_channels`](Self::group_channels) includes members that other processes added. If not, an
    /// empty answer does not prove that the group is empty.
    fn lists_all_members(&self) -> bool {
        true
    }

    /// Sends `message` to every channel that is a member of `group` now.
    ///
    /// Members whose channel is full miss the message. Such drops are counted, and do not make the call fail. A message
    /// to process-local members takes one place in the capacity of each process, whatever the number of members in it.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each member gets the message once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::InvalidName`], [`Error::Codec`], [`Error::Redis`] if a server of the group
    /// or of a member failed (members on other servers still get the message), [`Error::Closed`]; never
    /// [`Error::ChannelFull`]. If the call [may have run](Error::may_have_run), the messages that some members may miss
    /// have been counted as dropped.
    async fn group_send(&self, group: &str, message: Message) -> Result<()>;

    /// Sends many messages to groups in as few round trips as one send. Returns one result per message, in the order of
    /// `messages`.
    ///
    /// Messages to the same group keep their order.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each member gets each message once or not at all.
    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut unsent = Unsent(messages.len());
        for (group, message) in messages {
            // The send counts its message from here on.
            unsent.0 -= 1;
            results.push(CountedIfUnread::of_group_send(self.group_send(group, message.clone()).await));
        }
        results.into_iter().map(CountedIfUnread::read).collect()
    }

    /// Deletes all messages, groups and statistics of this layer. Other layers on the same servers keep theirs.
    /// Messages that readers in any process have read ahead are not deleted: they are delivered or put back. Counts
    /// that other processes have not written yet, usually those of the last second, come into the statistics later.
    ///
    /// # Cancel safety
    ///
    /// When dropped, part of the data may be deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::Closed`].
    async fn flush(&self) -> Result<()>;

    /// Returns the counters of all channels together.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::Closed`].
    async fn global_statistics(&self) -> Result<Statistics>;

    /// Returns the counters of one channel. A process-local channel is counted by its non-local part.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn channel_statistics(&self, channel: &str) -> Result<Statistics>;

    /// Stops reading, puts back messages that were taken and not handed over, and finishes the sends in progress. Every
    /// waiting call and every later call returns [`Error::Closed`].
    ///
    /// # Cancel safety
    ///
    /// When dropped, closing continues in the background while the runtime lives.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if messages could not be put back; they are counted as dropped.
    async fn close(&self) -> Result<()>;

    /// Reports the state of the layer, for status pages and for readiness checks.
    ///
    /// A layer on Redis sends a probe message through each server and reads it back. Calls within one second share a
    /// result. Probe messages count in statistics and metrics like all others.
    ///
    /// # Cancel safety
    ///
    /// When dropped, one probe message may stay unread for at most 10 s.
    async fn health(&self) -> Health {
        Health::disabled()
    }

    /// Returns the load that each server behind the layer reports. Empty for a layer without servers.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::Closed`].
    async fn redis_stats(&self) -> Result<Vec<RedisStats>> {
        Ok(Vec::new())
    }

    /// Returns how long a membership lasts after the last [`group_add`](Self::group_add). Interface servers close every
    /// connection after this time at the latest.
    fn group_expiry(&self) -> Duration;

    /// Returns the size of the largest message that the layer accepts, in bytes of its encoded form. Defaults to no
    /// limit.
    fn max_message_size(&self) -> usize {
        usize::MAX
    }

    /// Returns the events of the servers behind the layer from now on. A slow receiver skips events. The stream ends
    /// with the layer. A layer without servers returns a stream that yields nothing and does not end.
    fn events(&self) -> broadcast::Receiver<Event> {
        mode::no_events()
    }

    /// Returns how the layer carries messages now, and notifies of changes. A layer without servers, or one that fails
    /// while a server is unreachable, stays at [`Mode::Remote`].
    fn mode(&self) -> watch::Receiver<Mode> {
        mode::always_remote()
    }

    /// Returns the position, in the configured hosts, of a server that is known to be unreachable, or `None`. Sends no
    /// request to a server.
    fn outage(&self) -> Option<usize> {
        None
    }
}

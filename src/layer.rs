//! The contract: what every channel layer promises to interface servers and workers.

mod hysteresis;
mod mode;
mod parts;
mod reasons;
mod shared;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::Stream;
use tokio::sync::{broadcast, watch};

use crate::error::{Error, Result};
use crate::health::{Health, RedisStats};
use crate::message::Message;
use crate::name::ChannelName;

pub(crate) use hysteresis::Hysteresis;
pub(crate) use mode::Modes;
pub use mode::{Mode, ShardStatus};
pub(crate) use parts::Parts;
pub(crate) use reasons::Reasons;

/// Carries messages between processes over named channels and groups.
///
/// Names are checked by each call, after the grammar of [`ChannelName`] and [`GroupName`](crate::GroupName).
///
/// # Contract
///
/// - **At most once.** A message is given to one reader, once. A call that fails for a reason other than
///   [`Error::Redis`] has done nothing; after `Error::Redis` it may have taken place if
///   [`may_have_run`](Error::may_have_run) says so, and nothing is sent again.
/// - **Order.** From one writer to one reader of a `!` or `?` channel messages arrive in the order of the calls, each
///   awaited before the next, through batches and group sends alike.
/// - **Expiry.** A message that has waited for the layer's expiry is never delivered.
/// - **Capacity** counts on the non-local part of a channel's name; expired messages do not count.
/// - **Cancellation.** Every future may be dropped at any time; nothing is lost and nothing comes twice. What had been
///   taken for a reader and was not handed over goes back to the head of its channel, its expiry unchanged.
/// - **No silent loss.** Messages that are not delivered are counted in the metric `channel_layer_dropped_total` with
///   a `reason`.
///
/// All but `send_many`, `give_back`, `group_add_for`, `group_send_many`, `lists_all_members`, `health`, `redis_stats`, `events`,
/// `mode` and `outage` have to be written by an implementation. An `Arc` of a layer is a layer, and `Arc::from` makes one of a `Box`.
#[async_trait]
pub trait ChannelLayer: Send + Sync + 'static {
    /// Sends `message` to `channel`; does not wait for a reader.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the message is either sent once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::ChannelFull`] at capacity, [`Error::MessageTooLarge`], [`Error::InvalidName`], [`Error::Codec`] for a
    /// message that cannot be carried, [`Error::Redis`], [`Error::Closed`].
    async fn send(&self, channel: &str, message: Message) -> Result<()>;

    /// Sends many messages, in one round trip per server; gives one result for each, in their order.
    ///
    /// Messages to the same channel keep their order.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each message is either sent once or not at all.
    async fn send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        for (channel, message) in messages {
            results.push(self.send(channel, message.clone()).await);
        }
        results
    }

    /// Sends messages that a reader took and does not get to, back to the end of their channels; gives one result for
    /// each, in their order. A channel takes them whatever its capacity, for they had their places there before. Their
    /// expiry begins anew.
    ///
    /// An implementation that does not write it refuses them where the channel is full.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each message is either sent once or not at all.
    async fn give_back(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        self.send_many(messages).await
    }

    /// Waits for a message on any of `channels` and takes it.
    ///
    /// Process-local channels are named up to and including the `!`; the delivery has the full name. A busy channel
    /// does not starve a quiet one.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost: one that had been taken already goes back to the head of its channel.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Redis`] if the servers of these channels cannot
    /// be reached, [`Error::Closed`].
    async fn receive(&self, channels: &[&str]) -> Result<Delivery>;

    /// Takes a message from any of `channels` if there is one, without waiting for it to be sent.
    ///
    /// # Cancel safety
    ///
    /// As [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive).
    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>>;

    /// A long-lived reader of `channels`, the fast way to read much. Reads nothing before it is asked; then, on Redis, from
    /// channels with one reader up to 256 messages or about 1 MiB ahead, which make room in the channel and go back if
    /// nobody asks for them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] for a bad name or an empty list, [`Error::Closed`].
    fn receiver(&self, channels: &[&str]) -> Result<Receiver>;

    /// A name for a single-reader channel that nobody uses: `pattern`, which ends in `?`, completed at random.
    ///
    /// # Cancel safety
    ///
    /// Nothing is kept before it completes.
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

    /// Makes `channel` a member of `group`, as [`group_add`](Self::group_add), for no longer than `lasts`: for one whose
    /// membership was made earlier, and is to keep its end. A membership that lasts longer stays as it is.
    ///
    /// An implementation that does not write it gives the whole [`group_expiry`](Self::group_expiry).
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

    /// Ends the membership of `channel` in `group`; no error if there was none.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the membership is either ended or not.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn group_discard(&self, group: &str, channel: &str) -> Result<()>;

    /// The members of `group`, in no order. For diagnosis; a send never needs it.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>>;

    /// Whether [`group_channels`](Self::group_channels) knows the members that other processes added. Where it does not,
    /// nobody can tell that a group has none.
    fn lists_all_members(&self) -> bool {
        true
    }

    /// Sends `message` to every channel that is a member of `group` now.
    ///
    /// Members at capacity miss the message, which is counted; the call does not fail for them. For process-local
    /// channels the message takes one place in the capacity of each process, whatever the number of its members.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each member gets the message once or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`], [`Error::InvalidName`], [`Error::Codec`], [`Error::Redis`] if a server of the group
    /// or of a member failed (the others are served all the same), [`Error::Closed`]; never [`Error::ChannelFull`].
    async fn group_send(&self, group: &str, message: Message) -> Result<()>;

    /// Sends many messages to groups, in as few round trips as one send; gives one result for each, in their order.
    ///
    /// Messages to the same group keep their order.
    ///
    /// # Cancel safety
    ///
    /// When dropped, each member gets each message once or not at all.
    async fn group_send_many(&self, messages: &[(&str, Message)]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(messages.len());
        for (group, message) in messages {
            results.push(self.group_send(group, message.clone()).await);
        }
        results
    }

    /// Deletes all messages, groups and statistics of this layer, and of no other that shares its servers. What readers have
    /// taken ahead, in any process, is not deleted: it is handed over, or goes back.
    ///
    /// # Cancel safety
    ///
    /// When dropped, some may be deleted and some not.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::Closed`].
    async fn flush(&self) -> Result<()>;

    /// Figures over all channels.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`], [`Error::Closed`].
    async fn global_statistics(&self) -> Result<Statistics>;

    /// Figures of one channel; of a process-local one by its non-local part.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Redis`], [`Error::Closed`].
    async fn channel_statistics(&self, channel: &str) -> Result<Statistics>;

    /// Stops reading, puts back what was taken and not handed over, and finishes the sends under way. Every later call
    /// gives [`Error::Closed`], and so does every one that waits.
    ///
    /// # Cancel safety
    ///
    /// When dropped, closing goes on in the background while the runtime lives.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if messages could not be put back; they are counted as dropped.
    async fn close(&self) -> Result<()>;

    /// How the layer is, for people and for machines that decide whether this process gets work.
    ///
    /// On servers it sends a message through each of them and reads it; who asks again within a second is told of the
    /// same one. Such messages count in statistics and metrics as others do.
    ///
    /// # Cancel safety
    ///
    /// When dropped, a message may stay unread, which lives 10 s at the longest.
    async fn health(&self) -> Health {
        Health::disabled()
    }

    /// What the servers behind the layer say of their load; nothing if there are none.
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

    /// How long a membership lasts after the last [`group_add`](Self::group_add). Interface servers close every
    /// connection after this time at the latest.
    fn group_expiry(&self) -> Duration;

    /// The size of the largest message that the layer takes, in bytes of its encoded form. Defaults to no limit.
    fn max_message_size(&self) -> usize {
        usize::MAX
    }

    /// What happens to the servers behind the layer, from now on. Events that are not read in time are skipped. They end
    /// with the layer; where it has no servers nothing ever comes, and no end.
    fn events(&self) -> broadcast::Receiver<Event> {
        mode::no_events()
    }

    /// How messages are carried now, and every change of it. Always [`Mode::Remote`] for a layer that fails when a
    /// server is away, or that has none; nobody is ever told of a change then.
    fn mode(&self) -> watch::Receiver<Mode> {
        mode::always_remote()
    }

    /// A server behind the layer that cannot be reached, by its position in the configured hosts, as far as that is known
    /// without asking; nothing if all are there, or the layer has none.
    fn outage(&self) -> Option<usize> {
        None
    }
}

/// A message and the channel that it came on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Delivery {
    /// The channel, with the local part if it is process-local.
    pub channel: ChannelName,
    /// The message.
    pub message: Message,
}

impl Delivery {
    /// A delivery of `message` on `channel`; for implementations of [`ChannelLayer`].
    pub fn new(channel: ChannelName, message: Message) -> Self {
        Self { channel, message }
    }
}

/// Figures of a channel, or of all channels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Messages sent, counted since an hour of silence (a channel) or a day of silence (all channels) at the longest.
    pub messages_count: u64,
    /// Messages refused because the channel was full, over the same time.
    pub channel_full_count: u64,
    /// Messages that wait now, expired ones that have not been cleared away included.
    pub messages_pending: u64,
    /// How long the oldest of them has waited.
    pub messages_max_age: Duration,
}

impl Statistics {
    /// The figures of two sets of channels together.
    pub(crate) fn merge(self, other: Self) -> Self {
        Self {
            messages_count: self.messages_count + other.messages_count,
            channel_full_count: self.channel_full_count + other.channel_full_count,
            messages_pending: self.messages_pending + other.messages_pending,
            messages_max_age: self.messages_max_age.max(other.messages_max_age),
        }
    }
}

/// Something that happened to a server behind a layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A server cannot be reached; its part of the channels and groups is away. Sent again when the reason is another one than
    /// before.
    ShardDown {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// What the connection reported.
        reason: String,
    },
    /// A server can be reached, for the first time or again.
    ShardUp {
        /// Position of the server in the configured hosts.
        shard: usize,
    },
    /// A server came back without its data: groups on it are empty, and clients have to join again.
    DataLost {
        /// Position of the server in the configured hosts.
        shard: usize,
    },
    /// A connection broke while it waited for messages of `channels`. What the server had popped for it and not yet
    /// delivered is lost, at most one batch.
    ReadInterrupted {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// The channels that the connection read.
        channels: Vec<ChannelName>,
        /// When the break was noticed.
        at: SystemTime,
    },
    /// The connection over which messages of a server arrive is lost. Those that others publish meanwhile do not come.
    SubscriptionLost {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// What the connection reported.
        reason: String,
    },
    /// Messages of the server arrive again: all that was subscribed is.
    SubscriptionRestored {
        /// Position of the server in the configured hosts.
        shard: usize,
    },
    /// Messages for names on a server stay in this process until it is back. Sent again when the reason is another one than
    /// before.
    LocalOnly {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// Why the server is away.
        reason: String,
    },
    /// Messages for names on a server go there again.
    Remote {
        /// Position of the server in the configured hosts.
        shard: usize,
    },
    /// Messages that do not open or are no messages of ours were moved to
    /// [quarantine](crate::RedisLayer::quarantine). Sent once per cause.
    Quarantined {
        /// Position of the server in the configured hosts.
        shard: usize,
        /// What is wrong with them.
        reason: String,
    },
}

/// A long-lived reader of some channels, from [`ChannelLayer::receiver`]. Also a [`Stream`] of deliveries that ends
/// when the layer closes.
///
/// It reads when it is asked and stops when the future that asked is dropped; polled as a stream it cannot tell, and
/// may hold what one read brought until it is polled again or dropped. Dropping it puts back what it holds in the
/// background; [`close`](Self::close) does so and waits.
///
/// An outage of the servers that it needs is reported once, as [`Error::Redis`]; the next call waits until they are
/// back.
pub struct Receiver {
    source: Box<dyn Source>,
    ended: bool,
}

impl Receiver {
    /// A receiver over `source`; for implementations of [`ChannelLayer`].
    pub fn new(source: impl Source + 'static) -> Self {
        Self { source: Box::new(source), ended: false }
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost: one that had been taken already goes back, or comes with the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] once per outage, [`Error::Closed`].
    ///
    /// # Panics
    ///
    /// If a [`Source`] breaks its contract: it is ready and has handed nothing over.
    pub async fn recv(&mut self) -> Result<Delivery> {
        let mut taken = None;
        let mut asking = Asking { receiver: self, done: false };
        let result = std::future::poll_fn(|cx| asking.poll(cx, &mut |delivery| taken = Some(delivery), 1)).await;
        drop(asking);
        result.map(|_| taken.expect("a source that is ready with Ok has handed over a delivery"))
    }

    /// Waits until there is a message, then moves up to `limit` that are there to the end of `deliveries`; gives how
    /// many. A `limit` of 0 counts as 1.
    ///
    /// # Cancel safety
    ///
    /// When dropped, no message is lost and `deliveries` is unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] once per outage, [`Error::Closed`].
    pub async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>, limit: usize) -> Result<usize> {
        let mut asking = Asking { receiver: self, done: false };
        std::future::poll_fn(|cx| asking.poll(cx, &mut |delivery| deliveries.push(delivery), limit.max(1))).await
    }

    /// Polls for up to `limit` messages, which are given to `sink`; for layers made of layers.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        self.source.poll_recv_many(cx, sink, limit)
    }

    /// Says that nobody waits for what the last pending poll asked; for layers made of layers.
    pub fn pause(&mut self) {
        self.source.pause();
    }

    /// Stops reading and puts back what was taken and not handed over.
    ///
    /// # Cancel safety
    ///
    /// When dropped, putting back goes on in the background while the runtime lives.
    ///
    /// # Errors
    ///
    /// [`Error::Redis`] if messages could not be put back; they are counted as dropped.
    pub async fn close(mut self) -> Result<()> {
        self.put_back().await
    }

    pub(crate) async fn put_back(&mut self) -> Result<()> {
        self.source.close().await
    }
}

impl Stream for Receiver {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut taken = None;
        let polled = self.source.poll_recv_many(cx, &mut |delivery| taken = Some(delivery), 1);
        polled.map(|result| match result {
            Ok(_) => taken.map(Ok),
            Err(Error::Closed | Error::RuntimeEnded) => {
                self.ended = true;
                None
            }
            Err(error) => Some(Err(error)),
        })
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// Tells the source when the future that waits for it is dropped before it is ready.
struct Asking<'a> {
    receiver: &'a mut Receiver,
    done: bool,
}

impl Asking<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>> {
        let polled = self.receiver.source.poll_recv_many(cx, sink, limit);
        self.done = polled.is_ready();
        polled
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.receiver.source.pause();
        }
    }
}

/// Where a source puts the deliveries that it hands over. A source may hold a lock meanwhile, so it must not call the
/// layer.
pub type Sink<'a> = &'a mut (dyn FnMut(Delivery) + Send);

/// What stands behind a [`Receiver`]; for implementations of [`ChannelLayer`].
#[async_trait]
pub trait Source: Send + Sync {
    /// Hands up to `limit` (at least 1) deliveries to `sink` and gives how many, at least one; otherwise registers for
    /// a wake-up. A delivery leaves the source only in the poll that gives it to `sink`.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`].
    fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, limit: usize) -> Poll<Result<usize>>;

    /// Nobody waits any more for what the last poll asked.
    fn pause(&mut self);

    /// Stops reading and puts back what was taken and not handed over. Dropping the source does the same in the
    /// background.
    ///
    /// # Errors
    ///
    /// As [`Receiver::close`].
    async fn close(&mut self) -> Result<()>;
}

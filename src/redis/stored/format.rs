//! `StoredFormat`: everything that differs between the formats in which messages wait in Redis.

#![allow(missing_debug_implementations, reason = "the types cannot be named outside of the crate")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::error::Result;
use crate::layer::{Event, Statistics};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::connection::Version;
use crate::redis::node::fault::Fault;
use crate::redis::node::script::Script;
use crate::redis::node::shard::Shard;
use crate::redis::receive::ReadFormat;
use crate::redis::send::{OutboundMessage, PendingSend, Sender, WriteFormat};
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;
use crate::redis::topology::ring::Ring;

/// The parameter of a [`StoredLayer`](crate::redis::StoredLayer): how messages and groups are stored in Redis.
///
/// It is implemented for the formats of this crate, and cannot be implemented elsewhere.
pub trait StoredFormat: WriteFormat + Sized {
    /// The value of [`Config::format`] for the format.
    const FORMAT: config::Format;
    /// The oldest version of Redis that has all commands of the format.
    const OLDEST_SERVER: Version;
    /// The scripts that every server has to know.
    const SCRIPTS: &'static [&'static Script];

    /// A message to a group before its recipients are known.
    type GroupMessage: Send + Sync;
    /// The places to which messages to a group go.
    type Recipients: Clone + Send + Sync;

    /// The key of the epoch of a server's data.
    fn epoch_key(config: &Config) -> String;

    /// Where names lie among servers with these identities.
    fn ring(identities: &[String]) -> Ring;

    /// Makes the format for a layer that has just connected, and starts its background work.
    fn start(config: &Config, places: &Arc<Places>, background: &Background<'_>) -> Result<Started<Self>>;

    /// The key that holds the messages of a channel, by the non-local part of its name.
    fn channel_key(&self, non_local: &str) -> String;

    fn max_message_size(&self) -> usize;

    /// `message` as it is sent to `channel`.
    fn message(&self, channel: ChannelName, message: &Message) -> Result<OutboundMessage<Self::Body>>;

    /// Checks and converts a message to a group.
    fn group_message(&self, message: &Message) -> Result<Self::GroupMessage>;

    /// The recipients of each of `groups`, which are sorted and without duplicates, or the shard that failed and its fault.
    fn recipients(
        &self,
        groups: &[GroupName],
    ) -> impl Future<Output = Vec<Result<Self::Recipients, (usize, Fault)>>> + Send;

    /// The messages that carry a group message to its recipients.
    fn messages_to(
        &self,
        group: &GroupName,
        message: &Self::GroupMessage,
        recipients: &Self::Recipients,
    ) -> Result<Vec<OutboundMessage<Self::Body>>>;

    /// Sends to a group at once if the format can do so without asking for its recipients first. Otherwise nothing is sent,
    /// and the error is what was learnt about the recipients.
    fn send_at_once(
        &self,
        sender: &Sender<Self>,
        group: &GroupName,
        message: &Self::GroupMessage,
    ) -> impl Future<Output = Result<Vec<PendingSend<Self::Body>>, Option<Self::Recipients>>> + Send {
        let _ = (sender, group, message);
        std::future::ready(Err(None))
    }

    /// A name for a channel of this process, from a pattern that does not end in `?`. `None` if the format has no such names.
    fn new_local_channel(&self, pattern: &str) -> Option<Result<ChannelName>> {
        let _ = pattern;
        None
    }

    fn group_expiry(&self) -> Duration;

    /// Makes `channel` a member for `lasts`, at most [`group_expiry`](Self::group_expiry), or extends its membership.
    fn group_add(
        &self,
        group: &GroupName,
        channel: &ChannelName,
        lasts: Duration,
    ) -> impl Future<Output = Result<()>> + Send;

    fn group_discard(&self, group: &GroupName, channel: &ChannelName) -> impl Future<Output = Result<()>> + Send;

    fn group_channels(&self, group: &GroupName) -> impl Future<Output = Result<Vec<ChannelName>>> + Send;

    /// Writes the statistics that this process has not written yet.
    fn write_statistics(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The statistics of a channel on `shard`, by the non-local part of its name.
    fn channel_statistics(
        &self,
        shard: &Shard,
        non_local: &str,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// The statistics of all channels on `shard`.
    fn global_statistics(&self, shard: &Shard) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// The scans that find every key of the deployment on `shard`.
    fn scans<'s>(&self, shard: &'s Shard) -> Vec<Scan<'s>>;

    /// Whether a key that a scan for `kind` found belongs to the deployment and is deleted by a flush.
    fn is_flushed(&self, key: &str, kind: Option<&str>) -> bool;
}

/// What a format may use for its background work.
pub struct Background<'a> {
    pub(crate) events: &'a broadcast::Sender<Event>,
    /// Tasks that end after all readers and senders.
    pub(crate) upkeep: &'a TaskTracker,
}

/// A format that has been started.
pub struct Started<F> {
    pub(crate) format: Arc<F>,
    pub(crate) reading: Box<dyn ReadFormat>,
    /// Completes its background work when readers and senders have ended.
    pub(crate) drain: BoxFuture<'static, ()>,
}

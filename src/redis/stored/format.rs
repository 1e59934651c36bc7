//! `StoredFormat`: everything that differs between the formats in which messages wait in Redis.

#![allow(missing_debug_implementations, reason = "the types cannot be named outside of the crate")]

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::error::Result;
use crate::layer::{Event, Statistics};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::commands::script::Script;
use crate::redis::node::connection::Version;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::receive::ReadFormat;
use crate::redis::send::{OutboundMessage, PendingSend, Sender, WriteFormat};
use crate::redis::stored::groups::StoredGroups;
use crate::redis::stored::scan::Scan;
use crate::redis::topology::lists::ListName;
use crate::redis::topology::places::{Failure, Places};
use crate::redis::topology::ring::Ring;

/// The parameter of a [`StoredLayer`](crate::redis::StoredLayer): how messages and groups are stored in Redis.
///
/// It is implemented for the formats of this crate, and cannot be implemented elsewhere.
pub trait StoredFormat: WriteFormat + StoredStatistics + Sized {
    /// The value of [`Config::format`] for the format.
    const FORMAT: config::Format;
    /// The oldest version of Redis that has all commands of the format.
    const OLDEST_SERVER: Version;
    /// The scripts that every server has to know.
    const SCRIPTS: &'static [&'static Script];

    /// A message to a group before its destinations are known.
    type GroupMessage: Send + Sync;
    type Groups: StoredGroups;

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

    /// The messages that carry a group message to its destinations.
    fn messages_to(
        &self,
        group: &GroupName,
        message: &Self::GroupMessage,
        destinations: &Destinations<Self>,
    ) -> Result<Vec<OutboundMessage<Self::Body>>>;

    /// Sends to a group at once if the format can do so without asking for its destinations first. Otherwise it sends
    /// nothing and returns the destinations if it got them in the attempt.
    fn send_at_once(
        &self,
        sender: &Sender<Self>,
        group: &GroupName,
        message: &Self::GroupMessage,
    ) -> impl Future<Output = AtOnce<Vec<PendingSend<Self::Body>>, Destinations<Self>>> + Send {
        let _ = (sender, group, message);
        std::future::ready(AtOnce::Unsent(None))
    }

    /// A name for a channel of this process, from a pattern that does not end in `?`. `None` if the format has no such
    /// names.
    fn new_local_channel(&self, pattern: &str) -> Option<Result<ChannelName>> {
        let _ = pattern;
        None
    }

    fn groups(&self) -> &Self::Groups;

    /// The scans that find every key of the deployment on `shard` that a flush deletes.
    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>>;
}

/// The statistics of a stored format.
pub trait StoredStatistics {
    /// Writes the statistics that this process has not written yet.
    fn write_statistics(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The statistics of a list of a channel on `shard`. Counters are those of the whole channel there, and belong to
    /// its first list.
    fn channel_statistics(
        &self,
        shard: &Shard,
        channel: &ChannelName,
        list: &ListName,
    ) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// The statistics of all channels on `shard`.
    fn global_statistics(&self, shard: &Shard) -> impl Future<Output = Result<Statistics, Fault>> + Send;

    /// The statistics of all channels that a cluster has once, and not on each shard.
    fn cluster_statistics(&self) -> impl Future<Output = Result<Statistics, Failure>> + Send {
        std::future::ready(Ok(Statistics::default()))
    }
}

/// The destinations of a group message in the format `F`.
pub(crate) type Destinations<F> = <<F as StoredFormat>::Groups as StoredGroups>::Destinations;

/// The result of sending to a group at once.
pub enum AtOnce<P, D> {
    Sent(P),
    /// Nothing was sent. Contains the destinations of the group if the attempt returned them.
    Unsent(Option<D>),
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

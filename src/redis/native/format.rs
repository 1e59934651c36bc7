//! `Native`, the native format as the parameter of a layer, and `RedisLayer`.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::topology::Topology;
use crate::capacity::Capacity;
use crate::config::{self, Config};
use crate::drops::{CountedIfUnread, DropReason};
use crate::error::Result;
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::groups::routes::Routes;
use crate::redis::native::body::BodyCodec;
use crate::redis::native::groups::Groups;
use crate::redis::native::keys::Keys;
use crate::redis::native::quarantine::Quarantine;
use crate::redis::native::quarantine::writer::QuarantineWriter;
use crate::redis::native::receive::read::NativeReader;
use crate::redis::native::scripts;
use crate::redis::native::send::outbound::{OutboundBody, Target};
use crate::redis::native::send::write::{Answer, BatchWriter, Condition, list_lifetime};
use crate::redis::native::statistics::counters::Counters;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::commands::script::Script;
use crate::redis::node::connection::Version;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::send::batch::record_size;
use crate::redis::send::queue::{BypassPermit, MAX_MESSAGES};
use crate::redis::send::{Batch, OutboundMessage, PendingSend, Pushed, Sender, WriteFormat};
use crate::redis::stored::format::{AtOnce, Background, Started, StoredFormat};
use crate::redis::stored::layer::StoredLayer;
use crate::redis::stored::scan::Scan;
use crate::redis::topology::places::Places;
use crate::redis::topology::ring::{Ring, share_of_capacity};

/// The most bytes of a send with a condition. If the condition does not hold, the messages are sent again.
const MAX_CONDITIONAL_BYTES: usize = 1 << 18;

/// A channel layer on one or more Redis servers, version 7.0 or later.
///
/// Messages wait in lists, and group memberships in sorted sets. All guarantees of
/// [`ChannelLayer`](crate::ChannelLayer) hold between any number of processes. Each `!` or `?` channel and each group
/// lies on one server. A normal channel is spread over all servers that are up, and each of them holds its share of the
/// capacity. In a Redis Cluster ([`Config::cluster`](crate::Config::cluster)) a normal channel lies on one server too,
/// unless a rule [spreads](crate::Config::spread) it.
///
/// ```no_run
/// use channel_layer::{ChannelLayer, Config, RedisLayer, message};
///
/// # async fn example() -> channel_layer::Result<()> {
/// let layer = RedisLayer::connect(Config::new().host("redis://127.0.0.1:6379/0")).await?;
/// layer.send("thumbnails.make", message! { "path": "cat.png" }).await?;
/// let delivery = layer.receive(&["thumbnails.make"]).await?;
/// assert_eq!(delivery.message.text("path"), Some("cat.png"));
/// # Ok(())
/// # }
/// ```
pub type RedisLayer = StoredLayer<Native>;

impl RedisLayer {
    /// The unreadable entries on all servers. They can be listed, restored and deleted.
    pub fn quarantine(&self) -> Quarantine<'_> {
        Quarantine::new(&self.format.topology, &self.format.codec, &self.closing)
    }
}

/// The native format, as the parameter of a [`StoredLayer`].
#[derive(Debug)]
pub struct Native {
    pub(super) topology: Arc<Topology>,
    codec: Arc<BodyCodec>,
    groups: Arc<Groups>,
    capacity: Capacity,
    /// By shard.
    pub(super) counters: Vec<Counters>,
}

impl WriteFormat for Native {
    type Body = OutboundBody;

    /// A random shard, so that processes that start together do not all begin with the same one.
    fn first_shard(&self, shards: usize) -> usize {
        rand::random_range(0..shards)
    }

    fn capacity_on(&self, shard: usize, capacity: usize, shards: usize) -> usize {
        share_of_capacity(capacity, shard, shards)
    }

    async fn push(&self, node: Node<'_>, batch: &Batch<OutboundBody>) -> Result<Pushed, Fault> {
        self.writer(node.shard, batch)?.push(node).await
    }

    async fn push_together(&self, node: Node<'_>, batch: &Batch<OutboundBody>) -> Result<Option<Pushed>, Fault> {
        self.writer(node.shard, batch)?.push_together(node).await
    }
}

impl Native {
    fn writer<'a>(&'a self, shard: &Shard, batch: &'a Batch<OutboundBody>) -> Result<BatchWriter<'a>, Fault> {
        // A cluster has one for all its shards.
        let counters = self.counters.get(shard.index).unwrap_or(&self.counters[0]);
        Ok(BatchWriter::new(&self.codec, &self.topology.keys, counters, batch, shard.now_ms()?))
    }

    fn encode(&self, message: &Message) -> Result<Arc<[u8]>> {
        let mut plain = Vec::with_capacity(256);
        self.codec.encode(message, &mut plain)?;
        Ok(plain.into())
    }

    fn to_routes(&self, group: &GroupName, plain: &Arc<[u8]>, routes: &Routes) -> Vec<OutboundMessage<OutboundBody>> {
        let message = |channel: &ChannelName, version| OutboundMessage {
            channel: channel.clone(),
            capacity: self.capacity.of(channel),
            pinned: self.topology.pins(channel),
            body: OutboundBody { to: Target::Group { group: group.clone(), version }, plain: plain.clone() },
        };
        routes.list.iter().map(|route| message(&route.channel, route.version)).collect()
    }

    /// The messages to the routes that `group` probably has. `None` if its routes are unknown, the messages do not fit
    /// into one call or they could overtake others, and in a cluster, where the routes are in other slots than the
    /// group.
    fn guess(
        &self,
        sender: &Sender<Self>,
        group: &GroupName,
        message: &Arc<[u8]>,
    ) -> Option<(GuessedSend, Vec<PendingSend<OutboundBody>>)> {
        if self.topology.is_cluster() {
            return None;
        }
        let shard = self.topology.shard_of_group(group);
        let condition = self.groups.guess(group)?;
        if !self.fits_one_call(&condition.routes, message.len(), shard) {
            return None;
        }
        let permits = sender.bypass(shard, condition.routes.list.iter().map(|route| &route.channel))?;
        let messages = self.to_routes(group, message, &condition.routes).into_iter();
        let (outgoing, pending): (Vec<_>, _) =
            messages.map(|message| PendingSend::beside_queues(message, shard)).unzip();
        let batch = outgoing.into_iter().collect();
        Some((GuessedSend { shard: shard.clone(), condition, batch, _permits: permits }, pending))
    }

    /// Whether messages of `size` bytes to these routes fit into one call to `shard`.
    fn fits_one_call(&self, routes: &Routes, size: usize, shard: &Shard) -> bool {
        let is_there = |channel| self.topology.lists(channel).all(|(_, home)| home.index == shard.index);
        let list = &routes.list;
        list.len() <= MAX_MESSAGES
            && list.len() * size <= MAX_CONDITIONAL_BYTES
            && list.iter().all(|route| is_there(&route.channel))
    }
}

/// The messages of a group send to the routes that the group probably has.
struct GuessedSend {
    shard: Arc<Shard>,
    condition: Condition,
    batch: Batch<OutboundBody>,
    _permits: Vec<BypassPermit<OutboundBody>>,
}

impl GuessedSend {
    /// Sends the messages if the group has the routes, and reports their outcomes. If it does not, returns its routes.
    /// The group message then counts as dropped if its caller is gone.
    async fn push(self, format: Arc<Native>) -> CountedIfUnread<AtOnce<(), Routes>> {
        let Self { shard, condition, batch, _permits } = self;
        let answer = match format.writer(&shard, &batch) {
            Ok(writer) => writer.push_if(&condition, Node::owner(&shard)).await,
            Err(fault) => Err(fault),
        };
        let unsent = |batch: Batch<_>, routes| {
            batch.forget();
            CountedIfUnread::new(AtOnce::Unsent(routes), Some(DropReason::ShardDown))
        };
        let result = match answer {
            Ok(Answer::Pushed(pushed)) => Ok(pushed),
            Ok(Answer::OtherRoutes(answer)) => {
                let routes = format.groups.record_routes(&condition.group, &answer).ok();
                return unsent(batch, routes.filter(|routes| format.groups.retention_suffices(routes)));
            }
            Err(fault) if !fault.may_have_run => return unsent(batch, None),
            Err(fault) => Err(fault),
        };
        let messages = batch.message_count();
        batch.finish(shard.index, result);
        record_size(messages);
        CountedIfUnread::new(AtOnce::Sent(()), None)
    }
}

impl StoredFormat for Native {
    const FORMAT: config::Format = config::Format::Native;
    /// `BLMPOP` came with Redis 7.0. Valkey reports such a version too.
    const OLDEST_SERVER: Version = Version(7, 0);
    const SCRIPTS: &'static [&'static Script] = &scripts::NATIVE;

    type GroupMessage = Arc<[u8]>;
    type Groups = Groups;

    fn epoch_key(config: &Config) -> String {
        keys(config).epoch()
    }

    fn ring(identities: &[String]) -> Ring {
        Ring::new(identities.iter().map(String::as_str))
    }

    fn start(config: &Config, places: &Arc<Places>, background: &Background<'_>) -> Result<Started<Self>> {
        let topology = Arc::new(Topology { places: places.clone(), keys: keys(config) });
        let codec = Arc::new(BodyCodec::new(config.key_ring()?, config.max_message_size, config.expiry));
        let groups = Arc::new(Groups::new(topology.clone(), config.group_expiry, config.expiry));
        let work_ended = CancellationToken::new();
        let (quarantine, writing) = QuarantineWriter::new(&topology, background.events.clone(), work_ended.clone());
        let mut tasks = vec![background.upkeep.spawn(writing)];
        let mut counters = Vec::new();
        let count = if places.is_cluster() { 1 } else { places.count() };
        for shard in (0..count).map(|index| places.shard(index)) {
            let (of_shard, writing) = Counters::new(shard, &topology, list_lifetime(&codec), work_ended.clone());
            counters.push(of_shard);
            tasks.push(background.upkeep.spawn(writing));
        }
        let drain = async move {
            work_ended.cancel();
            // A task fails only if its runtime ends.
            join_all(tasks).await;
        };
        let reading = NativeReader::new(topology.clone(), codec.clone(), groups.clone(), quarantine);
        let format = Self { topology, codec, groups, capacity: config.capacities()?, counters };
        Ok(Started { format: Arc::new(format), reading: Box::new(reading), drain: drain.boxed() })
    }

    fn channel_key(&self, non_local: &str) -> String {
        self.topology.keys.channel(non_local)
    }

    fn max_message_size(&self) -> usize {
        self.codec.max_message_size()
    }

    fn message(&self, channel: ChannelName, message: &Message) -> Result<OutboundMessage<OutboundBody>> {
        Ok(OutboundMessage {
            capacity: self.capacity.of(&channel),
            pinned: self.topology.pins(&channel),
            channel,
            body: OutboundBody { to: Target::Channel, plain: self.encode(message)? },
        })
    }

    fn group_message(&self, message: &Message) -> Result<Arc<[u8]>> {
        self.encode(message)
    }

    fn messages_to(
        &self,
        group: &GroupName,
        message: &Arc<[u8]>,
        destinations: &Routes,
    ) -> Result<Vec<OutboundMessage<OutboundBody>>> {
        Ok(self.to_routes(group, message, destinations))
    }

    /// Sends to the routes that the group probably has, in one call that checks whether it has them.
    async fn send_at_once(
        &self,
        sender: &Sender<Self>,
        group: &GroupName,
        message: &Arc<[u8]>,
    ) -> AtOnce<Vec<PendingSend<OutboundBody>>, Routes> {
        let Some((guessed, pending)) = self.guess(sender, group, message) else { return AtOnce::Unsent(None) };
        match sender.complete(guessed.push(sender.format().clone())).await.map(CountedIfUnread::read) {
            // If the task ended without a result, so do the messages.
            Some(AtOnce::Sent(())) | None => AtOnce::Sent(pending),
            Some(AtOnce::Unsent(routes)) => AtOnce::Unsent(routes),
        }
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Every key but the epoch of the data.
    fn scans<'s>(&'s self, shard: &'s Shard) -> Vec<Scan<'s>> {
        let keys = &self.topology.keys;
        keys.scan_patterns().into_iter().map(|pattern| Scan::new(shard, pattern, |key| keys.is_flushed(key))).collect()
    }
}

fn keys(config: &Config) -> Keys {
    Keys::new(config.key_prefix(), config.stats_key_prefix())
}

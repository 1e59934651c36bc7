//! `Places`: the servers of a layer, and the placement of names on them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::layer::Event;
use crate::name::{ChannelName, GroupName};
use crate::redis::node::cluster::{Cluster, Slot};
use crate::redis::node::commands::request::Request;
use crate::redis::node::connection::Requirements;
use crate::redis::node::endpoint::source::{ClusterShard, EndpointSource};
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::{Shard, ShardOptions};
use crate::redis::topology::lists::ListName;
use crate::redis::topology::ring::Ring;
use crate::redis::topology::routing::Routing;
use crate::spread::Spread;
use crate::supervise::contained;

/// How often the layout of a cluster is refreshed without a reason.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// The shards of a layer, and the placement of names on them.
#[derive(Debug)]
pub struct Places {
    /// Shards are only added, when a cluster grows.
    shards: boxcar::Vec<Arc<Shard>>,
    placement: Placement,
}

#[derive(Debug)]
enum Placement {
    /// The servers of the configuration.
    Ring(Ring),
    /// The shards of a cluster.
    Cluster(Box<ClusterShards>),
}

/// What makes the shards of a cluster.
pub(crate) struct ClusterShards {
    pub(super) cluster: Arc<Cluster>,
    requirements: Requirements,
    /// Over how many lists each channel is spread.
    spread: Spread,
    events: broadcast::Sender<Event>,
    /// Cancelled when no command may be retried any more, also on shards that are added later.
    retries_cancelled: CancellationToken,
    /// Where the supervisors of new shards run, once the layer has started. Held while shards are added.
    supervision: Mutex<Option<Supervision>>,
}

/// The tasks of a layer, and the token that ends them.
#[derive(Clone)]
struct Supervision {
    tasks: TaskTracker,
    runtime: Handle,
    ending: CancellationToken,
}

/// The shard that failed, and its fault.
pub(crate) type Failure = (usize, Fault);

impl Places {
    /// `ring` and `shards` come from the same hosts in the same order.
    pub(crate) fn new(shards: Vec<Arc<Shard>>, ring: Ring) -> Self {
        Self { shards: shards.into_iter().collect(), placement: Placement::Ring(ring) }
    }

    /// The shards of `cluster`. They are not connected.
    pub(crate) fn of_cluster(
        cluster: Arc<Cluster>,
        requirements: Requirements,
        spread: Spread,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let (retries_cancelled, supervision) = (CancellationToken::new(), Mutex::default());
        let shards = ClusterShards { cluster, requirements, spread, events, retries_cancelled, supervision };
        let places = Self { shards: boxcar::Vec::new(), placement: Placement::Cluster(Box::new(shards)) };
        places.add_new_shards();
        places
    }

    /// The cluster, if the servers are one.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.placement {
            Placement::Ring(_) => None,
            Placement::Cluster(shards) => Some(&shards.cluster),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster().is_some()
    }

    /// Closes the connection for layouts of a cluster. Those of the shards end with their supervisors.
    pub(crate) async fn disconnect(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.disconnect().await;
        }
    }

    /// Starts a task for each shard that keeps it connected, and in a cluster one that follows its layout. They end
    /// when `ending` is cancelled.
    pub(crate) fn supervise(self: &Arc<Self>, tasks: &TaskTracker, ending: &CancellationToken) {
        let supervision = Supervision { tasks: tasks.clone(), runtime: Handle::current(), ending: ending.clone() };
        let Placement::Cluster(shards) = &self.placement else {
            return self.shards.iter().for_each(|(_, shard)| supervision.begin(shard));
        };
        {
            let mut held = shards.supervision.lock();
            self.shards.iter().for_each(|(_, shard)| supervision.begin(shard));
            *held = Some(supervision);
        }
        let (places, ending) = (self.clone(), ending.clone());
        let following = async move {
            while contained("layout of a cluster", Box::pin(places.follow_layout())).await.is_none() {
                tokio::time::sleep(REFRESH_EVERY).await;
            }
        };
        tasks.spawn(async move { ending.run_until_cancelled(following).await });
    }

    /// Refreshes the layout of a cluster regularly, and adds shards as soon as it has new ones. Returns at once without
    /// a cluster.
    async fn follow_layout(&self) {
        let Some(cluster) = self.cluster() else { return };
        let mut due = tokio::time::interval_at(Instant::now() + REFRESH_EVERY, REFRESH_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = cluster.changed_since(cluster.changes());
            self.add_new_shards();
            tokio::select! {
                () = changed => {}
                _ = due.tick() => {
                    if let Err(error) = cluster.refresh().await {
                        // The layout is not needed while the shards are connected.
                        tracing::debug!(%error, "cannot refresh the layout of the cluster");
                    }
                }
            }
        }
    }

    /// Adds the shards of a cluster that are new in its layout.
    pub(crate) fn add_new_shards(&self) {
        let Placement::Cluster(shards) = &self.placement else { return };
        let supervision = shards.supervision.lock();
        for number in self.shards.count()..shards.cluster.shard_count() {
            let shard = Arc::new(shards.shard(number));
            if let Some(supervision) = &*supervision {
                supervision.begin(&shard);
            }
            self.shards.push(shard);
        }
    }

    /// All shards that can hold names.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        let cluster = self.cluster();
        let shards = self.shards.iter().map(|(_, shard)| shard);
        shards.filter(move |shard| cluster.is_none_or(|cluster| cluster.serves(shard.index)))
    }

    /// How many shards there have been so far. Their indices are below.
    pub(crate) fn count(&self) -> usize {
        self.shards.count()
    }

    /// The shard with an index that [a name](Self::home) or another shard had.
    pub(crate) fn shard(&self, index: usize) -> &Arc<Shard> {
        self.shards.get(index).unwrap_or_else(|| {
            // The layout has it already.
            self.add_new_shards();
            &self.shards[index]
        })
    }

    /// The shard of a name: of a group, or of a channel by the non-local part. In a cluster also that of a key.
    pub(crate) fn home(&self, name: &str) -> &Arc<Shard> {
        match &self.placement {
            Placement::Ring(ring) => &self.shards[ring.shard_of(name)],
            Placement::Cluster(_) => self.home_of_slot(Slot::of(name)),
        }
    }

    /// The shard of a slot of a cluster.
    pub(super) fn home_of_slot(&self, slot: Slot) -> &Arc<Shard> {
        self.shard(self.cluster().map_or(0, |cluster| cluster.shard_of(slot)))
    }

    /// The number of the slot of a name in a cluster, and otherwise of its shard.
    pub(crate) fn place_of(&self, name: &str) -> usize {
        if self.is_cluster() { Slot::of(name).index() } else { self.home(name).index }
    }

    /// The error of a call that failed with `fault` on `shard`.
    pub(crate) fn error(&self, shard: usize, fault: Fault) -> Error {
        self.shards[shard].error(fault)
    }

    /// The shard that holds a `!` or `?` channel, or in a cluster the first list of any channel.
    pub(crate) fn shard_of_channel(&self, channel: &ChannelName) -> &Arc<Shard> {
        self.home(channel.non_local())
    }

    /// The shard that holds a group.
    pub(crate) fn shard_of_group(&self, group: &GroupName) -> &Arc<Shard> {
        self.home(group.as_str())
    }

    /// Whether only one shard can hold messages of `channel`.
    pub(crate) fn pins(&self, channel: &ChannelName) -> bool {
        channel.kind().has_one_reader() || self.lists_in_cluster(channel) == Some(1)
    }

    /// How many lists a channel has in a cluster; `None` outside of one.
    pub(crate) fn lists_in_cluster(&self, channel: &ChannelName) -> Option<usize> {
        match &self.placement {
            Placement::Ring(_) => None,
            Placement::Cluster(shards) => Some(shards.spread.lists_of(channel)),
        }
    }

    /// The lists of `channel` with their shards. Outside of a cluster it has one on each shard that can hold it.
    pub(crate) fn lists<'p>(&'p self, channel: &'p ChannelName) -> impl Iterator<Item = (ListName, &'p Arc<Shard>)> {
        let in_cluster = self.lists_in_cluster(channel).or_else(|| self.pins(channel).then_some(1));
        let homes = (0..in_cluster.unwrap_or(0)).map(|number| self.list(channel, number));
        let on_all = self.shards().filter(move |_| in_cluster.is_none());
        homes.chain(on_all.map(|shard| (ListName::default(), shard)))
    }

    /// The list of `channel` with this number, and the shard that holds it.
    pub(crate) fn list(&self, channel: &ChannelName, number: usize) -> (ListName, &Arc<Shard>) {
        let list = ListName::numbered(channel, number);
        let home = self.home(list.text(channel));
        (list, home)
    }

    /// Waits until the server that holds the keys of `name` is up. Outside of a cluster that is `shard`.
    pub(crate) async fn up(&self, shard: &Shard, name: &str) {
        let Some(cluster) = self.cluster() else {
            shard.up().await;
            return;
        };
        loop {
            // The slot may move to another shard, and a shard that has left the cluster is never up again.
            let changed = cluster.changed_since(cluster.changes());
            tokio::select! {
                _ = self.home(name).up() => return,
                () = changed => {}
            }
        }
    }

    /// Ends all retries of commands.
    pub(crate) fn cancel_retries(&self) {
        self.shard(0).cancel_retries();
    }

    /// The way to the server that holds the keys of `name` now. Outside of a cluster that is `shard`.
    pub(crate) fn routing<'p>(&'p self, shard: &'p Shard, name: &str) -> Routing<'p> {
        Routing::new(self, shard, name)
    }

    /// Runs a command that does not block, or several in one round trip, on the server of `name`; as [`Shard::run`].
    pub(crate) async fn run<R: Request>(&self, name: &str, request: &R) -> Result<R::Answer, Failure> {
        self.run_on(self.home(name), name, request).await
    }

    /// As [`run`](Self::run), but outside of a cluster on `shard`.
    pub(crate) async fn run_on<R: Request>(
        &self,
        shard: &Shard,
        name: &str,
        request: &R,
    ) -> Result<R::Answer, Failure> {
        self.retried(shard, name, request, |fault| fault).await
    }

    /// As [`run`](Self::run), for a request that only reads or that changes nothing when it is repeated; as
    /// [`Shard::query`].
    pub(crate) async fn query<R: Request>(&self, name: &str, request: &R) -> Result<R::Answer, Failure> {
        self.query_on(self.home(name), name, request).await
    }

    /// As [`query`](Self::query), but outside of a cluster on `shard`.
    pub(crate) async fn query_on<R: Request>(
        &self,
        shard: &Shard,
        name: &str,
        request: &R,
    ) -> Result<R::Answer, Failure> {
        self.retried(shard, name, request, Fault::before_sending).await
    }

    /// Runs `request`, and again as often as retries are configured after a fault that `judge` returns as retryable.
    async fn retried<R: Request>(
        &self,
        shard: &Shard,
        name: &str,
        request: &R,
        judge: fn(Fault) -> Fault,
    ) -> Result<R::Answer, Failure> {
        let mut retry = shard.retry();
        loop {
            let answer = self.routing(shard, name).run_once(request).await;
            match answer.map_err(|(shard, fault)| (shard, judge(fault))) {
                Err((_, fault)) if retry.wait_after(&fault).await => {}
                result => return result,
            }
        }
    }

    /// Whether `fault` says that another node of the cluster runs the command, or that it runs later.
    pub(crate) fn postpones(&self, fault: &Fault) -> bool {
        self.is_cluster() && fault.redirect.is_some()
    }

    /// As [`run_on`](Self::run_on), without retries.
    pub(crate) async fn run_once_on<R: Request>(
        &self,
        shard: &Shard,
        name: &str,
        request: &R,
    ) -> Result<R::Answer, Failure> {
        self.routing(shard, name).run_once(request).await
    }
}

impl ClusterShards {
    fn shard(&self, number: usize) -> Shard {
        let source = EndpointSource::Cluster(ClusterShard { cluster: self.cluster.clone(), number });
        let options = ShardOptions {
            host: format!("shard {number} of the cluster"),
            source,
            requirements: self.requirements.clone(),
            retries_cancelled: self.retries_cancelled.clone(),
        };
        Shard::new(number, options, self.events.clone())
    }
}

impl Supervision {
    fn begin(&self, shard: &Arc<Shard>) {
        self.tasks.spawn_on(shard.clone().supervise(self.ending.clone()), &self.runtime);
    }
}

impl std::fmt::Debug for ClusterShards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterShards").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

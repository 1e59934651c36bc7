//! `Cluster`: the present layout of a cluster, and its refresh.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::info::ClusterInfo;
use super::layout::Layout;
use super::shards::KnownShards;
use super::{Address, Slot};
use crate::config::{Config, Host};
use crate::error::Result;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::endpoint::{Endpoint, EndpointError};

/// How long a layout counts as fresh. Many calls may find at the same time that it has changed.
const FRESH: Duration = Duration::from_millis(100);
/// How many nodes are asked at the same time. A node that is down answers late, and the others must not wait for it.
pub(super) const ASKED_AT_ONCE: usize = 8;

/// The nodes of a cluster and the slots that they serve.
pub(crate) struct Cluster {
    /// The configured nodes. They lead to the others, and their login and TLS settings are those of all.
    seeds: Vec<Endpoint>,
    pub(super) timeout: Duration,
    /// The number of the shard that serves each slot.
    slots: Box<[AtomicU16]>,
    /// Held only to read or change it.
    shards: Mutex<KnownShards>,
    /// Held during a refresh. A concurrent call waits for it and uses its result. The connection leads to the node that
    /// answered last.
    connection: tokio::sync::Mutex<Option<NodeConnection>>,
    /// When the last refresh ended, or a redirection named another master. Held only to read or set it.
    updated: Mutex<Option<Update>>,
    /// Counts the changes of the layout, also those that redirections reveal.
    changes: watch::Sender<u64>,
}

/// The end of a refresh of the layout.
struct Update {
    at: Instant,
    has_failed: bool,
}

/// What a node reports about its cluster.
struct Report {
    layout: Layout,
    info: ClusterInfo,
}

/// A connection to a node, and the host at which it was reached.
type NodeConnection = (MultiplexedConnection, String);

impl Cluster {
    /// A cluster. `config` names some of its nodes. The layout is unknown before the first [refresh](Self::refresh).
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let seed = |(at, host): (usize, &Host)| {
            let refuse = |error: EndpointError| error.of_option(format!("hosts[{at}]"), host);
            let endpoint = Endpoint::at(&host.url(), config).map_err(refuse)?;
            endpoint.client().map_err(refuse)?;
            Ok(endpoint)
        };
        Ok(Self {
            seeds: config.host_list().iter().enumerate().map(seed).collect::<Result<_>>()?,
            timeout: config.connect_timeout,
            slots: (0..Slot::COUNT).map(|_| AtomicU16::new(0)).collect(),
            shards: Mutex::new(KnownShards::unknown()),
            connection: tokio::sync::Mutex::default(),
            updated: Mutex::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// The addresses of the configured nodes as text.
    pub(crate) fn seed_addresses(&self) -> String {
        self.seeds.iter().map(Endpoint::address).collect::<Vec<_>>().join(", ")
    }

    /// The number of the shard that serves `slot`.
    pub(crate) fn shard_of(&self, slot: Slot) -> usize {
        self.slots[slot.index()].load(Ordering::Acquire).into()
    }

    /// How many shards have been known so far. Their numbers are below.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards.lock().len()
    }

    /// Whether the shard has slots by what layouts and redirections have said.
    pub(crate) fn has_slots(&self, shard: usize) -> bool {
        self.slots.iter().any(|slot| usize::from(slot.load(Ordering::Acquire)) == shard)
    }

    /// Whether the last layout has the shard.
    pub(crate) fn serves(&self, shard: usize) -> bool {
        self.shards.lock().get(shard).is_some_and(|shard| shard.serves)
    }

    /// The number of changes of the layout so far, also of those that redirections have revealed.
    pub(crate) fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Waits until [`changes`](Self::changes) is another number than `before`.
    pub(crate) async fn changed_since(&self, before: u64) {
        let mut changes = self.changes.subscribe();
        // The sender lives in `self`, so that the wait cannot fail.
        let _ = changes.wait_for(|now| *now != before).await;
    }

    /// The address of the present master of a shard, as far as it is known.
    fn master(&self, shard: usize) -> Option<Address> {
        self.shards.lock().get(shard)?.master().cloned()
    }

    /// A client for the present master of a shard. Refreshes the layout first if it is old.
    pub(crate) async fn locate(&self, shard: usize) -> Result<Arc<Client>, ConnectError> {
        let refreshed = self.refresh().await;
        let located = self.shards.lock().locate(shard);
        let Some(((host, port), is_same)) = located else {
            refreshed?;
            return Err(ConnectError::NoMaster);
        };
        if is_same {
            // The node that answered may be cut off from the others and not know a new master. The next refresh asks
            // all.
            self.disconnect().await;
        }
        // Without a node that answers, the last address may still be right.
        Ok(self.seeds[0].sibling(host, port).client()?)
    }

    /// Closes the connection to the node that answered last. The next refresh opens another one.
    pub(crate) async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    /// Waits until the master of a shard is another one than the node at `address`.
    pub(crate) async fn moved(&self, shard: usize, address: &Address) {
        let mut changes = self.changes.subscribe();
        while self.master(shard).as_ref() == Some(address) {
            // The sender lives in `self`, so that the wait cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Waits until the nodes of a shard have left the cluster.
    pub(crate) async fn retired(&self, shard: usize) {
        let mut changes = self.changes.subscribe();
        while !self.shards.lock().get(shard).is_some_and(|shard| shard.retired) {
            let _ = changes.changed().await;
        }
    }

    /// Records a redirection of `slot` to the node at `address`, which serves it now. A node of the shard `from` has
    /// answered with it.
    pub(crate) fn record_move(&self, slot: Slot, address: &Address, from: usize) {
        let mut shards = self.shards.lock();
        let known = shards.len();
        let number = shards.at_or_new(address, Instant::now());
        let mut changed = shards.len() > known;
        // The other node of the same shard has been promoted. A node of another shard may name a former master, because
        // it learns of a failover later.
        if number == from && shards.set_master(number, address.clone()) {
            // Other nodes may not know it yet.
            *self.updated.lock() = Some(Update { at: Instant::now(), has_failed: false });
            changed = true;
        }
        changed |= self.assign(slot, number);
        drop(shards);
        if changed {
            self.record_change();
        }
    }

    /// Records that a slot is being migrated to the node at `address`. Returns the number of its shard. A node that is
    /// in no layout becomes a shard of its own: a new master has no slots until the migration of the first one has
    /// ended.
    pub(crate) fn record_migration(&self, address: &Address) -> usize {
        let mut shards = self.shards.lock();
        let known = shards.len();
        let number = shards.at_or_new(address, Instant::now());
        let is_new = shards.len() > known;
        drop(shards);
        if is_new {
            self.record_change();
        }
        number
    }

    /// Whether the node at `address` is known as a master.
    pub(crate) fn knows_master(&self, address: &Address) -> bool {
        let shards = self.shards.lock();
        let shard = shards.at(address).and_then(|number| shards.get(number));
        shard.is_some_and(|shard| shard.master() == Some(address))
    }

    /// The number of the shard that has a node at `address`, if it is known.
    pub(crate) fn shard_at(&self, address: &Address) -> Option<usize> {
        self.shards.lock().at(address)
    }

    /// Records that slots or masters are elsewhere, or that a shard was added.
    fn record_change(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Records the shard of a slot. Returns whether it was another one.
    fn assign(&self, slot: Slot, shard: usize) -> bool {
        // A cluster has at most 16384 masters. Those that leave and return often enough to exhaust the numbers are not
        // used.
        u16::try_from(shard).is_ok_and(|shard| self.slots[slot.index()].swap(shard, Ordering::AcqRel) != shard)
    }

    /// Asks the nodes for the layout, unless that has just been done.
    pub(crate) async fn refresh(&self) -> Result<(), ConnectError> {
        let now = Instant::now();
        self.refresh_since(now.checked_sub(FRESH).unwrap_or(now)).await
    }

    /// Asks the nodes for the layout, unless that has been done since `time`.
    pub(crate) async fn refresh_since(&self, time: Instant) -> Result<(), ConnectError> {
        let mut connection = self.connection.lock().await;
        if let Some(update) = &*self.updated.lock()
            && update.at > time
        {
            return if update.has_failed { Err(ConnectError::NoLayout) } else { Ok(()) };
        }
        let fetched = self.fetch(&mut connection).await;
        *self.updated.lock() = Some(Update { at: Instant::now(), has_failed: fetched.is_err() });
        self.apply(&fetched?);
        Ok(())
    }

    fn apply(&self, layout: &Layout) {
        let mut shards = self.shards.lock();
        let before = shards.clone();
        let numbers = shards.apply(layout, Instant::now());
        let mut changed = *shards != before;
        for (reported, number) in layout.shards.iter().zip(numbers) {
            for slot in reported.slots() {
                changed |= self.assign(slot, number);
            }
        }
        drop(shards);
        if changed {
            self.record_change();
        }
    }

    /// The layout, from the node that answered last or else from the first node that can be trusted. If there is none,
    /// the best of all reports.
    async fn fetch(&self, last: &mut Option<NodeConnection>) -> Result<Layout, ConnectError> {
        // A node that has just joined, or that is cut off from the others, is not asked first again.
        if let Some((connection, host)) = last
            && let Ok(report) = ask(connection, host).await
            && report.is_trusted()
        {
            return Ok(report.layout);
        }
        *last = None;
        let (mut failures, mut best) = (Vec::new(), None::<Report>);
        let mut answers = stream::iter(self.endpoints()).map(|node| self.open(node)).buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok((connection, report)) if report.is_trusted() => {
                    *last = Some(connection);
                    return Ok(report.layout);
                }
                Ok((_, report)) if best.as_ref().is_none_or(|best| best.rank() < report.rank()) => best = Some(report),
                Ok(_) => {}
                Err(failure) => failures.push(failure),
            }
        }
        match best {
            Some(report) => Ok(report.layout),
            None => Err(most_telling(failures)),
        }
    }

    /// All known nodes in random order, and the seeds.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let known: HashSet<_> = self.shards.lock().addresses().cloned().collect();
        let mut known: Vec<_> = known.into_iter().map(|(host, port)| self.seeds[0].sibling(host, port)).collect();
        known.shuffle(&mut rand::rng());
        known.extend(self.seeds.iter().cloned());
        known
    }

    async fn open(&self, node: Endpoint) -> Result<(NodeConnection, Report), (String, ConnectError)> {
        let named = |error| (node.address(), error);
        let client = node.client().map_err(|error| named(error.into()))?;
        let opening = async {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout));
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let host = node.host().to_owned();
            let report = ask(&mut connection, &host).await?;
            Ok(((connection, host), report))
        };
        match opening.await {
            Ok(opened) => Ok(opened),
            Err(error) => Err(named(ConnectError::explained(error, &client, self.timeout).await)),
        }
    }
}

impl Report {
    /// Whether the node knows the owner of each slot and counts the cluster as working. A node that has just joined
    /// may know only a part of the cluster. A node that is cut off from most masters does not learn who replaces them,
    /// or itself.
    fn is_trusted(&self) -> bool {
        self.layout.is_complete() && self.info.is_ok
    }

    /// The report with the highest rank is used if none is trusted.
    fn rank(&self) -> (bool, usize, usize) {
        (self.info.is_ok, self.layout.slot_count(), self.info.served)
    }
}

async fn ask(connection: &mut MultiplexedConnection, host: &str) -> Result<Report, ConnectError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let mut answers = connection.send_packed_commands(&pipeline, 0, 2).await?.into_iter();
    let slots = answers.next().unwrap_or(Value::Nil).extract_error()?;
    let layout = Layout::parse(&slots, host).ok_or(ConnectError::NoSlots)?;
    let info: Option<String> = answers.next().and_then(|info| redis::from_redis_value(info).ok());
    Ok(Report { layout, info: info.map_or_else(ClusterInfo::refused, |info| ClusterInfo::parse(&info)) })
}

/// The error of several nodes, each named with its own. A refusal, as of a wrong password, says more than that other
/// nodes are unreachable.
pub(super) fn most_telling(mut failures: Vec<(String, ConnectError)>) -> ConnectError {
    match failures.iter().position(|(_, error)| error.is_refusal()) {
        Some(place) => failures.swap_remove(place).1,
        None => ConnectError::Silent(failures.into_iter().map(|(node, error)| format!("{node}: {error}")).collect()),
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("shards", &self.shards).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;
    use tokio_util::task::AbortOnDropHandle;

    use super::super::layout::tests::{layout, node, range};
    use super::*;

    /// A node that answers `CLUSTER SLOTS` with the text in `slots`, and that counts the cluster as working while it is
    /// in the majority.
    struct FakeNode {
        port: u16,
        slots: watch::Sender<String>,
        in_majority: Arc<AtomicBool>,
        _serving: AbortOnDropHandle<()>,
    }

    impl FakeNode {
        async fn start() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (slots, in_majority) = (watch::Sender::new(String::new()), Arc::new(AtomicBool::new(true)));
            let (answer, is_ok) = (slots.clone(), in_majority.clone());
            let serving = async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(Self::serve(stream, answer.clone(), is_ok.clone()));
                }
            };
            Self { port, slots, in_majority, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
        }

        async fn serve(stream: TcpStream, slots: watch::Sender<String>, in_majority: Arc<AtomicBool>) {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap() > 0 {
                let words: usize = line.trim_end().strip_prefix('*').unwrap().parse().unwrap();
                // Two lines for each word.
                let mut command = String::new();
                for _ in 0..2 * words {
                    stream.read_line(&mut command).await.unwrap();
                }
                let answer = if command.contains("SLOTS") {
                    slots.borrow().clone()
                } else if command.contains("INFO\r\n") && command.contains("CLUSTER") {
                    let state = if in_majority.load(Ordering::Relaxed) { "ok" } else { "fail" };
                    let info = format!("cluster_state:{state}\r\ncluster_slots_ok:16384\r\n");
                    format!("${}\r\n{info}\r\n", info.len())
                } else {
                    "+OK\r\n".to_owned()
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
                line.clear();
            }
        }
    }

    #[tokio::test]
    async fn a_node_that_is_cut_off_from_the_others_is_not_believed() {
        let (old, new) = (FakeNode::start().await, FakeNode::start().await);
        let nodes = [&old, &new].map(|fake| node(&fake.port.to_string(), None, fake.port));
        let by = |order: [usize; 2]| format!("*1\r\n{}", range(0, 16383, &order.map(|at| nodes[at].clone())));
        for fake in [&old, &new] {
            fake.slots.send_replace(by([0, 1]));
        }
        let hosts = [format!("redis://127.0.0.1:{}", old.port)];
        let cluster = Cluster::new(&Config::new().cluster(true).hosts(hosts)).unwrap();
        let master = async || {
            cluster.refresh_since(Instant::now()).await.unwrap();
            cluster.master(0).unwrap().1
        };
        assert_eq!(master().await, old.port);
        new.slots.send_replace(by([1, 0]));
        old.in_majority.store(false, Ordering::Relaxed);
        assert_eq!(master().await, new.port, "the node that answered last is cut off");
        for _ in 0..8 {
            *cluster.connection.lock().await = None;
            assert_eq!(master().await, new.port, "the nodes are asked in a random order");
        }
        drop(new);
        assert_eq!(master().await, old.port, "no other node answers");
    }

    #[test]
    fn only_a_node_of_the_same_shard_names_its_new_master() {
        let cluster = Cluster::new(&Config::new().cluster(true).hosts(["redis://127.0.0.1"])).unwrap();
        let nodes = |ids: [&str; 2]| ids.map(|id| node(id, Some(id), 1));
        let shards = [range(0, 9, &nodes(["a", "b"])), range(10, 16383, &nodes(["c", "d"]))];
        cluster.apply(&layout(&shards).expect("it is a layout"));
        let (slot, replica) = (Slot::numbered(20).unwrap(), ("b".to_owned(), 1));
        cluster.record_move(slot, &replica, 1);
        assert_eq!((cluster.shard_of(slot), cluster.master(0)), (0, Some(("a".to_owned(), 1))));
        cluster.record_move(slot, &replica, 0);
        assert_eq!(cluster.master(0), Some(replica));
    }
}

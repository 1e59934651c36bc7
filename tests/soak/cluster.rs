//! The cluster of a round, and the faults that it has.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::backend::Backend;
use super::history::{Event, History};
use super::plan::{Fault, Plan, stream};
use crate::support::{Cluster, NO_NODE_TIMEOUT, eventually};

/// All that happens to the servers is recorded in the name of no process.
const NOBODY: usize = usize::MAX;

/// How long a node without slots is kept.
const BEFORE_REMOVAL: Duration = Duration::from_millis(200);
/// The most slots that a fault moves.
const MOST_MOVED: usize = 12;

/// Three masters, each with a replica.
pub struct ClusterServers {
    /// Locked by one fault at a time.
    cluster: Mutex<Cluster>,
    backend: Backend,
    durable: bool,
    /// How many elections of a master the faults explain.
    elections: AtomicUsize,
}

impl ClusterServers {
    pub async fn start(plan: &Plan) -> Self {
        let durable = if plan.durable { "yes" } else { "no" };
        let mut arguments = vec!["--appendonly", durable, "--appendfsync", "no"];
        // A master without slots stays a master.
        arguments.extend(["--cluster-allow-replica-migration", "no"]);
        if plan.is_planned() {
            arguments.extend(NO_NODE_TIMEOUT);
        }
        let cluster = Cluster::with(&arguments, true).await;
        let elections = AtomicUsize::new(0);
        Self { cluster: Mutex::new(cluster), backend: plan.backend, durable: plan.durable, elections }
    }

    pub async fn urls(&self) -> Vec<String> {
        self.cluster.lock().await.urls(0..2 * Cluster::MASTERS)
    }

    /// Connections to the masters.
    pub async fn connections(&self) -> Vec<MultiplexedConnection> {
        let cluster = self.cluster.lock().await;
        let mut connections = Vec::new();
        for master in masters(&cluster).await {
            connections.push(cluster.nodes[master].server.connection().await);
        }
        connections
    }

    /// Records it if the nodes have elected a master that no fault explains.
    pub async fn check(&self, history: &History) {
        let cluster = self.cluster.lock().await;
        let held = cluster.nodes.iter().map(|node| node.server.log().matches("Failover election won").count());
        if held.sum::<usize>() != self.elections.load(Ordering::Relaxed) {
            history.record(NOBODY, Event::Disturbed);
        }
    }

    /// Injects a fault and ends it.
    pub async fn inject(&self, fault: Fault, history: &History) {
        let cluster = &mut *self.cluster.lock().await;
        let command = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).clone();
        match fault {
            Fault::MoveSlots { choice } => {
                let rng = &mut stream(choice, "slots");
                let masters = masters(cluster).await;
                for slot in self.choose_slots(rng) {
                    let to = masters[rng.random_range(0..masters.len())];
                    move_slot(cluster, slot, cluster.owner(slot, to).await, to).await;
                }
            }
            Fault::FailOver { shard } => self.fail_over(cluster, shard).await,
            Fault::AddNode { choice, stay } => self.add_node(cluster, stay, &mut stream(choice, "node")).await,
            Fault::KillNode { server, away } => self.kill(cluster, server, away, history).await,
            Fault::KillClients { server } => {
                cluster.nodes[server].ask::<()>(&command(&["CLIENT", "KILL", "TYPE", "normal"])).await;
            }
            Fault::FlushScripts { server } => {
                cluster.nodes[server].ask::<()>(&command(&["SCRIPT", "FLUSH"])).await;
            }
            _ => unreachable!("no cluster has such a fault"),
        }
        settle(cluster).await;
    }

    fn choose_slots(&self, rng: &mut StdRng) -> Vec<u16> {
        let mut slots = self.backend.slots();
        slots.shuffle(rng);
        slots.truncate(rng.random_range(1..=MOST_MOVED));
        slots
    }

    async fn fail_over(&self, cluster: &Cluster, shard: usize) {
        let (_, replica) = pair(cluster, shard).await;
        // A node that was elected a short time ago would make the round wait.
        if cluster.nodes[replica].elected_at().is_none() {
            cluster.fail_over(replica).await;
            self.elections.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn add_node(&self, cluster: &mut Cluster, stay: Duration, rng: &mut StdRng) {
        let masters = masters(cluster).await;
        let added = cluster.add_node().await;
        for slot in self.choose_slots(rng) {
            move_slot(cluster, slot, cluster.owner(slot, added).await, added).await;
        }
        sleep(stay).await;
        for slot in slots_of(cluster, added).await.into_iter().flatten() {
            let to = masters[rng.random_range(0..masters.len())];
            move_slot(cluster, slot, added, to).await;
        }
        // A call on the way to a node that ends has an unknown outcome, so busy processes learn first that the slots
        // have moved.
        sleep(BEFORE_REMOVAL).await;
        cluster.remove_node(added).await;
    }

    async fn kill(&self, cluster: &mut Cluster, node: usize, away: Duration, history: &History) {
        let shard = node % Cluster::MASTERS;
        let (master, replica) = pair(cluster, shard).await;
        if node == replica {
            block_in_place(|| cluster.nodes[node].server.stop());
            return start_again(cluster, node, away).await;
        }
        let (slots, since) = (slots_of(cluster, master).await, history.now());
        history.record(NOBODY, Event::ServerAway { server: shard, slot: None });
        cluster.replicates(master, replica).await;
        block_in_place(|| cluster.nodes[master].server.stop());
        let until = history.now();
        start_again(cluster, node, away).await;
        let is_replaced = pair(cluster, shard).await.0 == replica;
        if is_replaced {
            cluster.becomes_master(replica).await;
            self.elections.fetch_add(1, Ordering::Relaxed);
        }
        match is_replaced {
            _ if self.backend.is_pubsub() => {}
            true => history.record(NOBODY, Event::MasterReplaced { since, until, slots }),
            false if self.durable => {}
            false => history.record(NOBODY, Event::MasterEmptied { since }),
        }
        history.record(NOBODY, Event::ServerBack { server: shard, slot: None });
    }
}

/// Starts a node that was killed again after a time.
async fn start_again(cluster: &mut Cluster, node: usize, away: Duration) {
    sleep(away).await;
    block_in_place(|| cluster.nodes[node].server.start_again());
    settle(cluster).await;
}

/// Waits until all nodes serve the cluster, and each replica has its master.
async fn settle(cluster: &Cluster) {
    let all: Vec<_> = (0..2 * Cluster::MASTERS).collect();
    // First, because a replica may be about to take over.
    cluster.works(&all).await;
    for shard in 0..Cluster::MASTERS {
        pair(cluster, shard).await;
    }
    cluster.works(&all).await;
    cluster.agrees().await;
}

/// The master of a shard and its replica, once they know each other.
async fn pair(cluster: &Cluster, shard: usize) -> (usize, usize) {
    let pair = [shard, shard + Cluster::MASTERS];
    let replica = eventually("a master with its replica", async || {
        let [one, other] = pair;
        match (cluster.master_of(one).await, cluster.master_of(other).await) {
            (Some(master), None) if master == other => Some(one),
            (None, Some(master)) if master == one => Some(other),
            _ => None,
        }
    });
    let replica = replica.await;
    (if replica == shard { pair[1] } else { pair[0] }, replica)
}

async fn masters(cluster: &Cluster) -> Vec<usize> {
    let mut masters = Vec::new();
    for shard in 0..Cluster::MASTERS {
        masters.push(pair(cluster, shard).await.0);
    }
    masters
}

/// The slots of a master, by its own account.
async fn slots_of(cluster: &Cluster, master: usize) -> Vec<RangeInclusive<u16>> {
    let master = &cluster.nodes[master];
    let mut shares = master.shares().await.expect("the node answers");
    shares.remove(&master.id).unwrap_or_default()
}

/// Moves a slot with its keys, and tells all nodes. Gossip alone would not do: masters whose slots change at the same
/// time may get the same epoch.
async fn move_slot(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    if from == to {
        return;
    }
    cluster.move_slots(slot..slot + 1, from, to).await;
    let mut command = redis::cmd("CLUSTER");
    command.arg("SETSLOT").arg(slot).arg("NODE").arg(&cluster.nodes[to].id);
    for node in &cluster.nodes {
        // A replica refuses it, and learns it from its master.
        let _: redis::RedisResult<()> = command.query_async(&mut node.server.connection().await).await;
    }
}

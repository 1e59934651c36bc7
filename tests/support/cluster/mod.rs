//! `Cluster`: a Redis Cluster of real servers on the loopback address.

mod node;

use std::ops::Range;
use std::time::{Duration, Instant};

use redis::FromRedisValue;

use super::eventually;
pub use node::Node;
use node::SLOTS;

/// The argument for a node timeout that no slow machine exceeds, for tests without a failure.
pub const NO_NODE_TIMEOUT: [&str; 2] = ["--cluster-node-timeout", "15000"];
/// A replica that stands for election within this number of node timeouts after its last election takes the votes of
/// that one, or refuses (seen on 7.0.15). With the old votes it serves as a second master of its slots, until the
/// others deny it, and loses what it has accepted.
const ELECTION_PAUSE: u32 = 4;
/// After this time a planned failover has happened, or has been given up.
const FAILOVER_LIMIT: Duration = Duration::from_secs(5);
/// How many keys move in one step.
const KEYS_AT_ONCE: usize = 100;

/// The nodes of a cluster. Those with an index below [`MASTERS`](Self::MASTERS) start as masters with a third of the
/// slots each. The node with the index `n + MASTERS` starts as the replica of the node `n`.
pub struct Cluster {
    pub nodes: Vec<Node>,
    arguments: Vec<String>,
}

impl Cluster {
    pub const MASTERS: usize = 3;

    /// Starts three masters, each with a replica, without persistence.
    pub async fn start() -> Self {
        Self::with(&[], true).await
    }

    /// Starts three masters without replicas and without persistence.
    pub async fn without_replicas() -> Self {
        Self::with(&[], false).await
    }

    /// Starts three masters with more arguments for each node, and replicas if `replicated` is set.
    pub async fn with(arguments: &[&str], replicated: bool) -> Self {
        let mut arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if !replicated {
            // A master without slots stays a master.
            arguments.extend(["--cluster-allow-replica-migration", "no"].map(str::to_owned));
        }
        let count = if replicated { 2 * Self::MASTERS } else { Self::MASTERS };
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::start(&arguments).await);
        }
        let cluster = Self { nodes, arguments };
        for (index, slots) in shares().enumerate() {
            let last = slots.end - 1;
            cluster.nodes[index].cluster::<()>(&["ADDSLOTSRANGE", &slots.start.to_string(), &last.to_string()]).await;
            // Nodes that start with the same epoch could each believe that they have the slots of the other.
            cluster.nodes[index].cluster::<()>(&["SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
        }
        for node in &cluster.nodes[1..] {
            cluster.nodes[0].meet(node).await;
        }
        let all: Vec<_> = (0..count).collect();
        cluster.know_each_other(&all).await;
        for index in Self::MASTERS..count {
            let master = &cluster.nodes[index - Self::MASTERS].id;
            cluster.nodes[index].cluster::<()>(&["REPLICATE", master]).await;
        }
        cluster.works(&all).await;
        cluster
    }

    /// The URLs of the nodes with these indices, as the hosts of a layer.
    pub fn urls(&self, nodes: Range<usize>) -> Vec<String> {
        self.nodes[nodes].iter().map(|node| node.server.url()).collect()
    }

    /// The index of the master that has `slot`, by what the node `asked` knows.
    pub async fn owner(&self, slot: u16, asked: usize) -> usize {
        type Place = (String, u16, String);
        let ranges: Vec<(u16, u16, Place)> = self.ranges(asked).await;
        let owner = ranges.into_iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        let (_, _, (_, _, id)) = owner.expect("every slot has a master");
        self.nodes.iter().position(|node| node.id == id).expect("all nodes are in the list")
    }

    /// The ranges of slots with their masters. The other elements of the answer to `CLUSTER SLOTS` are left out.
    async fn ranges<T: FromRedisValue>(&self, asked: usize) -> Vec<(u16, u16, T)> {
        let ranges: Vec<Vec<redis::Value>> = self.nodes[asked].cluster(&["SLOTS"]).await;
        let range = |range: Vec<redis::Value>| {
            let mut parts = range.into_iter();
            let mut part = || parts.next().expect("a range has three parts");
            let (first, last) = (part(), part());
            // Of a node, the last element holds further names.
            let redis::Value::Array(mut node) = part() else { panic!("a node is a list") };
            node.truncate(3);
            let parsed = "it is an answer to CLUSTER SLOTS";
            (
                redis::from_redis_value(first).expect(parsed),
                redis::from_redis_value(last).expect(parsed),
                redis::from_redis_value(redis::Value::Array(node)).expect(parsed),
            )
        };
        ranges.into_iter().map(range).collect()
    }

    /// Begins to move `slot`. From now on keys that do not exist are created on the node `to`.
    pub async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = &slot.to_string();
        self.nodes[to].cluster::<()>(&["SETSLOT", slot, "IMPORTING", &self.nodes[from].id]).await;
        self.nodes[from].cluster::<()>(&["SETSLOT", slot, "MIGRATING", &self.nodes[to].id]).await;
    }

    /// Moves the keys of `slot` that exist now.
    pub async fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let (slot, count) = (&slot.to_string(), &KEYS_AT_ONCE.to_string());
        loop {
            let keys: Vec<String> = self.nodes[from].cluster(&["GETKEYSINSLOT", slot, count]).await;
            if keys.is_empty() {
                return;
            }
            self.migrate(&keys, from, to).await;
        }
    }

    /// Moves keys of a slot that is being moved.
    pub async fn migrate(&self, keys: &[String], from: usize, to: usize) {
        let mut command = redis::cmd("MIGRATE");
        let port = self.nodes[to].port();
        command.arg("127.0.0.1").arg(port).arg("").arg(0).arg(10_000).arg("KEYS").arg(keys);
        self.nodes[from].ask::<()>(&command).await;
    }

    /// Ends the move of `slot`: it belongs to the node `to`. The nodes `told` learn it at once, the others from them.
    pub async fn end_move(&self, slot: u16, to: usize, told: &[usize]) {
        // The target first, so that there is a node that serves the slot at any time.
        for &node in [to].iter().chain(told) {
            let owner = &self.nodes[to].id;
            self.nodes[node].cluster::<()>(&["SETSLOT", &slot.to_string(), "NODE", owner]).await;
        }
    }

    /// Moves slots with their keys between two masters, one after the other, as `redis-cli --cluster reshard` does.
    pub async fn move_slots(&self, slots: Range<u16>, from: usize, to: usize) {
        for slot in slots {
            self.begin_move(slot, from, to).await;
            self.move_keys(slot, from, to).await;
            self.end_move(slot, to, &[from]).await;
        }
    }

    /// Has the replica `node` take over from its master, which lives, and waits until it has done so.
    pub async fn fail_over(&self, node: usize) {
        let replica = &self.nodes[node];
        if let Some(elected) = replica.elected_at() {
            let pause = ELECTION_PAUSE * replica.timeout().await;
            tokio::time::sleep_until((elected + pause).into()).await;
        }
        // A node that does not know it as a replica yet ignores its request, or denies it the vote.
        eventually("nodes that know the replica", async || self.master_of(node).await.map(drop)).await;
        let mut asked: Option<Instant> = None;
        eventually("a planned failover", async || {
            // A failover that gets no votes in time is given up.
            if asked.is_none_or(|asked| asked.elapsed() > FAILOVER_LIMIT) {
                let failover = replica.try_ask::<()>(redis::cmd("CLUSTER").arg("FAILOVER")).await;
                asked = failover.map(|()| Instant::now()).or(asked);
            }
            replica.is_serving_master().await.then_some(())
        })
        .await;
        replica.was_elected();
    }

    /// The index of the master of the replica `node`. `None` until all nodes know both, and for a master.
    pub async fn master_of(&self, node: usize) -> Option<usize> {
        let id = &self.nodes[node].id;
        let master = self.nodes[node].view_of(id).await?.master;
        for node in &self.nodes {
            (node.view_of(id).await?.master == master).then_some(())?;
        }
        self.nodes.iter().position(|node| node.id == master)
    }

    /// Waits until the replica `node` has all that its master has acknowledged before the call.
    pub async fn replicates(&self, master: usize, node: usize) {
        let offset = async |node: usize, field: &str| -> Option<u64> {
            let replication: String = self.nodes[node].try_ask(redis::cmd("INFO").arg("replication")).await?;
            replication.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.parse().ok())
        };
        let acknowledged = offset(master, "master_repl_offset").await;
        eventually("a replica that has caught up", async || {
            (offset(node, "slave_repl_offset").await >= acknowledged).then_some(())
        })
        .await;
    }

    /// Waits until `node` is a master that serves slots.
    pub async fn becomes_master(&self, node: usize) {
        eventually("the promotion of a replica", async || self.nodes[node].is_serving_master().await.then_some(()))
            .await;
        self.nodes[node].was_elected();
    }

    /// Starts another master without slots and returns its index.
    pub async fn add_node(&mut self) -> usize {
        let node = Node::start(&self.arguments).await;
        self.nodes[0].meet(&node).await;
        self.nodes.push(node);
        let all: Vec<_> = (0..self.nodes.len()).collect();
        self.know_each_other(&all).await;
        self.works(&all).await;
        all.len() - 1
    }

    /// Has all other nodes forget `node`, which has no slots, and ends it.
    pub async fn remove_node(&mut self, node: usize) {
        let removed = self.nodes.remove(node);
        for node in &self.nodes {
            node.cluster::<()>(&["FORGET", &removed.id]).await;
        }
    }

    /// Waits until all nodes name the same master for each slot. A replica that takes over earlier takes slots that its
    /// master has given away.
    pub async fn agrees(&self) {
        eventually("nodes that agree", async || {
            let shares = self.nodes[0].shares().await;
            for node in &self.nodes {
                (node.shares().await == shares).then_some(())?;
            }
            shares.map(drop)
        })
        .await;
    }

    /// Waits until the nodes with these indices serve all slots, and the replicas among them follow their masters.
    pub async fn works(&self, nodes: &[usize]) {
        for &node in nodes {
            eventually("a cluster that works", async || {
                let node = &self.nodes[node];
                let replication: String = node.try_ask(redis::cmd("INFO").arg("replication")).await?;
                let follows = !replication.contains("role:slave") || replication.contains("master_link_status:up");
                (follows && node.is_ok().await).then_some(())
            })
            .await;
        }
    }

    async fn know_each_other(&self, nodes: &[usize]) {
        for &node in nodes {
            eventually("nodes that know each other", async || {
                let known: String = self.nodes[node].cluster(&["NODES"]).await;
                let all_are_known = known.lines().count() == self.nodes.len() && !known.contains("handshake");
                all_are_known.then_some(())
            })
            .await;
        }
    }
}

/// The slots of each master at the start.
fn shares() -> impl Iterator<Item = Range<u16>> {
    let masters = u16::try_from(Cluster::MASTERS).expect("there are few masters");
    let border = move |index: u16| u16::try_from(u32::from(SLOTS) * u32::from(index) / u32::from(masters));
    (0..masters).map(move |index| {
        let border = |index| border(index).expect("a slot has a number");
        border(index)..border(index + 1)
    })
}

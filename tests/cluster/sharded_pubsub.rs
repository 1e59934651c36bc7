//! `PubSubLayer` with sharded publish and subscribe on a cluster: partitions whose slots move, and nodes that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use channel_layer::health::Status;
use channel_layer::{ChannelLayer, Config, Error, Event, Fallback, Message, Mode, PubSubLayer, Receiver};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::tools::{LONG, all, slot_of};
use crate::pubsub::tools::{mode, next, number, numbered};
use crate::support::{Cluster, DEADLINE, NO_NODE_TIMEOUT, eventually, within};

/// How many channels and how many groups there are.
const NAMES: usize = 150;
/// How many calls to send are under way while something happens.
const SENDS_UNDER_WAY: usize = 3;

/// Two processes that read the same normal channels and have members in the same groups. The first one sends.
struct Site {
    own: Arc<PubSubLayer>,
    /// What the reader in the process of the sender got, and what the other one got.
    arrived: [Received; 2],
    number: AtomicI64,
    _reading: [JoinHandle<()>; 2],
}

/// The numbers that arrived, in their order, by name of the channel or group.
type Received = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

pub(super) fn config(cluster: &Cluster) -> Config {
    Config::new()
        .cluster(true)
        .sharded_pubsub(true)
        .hosts(cluster.urls(0..cluster.nodes.len()))
        .command_timeout(Duration::from_secs(5))
        .return_after(Duration::from_millis(200))
}

pub(super) async fn connect(config: Config) -> Arc<PubSubLayer> {
    Arc::new(within(DEADLINE, "a layer", PubSubLayer::connect(config)).await.unwrap())
}

fn channels() -> Vec<String> {
    (0..NAMES).map(|number| format!("news.{number}")).collect()
}

fn addressed(names: &[String], number: i64) -> Vec<(&str, Message)> {
    names.iter().map(|name| (name.as_str(), numbered(number))).collect()
}

fn groups() -> Vec<String> {
    (0..NAMES).map(|number| format!("room.{number}")).collect()
}

impl Site {
    async fn start(cluster: &Cluster) -> Self {
        Self::with(config(cluster)).await
    }

    async fn with(config: Config) -> Self {
        let (own, other) = (connect(config.clone()).await, connect(config).await);
        let arrived = [Received::default(), Received::default()];
        let mut reading = Vec::new();
        for ((layer, process), arrived) in [(&own, "own"), (&other, "other")].into_iter().zip(&arrived) {
            let mut names = channels();
            layer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
            let source = format!("{process}!");
            names.push(source.clone());
            let receiver = layer.receiver(&names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            for group in groups() {
                layer.group_add(&group, &format!("{source}{group}")).await.unwrap();
            }
            // The layer lives as long as its reader.
            reading.push(tokio::spawn(read(layer.clone(), receiver, source, arrived.clone())));
        }
        let reading = reading.try_into().expect("there are two readers");
        Self { own, arrived, number: AtomicI64::new(0), _reading: reading }
    }

    /// Sends the next number to all channels and groups.
    async fn send(&self) -> i64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (channels, groups) = (channels(), groups());
        let (to_channels, to_groups) = (addressed(&channels, number), addressed(&groups, number));
        let (sent, sent_to_groups) =
            tokio::join!(self.own.send_many(&to_channels), self.own.group_send_many(&to_groups));
        let failed: Vec<_> = sent.into_iter().chain(sent_to_groups).filter_map(Result::err).collect();
        assert!(failed.is_empty(), "{failed:?}");
        number
    }

    /// Sends until `work` is done and, after that, a number has reached both processes everywhere. Several sends are
    /// under way at any time.
    async fn send_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut under_way: FuturesUnordered<_> = (0..SENDS_UNDER_WAY).map(|_| self.send()).collect();
        let done = loop {
            tokio::select! {
                biased;
                Some(_) = under_way.next() => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    under_way.push(self.send());
                }
                done = &mut work => break done,
            }
        };
        while under_way.next().await.is_some() {}
        self.settle().await;
        done
    }

    /// Waits until messages reach both processes on all channels and groups.
    async fn settle(&self) {
        eventually("messages everywhere", async || {
            let number = self.send().await;
            let arrived = async {
                while !self.arrived.iter().all(|arrived| has(&arrived.lock(), number)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(1), arrived).await.ok()
        })
        .await;
    }

    /// Checks that no process got a message twice or out of order.
    #[track_caller]
    fn assert_in_order(&self) {
        for arrived in &self.arrived {
            for (name, numbers) in &*arrived.lock() {
                let disorder = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
                assert_eq!(disorder, None, "{name}: a message twice, or behind a later one");
            }
        }
    }

    /// The names on which one of the processes, 0 for that of the sender, missed messages, and how many each time.
    fn gaps(&self, process: usize) -> BTreeMap<String, Vec<i64>> {
        let gaps = |numbers: &Vec<i64>| -> Vec<i64> {
            let missed = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1);
            missed.filter(|missed| *missed > 0).collect()
        };
        let arrived = self.arrived[process].lock();
        let missed = arrived.iter().map(|(name, numbers)| (name.clone(), gaps(numbers)));
        missed.filter(|(_, gaps)| !gaps.is_empty()).collect()
    }
}

async fn read(_layer: Arc<PubSubLayer>, mut receiver: Receiver, source: String, arrived: Received) {
    while let Ok(delivery) = receiver.recv().await {
        let name = delivery.channel.as_str();
        let name = name.strip_prefix(&source).unwrap_or(name).to_owned();
        arrived.lock().entry(name).or_default().push(number(&delivery));
    }
}

fn has(arrived: &BTreeMap<String, Vec<i64>>, number: i64) -> bool {
    arrived.len() == 2 * NAMES && arrived.values().all(|numbers| numbers.last() >= Some(&number))
}

/// The names whose Redis channels are in one of `slots`.
async fn names_in(cluster: &Cluster, slots: &[u16]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for node in &cluster.nodes {
        let topics: Vec<String> = node.ask(redis::cmd("PUBSUB").arg("SHARDCHANNELS")).await;
        for topic in topics {
            let (tag, name) = topic.trim_start_matches('{').split_once('}').expect("a Redis channel has a tag");
            if slots.contains(&slot_of(tag)) {
                names.insert(name.rsplit("__").next().unwrap_or(name).to_owned());
            }
        }
    }
    names
}

/// The slots of the first `count` partitions of the first master.
fn partitions(count: u16) -> Vec<u16> {
    (0..count).map(|partition| partition * 128 + 64).collect()
}

async fn move_all(cluster: &Cluster, slots: &[u16], from: usize, to: usize) {
    for &slot in slots {
        cluster.move_slots(slot..slot + 1, from, to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_under_load_and_only_their_messages_to_other_processes_are_lost() {
    let cluster = Cluster::without_replicas().await;
    let site = Site::start(&cluster).await;
    let slots = partitions(8);
    let moved = names_in(&cluster, &slots).await;
    assert!(moved.len() > 5, "{moved:?}");
    site.settle().await;
    site.send_during(async {
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                move_all(&cluster, &slots, from, to).await;
            }
        }
    })
    .await;
    site.assert_in_order();
    assert_eq!(site.gaps(0), BTreeMap::new(), "messages to the process of the sender");
    let gaps = site.gaps(1);
    assert!(gaps.keys().all(|name| moved.contains(name)), "{gaps:?} are not all of {moved:?}");
    assert!(gaps.values().all(|gaps| gaps.len() <= 6), "{gaps:?}");
    assert!(site.own.status().iter().all(|status| status.stayed_local == 0), "{:?}", site.own.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stay_in_order_during_planned_failovers() {
    let cluster = Cluster::with(&NO_NODE_TIMEOUT, true).await;
    // A master holds messages back for 5 s if its replica gets no votes. One that returns from an outage would not be
    // used for longer than messages wait.
    let site = Site::with(config(&cluster).command_timeout(Duration::from_secs(15)).return_after(LONG)).await;
    let mut events = site.own.events();
    site.settle().await;
    site.send_during(async {
        for node in [3, 0, 4] {
            cluster.fail_over(node).await;
            cluster.works(&[node % Cluster::MASTERS, node % Cluster::MASTERS + Cluster::MASTERS]).await;
        }
    })
    .await;
    site.assert_in_order();
    // A master that becomes a replica ends all subscriptions before it publishes what it has held back meanwhile. That
    // is one batch, and the next one may be on its way.
    let own = site.gaps(0);
    let most = i64::try_from(2 * SENDS_UNDER_WAY).unwrap();
    assert!(own.values().all(|gaps| gaps.len() <= 3 && gaps.iter().all(|missed| *missed <= most)), "{own:?}");
    let gaps = site.gaps(1);
    assert!(gaps.values().all(|gaps| gaps.len() <= 3), "{gaps:?}");
    let is_outage = |event: &Event| matches!(event, Event::LocalOnly { .. } | Event::SubscriptionLost { .. });
    assert_eq!(all(&mut events).into_iter().find(is_outage), None);
    assert!(site.own.status().iter().all(|status| status.stayed_local == 0), "{:?}", site.own.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stay_in_the_process_until_a_killed_master_is_replaced() {
    let mut cluster = Cluster::start().await;
    let site = Site::start(&cluster).await;
    site.settle().await;
    cluster.nodes[0].server.stop();
    site.send_during(async {
        mode(&*site.own, Mode::LocalOnly).await;
        cluster.becomes_master(3).await;
        mode(&*site.own, Mode::Remote).await;
    })
    .await;
    site.assert_in_order();
    let stayed: Vec<_> = site.own.status().into_iter().filter(|status| status.stayed_local > 0).collect();
    assert_eq!(stayed.len(), 1, "only messages for the killed master stayed: {stayed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_use_a_node_that_is_added_and_leave_one_that_is_removed() {
    let mut cluster = Cluster::without_replicas().await;
    let site = Site::start(&cluster).await;
    let slots = partitions(8);
    let moved = names_in(&cluster, &slots).await;
    let added = cluster.add_node().await;
    site.send_during(move_all(&cluster, &slots, 0, added)).await;
    let numbers = |layer: &PubSubLayer| layer.status().iter().map(|status| status.shard).collect::<Vec<_>>();
    assert_eq!(numbers(&site.own), [0, 1, 2, 3]);
    let topics: Vec<String> = cluster.nodes[added].ask(redis::cmd("PUBSUB").arg("SHARDCHANNELS")).await;
    assert!(topics.len() >= moved.len(), "{topics:?}");
    let health = within(DEADLINE, "health", site.own.health()).await;
    assert_eq!((health.status, health.shards.len()), (Status::Healthy, 4), "{health:?}");
    // A node that is drained is forgotten, and is used again when it gets slots again.
    for expected in [&[0, 1, 2][..], &[0, 1, 2, 3], &[0, 1, 2]] {
        let (from, to) = if expected.len() == 4 { (1, added) } else { (added, 1) };
        site.send_during(move_all(&cluster, &slots, from, to)).await;
        eventually("the status of all shards", async || (numbers(&site.own) == expected).then_some(())).await;
    }
    cluster.remove_node(added).await;
    eventually("health without the removed node", async || {
        let health = site.own.health().await;
        (health.shards.len() == 3 && health.status == Status::Healthy && numbers(&site.own) == [0, 1, 2]).then_some(())
    })
    .await;
    assert_eq!(*site.own.mode().borrow(), Mode::Remote);
    site.settle().await;
    site.assert_in_order();
    assert_eq!(site.gaps(0), BTreeMap::new(), "messages to the process of the sender");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_and_go_while_their_slots_move() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster).expiry(Duration::from_secs(1))).await;
    let slots = partitions(8);
    let moving = async {
        for _ in 0..3 {
            for (from, to) in [(0, 1), (1, 0)] {
                move_all(&cluster, &slots, from, to).await;
            }
        }
    };
    let mut moving = std::pin::pin!(moving);
    let mut round = 0;
    loop {
        round += 1;
        let coming_and_going = async {
            let names: Vec<_> = (0..50).map(|number| format!("brief.{round}.{number}!")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            within(DEADLINE, "subscriptions", layer.subscribe(&names)).await.unwrap();
            for name in &names {
                layer.send(&format!("{name}x"), numbered(round)).await.unwrap();
                // A message to the own process arrives wherever its subscription is.
                let delivery = within(DEADLINE, "a message", layer.receive(&[name])).await.unwrap();
                assert_eq!(number(&delivery), round, "{name}");
            }
        };
        tokio::select! {
            biased;
            () = coming_and_going => {}
            () = &mut moving => break,
        }
    }
}

#[tokio::test]
async fn a_layer_starts_without_the_cluster_and_finds_it_later() {
    let mut cluster = Cluster::without_replicas().await;
    for node in &mut cluster.nodes {
        node.server.stop();
    }
    let layer = connect(config(&cluster)).await;
    let channels = channels();
    let mut receiver = layer.receiver(&channels.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let arrives = async |receiver: &mut Receiver| {
        layer.send_many(&addressed(&channels, 1)).await.into_iter().for_each(Result::unwrap);
        for _ in &channels {
            assert_eq!(next(receiver).await, 1);
        }
    };
    arrives(&mut receiver).await;
    assert_eq!(*layer.mode().borrow(), Mode::LocalOnly);
    for node in &mut cluster.nodes {
        node.server.start_again();
    }
    mode(&*layer, Mode::Remote).await;
    eventually("all shards", async || (layer.status().len() == Cluster::MASTERS).then_some(())).await;
    let other = connect(config(&cluster)).await;
    layer.subscribe(&channels.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    other.send_many(&addressed(&channels, 1)).await.into_iter().for_each(Result::unwrap);
    for _ in &channels {
        assert_eq!(next(&mut receiver).await, 1);
    }
}

#[tokio::test]
async fn without_a_fallback_calls_for_the_names_of_a_killed_master_fail() {
    let mut cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster).fallback(Fallback::Fail)).await;
    let channels = channels();
    let names: Vec<_> = channels.iter().map(String::as_str).collect();
    layer.subscribe(&names).await.unwrap();
    let lost = names_in(&cluster, &partitions(43)).await;
    assert!(!lost.is_empty() && lost.len() < NAMES, "{lost:?}");
    let mut receiver = layer.receiver(&names).unwrap();
    cluster.nodes[0].server.stop();
    mode(&*layer, Mode::Down).await;
    let outage = within(DEADLINE, "the outage", receiver.recv()).await.unwrap_err();
    assert!(matches!(outage, Error::Redis { .. }), "{outage:?}");
    let sent = layer.send_many(&addressed(&channels, 1)).await;
    let failed: BTreeSet<_> =
        channels.iter().zip(&sent).filter(|(_, sent)| sent.is_err()).map(|(name, _)| name).collect();
    assert_eq!(failed, lost.iter().collect());
    for _ in failed.len()..NAMES {
        assert_eq!(next(&mut receiver).await, 1);
    }
    cluster.nodes[0].server.start_again();
    mode(&*layer, Mode::Remote).await;
    layer.send_many(&addressed(&channels, 2)).await.into_iter().for_each(Result::unwrap);
    for _ in &channels {
        assert_eq!(next(&mut receiver).await, 2);
    }
}

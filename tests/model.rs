//! Random operations have the same results on every layer as on a small model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use channel_layer::{ChannelLayer, ChannelName, Config, Delivery, Error, MemoryLayer, RedisLayer, message};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, FileFailurePersistence, TestRunner};
use tokio::runtime::Builder;

use crate::support::{random_prefix, shared_servers};

const CAPACITY: usize = 3;
const CHANNELS: [&str; 9] = ["n.a", "n.b", "s?a", "s?b", "t?a", "p!a", "p!b", "p!c", "q!a"];
const SOURCES: [&str; 7] = ["n.a", "n.b", "s?a", "s?b", "t?a", "p!", "q!"];
const GROUPS: [&str; 2] = ["g", "h"];

#[derive(Clone, Debug)]
enum Operation {
    Send(&'static str),
    SendMany(Vec<&'static str>),
    Add(&'static str, &'static str),
    Discard(&'static str, &'static str),
    Members(&'static str),
    GroupSend(&'static str),
    Receive(Vec<&'static str>),
    Pending(&'static str),
    Flush,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (channel, group) = (|| select(&CHANNELS), || select(&GROUPS));
    prop_oneof![
        8 => channel().prop_map(Operation::Send),
        2 => vec(channel(), 0..6).prop_map(Operation::SendMany),
        5 => (group(), channel()).prop_map(|(group, channel)| Operation::Add(group, channel)),
        3 => (group(), channel()).prop_map(|(group, channel)| Operation::Discard(group, channel)),
        1 => group().prop_map(Operation::Members),
        6 => group().prop_map(Operation::GroupSend),
        10 => vec(select(&SOURCES), 1..4).prop_map(Operation::Receive),
        1 => channel().prop_map(Operation::Pending),
        1 => Just(Operation::Flush),
    ]
}

/// One entry of a channel: a message, and the channels that have yet to get it (several after a group send).
type Entry = (i64, BTreeSet<&'static str>);

/// A model of a channel layer without processes, time and encodings.
#[derive(Default)]
struct Model {
    /// By the non-local part of the channels' names.
    queues: BTreeMap<String, VecDeque<Entry>>,
    groups: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// The queues whose first message has been delivered to only some of the members of a group.
    halves: BTreeSet<String>,
}

impl Model {
    /// Returns whether there was room.
    fn push(&mut self, channel: &str, entry: Entry) -> bool {
        let queue = self.queues.entry(route(channel)).or_default();
        let has_room = queue.len() < CAPACITY;
        if has_room {
            queue.push_back(entry);
        }
        has_room
    }

    fn send(&mut self, channel: &'static str, number: i64) -> bool {
        self.push(channel, (number, BTreeSet::from([channel])))
    }

    fn group_send(&mut self, group: &str, number: i64) {
        let mut routes: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
        for member in self.groups.get(group).into_iter().flatten() {
            routes.entry(route(member)).or_default().insert(member);
        }
        for (route, members) in routes {
            self.push(&route, (number, members));
        }
    }

    fn members(&self, group: &str) -> Vec<&str> {
        self.groups.get(group).into_iter().flatten().copied().collect()
    }

    fn pending(&self, channel: &str) -> usize {
        self.queues.get(&route(channel)).map_or(0, VecDeque::len)
    }

    fn is_empty(&self, sources: &[&str]) -> bool {
        sources.iter().all(|source| self.pending(source) == 0)
    }

    /// Removes `delivery` from the head of its channel.
    fn take(&mut self, delivery: &Delivery) -> Result<(), TestCaseError> {
        let route = delivery.channel.non_local();
        let queue = self.queues.entry(route.to_owned()).or_default();
        let Some((number, members)) = queue.front_mut() else { return Err(fail(delivery, "nothing")) };
        if delivery.message != message! { "number": *number } || !members.remove(delivery.channel.as_str()) {
            return Err(fail(delivery, &format!("message {number} for {members:?}")));
        }
        if members.is_empty() {
            queue.pop_front();
            self.halves.remove(route);
        } else {
            self.halves.insert(route.to_owned());
        }
        Ok(())
    }
}

fn fail(delivery: &Delivery, expected: &str) -> TestCaseError {
    TestCaseError::fail(format!("received {delivery:?}, but at the head of that channel is {expected}"))
}

fn route(channel: &str) -> String {
    ChannelName::parse(channel).unwrap().non_local().to_owned()
}

/// The model and a layer, which get the same operations.
struct Both {
    model: Model,
    layer: Arc<dyn ChannelLayer>,
}

impl Both {
    async fn apply(&mut self, operation: &Operation, number: i64) -> Result<(), TestCaseError> {
        let message = message! { "number": number };
        match operation {
            Operation::Send(channel) => {
                let sent = was_sent(self.layer.send(channel, message).await)?;
                prop_assert_eq!(sent, self.model.send(channel, number));
            }
            Operation::SendMany(channels) => {
                let batch: Vec<_> = channels.iter().map(|channel| (*channel, message.clone())).collect();
                let results = self.layer.send_many(&batch).await;
                prop_assert_eq!(results.len(), channels.len());
                for (channel, result) in channels.iter().zip(results) {
                    prop_assert_eq!(was_sent(result)?, self.model.send(channel, number), "on {}", channel);
                }
            }
            Operation::Add(group, channel) => {
                self.layer.group_add(group, channel).await?;
                self.model.groups.entry(group).or_default().insert(channel);
            }
            Operation::Discard(group, channel) => {
                self.layer.group_discard(group, channel).await?;
                self.model.groups.entry(group).or_default().remove(channel);
            }
            Operation::Members(group) => {
                let mut members = self.layer.group_channels(group).await?;
                members.sort();
                prop_assert_eq!(members, self.model.members(group));
            }
            Operation::GroupSend(group) => {
                self.layer.group_send(group, message).await?;
                self.model.group_send(group, number);
            }
            Operation::Receive(sources) => self.receive(sources).await?,
            Operation::Pending(channel) => {
                let statistics = self.layer.channel_statistics(channel).await?;
                prop_assert_eq!(statistics.messages_pending, self.model.pending(channel) as u64);
            }
            Operation::Flush => {
                self.layer.flush().await?;
                self.model = Model::default();
            }
        }
        Ok(())
    }

    /// Receives one message. Continues while half of a group message is left, because the room that the rest takes
    /// differs between layers.
    async fn receive(&mut self, sources: &[&str]) -> Result<(), TestCaseError> {
        loop {
            let Some(delivery) = self.layer.try_receive(sources).await? else {
                prop_assert!(self.model.is_empty(sources), "nothing was received, but the model has a message");
                return Ok(());
            };
            let route = delivery.channel.non_local();
            prop_assert!(sources.contains(&route), "{} was received from {:?}", delivery.channel, sources);
            self.model.take(&delivery)?;
            if self.model.halves.is_empty() {
                return Ok(());
            }
        }
    }
}

fn was_sent(result: channel_layer::Result<()>) -> Result<bool, TestCaseError> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::ChannelFull { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Runs `cases` random sequences of operations, each on a new layer from `start`.
fn compare(cases: u32, start: impl AsyncFn(Config) -> Arc<dyn ChannelLayer>) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Without the macro of proptest, the file for failed seeds must be named. Failed seeds run first from then on, and
    // belong in the repository.
    let failures = FileFailurePersistence::Direct("tests/model.proptest-regressions");
    let config = test_runner::Config {
        cases,
        failure_persistence: Some(Box::new(failures)),
        source_file: Some(file!()),
        ..Default::default()
    };
    let result = TestRunner::new(config).run(&vec(operation(), 1..80), |operations| {
        runtime.block_on(async {
            let layer = start(Config::new().capacity(CAPACITY).max_message_size(1 << 19)).await;
            let mut both = Both { model: Model::default(), layer };
            for (number, operation) in (0..).zip(&operations) {
                both.apply(operation, number).await?;
            }
            // The remaining messages have to agree as well.
            while !both.model.is_empty(&SOURCES) {
                both.receive(&SOURCES).await?;
            }
            both.receive(&SOURCES).await
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn the_memory_layer_behaves_like_the_model() {
    compare(1000, async |config| Arc::new(MemoryLayer::with_config(&config).unwrap()) as Arc<_>);
}

#[test]
fn the_redis_layer_behaves_like_the_model() {
    compare(200, async |config| {
        let prefix = random_prefix();
        let config = config.hosts([shared_servers()[0].url()]).stats_prefix(format!("{prefix}-meta:")).prefix(prefix);
        Arc::new(RedisLayer::connect(config).await.unwrap()) as Arc<_>
    });
}

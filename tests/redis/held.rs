//! Group messages that are read while the server of their group is unreachable. They wait for the server, and newer
//! messages wait behind them for a limited time.

use std::time::Duration;

use channel_layer::{Bytes, ChannelLayer, Config, Error, Event, Receiver, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;
use tokio::runtime::Builder;

use super::tools::{Layer, Site, connect, entries, event, number, numbered, take};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, within};

/// A group on the first of three servers, with a member on the second one.
struct Apart {
    servers: [RedisServer; 3],
    site: Site,
    layer: Layer,
    group: String,
    /// A group with the same member on the third server.
    other_group: String,
    /// The channel that the member's process reads.
    source: String,
    /// Another channel on the same server.
    other_source: String,
}

impl Apart {
    async fn start(configure: impl FnOnce(Config) -> Config) -> Self {
        let servers = [RedisServer::durable(), RedisServer::start(), RedisServer::durable()];
        let site = Site::on(&servers);
        let layer = connect(configure(site.config())).await;

        let (mut groups, mut others, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0.. {
            let (name, local) = (format!("name{n}"), format!("name{n}!"));
            layer.group_add(&name, "probe").await.unwrap();
            for (server, names) in [(&servers[0], &mut groups), (&servers[2], &mut others)] {
                if server.connection().await.exists(site.key(&format!("group:{{{name}}}"))).await.unwrap() {
                    names.push(name.clone());
                }
            }
            layer.send(&format!("{local}a"), numbered(0)).await.unwrap();
            if servers[1].connection().await.exists(site.list(&local)).await.unwrap() {
                sources.push(local.clone());
            }
            take(&layer, &local).await;
            if !groups.is_empty() && !others.is_empty() && sources.len() > 1 {
                break;
            }
        }
        let (group, other_group) = (groups.remove(0), others.remove(0));
        let (source, other_source) = (sources.remove(0), sources.remove(0));
        for group in [&group, &other_group] {
            layer.group_add(group, &format!("{source}a")).await.unwrap();
        }
        Self { servers, site, layer, group, other_group, source, other_source }
    }

    fn member(&self) -> String {
        format!("{}a", self.source)
    }

    /// The entries in the list of the member's process.
    async fn waiting(&self) -> Vec<Vec<u8>> {
        entries(&mut self.servers[1].connection().await, &self.site.list(&self.source)).await
    }

    async fn send_to_group(&self, number: i64) {
        self.layer.group_send(&self.group, numbered(number)).await.unwrap();
    }

    async fn send_to_member(&self, number: i64) {
        self.layer.send(&self.member(), numbered(number)).await.unwrap();
    }

    /// Stops the server of the group.
    async fn lose_group(&mut self) {
        self.lose(0).await;
    }

    async fn lose(&mut self, lost: usize) {
        let mut events = self.layer.events();
        self.servers[lost].stop();
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard, .. } if *shard == lost))
            .await;
    }

    /// Waits until the layer is connected to a server again.
    async fn restart(&mut self, lost: usize) {
        let mut events = self.layer.events();
        self.servers[lost].restart();
        event(&mut events, "the server", |event| matches!(event, Event::ShardUp { shard } if *shard == lost)).await;
    }

    async fn receives(&self, receiver: &mut Receiver, expected: i64) {
        let delivery = within(DEADLINE, &format!("message {expected}"), receiver.recv()).await.unwrap();
        assert_eq!((number(&delivery), delivery.channel.as_str()), (expected, &*self.member()));
    }
}

#[tokio::test]
async fn messages_of_a_channel_wait_behind_a_held_group_message() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    for n in 2..20 {
        apart.send_to_member(n).await;
    }
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    let passed = tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await;
    assert!(passed.is_err(), "{passed:?}");
    apart.servers[0].restart();
    for n in 1..20 {
        apart.receives(&mut receiver, n).await;
    }
}

#[tokio::test]
async fn a_put_back_keeps_the_order_around_a_held_group_message() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_member(1).await;
    apart.send_to_member(2).await;
    apart.send_to_group(3).await;
    apart.send_to_member(4).await;
    let sent = apart.waiting().await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.receives(&mut receiver, 1).await;
    eventually("that all are read", async || apart.waiting().await.is_empty().then_some(())).await;
    within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
    assert_eq!(apart.waiting().await, sent[1..]);
}

#[tokio::test]
async fn other_messages_pass_a_message_whose_group_stays_unreachable() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.send_to_member(2).await;
    apart.send_to_group(3).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.receives(&mut receiver, 2).await;
    for n in 4..10 {
        apart.send_to_member(n).await;
        apart.receives(&mut receiver, n).await;
    }
    // While a consumer waits and the group is unreachable, nothing is put back and nothing arrives.
    let waiting = tokio::spawn(async move {
        let first = receiver.recv().await;
        (first, receiver)
    });
    apart.servers[0].restart();
    let (first, mut receiver) = within(DEADLINE, "the first message of the group", waiting).await.unwrap();
    assert_eq!(number(&first.unwrap()), 1);
    apart.receives(&mut receiver, 3).await;
    apart.send_to_group(10).await;
    apart.receives(&mut receiver, 10).await;
}

#[tokio::test]
async fn other_messages_pass_though_held_ones_are_put_back_and_read_again_meanwhile() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.send_to_member(2).await;
    let sent = apart.waiting().await;
    apart.lose_group().await;
    let passed = async {
        loop {
            let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
            // Less than the time for which newer messages wait.
            if let Ok(delivery) = tokio::time::timeout(Duration::from_secs(2), receiver.recv()).await {
                return delivery.unwrap();
            }
            within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
            assert_eq!(apart.waiting().await, sent);
        }
    };
    let delivery = within(DEADLINE, "the message of the member", passed).await;
    assert_eq!(number(&delivery), 2);
}

#[tokio::test]
async fn a_message_waits_for_each_group_whose_server_was_just_lost() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.send_to_member(2).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    // From now on, messages pass the first one.
    apart.receives(&mut receiver, 2).await;
    apart.layer.group_send(&apart.other_group, numbered(3)).await.unwrap();
    apart.send_to_member(4).await;
    apart.lose(2).await;
    let passed = tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await;
    assert!(passed.is_err(), "{passed:?}");
    apart.restart(2).await;
    apart.receives(&mut receiver, 3).await;
    apart.receives(&mut receiver, 4).await;
    apart.restart(0).await;
    apart.receives(&mut receiver, 1).await;
}

#[tokio::test]
async fn other_channels_of_the_reader_go_on_beside_a_held_message() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.send_to_member(2).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source, &apart.other_source]).unwrap();
    let other = format!("{}a", apart.other_source);
    for n in 10..20 {
        apart.layer.send(&other, numbered(n)).await.unwrap();
        let delivery = within(DEADLINE, "a message of the other channel", receiver.recv()).await.unwrap();
        assert_eq!((number(&delivery), delivery.channel.as_str()), (n, &*other));
    }
    // While the reader waits for the other channel alone, the blocked one becomes free.
    let waiting = tokio::spawn(async move {
        let mut numbers = Vec::new();
        while numbers.len() < 3 {
            numbers.push(receiver.recv().await.map(|delivery| number(&delivery)));
        }
        numbers.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    apart.restart(0).await;
    apart.send_to_member(3).await;
    let numbers = within(DEADLINE / 2, "the messages of the blocked channel", waiting).await.unwrap();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn messages_of_one_group_keep_their_order() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.send_to_member(0).await;
    apart.receives(&mut receiver, 0).await;
    let mut events = apart.layer.events();
    apart.servers[0].restart();
    event(&mut events, "the group's server", |event| matches!(event, Event::ShardUp { shard: 0 })).await;
    for n in 2..20 {
        apart.send_to_group(n).await;
    }
    for n in 1..20 {
        apart.receives(&mut receiver, n).await;
    }
}

#[tokio::test]
async fn held_messages_are_put_back_when_no_consumer_waits_or_the_reader_ends() {
    for ends in [false, true] {
        let mut apart = Apart::start(|config| config).await;
        apart.send_to_group(1).await;
        let sent = apart.waiting().await;
        apart.send_to_member(2).await;
        apart.lose_group().await;
        let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
        apart.receives(&mut receiver, 2).await;
        assert_eq!(apart.waiting().await.len(), 0);
        if ends {
            within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
        }
        eventually("the message in its channel", async || (apart.waiting().await == sent).then_some(())).await;
        apart.servers[0].restart();
        let delivery = take(&apart.layer, &apart.source).await;
        assert_eq!((number(&delivery), delivery.channel.as_str()), (1, &*apart.member()));
    }
}

#[tokio::test]
async fn the_next_owner_of_the_channel_gets_held_messages() {
    let mut apart = Apart::start(|config| config).await;
    apart.send_to_group(1).await;
    apart.send_to_member(2).await;
    apart.lose_group().await;
    let mut first = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.receives(&mut first, 2).await;
    let mut second = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.send_to_member(3).await;
    apart.receives(&mut second, 3).await;
    apart.servers[0].restart();
    apart.receives(&mut second, 1).await;
}

#[tokio::test]
async fn held_messages_that_expire_are_counted_as_expired() {
    let mut apart = Apart::start(|config| config.expiry(Duration::from_secs(2))).await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    apart.send_to_group(1).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    let waits = async { while receiver.recv().await.is_err() {} };
    let counted = eventually("that it has expired", async || (counts.dropped("expired") == 1).then_some(()));
    tokio::select! {
        () = counted => {}
        () = waits => panic!("an expired message was delivered"),
    }
}

#[tokio::test]
async fn held_messages_are_bounded_and_dropped_ones_are_counted() {
    const SENT: u64 = 40;
    const SIZE: usize = 500_000;
    let mut apart = Apart::start(|config| config.max_message_size(1 << 20)).await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    for n in 0..SENT {
        let n = i64::try_from(n).unwrap();
        let large = message! { "number": n, "bytes": Bytes::from(vec![0; SIZE]) };
        apart.layer.group_send(&apart.group, large).await.unwrap();
    }
    apart.send_to_member(100).await;
    apart.lose_group().await;
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    apart.receives(&mut receiver, 100).await;
    let dropped = counts.dropped("shard_down");
    let kept = SENT - dropped;
    let bytes = usize::try_from(kept).unwrap() * SIZE;
    assert!(((16 << 20) - 2 * SIZE..=16 << 20).contains(&bytes), "{kept} are held");
    let waiting = tokio::spawn(async move {
        for n in 0..i64::try_from(kept).unwrap() {
            assert_eq!(number(&receiver.recv().await.unwrap()), n);
        }
    });
    apart.servers[0].restart();
    within(DEADLINE, "all that were kept", waiting).await.unwrap();
}

#[test]
fn messages_whose_members_are_looked_up_when_the_runtime_ends_are_reported_as_lost() {
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ended, other) = (runtime(), runtime());
    let mut apart = ended.block_on(Apart::start(|config| config));
    ended.block_on(async {
        apart.send_to_group(1).await;
        apart.send_to_member(2).await;
    });
    apart.servers[0].freeze();
    let mut events = apart.layer.events();
    let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
    let closed = other.block_on(async {
        let read = tokio::time::timeout(DEADLINE, async {
            tokio::select! {
                delivery = receiver.recv() => panic!("it waits for the members: {delivery:?}"),
                () = eventually("that both are read", async || apart.waiting().await.is_empty().then_some(())) => {}
            }
        });
        read.await.unwrap();
        ended.shutdown_background();
        within(DEADLINE, "the end of the receiver", receiver.close()).await
    });
    // If the runtime ended before the answer of the read arrived, the loss is an interrupted read.
    let announced = std::iter::from_fn(|| events.try_recv().ok())
        .any(|event| matches!(event, Event::ReadInterrupted { shard: 1, .. }));
    let is_lost = matches!(closed, Err(Error::Redis { shard: 1, .. }));
    assert!(is_lost || announced, "two messages are lost: {closed:?}");
}

#[tokio::test]
async fn closing_puts_held_messages_back_in_order() {
    for closes_the_layer in [false, true] {
        let mut apart = Apart::start(|config| config).await;
        apart.send_to_group(1).await;
        apart.send_to_member(2).await;
        let sent = apart.waiting().await;
        apart.lose_group().await;
        let mut receiver = apart.layer.receiver(&[&apart.source]).unwrap();
        // The reader has taken both messages, and holds the first one.
        let read = tokio::time::timeout(Duration::from_millis(200), receiver.recv()).await;
        assert!(read.is_err(), "{read:?}");
        let left = apart.waiting().await;
        assert!(left.is_empty(), "{} entries have not been taken", left.len());
        if closes_the_layer {
            within(DEADLINE, "the end of closing", apart.layer.close()).await.unwrap();
        } else {
            within(DEADLINE, "the end of the receiver", receiver.close()).await.unwrap();
        }
        assert_eq!(apart.waiting().await, sent);
    }
}

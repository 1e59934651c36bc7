//! Group messages that are read while the server of their group is unreachable. They wait for the server, and newer messages wait
//! behind them for a limited time.

use std::time::Duration;

use channel_layer::{Bytes, ChannelLayer, Config, Event, Receiver, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::tools::{Layer, Site, connect, entries, event, number, numbered, take};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, within};

/// A group on the first of two servers, with a member on the second one.
struct Apart {
    servers: [RedisServer; 2],
    site: Site,
    layer: Layer,
    group: String,
    /// The channel that the member's process reads.
    source: String,
}

impl Apart {
    async fn start(configure: impl FnOnce(Config) -> Config) -> Self {
        let servers = [RedisServer::durable(), RedisServer::start()];
        let site = Site::on(&servers);
        let layer = connect(configure(site.config().command_timeout(Duration::from_millis(500)))).await;

        let (mut group, mut process) = (None, None);
        for n in 0.. {
            let (name, local) = (format!("name{n}"), format!("name{n}!"));
            layer.group_add(&name, "probe").await.unwrap();
            if servers[0].connection().await.exists(site.key(&format!("group:{{{name}}}"))).await.unwrap() {
                group = Some(name);
            }
            layer.send(&format!("{local}a"), numbered(0)).await.unwrap();
            if servers[1].connection().await.exists(site.list(&local)).await.unwrap() {
                process = Some(local.clone());
            }
            take(&layer, &local).await;
            if group.is_some() && process.is_some() {
                break;
            }
        }
        let (group, source) = (group.unwrap(), process.unwrap());
        layer.group_add(&group, &format!("{source}a")).await.unwrap();
        Self { servers, site, layer, group, source }
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
        let mut events = self.layer.events();
        self.servers[0].stop();
        event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
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

//! Three servers as one: capacity, order, and the outage of one server.

use std::time::Duration;

use channel_layer::{CapacityRule, ChannelLayer, Error, Event, Format};
use redis::AsyncCommands;

use super::restarts::wait_for_blocked;
use super::tools::{Layer, Site, ask, connect, event, number, numbered, take, take_number, take_numbers};
use crate::support::{DEADLINE, Proxy, RedisServer, interrupted, shared_servers, stored_formats, within};

async fn start() -> (Site, Layer) {
    let site = Site::on(shared_servers());
    let layer = connect(site.config()).await;
    (site, layer)
}

#[tokio::test]
async fn the_capacity_of_a_normal_channel_is_exact_in_total() {
    let site = Site::on(shared_servers());
    for capacity in [1, 2, 3, 4, 10, 100] {
        let name = format!("n{capacity}");
        let config = || site.config().channel_capacity(CapacityRule::glob(&name, capacity));
        let layers = [connect(config()).await, connect(config()).await];
        let mut sent = 0;
        for n in 0..capacity + 10 {
            match layers[n % 2].send(&name, numbered(0)).await {
                Ok(()) => sent += 1,
                Err(Error::ChannelFull { channel }) => assert_eq!(channel, name.as_str()),
                Err(other) => panic!("{other:?}"),
            }
            assert_eq!(sent, (n + 1).min(capacity));
        }
        take(&layers[0], &name).await;
        layers[1].send(&name, numbered(0)).await.unwrap();
        assert!(layers[0].send(&name, numbered(0)).await.is_err());
        let many: Vec<_> = (0..capacity + 7).map(|_| (name.as_str(), numbered(0))).collect();
        assert_eq!(take_numbers(&layers[1], &name).await.len(), capacity);
        let accepted = layers[0].send_many(&many).await.iter().filter(|result| result.is_ok()).count();
        assert_eq!(accepted, capacity);
        let statistics = layers[0].channel_statistics(&name).await.unwrap();
        assert_eq!(statistics.messages_pending, u64::try_from(capacity).unwrap());
    }
}

#[tokio::test]
async fn a_refusal_counts_once_whatever_the_number_of_servers() {
    let (site, layer) = start().await;
    let narrow = connect(site.config().capacity(3)).await;
    for n in 0..5 {
        assert_eq!(narrow.send("n", numbered(n)).await.is_ok(), n < 3);
    }
    for statistics in [narrow.channel_statistics("n").await.unwrap(), layer.global_statistics().await.unwrap()] {
        assert_eq!((statistics.messages_count, statistics.channel_full_count), (3, 2));
    }
}

#[tokio::test]
async fn a_refusal_is_final_if_no_other_server_was_up_when_the_message_was_sent() {
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let proxy = Proxy::before(&servers[0].url()).await;
    let layer = connect(Site::at([proxy.url(), servers[1].url()]).config().capacity(2)).await;
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the loss of a shard", |event| matches!(event, Event::ShardDown { shard: 1, .. })).await;
    layer.send("n", numbered(0)).await.unwrap();
    proxy.stall();
    // One of them would go to the other server first.
    let messages = [("n", numbered(1)), ("n", numbered(2))];
    let mut refused = layer.send_many(&messages);
    assert!(interrupted(1, DEADLINE, &mut refused).await.is_none(), "the answer is held");
    servers[1].start_again();
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 1 }).await;
    proxy.resume();
    let refused = within(DEADLINE, "the answer", refused).await;
    assert!(refused.iter().all(|sent| matches!(sent, Err(Error::ChannelFull { .. }))), "{refused:?}");
    assert_eq!(layer.channel_statistics("n").await.unwrap().channel_full_count, 2);
}

#[tokio::test]
async fn a_message_goes_to_another_server_if_its_key_holds_no_messages_on_one() {
    let servers = shared_servers();
    for format in stored_formats() {
        let site = Site::on(servers);
        let layer = channel_layer::connect(site.config().format(format)).await.unwrap();
        let key = |name| if format == Format::Native { site.list(name) } else { format!("{}{name}", site.prefix) };
        let () = servers[0].connection().await.set(key("n"), "no messages").await.unwrap();
        // The native format sends large messages by another script.
        let sizes = [1, 1 << 16];
        for (at, size) in (0..12).zip(sizes.into_iter().cycle()) {
            let message = numbered(at).with("padding", "x".repeat(size));
            layer.send("n", message).await.unwrap();
        }
        let () = servers[0].connection().await.del(key("n")).await.unwrap();
        let mut numbers = Vec::new();
        for _ in 0..12 {
            numbers.push(number(&within(DEADLINE, "a message", layer.receive(&["n"])).await.unwrap()));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..12).collect::<Vec<_>>(), "{format:?}");
        for server in servers {
            let () = server.connection().await.set(key("p?a"), "no messages").await.unwrap();
        }
        for size in sizes {
            let sent = layer.send("p?a", numbered(0).with("padding", "x".repeat(size))).await;
            let refused = matches!(&sent, Err(error @ Error::Redis { .. }) if !error.may_have_run());
            assert!(refused, "{format:?}: {sent:?}");
        }
    }
}

#[tokio::test]
async fn a_send_whose_last_server_fails_is_not_counted_as_a_refusal() {
    let servers = [RedisServer::start(), RedisServer::start()];
    let layer = connect(Site::on(&servers).config().capacity(2)).await;
    let () = ask(&mut servers[1].connection().await, redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"])).await;
    layer.send("n", numbered(0)).await.unwrap();
    let (mut refused, mut failed) = (0, 0);
    for n in 1..5 {
        match layer.send("n", numbered(n)).await {
            Err(Error::ChannelFull { .. }) => refused += 1,
            Err(error @ Error::Redis { shard: 1, .. }) if !error.may_have_run() => failed += 1,
            sent => panic!("{sent:?}"),
        }
    }
    assert_eq!((refused, failed), (2, 2));
    assert_eq!(layer.channel_statistics("n").await.unwrap().channel_full_count, refused);
}

#[tokio::test]
async fn requeued_messages_leave_the_capacity_for_messages_of_the_same_batch_unchanged() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().capacity(2)).await;
    for n in 0..2 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    let (back, more) = ([("n", numbered(2))], [("n", numbered(3)), ("n", numbered(4))]);
    // All wait for the first, which is in flight, and are sent in one batch.
    let (first, back, more) = tokio::join!(layer.send("n", numbered(9)), layer.requeue(&back), layer.send_many(&more));
    assert!(matches!(first, Err(Error::ChannelFull { .. })), "{first:?}");
    assert!(back[0].is_ok(), "{back:?}");
    assert!(more.iter().all(|sent| matches!(sent, Err(Error::ChannelFull { .. }))), "{more:?}");
    assert_eq!(take_numbers(&layer, "n").await, [0, 1, 2]);
}

#[tokio::test]
async fn a_pinned_channel_has_its_whole_capacity_on_one_shard() {
    let site = Site::on(shared_servers());
    let layer = connect(site.config().capacity(10)).await;
    for channel in ["s?a", "s?b", "l!a", "k!a"] {
        for n in 0..10 {
            layer.send(channel, numbered(n)).await.unwrap();
        }
        assert!(matches!(layer.send(channel, numbered(10)).await, Err(Error::ChannelFull { .. })), "{channel}");
    }
}

#[tokio::test]
async fn pinned_channels_keep_their_order_on_every_shard() {
    let (site, layer) = start().await;
    let mut sources = site.pinned_channels(&layer, shared_servers()).await;
    let mut channels = sources.clone();
    for n in 0..6 {
        sources.push(format!("local{n}!"));
        channels.push(format!("local{n}!a"));
        layer.group_add("g", &channels[n + 3]).await.unwrap();
    }
    for n in 0..50 {
        for channel in &channels {
            layer.send(channel, numbered(2 * n)).await.unwrap();
        }
        layer.group_send("g", numbered(2 * n + 1)).await.unwrap();
    }
    for (place, source) in sources.iter().enumerate() {
        let expected: Vec<_> = if place < 3 { (0..50).map(|n| 2 * n).collect() } else { (0..100).collect() };
        let mut receiver = layer.receiver(&[source]).unwrap();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.push(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()));
        }
        assert_eq!(got, expected, "{source}");
    }
}

#[tokio::test]
async fn a_normal_channel_is_spread_over_all_shards() {
    let (site, layer) = start().await;
    for n in 0..9 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    for server in shared_servers() {
        let length: i64 = server.connection().await.llen(site.list("n")).await.unwrap();
        assert_eq!(length, 3);
    }
}

#[tokio::test]
async fn closing_puts_back_to_every_shard_and_the_rest_of_a_group_message() {
    let (site, layer) = start().await;
    let pinned = site.pinned_channels(&layer, shared_servers()).await;
    let closing = connect(site.config()).await;
    let members = ["proc!a", "proc!b", "proc!c", "proc!d", "proc!e"];
    for member in members {
        layer.group_add("g", member).await.unwrap();
    }
    layer.send("proc!a", numbered(0)).await.unwrap();
    layer.group_send("g", numbered(1)).await.unwrap();
    layer.send("proc!a", numbered(2)).await.unwrap();
    for n in 0..30 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    for channel in &pinned {
        for n in 0..10 {
            layer.send(channel, numbered(n)).await.unwrap();
        }
    }
    // Each reader delivers a part of the messages that it has read.
    let mut local = closing.receiver(&["proc!"]).unwrap();
    let mut got = Vec::new();
    for _ in 0..3 {
        let delivery = within(DEADLINE, "a message", local.recv()).await.unwrap();
        got.push((number(&delivery), delivery.channel.to_string()));
    }
    let mut normal = closing.receiver(&["n"]).unwrap();
    let mut normals = Vec::new();
    within(DEADLINE, "messages", normal.recv_many(&mut normals, 5)).await.unwrap();
    let mut normals: Vec<_> = normals.iter().map(number).collect();
    let mut readers = Vec::new();
    for channel in &pinned {
        let mut receiver = closing.receiver(&[channel]).unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), 0);
        readers.push(receiver);
    }
    within(DEADLINE, "the end of closing", closing.close()).await.unwrap();
    for _ in 3..7 {
        let delivery = take(&layer, "proc!").await;
        got.push((number(&delivery), delivery.channel.to_string()));
    }
    assert_eq!(got[0], (0, "proc!a".into()));
    assert_eq!(got[6], (2, "proc!a".into()));
    let mut of_group = got[1..6].to_vec();
    of_group.sort();
    assert_eq!(of_group, members.map(|member| (1, member.to_owned())));
    normals.extend(take_numbers(&layer, "n").await);
    normals.sort_unstable();
    assert_eq!(normals, (0..30).collect::<Vec<_>>());
    for channel in &pinned {
        assert_eq!(take_numbers(&layer, channel).await, (1..10).collect::<Vec<_>>());
    }
    assert!(layer.try_receive(&["proc!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_group_message_put_back_in_part_again_and_again_reaches_each_member_once() {
    let (site, layer) = start().await;
    let mut members: Vec<_> = (0..20).map(|n| format!("proc!member{n:02}")).collect();
    for member in &members {
        layer.group_add("g", member).await.unwrap();
    }
    layer.group_send("g", numbered(1)).await.unwrap();
    // A channel that leaves or joins now does not change the recipients.
    layer.group_discard("g", &members[19]).await.unwrap();
    layer.group_add("g", "proc!late").await.unwrap();
    let mut got = Vec::new();
    for _ in 0..members.len() {
        let other = connect(site.config()).await;
        let mut receiver = other.receiver(&["proc!"]).unwrap();
        got.push(within(DEADLINE, "a message", receiver.recv()).await.unwrap().channel.to_string());
        other.close().await.unwrap();
    }
    got.sort();
    members.sort();
    assert_eq!(got, members);
    assert!(layer.try_receive(&["proc!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_killed_shard_affects_only_its_own_channels() {
    let mut servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = connect(site.config().command_timeout(Duration::from_millis(500))).await;
    let pinned = site.pinned_channels(&layer, &servers).await;
    let mut events = layer.events();
    let mut there = layer.receiver(&[&pinned[0]]).unwrap();
    let there = tokio::spawn(async move { (there.recv().await, there) });
    let mut normal = layer.receiver(&["n"]).unwrap();
    layer.send("n", numbered(-1)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", normal.recv()).await.unwrap()), -1);
    servers[0].stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;

    for n in 0..30 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    let mut got = Vec::new();
    while got.len() < 30 {
        got.push(number(&within(DEADLINE, "a message", normal.recv()).await.unwrap()));
    }
    got.sort_unstable();
    assert_eq!(got, (0..30).collect::<Vec<_>>());
    for channel in &pinned[1..] {
        layer.send(channel, numbered(1)).await.unwrap();
        assert_eq!(take_number(&layer, channel).await, 1);
    }
    let sent = within(Duration::from_secs(5), "a refusal", layer.send(&pinned[0], numbered(1))).await;
    assert!(matches!(&sent, Err(error @ Error::Redis { shard: 0, .. }) if error.is_transient()), "{sent:?}");

    let (outage, mut there) = within(DEADLINE, "the error", there).await.unwrap();
    assert!(matches!(outage, Err(Error::Redis { shard: 0, .. })), "{outage:?}");
    let again = tokio::time::timeout(Duration::from_secs(2), there.recv()).await;
    assert!(again.is_err(), "the outage was reported twice: {again:?}");
    servers[0].start_again();
    event(&mut events, "the end of the outage", |event| *event == Event::ShardUp { shard: 0 }).await;
    layer.send(&pinned[0], numbered(2)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", there.recv()).await.unwrap()), 2);
}

#[tokio::test]
async fn one_shot_receives_of_normal_channels_survive_a_killed_shard() {
    let mut servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = site.layer().await;
    let reader = layer.clone();
    let waiting = tokio::spawn(async move { reader.receive(&["n"]).await });
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the outage", |event| matches!(event, Event::ShardDown { shard: 1, .. })).await;
    layer.send("n", numbered(0)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", waiting).await.unwrap().unwrap()), 0);
    for n in 1..10 {
        layer.send("n", numbered(n)).await.unwrap();
        assert_eq!(take_number(&layer, "n").await, n);
    }
    assert!(layer.try_receive(&["n"]).await.unwrap().is_none());
}

#[tokio::test]
async fn normal_channels_are_read_while_the_shard_of_another_channel_is_down() {
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let layer = site.layer().await;
    let pinned = site.pinned_channels(&layer, &servers).await.remove(1);
    let mut events = layer.events();
    servers[1].stop();
    event(&mut events, "the loss of a shard", |event| matches!(event, Event::ShardDown { shard: 1, .. })).await;
    for n in 0..40 {
        layer.send("normal", numbered(n)).await.unwrap();
    }
    let sources = ["normal", pinned.as_str()];
    let (mut taken, mut outages) = (Vec::new(), 0);
    while taken.len() < 40 {
        match within(DEADLINE, "a message of the shard that is up", layer.receive(&sources)).await {
            Ok(delivery) => taken.push(number(&delivery)),
            Err(Error::Redis { shard: 1, .. }) => outages += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(outages < 10, "{outages} calls reported the outage, and {} returned a message", taken.len());
    }
    assert!(taken.is_sorted());
}

#[tokio::test]
async fn a_channel_whose_only_shard_is_down_is_not_called_full() {
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let layer = connect(Site::on(&servers).config().capacity(1)).await;
    let mut events = layer.events();
    // All of a capacity of 1 lies on the first shard.
    servers[0].stop();
    event(&mut events, "the loss of a shard", |event| matches!(event, Event::ShardDown { shard: 0, .. })).await;
    let refused = layer.send("normal", numbered(0)).await;
    assert!(matches!(refused, Err(Error::Redis { shard: 0, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_half_open_connection_to_one_server_does_not_delay_the_others() {
    let servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let proxy = Proxy::before(&servers[1].url()).await;
    let site = Site::at([servers[0].url(), proxy.url(), servers[2].url()]);
    let layer = site.layer().await;
    let direct = connect(site.config().hosts([servers[0].url(), servers[2].url()])).await;
    let reading = layer.clone();
    let waiting = tokio::spawn(async move { take_number(&reading, "n").await });
    wait_for_blocked(&servers[1], 1).await;
    proxy.freeze();
    direct.send("n", numbered(0)).await.unwrap();
    assert_eq!(within(DEADLINE, "the first", waiting).await.unwrap(), 0);
    for n in 1..4 {
        // Longer than a reader continues without a waiting caller.
        tokio::time::sleep(Duration::from_millis(50)).await;
        direct.send("n", numbered(n)).await.unwrap();
        let next = within(Duration::from_secs(5), "the next", layer.receive(&["n"])).await.unwrap();
        assert_eq!(number(&next), n);
    }
}

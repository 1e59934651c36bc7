//! The format of `asgi_redis`: the keys that the layer writes, reads and skips.

use std::time::Duration;

use channel_layer::django::AsgiRedisLayer;
use channel_layer::{CapacityRule, ChannelLayer, Config, Delivery, Event, Message, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::site::{EXPIRY, Site, assert_lives, script_calls, take};
use crate::support::{Counts, DEADLINE, Proxy, RedisServer, eventually, shared_servers, within};

/// `{"a": 1}` as `msgpack.packb` writes it, without the header of the map.
const BODY: &[u8] = b"\xa1a\x01";
const ROUTING: &[u8] = b"\xb0__asgi_channel__";

fn sent() -> Message {
    message! { "a": 1 }
}

async fn start() -> (Site, AsgiRedisLayer) {
    let site = Site::start().await;
    let layer = AsgiRedisLayer::connect(site.config()).await.unwrap();
    (site, layer)
}

impl Site {
    /// The keys of the messages in a channel, without the prefix.
    async fn messages(&mut self, channel: &str) -> Vec<String> {
        let keys: Vec<String> = self.redis.lrange(self.key(channel), 0, -1).await.unwrap();
        keys.iter().map(|key| key.strip_prefix(&self.prefix).expect("it has the prefix").to_owned()).collect()
    }

    /// Adds a message as Python does.
    async fn python_sends(&mut self, channel: &str, id: &str, body: &[u8]) {
        let _: () = self.redis.set_ex(self.key(id), body, EXPIRY.as_secs()).await.unwrap();
        let _: () = self.redis.rpush(self.key(channel), self.key(id)).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_is_written_as_python_reads_it() {
    let (mut site, layer) = start().await;
    for (channel, list, expected) in [
        ("http.request", "http.request", [b"\x81", BODY].concat()),
        ("http.request.body?x", "http.request.body?x", [b"\x81", BODY].concat()),
        ("reply.p!c", "reply.p!", [b"\x82", BODY, ROUTING, b"\xa9reply.p!c"].concat()),
    ] {
        layer.send(channel, sent()).await.unwrap();
        let messages = site.messages(list).await;
        let [message] = &messages[..] else { panic!("{messages:?}") };
        assert!(message.len() == 32 && message.bytes().all(|byte| byte.is_ascii_hexdigit()), "{message}");
        assert_eq!(site.redis.get::<_, Vec<u8>>(site.key(message)).await.unwrap(), expected);
        assert_lives(site.ttl(message).await, EXPIRY);
        assert_lives(site.ttl(list).await, EXPIRY + Duration::from_secs(1));
        // The list keeps the key of a message until the message has expired.
        let mut both = redis::cmd("EVAL");
        both.arg("return redis.call('PTTL', KEYS[1]) - redis.call('PTTL', KEYS[2])").arg(2);
        let longer: i64 = both.arg(site.key(list)).arg(site.key(message)).query_async(&mut site.redis).await.unwrap();
        assert!((999..=1001).contains(&longer), "the list lives {longer} ms longer");
    }
}

#[tokio::test]
async fn a_group_send_writes_a_message_for_each_member() {
    let (mut site, layer) = start().await;
    for member in ["p!1", "p!2", "work"] {
        layer.group_add("chat", member).await.unwrap();
    }
    let members: Vec<String> = site.redis.zrange(site.key(":group:chat"), 0, -1).await.unwrap();
    assert_eq!(members, ["p!1", "p!2", "work"]);
    assert_lives(site.ttl(":group:chat").await, layer.group_expiry());
    layer.group_send("chat", sent()).await.unwrap();
    assert_eq!(site.messages("p!").await.len(), 2);
    assert_eq!(site.messages("work").await.len(), 1);
}

#[tokio::test]
async fn a_group_send_is_one_call_for_the_members_and_one_for_each_queue() {
    let server = RedisServer::start();
    let layer = AsgiRedisLayer::connect(Config::new().host(server.url())).await.unwrap();
    for member in 0..300 {
        layer.group_add("chat", &format!("p{}!{member}", member % 10)).await.unwrap();
    }
    let calls = script_calls(&server).await;
    layer.group_send("chat", sent()).await.unwrap();
    assert!((2..=3).contains(&(script_calls(&server).await - calls)));
    // A read that does not wait takes the key and the message in one call. Each member has its own message.
    let calls = script_calls(&server).await;
    layer.try_receive(&["p1!"]).await.unwrap().unwrap();
    assert_eq!(script_calls(&server).await - calls, 1);
}

#[tokio::test]
async fn capacity_rules_match_the_non_local_part() {
    let site = Site::start().await;
    let rules = [CapacityRule::glob("p!?*", 1), CapacityRule::glob("p!", 2)];
    let layer = AsgiRedisLayer::connect(rules.into_iter().fold(site.config(), Config::channel_capacity)).await.unwrap();
    let taken: Vec<_> = layer.send_many(&["p!a", "p!b", "p!c"].map(|to| (to, sent()))).await;
    assert_eq!(taken.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn the_default_prefix_is_that_of_python() {
    let layer = AsgiRedisLayer::connect(Config::new().host(shared_servers()[0].url())).await.unwrap();
    let channel = layer.new_channel("default.prefix?").await.unwrap();
    layer.send(channel.as_str(), sent()).await.unwrap();
    let mut redis = shared_servers()[0].connection().await;
    assert_eq!(redis.llen::<_, i64>(format!("asgi:{channel}")).await.unwrap(), 1);
    take(&layer, channel.as_str()).await;
}

#[tokio::test]
async fn messages_of_python_are_read_and_leave_no_keys() {
    let (mut site, layer) = start().await;
    site.python_sends("http.request", "1", &[b"\x81", BODY].concat()).await;
    assert_eq!(take(&layer, "http.request").await.message, sent());
    site.python_sends("p!", "2", &[b"\x82", BODY, ROUTING, b"\xa3p!1"].concat()).await;
    let delivery = take(&layer, "p!").await;
    assert_eq!((delivery.channel.as_str(), delivery.message), ("p!1", sent()));
    assert_eq!(site.keys().await, [""; 0]);
}

#[tokio::test(flavor = "current_thread")]
async fn undecodable_messages_are_counted_and_the_next_one_arrives() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, layer) = start().await;
    let garbage: [&[u8]; 5] =
        [b"", b"\xc1", b"\x80", b"\x81\xb0__asgi_channel__\x01", b"\x81\xb0__asgi_channel__\xa3q!1"];
    for (number, body) in garbage.into_iter().enumerate() {
        site.python_sends("p!", &format!("garbage{number}"), body).await;
    }
    site.python_sends("p!", "good", &[b"\x82", BODY, ROUTING, b"\xa3p!1"].concat()).await;
    assert_eq!(take(&layer, "p!").await.message, sent());
    assert_eq!(counts.dropped("undecodable"), 5);
}

#[tokio::test(flavor = "current_thread")]
async fn keys_without_a_message_are_skipped_and_kept() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, layer) = start().await;
    let (elsewhere, group) = (format!("x-{}", site.prefix), site.key(":group:chat"));
    let _: () = site.redis.set_ex(&elsewhere, "theirs", 60).await.unwrap();
    layer.group_add("chat", "work").await.unwrap();
    let _: () = site.redis.rpush(site.key("work"), &[&elsewhere, &group, &site.key("expired")]).await.unwrap();
    layer.send("work", sent()).await.unwrap();
    assert_eq!(take(&layer, "work").await.message, sent());
    assert_eq!(counts.dropped("expired"), 3);
    assert!(site.redis.exists::<_, bool>(&elsewhere).await.unwrap());
    assert_eq!(layer.group_channels("chat").await.unwrap(), ["work"]);
}

#[tokio::test]
async fn counters_have_the_keys_and_lifetimes_of_python() {
    let (mut site, layer) = start().await;
    for number in 0..7 {
        let refused = layer.send("p!c", sent()).await.is_err();
        assert_eq!(refused, number >= 5);
    }
    for (key, expected, lives) in [
        ("p!:messages_count", 5, Duration::from_hours(1)),
        ("p!:channel_full_count", 2, Duration::from_hours(1)),
        ("#global#:messages_count", 5, Duration::from_hours(24)),
        ("#global#:channel_full_count", 2, Duration::from_hours(24)),
    ] {
        assert_eq!(site.redis.get::<_, i64>(format!("{}{key}", site.stats_prefix())).await.unwrap(), expected, "{key}");
        assert_lives(site.ttl(&format!("-meta:{key}")).await, lives);
    }
}

#[tokio::test]
async fn counters_have_the_keys_of_python_with_any_prefix() {
    let server = RedisServer::start();
    let layer = AsgiRedisLayer::connect(Config::new().host(server.url()).prefix("shop:")).await.unwrap();
    layer.send("work", sent()).await.unwrap();
    let count: i64 = server.connection().await.get("asgi-meta:work:messages_count").await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_refusal_counts_once_however_many_servers_were_tried() {
    let site = Site::start().await;
    let layer = AsgiRedisLayer::connect(site.config_on(3).capacity(1)).await.unwrap();
    for number in 0..5 {
        assert_eq!(layer.send("work", sent()).await.is_ok(), number < 3);
    }
    let counted = layer.channel_statistics("work").await.unwrap();
    assert_eq!((counted.messages_count, counted.channel_full_count), (3, 2));
    let counted = layer.global_statistics().await.unwrap();
    assert_eq!((counted.messages_count, counted.channel_full_count), (3, 2));
}

/// Starts a server on which a user may no longer run scripts, with a reader of this user that has taken a key.
async fn reader_that_may_not_fetch() -> (RedisServer, Site, AsgiRedisLayer, tokio::task::JoinHandle<Delivery>) {
    let server = RedisServer::start();
    let mut site = Site { redis: server.connection().await, ..Site::start().await };
    site.may("+@all").await;
    let url = format!("redis://reader:p@127.0.0.1:{}", server.port());
    let config = site.config().hosts([url]).command_timeout(Duration::from_millis(500));
    let layer = AsgiRedisLayer::connect(config).await.unwrap();
    let mut receiver = layer.receiver(&["work"]).unwrap();
    let reading = tokio::spawn(async move {
        loop {
            // An error reports a message that could not be fetched.
            if let Ok(delivery) = receiver.recv().await {
                return delivery;
            }
        }
    });
    waits(&mut site).await;
    site.may("-evalsha").await;
    site.python_sends("work", "1", &[b"\x81", BODY].concat()).await;
    eventually("a key that is taken", async || {
        let left: i64 = site.redis.clone().llen(site.key("work")).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    (server, site, layer, reading)
}

/// Waits until a reader blocks on the server.
async fn waits(site: &mut Site) {
    eventually("a read that waits", async || {
        let info: String = redis::cmd("INFO").arg("clients").query_async(&mut site.redis).await.unwrap();
        info.contains("blocked_clients:1").then_some(())
    })
    .await;
}

impl Site {
    async fn may(&mut self, rule: &str) {
        let mut command = redis::cmd("ACL");
        command.arg(&["SETUSER", "reader", "on", ">p", "allkeys", "allchannels", rule]);
        let () = command.query_async(&mut self.redis).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_whose_key_is_taken_is_fetched_as_soon_as_it_can_be() {
    let (_server, mut site, _layer, reading) = reader_that_may_not_fetch().await;
    site.may("+evalsha").await;
    assert_eq!(within(DEADLINE, "the message", reading).await.unwrap().message, sent());
    assert_eq!(site.keys().await, [""; 0], "the message left a key");
}

#[tokio::test(flavor = "current_thread")]
async fn a_message_whose_key_is_taken_and_that_cannot_be_fetched_is_counted_and_reported() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (_server, mut site, layer, reading) = reader_that_may_not_fetch().await;
    let mut events = layer.events();
    within(DEADLINE, "the event", async {
        while !matches!(events.recv().await.unwrap(), Event::ReadInterrupted { shard: 0, .. }) {}
    })
    .await;
    assert_eq!(counts.dropped("shard_down"), 1);
    site.may("+evalsha").await;
    site.python_sends("work", "2", &[b"\x81", BODY].concat()).await;
    assert_eq!(within(DEADLINE, "the next message", reading).await.unwrap().message, sent());
}

#[tokio::test(flavor = "current_thread")]
async fn a_message_whose_answer_is_lost_while_it_is_fetched_is_fetched_again() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let mut site = Site { redis: server.connection().await, ..Site::start().await };
    let proxy = Proxy::before(&server.url()).await;
    let layer = AsgiRedisLayer::connect(site.config().hosts([proxy.url()])).await.unwrap();
    let mut receiver = layer.receiver(&["work"]).unwrap();
    for number in 0..5 {
        let reading = tokio::spawn(async move { (receiver.recv().await, receiver) });
        waits(&mut site).await;
        let id = format!("m{number}");
        // Only the call that fetches the message has its key.
        proxy.lose_answer_to(site.key(&id).as_bytes());
        site.python_sends("work", &id, &[b"\x81", BODY].concat()).await;
        let (delivery, same) = within(DEADLINE, "the message", reading).await.unwrap();
        assert_eq!(delivery.unwrap().message, sent());
        receiver = same;
    }
    assert_eq!(counts.dropped("expired"), 0);
    eventually("the end of all keys", async || site.keys().await.is_empty().then_some(())).await;
}

/// A layer behind a proxy, and a message of Python that expires after a second by the clock of the server.
async fn short_lived_message() -> (Site, Proxy, AsgiRedisLayer, f64) {
    let mut site = Site::start().await;
    let proxy = Proxy::before(&shared_servers()[0].url()).await;
    let layer = AsgiRedisLayer::connect(site.config().hosts([proxy.url()])).await.unwrap();
    let body = [b"\x81", BODY].concat();
    let _: () = site.redis.pset_ex(site.key("stale"), body, 1000).await.unwrap();
    let expires = site.time().await + 1.0;
    (site, proxy, layer, expires)
}

impl Site {
    /// Adds a message with other content when the first one has expired, and makes the proxy transfer the held answer.
    async fn next_message(&mut self, proxy: &Proxy, expires: f64) {
        eventually("the end of the message", async || (self.time().await > expires).then_some(())).await;
        self.python_sends("work", "next", b"\x81\xa1a\x02").await;
        proxy.thaw();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_message_that_expires_before_the_answer_with_it_arrives_is_not_delivered() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, proxy, layer, expires) = short_lived_message().await;
    let _: () = site.redis.rpush(site.key("work"), site.key("stale")).await.unwrap();
    proxy.freeze_after(site.key("work").as_bytes());
    let taking = async { layer.try_receive(&["work"]).await.unwrap() };
    let (taken, ()) = tokio::join!(taking, site.next_message(&proxy, expires));
    let next = message! { "a": 2 };
    match taken {
        Some(delivery) => assert_eq!(delivery.message, next),
        None => assert_eq!(take(&layer, "work").await.message, next),
    }
    layer.close().await.unwrap();
    assert_eq!(counts.dropped("expired"), 1);
    assert_eq!(site.keys().await, [""; 0], "a message was put back");
}

#[tokio::test(flavor = "current_thread")]
async fn a_message_that_expires_before_it_is_fetched_over_a_held_connection_is_not_delivered() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, proxy, layer, expires) = short_lived_message().await;
    // Only the call that fetches the message has its key.
    proxy.freeze_after(site.key("stale").as_bytes());
    let mut waiting = Site { prefix: site.prefix.clone(), redis: site.redis.clone() };
    let sending = async {
        waits(&mut waiting).await;
        let _: () = waiting.redis.rpush(waiting.key("work"), waiting.key("stale")).await.unwrap();
        waiting.next_message(&proxy, expires).await;
    };
    let (delivery, ()) = tokio::join!(take(&layer, "work"), sending);
    assert_eq!(delivery.message, message! { "a": 2 });
    layer.close().await.unwrap();
    assert_eq!(counts.dropped("expired"), 1);
    assert_eq!(site.keys().await, [""; 0], "a message was put back");
}

#[tokio::test]
async fn a_flush_deletes_only_the_keys_of_the_deployment() {
    let (mut site, layer) = start().await;
    for channel in ["work", "p!c", "q?x"] {
        layer.send(channel, sent()).await.unwrap();
    }
    layer.group_add("chat", "p!c").await.unwrap();
    for other in [":session", "cache", "-meta:other"] {
        let _: () = site.redis.set(site.key(other), "theirs").await.unwrap();
    }
    layer.flush().await.unwrap();
    assert_eq!(site.keys().await, ["-meta:other", ":session", "cache"]);
}

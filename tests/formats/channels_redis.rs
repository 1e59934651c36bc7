//! The format of `channels_redis`: the keys and members that the layer writes, reads and skips.

use std::time::Duration;

use channel_layer::django::ChannelsRedisLayer;
use channel_layer::{CapacityRule, ChannelLayer, Config, Error, Message, Serializer, message};
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::site::{EXPIRY, Site, assert_lives, script_calls, take};
use crate::support::{Counts, DEADLINE, Log, RedisServer, within};

/// `{"type": "a.b"}` as `msgpack.packb` writes it, without the header of the map.
const TYPE: &[u8] = b"\xa4type\xa3a.b";
const ROUTING: &[u8] = b"\xb0__asgi_channel__";
/// Stands for the random bytes that Python puts before a message.
const RANDOM: &[u8] = b"\x51\x0c\xbb\x3f\x51\xbc\xe3\x7c\x44\xfd\x39\x00";

fn typed() -> Message {
    message! { "type": "a.b" }
}

async fn start() -> (Site, ChannelsRedisLayer) {
    let site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config()).await.unwrap();
    (site, layer)
}

impl Site {
    /// Returns the members of a key with their scores.
    async fn waiting(&mut self, key: &str) -> Vec<(Vec<u8>, f64)> {
        self.redis.zrange_withscores(self.key(key), 0, -1).await.unwrap()
    }

    /// Adds a message as Python does, `age` seconds ago.
    async fn python_adds(&mut self, channel: &str, body: &[u8], age: f64) {
        let score = self.time().await - age;
        let member = [RANDOM, body].concat();
        let _: () = self.redis.zadd(self.key(channel), &member[..], score).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_is_written_as_python_reads_it() {
    let (mut site, layer) = start().await;
    layer.send("specific.p!c", typed()).await.unwrap();
    layer.send("work.queue", typed()).await.unwrap();
    assert_eq!(site.keys().await, ["specific.p!", "work.queue"]);
    for (key, expected) in [
        ("specific.p!", [b"\x82", TYPE, ROUTING, b"\xacspecific.p!c"].concat()),
        ("work.queue", [b"\x81", TYPE].concat()),
    ] {
        let waiting = site.waiting(key).await;
        let [(member, score)] = &waiting[..] else { panic!("{waiting:?}") };
        assert_eq!(member[12..], expected);
        assert!((site.time().await - score).abs() < 20.0, "{score} is not a time of the server");
        assert_lives(site.ttl(key).await, EXPIRY);
    }
}

#[tokio::test]
async fn equal_messages_differ_by_their_random_beginning_of_the_configured_length() {
    let site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config().random_prefix_length(3)).await.unwrap();
    let mut site = site;
    for _ in 0..2 {
        layer.send("work", typed()).await.unwrap();
    }
    let waiting = site.waiting("work").await;
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|(member, _)| member[3..] == [b"\x81", TYPE].concat()), "{waiting:?}");
}

#[tokio::test]
async fn json_is_written_as_python_writes_it() {
    let mut site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config().serializer(Serializer::Json)).await.unwrap();
    layer.send("p!c", message! { "type": "a.b", "n": 1.0, "t": "\u{e9}" }).await.unwrap();
    let waiting = site.waiting("p!").await;
    let text = std::str::from_utf8(&waiting[0].0[12..]).unwrap();
    assert_eq!(text, r#"{"n": 1.0, "t": "\u00e9", "type": "a.b", "__asgi_channel__": "p!c"}"#);
    let refused = layer.send("p!c", message! { "type": "a.b", "b": b"x" }).await;
    assert!(matches!(refused, Err(Error::Codec { .. })), "{refused:?}");
    assert_eq!(take(&layer, "p!").await.message, message! { "type": "a.b", "n": 1.0, "t": "\u{e9}" });
}

#[tokio::test]
async fn a_group_send_writes_one_message_for_each_process() {
    let (mut site, layer) = start().await;
    for member in ["p!1", "p!2", "q!1", "work"] {
        layer.group_add("chat", member).await.unwrap();
    }
    let members: Vec<(String, f64)> = site.redis.zrange_withscores(site.key(":group:chat"), 0, -1).await.unwrap();
    assert_eq!(members.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["p!1", "p!2", "q!1", "work"]);
    assert!((site.time().await - members[3].1).abs() < 20.0);
    assert_lives(site.ttl(":group:chat").await, layer.group_expiry());

    layer.group_send("chat", typed()).await.unwrap();
    for (key, names) in [("p!", &b"\x92\xa3p!1\xa3p!2"[..]), ("q!", b"\x91\xa3q!1"), ("work", b"\x91\xa4work")] {
        let waiting = site.waiting(key).await;
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].0[12..], [b"\x82", TYPE, ROUTING, names].concat());
    }
    layer.group_discard("chat", "p!1").await.unwrap();
    assert_eq!(site.redis.zcard::<_, i64>(site.key(":group:chat")).await.unwrap(), 3);
}

#[tokio::test]
async fn messages_of_python_are_read() {
    let (mut site, layer) = start().await;
    site.python_adds("work", &[b"\x81", TYPE].concat(), 0.0).await;
    assert_eq!(take(&layer, "work").await.message, typed());
    // A group message on a general channel has a list of one.
    site.python_adds("work", &[b"\x82", TYPE, ROUTING, b"\x91\xa4work"].concat(), 0.0).await;
    assert_eq!(take(&layer, "work").await.channel, "work");
    site.python_adds("p!", &[b"\x82", TYPE, ROUTING, b"\xa3p!1"].concat(), 0.0).await;
    assert_eq!(take(&layer, "p!").await.channel, "p!1");
    site.python_adds("p!", &[b"\x82", TYPE, ROUTING, b"\x92\xa3p!1\xa3p!2"].concat(), 0.0).await;
    for member in ["p!1", "p!2"] {
        let delivery = take(&layer, "p!").await;
        assert_eq!((delivery.channel.as_str(), delivery.message), (member, typed()));
    }
    assert_eq!(site.keys().await, [""; 0], "a key is left");
}

/// Python adds such names to a group.
#[tokio::test]
async fn an_invalid_recipient_does_not_cost_the_others_their_message() {
    let (mut site, layer) = start().await;
    let names = b"\x94\xa2p!\xa3p!1\x01\xa3p!2";
    site.python_adds("p!", &[b"\x82", TYPE, ROUTING, &names[..]].concat(), 0.0).await;
    for member in ["p!1", "p!2"] {
        assert_eq!(take(&layer, "p!").await.channel, member);
    }
}

#[tokio::test]
async fn a_put_back_message_is_for_the_remaining_members_however_large() {
    let mut site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config().max_message_size(1024)).await.unwrap();
    let text = [b"\xa1t\xda\x0b\xb8", &[b'x'; 3000][..]].concat();
    site.python_adds("p!", &[b"\x82", &text[..], ROUTING, b"\x92\xa3p!1\xa3p!2"].concat(), 0.0).await;
    let mut receiver = layer.receiver(&["p!"]).unwrap();
    assert_eq!(within(DEADLINE, "a message", receiver.recv()).await.unwrap().channel, "p!1");
    receiver.close().await.unwrap();
    assert_eq!(take(&layer, "p!").await.channel, "p!2");
    assert!(layer.try_receive(&["p!"]).await.unwrap().is_none());
}

#[tokio::test]
async fn a_new_channel_is_no_longer_than_python_takes() {
    let (_site, layer) = start().await;
    assert_eq!(layer.new_channel(&"p".repeat(33)).await.unwrap().as_str().len(), 99);
    let refused = layer.new_channel(&"p".repeat(34)).await;
    assert!(matches!(refused, Err(Error::InvalidName(_))), "{refused:?}");
}

#[tokio::test]
async fn a_message_in_flight_in_python_is_not_read() {
    let (mut site, layer) = start().await;
    site.python_adds("work$inflight", &[b"\x81", TYPE].concat(), 1.0).await;
    assert!(layer.try_receive(&["work"]).await.unwrap().is_none());
    site.python_adds("work", &[b"\x81", TYPE].concat(), 0.0).await;
    take(&layer, "work").await;
    let mut receiver = layer.receiver(&["work"]).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), receiver.recv()).await.is_err());
    receiver.close().await.unwrap();
    assert_eq!(site.keys().await, ["work$inflight"]);
}

#[tokio::test]
async fn capacities_apply_to_full_names_within_a_batch() {
    let site = Site::start().await;
    let rules = [CapacityRule::glob("p!few", 3), CapacityRule::glob("p!many", 6)];
    let layer = ChannelsRedisLayer::connect(rules.into_iter().fold(site.config(), Config::channel_capacity)).await;
    let sent = ["p!few", "p!many", "p!many", "p!many", "p!few", "p!many", "p!many", "p!many"].map(|to| (to, typed()));
    let taken: Vec<_> = layer.unwrap().send_many(&sent).await.iter().map(Result::is_ok).collect();
    // The queue has three messages when the second one for `p!few` is sent, and six when the last one for `p!many` is.
    assert_eq!(taken, [true, true, true, true, false, true, true, false]);
}

#[tokio::test]
async fn a_group_send_is_one_call_for_the_members_and_one_for_each_queue() {
    let server = RedisServer::start();
    let layer = ChannelsRedisLayer::connect(Config::new().host(server.url())).await.unwrap();
    for process in 0..300 {
        layer.group_add("chat", &format!("p{process}!a")).await.unwrap();
    }
    let calls = script_calls(&server).await;
    layer.group_send("chat", typed()).await.unwrap();
    assert!((2..=3).contains(&(script_calls(&server).await - calls)));
}

#[tokio::test]
async fn an_undecodable_message_is_logged_with_the_place_of_the_fault_and_without_content() {
    let log = Log::default();
    let _guard = log.keep();
    let (mut site, layer) = start().await;
    for (body, reason) in [
        (&b"\x82\xa1a\x01\x07\xa6secret"[..], "key 2: expected text, found an integer"),
        (b"\xa6secret", "expected a map, found text"),
        (b"\x81\xa1a\x92\xa6secret\xa2\xff\xfe", "value 1: element 2: "),
    ] {
        site.python_adds("work", body, 1.0).await;
        layer.send("work", typed()).await.unwrap();
        take(&layer, "work").await;
        assert!(log.text().contains(reason), "{}", log.text());
    }
    assert!(!log.text().contains("secret"), "{}", log.text());
}

#[tokio::test]
async fn a_message_that_would_end_a_consumer_is_warned_about_once() {
    let log = Log::default();
    let _guard = log.keep();
    let (_site, layer) = start().await;
    let warnings = || log.text().matches("a message without a text as its type was sent").count();
    layer.send("work", typed()).await.unwrap();
    layer.send("answer?a", message! { "text": "for Rust alone" }).await.unwrap();
    assert_eq!(warnings(), 0);
    for message in [message! { "text": "hi" }, message! { "type": 1 }] {
        layer.send("work", message.clone()).await.unwrap();
        layer.group_send("chat", message).await.unwrap();
        assert_eq!(warnings(), 1);
    }
    assert!(!log.text().contains("hi"));
}

#[tokio::test(flavor = "current_thread")]
async fn undecodable_messages_are_counted_and_the_next_one_arrives() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, layer) = start().await;
    let garbage: [&[u8]; 14] = [
        b"",
        b"\xc1",
        b"\x80\x80",
        b"\x90",
        b"\x81\x01\x01",
        b"\x81\xa1a",
        b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81\xa1a\xd4\x01\x00",
        b"\x81\xb0__asgi_channel__\x01",
        b"\x81\xb0__asgi_channel__\xa0",
        b"\x81\xb0__asgi_channel__\xa3q!1",
        b"\x81\xb0__asgi_channel__\x91\xa3q!1",
        b"\x81\xb0__asgi_channel__\x90",
        b"\x80",
    ];
    for (age, body) in (1..).zip(garbage) {
        site.python_adds("p!", body, f64::from(age)).await;
    }
    // A member that is shorter than the random bytes.
    let score = site.time().await;
    let _: () = site.redis.zadd(site.key("p!"), "x", score).await.unwrap();
    layer.send("p!1", typed()).await.unwrap_err();
    site.python_adds("p!", &[b"\x82", TYPE, ROUTING, b"\xa3p!1"].concat(), -0.5).await;
    assert_eq!(take(&layer, "p!").await.message, typed());
    assert_eq!(counts.dropped("undecodable"), 15);
}

#[tokio::test(flavor = "current_thread")]
async fn undecryptable_messages_are_counted_and_the_next_one_arrives() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut site = Site::start().await;
    let stranger = ChannelsRedisLayer::connect(site.config().symmetric_encryption_keys(["other"])).await.unwrap();
    let layer = ChannelsRedisLayer::connect(site.config().symmetric_encryption_keys(["ours"])).await.unwrap();
    stranger.send("work", message! { "type": "secret" }).await.unwrap();
    site.python_adds("work", &[b"\x81", TYPE].concat(), 0.0).await;
    layer.send("work", typed()).await.unwrap();
    assert_eq!(take(&layer, "work").await.message, typed());
    assert_eq!(counts.dropped("undecryptable"), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn expired_messages_are_counted_and_not_delivered() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let (mut site, layer) = start().await;
    site.python_adds("work", &[b"\x81", TYPE].concat(), EXPIRY.as_secs_f64() + 1.0).await;
    assert!(layer.try_receive(&["work"]).await.unwrap().is_none());
    assert_eq!(counts.dropped("expired"), 1);
    site.python_adds("work", &[b"\x81", TYPE].concat(), EXPIRY.as_secs_f64() - 20.0).await;
    assert_eq!(take(&layer, "work").await.message, typed());
}

#[tokio::test]
async fn messages_sent_in_the_same_moment_keep_their_order() {
    let site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config().capacity(1000)).await.unwrap();
    let messages: Vec<_> = (0..500).map(|number| ("p!c", message! { "type": "n", "number": number })).collect();
    for result in layer.send_many(&messages).await {
        result.unwrap();
    }
    let mut receiver = layer.receiver(&["p!"]).unwrap();
    for number in 0..500 {
        assert_eq!(receiver.recv().await.unwrap().message.int("number"), Some(number));
    }
}

#[tokio::test]
async fn a_sender_with_a_fast_clock_does_not_break_the_order() {
    let (mut site, layer) = start().await;
    // The clock of the sender of the first message is half a second ahead.
    site.python_adds("work", &[b"\x81", TYPE].concat(), -0.5).await;
    layer.send("work", message! { "type": "later" }).await.unwrap();
    assert_eq!(take(&layer, "work").await.message, typed());
    assert_eq!(take(&layer, "work").await.message, message! { "type": "later" });
}

#[tokio::test]
async fn new_channels_are_on_the_server_that_python_sends_to() {
    let ring = |name: &str| (crc32fast::hash(name.as_bytes()) & 0xFFF) * 3 / 4096;
    let site = Site::start().await;
    let layer = ChannelsRedisLayer::connect(site.config_on(3)).await.unwrap();
    for _ in 0..50 {
        let channel = layer.new_channel("specific").await.unwrap();
        let (process, local) = channel.as_str().split_once('!').unwrap();
        assert_eq!((process.len(), local.len()), ("specific.".len() + 32, 32));
        assert_eq!(ring(channel.as_str()), ring(channel.non_local()), "{channel}");
        assert!(channel.as_str().starts_with("specific."));
    }
}

#[tokio::test]
async fn a_flush_deletes_only_the_keys_of_the_deployment() {
    let (mut site, layer) = start().await;
    layer.send("work", typed()).await.unwrap();
    layer.send("p!c", typed()).await.unwrap();
    layer.group_add("chat", "p!c").await.unwrap();
    // A reader in Python keeps a message here until it has delivered it.
    let _: () = site.redis.zadd(site.key("work$inflight"), "x", 1).await.unwrap();
    let others = [site.key(":session"), site.key(":other:group:chat"), site.key("work/1")];
    for other in &others {
        let _: () = site.redis.zadd(other, "theirs", 1).await.unwrap();
    }
    let _: () = site.redis.set(site.key("cache"), "theirs").await.unwrap();
    layer.flush().await.unwrap();
    assert_eq!(site.keys().await, [":other:group:chat", ":session", "cache", "work/1"]);
}

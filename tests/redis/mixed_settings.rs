//! Processes of one deployment with different settings. No process shortens a lifetime that another process set.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config};
use redis::AsyncCommands;

use super::tools::{Layer, Site, assert_lives, connect, number, numbered, take, take_number, take_numbers, ttl};
use crate::support::{DEADLINE, RedisServer, eventually, random_prefix, shared_servers, within};

const LONG: Duration = Duration::from_mins(10);
/// By how much a list outlives its last message.
const SLACK: Duration = Duration::from_secs(30);

async fn start(long: fn(Config) -> Config, short: fn(Config) -> Config) -> (Site, Layer, Layer) {
    let site = Site::on(&shared_servers()[..1]);
    let (long, short) = (connect(long(site.config())).await, connect(short(site.config())).await);
    (site, long, short)
}

/// Returns the names of a group's members.
async fn members(layer: &dyn ChannelLayer) -> Vec<String> {
    let mut members: Vec<_> = layer.group_channels("g").await.unwrap().iter().map(ToString::to_string).collect();
    members.sort();
    members
}

/// Waits for `time` to pass on the server, whose clock decides about expiry.
async fn pass(server: &RedisServer, time: Duration) {
    let mut connection = server.connection().await;
    // This key is written once, so it disappears when the time has passed.
    let key = random_prefix();
    let millis = u64::try_from(time.as_millis()).unwrap();
    let () = connection.pset_ex(&key, "", millis).await.unwrap();
    eventually("the end of the time", async || {
        (!connection.clone().exists::<_, bool>(&key).await.unwrap()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_outlives_those_of_a_sender_with_a_shorter_expiry() {
    let (site, long, short) = start(|config| config.expiry(LONG), |config| config.expiry(Duration::from_secs(1))).await;
    let mut connection = shared_servers()[0].connection().await;
    for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        long.send(channel, numbered(1)).await.unwrap();
        assert_eq!(take_number(&long, source).await, 1);
        // The list is empty, and the other sender creates it again.
        short.send(channel, numbered(2)).await.unwrap();
        long.send(channel, numbered(3)).await.unwrap();
        assert_lives(ttl(&mut connection, &site.list(source)).await, LONG + SLACK);
    }
    for layer in [&long, &short] {
        // This makes the layer write its counters.
        layer.global_statistics().await.unwrap();
    }
    let counters = format!("{}-meta:{{s?a}}", site.prefix);
    assert_lives(ttl(&mut connection, &counters).await, LONG + SLACK);
}

#[tokio::test]
async fn a_membership_outlives_those_of_a_process_with_a_shorter_group_expiry() {
    let (_, long, short) =
        start(|config| config.group_expiry(LONG), |config| config.group_expiry(Duration::from_secs(1))).await;
    for channel in ["n", "l!a", "s?a"] {
        long.group_add("g", channel).await.unwrap();
    }
    for channel in ["m", "l!b", "k!c", "n"] {
        short.group_add("g", channel).await.unwrap();
    }
    pass(&shared_servers()[0], Duration::from_millis(1100)).await;
    for layer in [&long, &short] {
        assert_eq!(members(&**layer).await, ["l!a", "n", "s?a"]);
        layer.group_send("g", numbered(1)).await.unwrap();
        for source in ["n", "l!", "s?a"] {
            assert_eq!(take_numbers(layer, source).await, [1], "on {source}");
        }
        assert_eq!(take_numbers(layer, "k!").await, Vec::<i64>::new());
    }
    // An add by the process with the shorter setting removes only ended memberships.
    short.group_add("g", "l!d").await.unwrap();
    assert_eq!(members(&*long).await, ["l!a", "l!d", "n", "s?a"]);
}

#[tokio::test]
async fn members_get_their_messages_whatever_the_expiry_of_their_reader() {
    let (long, short) = (Duration::from_mins(1), Duration::from_secs(30));
    for (sender, reader) in [(long, short), (short, long)] {
        let site = Site::on(&shared_servers()[..1]);
        let layer = async |expiry| connect(site.config().expiry(expiry).group_expiry(Duration::from_secs(20))).await;
        let (sender, reader) = (layer(sender).await, layer(reader).await);
        reader.group_add("g", "l!a").await.unwrap();
        sender.group_send("g", numbered(1)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "the message", reader.receive(&["l!"])).await.unwrap()), 1);
    }
}

#[tokio::test]
async fn a_former_member_gets_earlier_messages_of_a_sender_with_a_longer_expiry() {
    let (site, long, short) = start(|config| config.expiry(LONG), |config| config.expiry(Duration::from_secs(1))).await;
    let mut connection = shared_servers()[0].connection().await;
    short.group_add("g", "l!a").await.unwrap();
    // With both ways of sending to a group.
    long.group_send("g", numbered(1)).await.unwrap();
    long.group_send_many(&[("g", numbered(2))]).await.into_iter().for_each(|sent| sent.unwrap());
    short.group_discard("g", "l!a").await.unwrap();
    // The ended membership is remembered for as long as the messages live.
    assert!(ttl(&mut connection, &site.key("left:{g}:l!")).await > i64::try_from(LONG.as_millis()).unwrap());
    assert_eq!(take(&short, "l!").await.channel, *"l!a");
    assert_eq!(number(&take(&short, "l!").await), 2);
}

#[tokio::test]
async fn a_sealed_message_opens_for_as_long_as_it_lives() {
    let site = Site::on(&shared_servers()[..1]);
    let sealed = |expiry| site.config().symmetric_encryption_keys(["a key"]).expiry(expiry);
    let long = connect(sealed(LONG)).await;
    let short = connect(sealed(Duration::from_millis(1))).await;
    long.send("n", numbered(1)).await.unwrap();
    // The reader's own expiry, and 10 s for clock skew.
    pass(&shared_servers()[0], Duration::from_millis(10_100)).await;
    assert_eq!(take_number(&short, "n").await, 1);
}

#[tokio::test]
async fn the_age_of_a_message_follows_from_the_message() {
    let (_, long, short) = start(|config| config.expiry(LONG), |config| config.expiry(Duration::from_secs(1))).await;
    long.send("n", numbered(1)).await.unwrap();
    for statistics in [short.channel_statistics("n").await, short.global_statistics().await] {
        let statistics = statistics.unwrap();
        assert_eq!(statistics.messages_pending, 1);
        assert!(statistics.messages_max_age < DEADLINE, "{:?}", statistics.messages_max_age);
    }
    short.send("m", numbered(1)).await.unwrap();
    let age = long.channel_statistics("m").await.unwrap().messages_max_age;
    assert!(age < DEADLINE, "{age:?}");
}

#[tokio::test]
async fn a_message_put_back_by_a_process_with_a_shorter_expiry_keeps_its_lifetime() {
    let (site, long, short) = start(|config| config.expiry(LONG), |config| config.expiry(Duration::from_secs(1))).await;
    let mut connection = shared_servers()[0].connection().await;
    for n in 0..3 {
        long.send("l!a", numbered(n)).await.unwrap();
    }
    let mut receiver = short.receiver(&["l!"]).unwrap();
    assert_eq!(number(&within(DEADLINE, "the first", receiver.recv()).await.unwrap()), 0);
    receiver.close().await.unwrap();
    let lives = ttl(&mut connection, &site.list("l!")).await;
    assert!(lives > i64::try_from(LONG.saturating_sub(DEADLINE).as_millis()).unwrap(), "{lives} ms");
    assert_eq!(take_numbers(&long, "l!").await, [1, 2]);
}

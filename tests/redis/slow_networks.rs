//! Slow networks: all messages that a read has popped arrive.

use std::time::Duration;

use channel_layer::{ChannelLayer, Event, Format, HybridLayer, MemoryLayer, Message, RedisLayer, message};

use super::outages::AnyLayer;
use super::tools::{Layer, Site, ask, connect, events_so_far, number, numbered, take_number};
use crate::support::{DEADLINE, Proxy, RedisServer, python_formats, shared_servers, within};

const SECOND: Duration = Duration::from_secs(1);
/// The bandwidth of the network in bytes per second, and the size of a message.
const PACE: u32 = 3 << 20;
const LARGE: usize = 1 << 20;
/// Number of messages. Their transfer takes longer than the command timeout.
const MESSAGES: i64 = 14;

fn large(number: i64) -> Message {
    message! { "number": number, "body": vec![b'x'; LARGE] }
}

/// Returns a layer behind a slow network, with large messages on `channel`.
async fn with_messages(channel: &str) -> (Layer, Proxy) {
    let server = &shared_servers()[0];
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let config = || site.config().max_message_size(8 << 20);
    let direct = connect(config().hosts([server.url()])).await;
    for number in 0..MESSAGES {
        direct.send(channel, large(number)).await.unwrap();
    }
    let layer = connect(config().blocking_timeout(SECOND).command_timeout(SECOND)).await;
    proxy.slow_down(PACE);
    (layer, proxy)
}

/// Checks that all messages arrive, and that no read was interrupted.
async fn assert_all_arrive(layer: &Layer, source: &str) {
    let mut events = layer.events();
    let mut receiver = layer.receiver(&[source]).unwrap();
    let (mut taken, mut numbers) = (Vec::new(), Vec::new());
    while numbers.len() < usize::try_from(MESSAGES).unwrap() {
        within(DEADLINE, "the next messages", receiver.recv_many(&mut taken, 256)).await.unwrap();
        numbers.extend(taken.drain(..).map(|delivery| number(&delivery)));
    }
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    assert!(!events_so_far(&mut events).iter().any(|event| matches!(event, Event::ReadInterrupted { .. })));
}

#[tokio::test]
async fn large_messages_arrive_on_a_prefetched_channel() {
    let (layer, _proxy) = with_messages("l!a").await;
    assert_all_arrive(&layer, "l!").await;
}

#[tokio::test]
async fn large_messages_arrive_in_a_large_recv_many() {
    let (layer, _proxy) = with_messages("n").await;
    assert_all_arrive(&layer, "n").await;
}

/// Number of small messages. A reader cannot estimate the size of the large messages from them.
const SMALL: i64 = 600;

/// A layer in `format`, or a hybrid layer without one.
async fn layer_of(format: Option<Format>, site: &Site, url: String) -> AnyLayer {
    let config = site.config().max_message_size(2 << 20).hosts([url]).blocking_timeout(SECOND).command_timeout(SECOND);
    match format {
        Some(format) => channel_layer::connect(config.format(format)).await.unwrap(),
        None => std::sync::Arc::new(HybridLayer::<_, RedisLayer>::new(MemoryLayer::new(), connect(config).await)),
    }
}

/// Reads small and then large messages over a network on which the transfer of all large messages takes longer than the
/// command timeout.
async fn small_then_large(format: Option<Format>, channel: &str, source: &str) {
    let server = &shared_servers()[0];
    let proxy = Proxy::before(&server.url()).await;
    let site = Site::at([proxy.url()]);
    let (layer, writer) = (layer_of(format, &site, proxy.url()).await, layer_of(format, &site, server.url()).await);
    let mut events = layer.events();
    let mut receiver = layer.receiver(&[source]).unwrap();
    let (mut taken, mut numbers) = (Vec::new(), Vec::new());
    for number in 0..SMALL {
        writer.send(channel, numbered(number)).await.unwrap();
    }
    while numbers.len() < usize::try_from(SMALL).unwrap() {
        within(DEADLINE, "small messages", receiver.recv_many(&mut taken, 256)).await.unwrap();
        numbers.extend(taken.drain(..).map(|delivery| number(&delivery)));
    }
    for number in 0..MESSAGES {
        writer.send(channel, large(SMALL + number)).await.unwrap();
    }
    proxy.slow_down(PACE);
    while numbers.len() < usize::try_from(SMALL + MESSAGES).unwrap() {
        within(DEADLINE, "large messages", receiver.recv_many(&mut taken, 256)).await.unwrap();
        numbers.extend(taken.drain(..).map(|delivery| number(&delivery)));
    }
    assert_eq!(numbers, (0..SMALL + MESSAGES).collect::<Vec<_>>(), "{format:?}");
    assert!(
        !events_so_far(&mut events).iter().any(|event| matches!(event, Event::ReadInterrupted { .. })),
        "{format:?}"
    );
}

#[tokio::test]
async fn large_messages_behind_small_ones_arrive_on_a_prefetched_channel() {
    small_then_large(Some(Format::Native), "l!a", "l!").await;
}

#[tokio::test]
async fn large_messages_behind_small_ones_arrive_in_a_large_recv_many() {
    small_then_large(Some(Format::Native), "n", "n").await;
}

#[tokio::test]
async fn large_messages_behind_small_ones_arrive_through_a_hybrid_layer() {
    small_then_large(None, "l!a", "l!").await;
}

#[tokio::test]
async fn large_messages_behind_small_ones_arrive_in_the_formats_of_python() {
    for format in python_formats() {
        small_then_large(Some(format), "l!a", "l!").await;
    }
}

/// Returns how often the server has run any of `commands`.
async fn calls(server: &RedisServer, commands: &[&str]) -> u64 {
    let stats: String = ask(&mut server.connection().await, redis::cmd("INFO").arg("commandstats")).await;
    let of = |command: &&str| {
        let begin = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&begin)?.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    commands.iter().map(of).sum()
}

#[tokio::test]
async fn many_small_messages_take_few_round_trips() {
    const MANY: i64 = 1000;
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    for (channel, source) in [("l!a", "l!"), ("n", "n")] {
        for n in 0..MANY {
            layer.send(channel, numbered(n)).await.unwrap();
        }
        let before = calls(&server, &["blmpop", "lmpop"]).await;
        let mut receiver = layer.receiver(&[source]).unwrap();
        let (mut taken, mut numbers) = (Vec::new(), Vec::new());
        while numbers.len() < usize::try_from(MANY).unwrap() {
            within(DEADLINE, "messages", receiver.recv_many(&mut taken, 256)).await.unwrap();
            numbers.extend(taken.drain(..).map(|delivery| number(&delivery)));
        }
        assert_eq!(numbers, (0..MANY).collect::<Vec<_>>());
        // One read of one message, then reads of 256 messages, one for the rest, and one read that waits for more.
        let trips = calls(&server, &["blmpop", "lmpop"]).await - before;
        assert!(trips <= 12, "{source}: {trips} round trips");
        receiver.close().await.unwrap();
    }
}

#[tokio::test]
async fn messages_that_arrive_one_at_a_time_cause_no_empty_reads() {
    const MESSAGES: i64 = 50;
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    for n in 0..MESSAGES {
        layer.send("l!a", numbered(n)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
    assert_eq!(calls(&server, &["lmpop"]).await, 0);
    drop(receiver);
    assert!(calls(&server, &["blmpop"]).await <= u64::try_from(MESSAGES).unwrap() + 1);
    // A waiting message takes one command.
    for n in 0..3 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    for n in 0..3 {
        assert_eq!(take_number(&layer, "n").await, n);
    }
    assert_eq!(calls(&server, &["lmpop"]).await, 0);
}

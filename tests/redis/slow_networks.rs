//! Networks over which answers take long: what a read has taken arrives.

use std::time::Duration;

use channel_layer::{ChannelLayer, Event, Message, message};

use super::tools::{Layer, Site, connect, events_so_far, number};
use crate::support::{DEADLINE, Proxy, shared_servers, within};

const SECOND: Duration = Duration::from_secs(1);
/// What the network carries in a second, and the size of a message.
const PACE: u32 = 3 << 20;
const LARGE: usize = 1 << 20;
/// Together longer on their way than an answer may take.
const MESSAGES: i64 = 14;

fn large(number: i64) -> Message {
    message! { "number": number, "body": vec![b'x'; LARGE] }
}

/// A layer behind a slow network with large messages on `channel`.
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

/// Checks that `source` gives all messages, and that no read was cut short.
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
async fn large_messages_arrive_on_a_channel_that_is_read_ahead() {
    let (layer, _proxy) = with_messages("l!a").await;
    assert_all_arrive(&layer, "l!").await;
}

#[tokio::test]
async fn large_messages_arrive_where_many_are_wanted_at_once() {
    let (layer, _proxy) = with_messages("n").await;
    assert_all_arrive(&layer, "n").await;
}

//! Sending to a large group whose members are in a few processes.

use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Message};
use futures_util::stream::{self, StreamExt};

use super::{message, payload};

pub const PROCESSES: usize = 4;
const GROUP: &str = "bench";

fn member(process: usize, client: usize) -> String {
    format!("websocket.send.bench{process}!client{client}")
}

/// Adds `members` members to the group, the same number in each process.
pub async fn fill(layer: &impl ChannelLayer, members: usize) {
    let adds = (0..members).map(|member| self::member(member % PROCESSES, member));
    let add = |member: String| async move { layer.group_add(GROUP, &member).await.expect("the server answers") };
    stream::iter(adds).map(add).buffer_unordered(SENDERS_AT_ONCE).for_each(|()| async {}).await;
    let found = layer.group_channels(GROUP).await.expect("the server answers").len();
    assert_eq!(found, members, "members of the group");
}

const SENDERS_AT_ONCE: usize = 256;

/// Returns the time of each of `calls` calls of `group_send`.
pub async fn group_send(layer: &impl ChannelLayer, calls: usize) -> Vec<Duration> {
    let payload = payload();
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let message = message(&payload);
        let start = Instant::now();
        layer.group_send(GROUP, message).await.expect("the server answers");
        times.push(start.elapsed());
    }
    times
}

/// Returns the time of each of `calls` calls of `send_many` with one message for each process.
pub async fn send_many(layer: &impl ChannelLayer, calls: usize) -> Vec<Duration> {
    let payload = payload();
    let members: Vec<_> = (0..PROCESSES).map(|process| member(process, process)).collect();
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let message = message(&payload);
        let messages: Vec<(&str, Message)> = members.iter().map(|member| (&**member, message.clone())).collect();
        let start = Instant::now();
        for result in layer.send_many(&messages).await {
            result.expect("the channel has room");
        }
        times.push(start.elapsed());
    }
    times
}

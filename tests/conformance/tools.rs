//! Short forms for what every test of the suite does.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Delivery, Message, message};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, within};

/// A layer as its users hold it.
pub type Layer = Arc<dyn ChannelLayer>;

/// A message that can be told from others.
pub fn numbered(number: i64) -> Message {
    message! { "number": number }
}

/// The number of a numbered message.
pub fn number(delivery: &Delivery) -> i64 {
    delivery.message.int("number").expect("the message is numbered")
}

/// The numbers of messages in their order.
pub fn numbers(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(number).collect()
}

/// The numbers of the messages that came on `channel`, in their order.
pub fn numbers_on(channel: &str, deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().filter(|delivery| delivery.channel == channel).map(number).collect()
}

/// The names of the channels that messages came on, sorted.
pub fn sorted_channels(deliveries: &[Delivery]) -> Vec<String> {
    let mut channels: Vec<_> = deliveries.iter().map(|delivery| delivery.channel.to_string()).collect();
    channels.sort();
    channels
}

/// Receives one message, which has to come.
pub async fn take(layer: &Layer, channels: &[&str]) -> Delivery {
    within(DEADLINE, &format!("a message on {channels:?}"), layer.receive(channels)).await.unwrap()
}

/// Receives `count` messages, which have to come.
pub async fn take_many(layer: &Layer, channels: &[&str], count: usize) -> Vec<Delivery> {
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        taken.push(take(layer, channels).await);
    }
    taken
}

/// Takes every message that is there.
pub async fn take_all(layer: &Layer, channels: &[&str]) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while let Some(delivery) = layer.try_receive(channels).await.unwrap() {
        taken.push(delivery);
    }
    taken
}

/// Receives until nothing has come for a while, to find what should not come. What has to come is not left to this:
/// a machine under load may take longer.
pub async fn take_until_quiet(layer: &Layer, channels: &[&str]) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while let Ok(received) = timeout(Duration::from_millis(300), layer.receive(channels)).await {
        taken.push(received.unwrap());
    }
    taken
}

/// Checks that no message is there.
#[track_caller]
pub fn assert_none(found: Option<Delivery>) {
    assert!(found.is_none(), "there was to be no message, but there is {found:?}");
}

/// Sends numbered messages.
pub async fn send_numbers(layer: &Layer, channel: &str, numbers: impl IntoIterator<Item = i64>) {
    for number in numbers {
        layer.send(channel, numbered(number)).await.unwrap();
    }
}

/// Lets others run, and now and then all time pass that others wait for: paused time does not move while a task is busy.
pub async fn rest(round: i64) {
    if round % 10 == 0 {
        sleep(Duration::from_millis(1)).await;
    } else {
        yield_now().await;
    }
}

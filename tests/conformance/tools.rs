//! Helpers of the suite.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Delivery, Message, message};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, within};

/// A layer as applications hold it.
pub type Layer = Arc<dyn ChannelLayer>;

/// Returns a numbered message.
pub fn numbered(number: i64) -> Message {
    message! { "number": number }
}

/// Returns the number of a numbered message.
pub fn number(delivery: &Delivery) -> i64 {
    delivery.message.int("number").expect("the message is numbered")
}

/// Returns the numbers of messages in their order.
pub fn numbers(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(number).collect()
}

/// Returns the numbers of the messages of `channel`, in their order.
pub fn numbers_on(channel: &str, deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().filter(|delivery| delivery.channel == channel).map(number).collect()
}

/// Returns the names of the channels that messages arrived on, sorted.
pub fn sorted_channels(deliveries: &[Delivery]) -> Vec<String> {
    let mut channels: Vec<_> = deliveries.iter().map(|delivery| delivery.channel.to_string()).collect();
    channels.sort();
    channels
}

/// Receives one message, which must arrive.
pub async fn take(layer: &Layer, channels: &[&str]) -> Delivery {
    within(DEADLINE, &format!("a message on {channels:?}"), layer.receive(channels)).await.unwrap()
}

/// Receives `count` messages, which must arrive.
pub async fn take_many(layer: &Layer, channels: &[&str], count: usize) -> Vec<Delivery> {
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        taken.push(take(layer, channels).await);
    }
    taken
}

/// Takes all waiting messages.
pub async fn take_all(layer: &Layer, channels: &[&str]) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while let Some(delivery) = layer.try_receive(channels).await.unwrap() {
        taken.push(delivery);
    }
    taken
}

/// Receives until no message arrives for a while, to find unexpected messages. Expected messages are never awaited this
/// way, because a loaded machine may take longer.
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
    assert!(found.is_none(), "expected no message, and found {found:?}");
}

/// Sends numbered messages.
pub async fn send_numbers(layer: &Layer, channel: &str, numbers: impl IntoIterator<Item = i64>) {
    for number in numbers {
        layer.send(channel, numbered(number)).await.unwrap();
    }
}

/// Tasks that send to and read from other channels of a layer, so that their messages travel in batches with those of
/// the test.
pub struct Others(JoinSet<()>);

impl Others {
    pub fn on(layer: &Layer) -> Self {
        let mut tasks = JoinSet::new();
        for other in 0..4 {
            for (channel, source) in [("other?a", "other?a"), ("other!a", "other!")] {
                let (layer, [channel, source]) =
                    (layer.clone(), [channel, source].map(|name| format!("{other}.{name}")));
                tasks.spawn(async move {
                    for round in 0.. {
                        layer.send(&channel, numbered(round)).await.unwrap();
                        layer.try_receive(&[&source]).await.unwrap();
                        rest(round).await;
                    }
                });
            }
        }
        Self(tasks)
    }

    /// Stops the tasks, and checks that they have run until now.
    pub async fn end(mut self) {
        let ended = self.0.try_join_next();
        assert!(ended.is_none(), "a task beside the test has ended: {ended:?}");
        self.0.shutdown().await;
    }
}

/// Lets other tasks run, and now and then advances time as far as they wait. Paused time does not advance while a task
/// is busy.
pub async fn rest(round: i64) {
    if round % 10 == 0 {
        sleep(Duration::from_millis(1)).await;
    } else {
        yield_now().await;
    }
}

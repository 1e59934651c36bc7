//! One task sends and another one receives, inside one process.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Message};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{message, payload, timed};

const CHANNEL: &str = "bench.memory";

/// Measures messages through `layer`, one per call.
pub async fn through(layer: Arc<impl ChannelLayer>, messages: usize) -> Duration {
    let mut receiver = layer.receiver(&[CHANNEL]).expect("the layer is open");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let payload = payload();
        for _ in 0..messages {
            layer.send(CHANNEL, message(&payload)).await.expect("the channel has room");
        }
    });
    tasks.spawn(async move {
        for _ in 0..messages {
            receiver.recv().await.expect("the layer is open");
        }
    });
    timed(tasks.join_all()).await
}

/// Measures the same messages through a tokio channel with room for all.
pub async fn by_hand(messages: usize) -> Duration {
    let (sender, mut receiver) = mpsc::channel::<Message>(messages);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let payload = payload();
        for _ in 0..messages {
            sender.send(message(&payload)).await.expect("the receiver is there");
        }
    });
    tasks.spawn(async move {
        for _ in 0..messages {
            receiver.recv().await.expect("the sender is there");
        }
    });
    timed(tasks.join_all()).await
}

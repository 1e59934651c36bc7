//! Many concurrent senders to a few normal channels without readers.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::ChannelLayer;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::{message, payload, timed};

pub const SENDERS: usize = 256;
pub const CHANNELS: usize = 16;

/// Measures sends through `layer`. Every sender waits until its message is accepted.
pub async fn through(layer: Arc<impl ChannelLayer>, messages: usize) -> Duration {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let layer = layer.clone();
        senders.spawn(async move {
            let (channel, payload) = (format!("bench.send.{}", sender % CHANNELS), payload());
            for _ in 0..messages / SENDERS {
                layer.send(&channel, message(&payload)).await.expect("the channel has room");
            }
        });
    }
    timed(senders.join_all()).await
}

/// Measures the same work by hand: `RPUSH` over a shared connection, pipelined by the client.
pub async fn by_hand(connection: &MultiplexedConnection, messages: usize) -> Duration {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let mut connection = connection.clone();
        senders.spawn(async move {
            let (key, payload) = (format!("by-hand:{}", sender % CHANNELS), payload());
            for _ in 0..messages / SENDERS {
                let mut command = redis::cmd("RPUSH");
                command.arg(&key).arg(&payload[..]);
                let _: i64 = command.query_async(&mut connection).await.expect("the server answers");
            }
        });
    }
    timed(senders.join_all()).await
}

//! Many senders to the clients of one process, and the reader of that process.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{Bytes, ChannelLayer};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::{message, payload, timed};

const SENDERS: usize = 64;
const CLIENTS: usize = 50;
const CHANNEL: &str = "websocket.send.bench!";
const KEY: &str = "by-hand:end-to-end";
/// Number of messages of one read, at most.
const READ: usize = 1000;

/// Measures sends and reads through `layer`, until the reader has all messages.
pub async fn through(layer: Arc<impl ChannelLayer>, messages: usize) -> Duration {
    let messages = messages / SENDERS * SENDERS;
    let mut tasks = JoinSet::new();
    for sender in 0..SENDERS {
        let layer = layer.clone();
        tasks.spawn(async move {
            let (channel, payload) = (format!("{CHANNEL}client{}", sender % CLIENTS), payload());
            for _ in 0..messages / SENDERS {
                layer.send(&channel, message(&payload)).await.expect("the channel has room");
            }
        });
    }
    tasks.spawn(async move {
        let mut receiver = layer.receiver(&[CHANNEL]).expect("the layer is open");
        let (mut count, mut deliveries) = (0, Vec::new());
        while count < messages {
            count += receiver.recv_many(&mut deliveries, READ).await.expect("the server answers");
            deliveries.clear();
        }
        receiver.close().await.expect("nothing is left to put back");
    });
    timed(tasks.join_all()).await
}

/// Measures the same work by hand: `RPUSH` over a shared connection, and `BLMPOP` on a connection of the reader.
pub async fn by_hand(connection: &MultiplexedConnection, mut own: MultiplexedConnection, messages: usize) -> Duration {
    let messages = messages / SENDERS * SENDERS;
    let mut tasks = JoinSet::new();
    for _ in 0..SENDERS {
        let mut connection = connection.clone();
        tasks.spawn(async move {
            let payload = payload();
            for _ in 0..messages / SENDERS {
                let mut command = redis::cmd("RPUSH");
                command.arg(KEY).arg(&payload[..]);
                let _: i64 = command.query_async(&mut connection).await.expect("the server answers");
            }
        });
    }
    tasks.spawn(async move {
        let mut count = 0;
        while count < messages {
            let mut command = redis::cmd("BLMPOP");
            command.arg(5).arg(1).arg(KEY).arg("LEFT").arg("COUNT").arg(READ);
            let (_, popped): (String, Vec<Bytes>) = command.query_async(&mut own).await.expect("the server answers");
            count += popped.len();
        }
    });
    timed(tasks.join_all()).await
}

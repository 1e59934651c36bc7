//! One message at a time to a waiting reader, with pauses.

use std::time::{Duration, Instant};

use channel_layer::ChannelLayer;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use super::{message, payload};

const CHANNEL: &str = "websocket.send.idle!";
/// Long enough for the reader to wait again.
const PAUSE: Duration = Duration::from_millis(1);

/// Returns the times from the call of `send` until another task has the message.
pub async fn send_to_receive(layer: &impl ChannelLayer, messages: usize) -> Vec<Duration> {
    let mut receiver = layer.receiver(&[CHANNEL]).expect("the layer is open");
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        for _ in 0..messages {
            receiver.recv().await.expect("the server answers");
            arrived.send(Instant::now()).expect("the sender waits");
        }
        receiver.close().await.expect("nothing is left to put back");
    });
    let (channel, payload) = (format!("{CHANNEL}client"), payload());
    let mut times = Vec::with_capacity(messages);
    for _ in 0..messages {
        tokio::time::sleep(PAUSE).await;
        let message = message(&payload);
        let start = Instant::now();
        layer.send(&channel, message).await.expect("the channel has room");
        times.push(arrivals.recv().await.expect("the reader reports each message") - start);
    }
    reading.await.expect("the reader does not panic");
    times
}

/// Returns the times of `PING` commands, with the same pauses.
pub async fn ping(connection: &mut MultiplexedConnection, pings: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(pings);
    for _ in 0..pings {
        tokio::time::sleep(PAUSE).await;
        let start = Instant::now();
        let _: String = redis::cmd("PING").query_async(connection).await.expect("the server answers");
        times.push(start.elapsed());
    }
    times
}

//! From the process-local channel to the queues of the sockets: one reader, which never waits for a client.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Event, Receiver, RetryingReceiver};
use crate::server::asgi::connections::{BATCH, Connections};
use crate::server::asgi::lost::Lost;
use crate::server::asgi::messages::{ReplyReader, code};
use crate::server::status::{Count, Tally};
use crate::server::websocket::queue::Pushed;
use crate::supervise::{contain, contained};

/// Between two attempts to close sockets, the first of which panicked.
const PAUSE: Duration = Duration::from_secs(1);

/// Hands replies to their connections until `stop` or the end of the layer.
pub(crate) async fn dispatch(
    receiver: Receiver,
    connections: Arc<Connections>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    let mut receiver = RetryingReceiver::new(receiver, "replies");
    let mut replies = ReplyReader::default();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = receiver.recv_many(&mut batch, BATCH) => if taken.is_err() { break },
            () = stop.cancelled() => break,
        }
        tally.add(Count::RepliesOut, batch.len());
        for delivery in batch.drain(..) {
            if contain("dispatch of replies", || hand_over(&delivery, &mut replies, &connections)).is_none() {
                drops::count(DropReason::Malformed, 1);
            }
        }
    }
    receiver.close().await;
}

fn hand_over(delivery: &Delivery, replies: &mut ReplyReader, connections: &Connections) {
    let reply = match replies.read(&delivery.message) {
        Ok(reply) => reply,
        Err(reason) => {
            tracing::debug!(channel = %delivery.channel, reason, "a reply is ignored");
            return drops::count(DropReason::Malformed, 1);
        }
    };
    match delivery.channel.local().and_then(|client| connections.push(client, reply)) {
        Some(pushed) => {
            if let Pushed::Overflowed(_) = pushed {
                tracing::info!(channel = %delivery.channel, "a client does not keep up and is closed");
            }
            pushed.count();
        }
        None => drops::count(Lost::ClientGone, 1),
    }
}

/// Closes the sockets, spread over a time, whenever the layer has lost its data, until the layer ends.
pub(crate) async fn shed_on_data_loss(
    mut events: broadcast::Receiver<Event>,
    connections: Arc<Connections>,
    over: Duration,
) {
    loop {
        match events.recv().await {
            // Which events were missed is unknown, and a socket that lost its groups unnoticed would stay deaf.
            Ok(Event::DataLost { .. }) | Err(RecvError::Lagged(_)) => {
                tracing::warn!(connections = connections.len(), "the layer lost its data, clients have to come back");
                let close = || connections.close_all(over, code::SERVICE_RESTART, "the server lost its groups");
                // A socket that is not closed would stay deaf.
                while contained("data loss", close()).await.is_none() {
                    sleep(PAUSE).await;
                }
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::options::SocketOptions;
    use crate::supervise::trap::{arm, is_armed};

    #[tokio::test]
    async fn sockets_are_told_to_come_back_when_the_layer_lost_its_data() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let connection = connections.open(None).unwrap();
        let (send, events) = broadcast::channel(4);
        send.send(Event::ShardUp { shard: 0 }).unwrap();
        send.send(Event::DataLost { shard: 0 }).unwrap();
        drop(send);
        shed_on_data_loss(events, connections, Duration::ZERO).await;
        assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_leaves_no_socket_open_that_has_to_close() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let connection = connections.open(None).unwrap();
        let (send, events) = broadcast::channel(4);
        send.send(Event::DataLost { shard: 0 }).unwrap();
        drop(send);
        arm("data loss");
        shed_on_data_loss(events, connections, Duration::ZERO).await;
        assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
        assert!(!is_armed());
    }
}

//! The reader of the process-local reply channel: it pushes replies to the queues of sockets and never waits for a
//! client.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::drops::{self, DropReason};
use crate::layer::{Delivery, Event, Receiver, RetryingReceiver};
use crate::server::asgi::connections::Connections;
use crate::server::asgi::messages::ReplyReader;
use crate::server::counters::{ClientDropReason, Count, Counters};
use crate::server::reader::read_each;
use crate::server::websocket::close_code;
use crate::server::websocket::queue::Pushed;
use crate::supervise::contained;

/// Delay before a close of all sockets that panicked is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Pushes replies to their connections until `stop` or the end of the layer.
pub(crate) async fn dispatch(
    receiver: Receiver,
    connections: Arc<Connections>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let receiver = RetryingReceiver::new(receiver, "replies");
    let mut replies = ReplyReader::default();
    let handle = |delivery: &Delivery| {
        counters.add(Count::RepliesOut, 1);
        deliver(delivery, &mut replies, &connections);
    };
    read_each(receiver, "dispatch of replies", stop, handle, |_| drops::count(DropReason::Malformed, 1)).await;
}

fn deliver(delivery: &Delivery, replies: &mut ReplyReader, connections: &Connections) {
    let reply = match replies.read(&delivery.message) {
        Ok(reply) => reply,
        Err(reason) => {
            tracing::debug!(channel = %delivery.channel, reason, "invalid reply ignored");
            return drops::count(DropReason::Malformed, 1);
        }
    };
    match delivery.channel.local().and_then(|client| connections.push(client, reply)) {
        Some(pushed) => {
            if let Pushed::Overflowed(_) = pushed {
                tracing::info!(channel = %delivery.channel, "closing a slow client: its queue is full");
            }
            pushed.count();
        }
        None => drops::count(ClientDropReason::ClientGone, 1),
    }
}

/// Closes all sockets, spread over `over`, whenever the layer has lost its data. Ends with the layer.
pub(crate) async fn close_on_data_loss(
    mut events: broadcast::Receiver<Event>,
    connections: Arc<Connections>,
    over: Duration,
) {
    loop {
        match events.recv().await {
            // A missed event may be a loss of data.
            Ok(Event::DataLost { .. }) | Err(RecvError::Lagged(_)) => {
                tracing::warn!(
                    connections = connections.len(),
                    "the layer lost its data; closing all sockets so that clients reconnect"
                );
                let close = || connections.close_all(over, close_code::SERVICE_RESTART, "the server lost its groups");
                // A socket that stays open would receive no group messages, so the close is repeated after a panic.
                while contained("data loss", close()).await.is_none() {
                    sleep(RETRY_DELAY).await;
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
    async fn sockets_are_closed_for_a_reconnect_when_the_layer_lost_its_data() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let connection = connections.open(None).unwrap();
        let (send, events) = broadcast::channel(4);
        send.send(Event::ShardUp { shard: 0 }).unwrap();
        send.send(Event::DataLost { shard: 0 }).unwrap();
        drop(send);
        close_on_data_loss(events, connections, Duration::ZERO).await;
        assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_leaves_no_socket_open_after_a_loss_of_data() {
        let connections = Connections::new(SocketOptions::default()).unwrap();
        let connection = connections.open(None).unwrap();
        let (send, events) = broadcast::channel(4);
        send.send(Event::DataLost { shard: 0 }).unwrap();
        drop(send);
        arm("data loss");
        close_on_data_loss(events, connections, Duration::ZERO).await;
        assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
        assert!(!is_armed());
    }
}

//! From the process-local channel to the queues of the sockets: one reader, which never waits for a client.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::asgi::{ReplyReader, code};
use super::connection::Connections;
use super::queue::Pushed;
use crate::backoff::Backoff;
use crate::drops::{self, DropReason};
use crate::error::Error;
use crate::layer::{Delivery, Event, Receiver};

/// How many messages are taken at once.
const BATCH: usize = 256;

/// Hands replies to their connections until `stop` or the end of the layer. An error of the layer is logged once and
/// does not end it.
pub(crate) async fn dispatch(mut receiver: Receiver, connections: Arc<Connections>, stop: CancellationToken) {
    let mut replies = ReplyReader::default();
    let mut batch = Vec::with_capacity(BATCH);
    let mut backoff = Backoff::outage();
    let mut failing = false;
    loop {
        let taken = tokio::select! {
            taken = receiver.recv_many(&mut batch, BATCH) => taken,
            () = stop.cancelled() => break,
        };
        match taken {
            Ok(_) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("replies arrive again");
                    backoff = Backoff::outage();
                }
                batch.drain(..).for_each(|delivery| hand_over(&delivery, &mut replies, &connections));
            }
            Err(Error::Closed) => break,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "replies do not arrive, trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.pause()) => {}
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    if let Err(error) = receiver.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "unread replies could not be put back");
    }
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
        Some(Pushed::Queued) => {}
        Some(Pushed::Overflowed { lost }) => {
            tracing::info!(channel = %delivery.channel, "a client does not keep up and is closed");
            metrics::counter!("channel_layer_slow_consumers_closed_total").increment(1);
            drops::count(DropReason::SlowConsumer, lost);
        }
        Some(Pushed::Ending) | None => drops::count(DropReason::ClientGone, 1),
    }
}

/// Closes the sockets whenever the layer has lost its data, until the layer ends.
pub(crate) async fn shed_on_data_loss(mut events: broadcast::Receiver<Event>, connections: Arc<Connections>) {
    loop {
        match events.recv().await {
            // Which events were missed is unknown, and a socket that lost its groups unnoticed would stay deaf.
            Ok(Event::DataLost { .. }) | Err(RecvError::Lagged(_)) => {
                tracing::warn!(connections = connections.len(), "the layer lost its data, clients have to come back");
                connections.close_all(code::SERVICE_RESTART);
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::QueueLimits;
    use super::*;

    #[tokio::test]
    async fn sockets_are_told_to_come_back_when_the_layer_lost_its_data() {
        let connections = Connections::new(QueueLimits::default()).unwrap();
        let connection = connections.open();
        let (send, events) = broadcast::channel(4);
        send.send(Event::ShardUp { shard: 0 }).unwrap();
        send.send(Event::DataLost { shard: 0 }).unwrap();
        drop(send);
        shed_on_data_loss(events, connections).await;
        assert_eq!(connection.queue().take_one().await.unwrap_err().code, 1012);
    }
}

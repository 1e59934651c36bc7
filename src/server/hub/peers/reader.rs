//! The reader task: delivers the messages of other processes to the clients of this one.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::drops::{self, DropReason};
use crate::layer::{Delivery, RetryingReceiver};
use crate::server::asgi::messages::ReplyReader;
use crate::server::counters::ClientDropReason;
use crate::server::hub::inner::Inner;
use crate::server::hub::names::Kind;
use crate::server::hub::peers::wire;
use crate::server::hub::peers::wire::{Address, HubMessage};
use crate::server::reader::read_each;

/// Delivers messages of other processes until `stop` is cancelled or the layer ends.
pub(crate) async fn read(receiver: RetryingReceiver, hub: Arc<Inner>, stop: CancellationToken) {
    let mut replies = ReplyReader::default();
    let handle = |delivery: &Delivery| deliver(delivery, &mut replies, &hub);
    read_each(receiver, "reader of the hub", stop, handle, |_| drops::count(DropReason::Malformed, 1)).await;
}

fn deliver(delivery: &Delivery, replies: &mut ReplyReader, hub: &Inner) {
    if *delivery.channel.as_str() != *hub.names.member() {
        return to_client(delivery, replies, hub);
    }
    match wire::read(&delivery.message, replies) {
        Ok(HubMessage::Hello(channel)) => hub.on_hello(channel),
        Ok(HubMessage::Answer(channel)) => hub.peers.on_answer(&channel),
        // The clients of this process got the message before it was sent.
        Ok(HubMessage::Content { from, .. }) if from == hub.names.member() => {}
        Ok(HubMessage::Content { to: Address::Everyone, reply, .. }) => {
            hub.fan_out(|hub| hub.connections.push_all(&reply));
        }
        Ok(HubMessage::Content { to: Address::Audience(kind @ (Kind::Room | Kind::User), name), reply, .. }) => {
            hub.fan_out(|hub| hub.rooms.index.send(kind, &name, || reply));
        }
        Err(reason) => ignore(delivery, reason),
    }
}

fn to_client(delivery: &Delivery, replies: &mut ReplyReader, hub: &Inner) {
    let reply = match replies.read(&delivery.message) {
        Ok(reply) => reply,
        Err(reason) => return ignore(delivery, reason),
    };
    match delivery.channel.local().and_then(|client| hub.connections.push(client, reply)) {
        Some(pushed) => pushed.count(),
        None => drops::count(ClientDropReason::ClientGone, 1),
    }
}

fn ignore(delivery: &Delivery, reason: &str) {
    tracing::debug!(channel = %delivery.channel, reason, "ignoring a message of another process");
    drops::count(DropReason::Malformed, 1);
}

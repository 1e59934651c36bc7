//! Operations on all connections of a registry.

use crate::name::{ChannelName, InvalidName};
use crate::server::asgi::connections::Connections;
use crate::server::websocket::queue::{Pushed, Queue};
use crate::server::websocket::reply::Reply;

/// The messages that wait for the clients of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepths {
    /// Messages that wait for all clients together.
    pub messages: usize,
    /// Bytes of memory that these messages take.
    pub bytes: usize,
    /// Messages that wait for the client with the longest queue.
    pub longest: usize,
}

impl Connections {
    /// Pushes a reply to a client as [`push`](Self::push), and counts it if it is dropped.
    pub(crate) fn send(&self, client: &str, reply: Reply) -> Option<()> {
        self.push(client, reply).map(Pushed::count)
    }

    /// Pushes a reply to every client. Returns the number of clients.
    pub(crate) fn push_all(&self, reply: &Reply) -> usize {
        let push = |queue: &Queue| queue.push(reply.clone()).count();
        self.queues.iter().map(|queue| push(&queue)).count()
    }

    /// Returns the channel of a client.
    pub(crate) fn name(&self, id: u64) -> Result<ChannelName, InvalidName> {
        ChannelName::from_parts(self.channel.as_str(), &format!("{id:x}"))
    }

    /// Returns the depths of all queues.
    pub(crate) fn depths(&self) -> QueueDepths {
        let mut depths = QueueDepths::default();
        for queue in &self.queues {
            let (messages, bytes) = queue.depth();
            depths.messages += messages;
            depths.bytes += bytes;
            depths.longest = depths.longest.max(messages);
        }
        depths
    }
}

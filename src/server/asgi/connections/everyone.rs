//! What concerns all connections of a hub, or any of them by its channel.

use crate::name::{ChannelName, InvalidName};
use crate::server::asgi::connections::Connections;
use crate::server::asgi::messages::Reply;
use crate::server::websocket::queue::{Pushed, Queue};

/// What waits for the clients of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDepths {
    /// Messages that wait for all clients together.
    pub messages: usize,
    /// Bytes of memory that these messages take.
    pub bytes: usize,
    /// Messages that wait for the client that has most of them.
    pub longest: usize,
}

impl Connections {
    /// Queues a reply for a client, as [`push`](Self::push); counts it where the client does not get it.
    pub(crate) fn send(&self, client: &str, reply: Reply) -> Option<()> {
        self.push(client, reply).map(Pushed::count)
    }

    /// Queues a reply for every client; gives how many there are.
    pub(crate) fn push_all(&self, reply: &Reply) -> usize {
        let push = |queue: &Queue| queue.push(reply.clone()).count();
        self.queues.iter().map(|queue| push(&queue)).count()
    }

    /// The channel of a client.
    pub(crate) fn name(&self, id: u64) -> Result<ChannelName, InvalidName> {
        ChannelName::from_parts(self.channel.as_str(), &format!("{id:x}"))
    }

    /// What waits for all clients.
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

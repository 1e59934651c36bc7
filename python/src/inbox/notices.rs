//! Messages that tell the consumers of this process about the connections to servers.

use std::collections::HashSet;
use std::sync::Weak;

use channel_layer::{Event, Message, Text, Value};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::core::Core;

/// The types of the messages that consumers get, as `on_disconnect` and `on_reconnect` of channels_redis.
#[derive(Clone, Default)]
pub(crate) struct Notices {
    pub(crate) on_disconnect: Option<String>,
    pub(crate) on_reconnect: Option<String>,
}

impl Notices {
    pub(crate) fn is_empty(&self) -> bool {
        self.on_disconnect.is_none() && self.on_reconnect.is_none()
    }

    /// Tells all channels of the inbox when the messages of a server cease to arrive and when they arrive again, until
    /// the layer ends.
    pub(crate) async fn run(self, core: Weak<Core>, mut events: Receiver<Event>, is_pubsub: bool) {
        let mut lost = HashSet::new();
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let kind = match event {
                Event::SubscriptionLost { shard, .. } if is_pubsub && lost.insert(shard) => &self.on_disconnect,
                Event::SubscriptionRestored { shard } if is_pubsub && lost.remove(&shard) => &self.on_reconnect,
                Event::ShardDown { shard, .. } if !is_pubsub && lost.insert(shard) => &self.on_disconnect,
                Event::ShardUp { shard } if !is_pubsub && lost.remove(&shard) => &self.on_reconnect,
                _ => continue,
            };
            let (Some(kind), Some(core)) = (kind, core.upgrade()) else {
                continue;
            };
            let message = Message::from([(Text::from_static("type"), Value::Text(kind.as_str().into()))]);
            core.inbox.notify(&core, &message);
        }
    }
}

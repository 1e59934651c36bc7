//! Requeues messages at a shutdown.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::drops::{DropReason, Drops};
use crate::layer::ChannelLayer;
use crate::message::Message;
use crate::name::ChannelName;

/// Time limit for all messages together, so that an unreachable server does not delay the shutdown further.
const WITHIN: Duration = Duration::from_secs(5);

/// Number of messages per call.
const AT_ONCE: usize = 1_000;

/// Requeues messages at the ends of their channels, whatever the capacity. Counts those that cannot be requeued. After the time
/// limit the layer sends or counts the messages, as those of every dropped call.
pub(crate) async fn requeue(layer: &dyn ChannelLayer, messages: &[(ChannelName, Message)]) {
    let until = Instant::now() + WITHIN;
    let (mut lost, mut late, mut why) = (Drops::default(), 0, None);
    for messages in messages.chunks(AT_ONCE) {
        let messages: Vec<_> = messages.iter().map(|(channel, message)| (channel.as_str(), message.clone())).collect();
        match timeout_at(until, layer.requeue(&messages)).await {
            Ok(results) => {
                for error in results.into_iter().filter_map(Result::err) {
                    lost.add(DropReason::of_taken(&error), 1);
                    why.get_or_insert(error);
                }
            }
            Err(_elapsed) => late += messages.len(),
        }
    }
    if late > 0 || why.is_some() {
        let why = why.as_ref().map(|error| error as &dyn std::error::Error);
        tracing::warn!(error = why, late, "cannot requeue messages");
        lost.count();
    }
}

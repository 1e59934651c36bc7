//! Requeues messages at a shutdown.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::drops::{self, DropReason};
use crate::layer::ChannelLayer;
use crate::message::Message;
use crate::name::ChannelName;

/// Time limit for all messages together, so that an unreachable server does not delay the shutdown further.
const WITHIN: Duration = Duration::from_secs(5);

/// Number of messages per call.
const AT_ONCE: usize = 1_000;

/// Requeues messages at the ends of their channels, whatever the capacity. Counts those that cannot be requeued.
pub(crate) async fn requeue(layer: &dyn ChannelLayer, messages: &[(ChannelName, Message)]) {
    let until = Instant::now() + WITHIN;
    let (mut lost, mut why) = (0, None);
    for messages in messages.chunks(AT_ONCE) {
        let messages: Vec<_> = messages.iter().map(|(channel, message)| (channel.as_str(), message.clone())).collect();
        match timeout_at(until, layer.requeue(&messages)).await {
            Ok(results) => {
                for error in results.into_iter().filter_map(Result::err) {
                    lost += 1;
                    why.get_or_insert(error);
                }
            }
            Err(_late) => lost += messages.len(),
        }
    }
    if lost > 0 {
        let why = why.as_ref().map(|error| error as &dyn std::error::Error);
        tracing::warn!(error = why, lost, "cannot requeue messages");
        drops::count(DropReason::Stopped, lost);
    }
}

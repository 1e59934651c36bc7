//! Requeues messages at a shutdown.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::drops::{self, CountedIfUnread, DropReason};
use crate::layer::ChannelLayer;
use crate::message::Message;
use crate::name::ChannelName;

/// Time limit for all messages together, so that an unreachable server does not delay the shutdown further.
const WITHIN: Duration = Duration::from_secs(5);

/// Number of messages per call.
const AT_ONCE: usize = 1_000;

/// A message that a worker or a delay server has taken, with its channel. It counts as dropped if it is neither handled
/// nor requeued.
pub(crate) type TakenMessage = CountedIfUnread<(ChannelName, Message)>;

pub(crate) fn taken(channel: ChannelName, message: Message) -> TakenMessage {
    CountedIfUnread::new((channel, message), Some(DropReason::Stopped))
}

/// Requeues messages at the ends of their channels, whatever the capacity. Counts those that cannot be requeued. After
/// the time limit the calls are dropped, and the layer counts the messages that it does not send.
pub(crate) async fn requeue(layer: &dyn ChannelLayer, messages: Vec<TakenMessage>) {
    let until = Instant::now() + WITHIN;
    let (mut late, mut why) = (0, None);
    let mut messages = messages.into_iter().peekable();
    while messages.peek().is_some() {
        let batch: Vec<_> = messages.by_ref().take(AT_ONCE).map(CountedIfUnread::read).collect();
        let batch: Vec<_> = batch.iter().map(|(channel, message)| (channel.as_str(), message.clone())).collect();
        match timeout_at(until, layer.requeue(&batch)).await {
            Ok(results) => {
                for error in results.into_iter().filter_map(Result::err) {
                    drops::count(DropReason::of_taken(&error), 1);
                    why.get_or_insert(error);
                }
            }
            Err(_elapsed) => late += batch.len(),
        }
    }
    if late > 0 || why.is_some() {
        let why = why.as_ref().map(|error| error as &dyn std::error::Error);
        tracing::warn!(error = why, late, "cannot requeue messages");
    }
}

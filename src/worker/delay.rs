//! `DelayServer`: messages that are sent later, through the channel `asgi.delay`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::time::DelayQueue;

use crate::drops::{self, CountedIfUnread, DropReason};
use crate::error::Result;
use crate::layer::{ChannelLayer, RetryingReceiver, send_while_full};
use crate::message;
use crate::message::Message;
use crate::name::ChannelName;
use crate::supervise::{contain, contained};
use crate::worker::requeue::{requeue, taken};

/// The channel for delayed messages.
pub(crate) const CHANNEL: &str = "asgi.delay";

/// Name of the task in reports of panics.
const TASK: &str = "delay server";

/// Sends delayed messages when they are due.
///
/// Each message on `asgi.delay` names a `channel`, a `delay` in milliseconds, and the `content`, a message to send to
/// that channel after the delay (the delay protocol of ASGI 1.x). Any number of processes may run a delay server; each
/// message is taken by one of them.
///
/// # Guarantees
///
/// A message is sent once and not before it is due. If its channel is full, the send is retried for 10 s; then the
/// message is counted as dropped under `full`. Waiting messages are in the memory of the process. A shutdown returns
/// them to `asgi.delay` with the remaining delay, whatever the capacity of that channel. **A crash loses them.** Store
/// work that must happen in a database, and use the delay as its alarm. Without a delay server, delayed messages expire
/// like all others.
#[must_use]
pub struct DelayServer {
    layer: Arc<dyn ChannelLayer>,
    limit: usize,
    timeout: Duration,
}

/// A message and its destination.
struct Delayed {
    channel: ChannelName,
    content: Message,
}

impl DelayServer {
    /// Creates a delay server for the messages of `layer`.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self { layer, limit: 10_000, timeout: Duration::from_secs(10) }
    }

    /// Sets how many messages wait here at once, at least 1. Further messages stay on `asgi.delay`. Defaults to 10,000.
    pub fn limit(mut self, messages: usize) -> Self {
        self.limit = messages.max(1);
        self
    }

    /// Runs until `shutdown` completes, then gives the waiting messages back.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the waiting messages are dropped too, and count as dropped under `stopped`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) if the layer closes before `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut receiver = RetryingReceiver::new(self.layer.receiver(&[CHANNEL])?, "delayed messages");
        let mut waiting = DelayQueue::new();
        let mut sending = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        let worked = loop {
            tokio::select! {
                delivery = receiver.recv(), if waiting.len() + sending.len() < self.limit => match delivery {
                    Ok(delivery) => {
                        let kept = contain(TASK, || {
                            let (delay, delayed) = parse(&delivery.message)?;
                            waiting.insert(CountedIfUnread::new(delayed, Some(DropReason::Stopped)), delay);
                            Some(())
                        });
                        if kept.flatten().is_none() {
                            tracing::warn!("dropping an invalid delayed message");
                            drops::count(DropReason::Malformed, 1);
                        }
                    }
                    Err(closed) => break Err(closed),
                },
                Some(due) = waiting.next() => {
                    // Ends within the timeout. A full channel does not delay messages to others.
                    let (layer, due, timeout) = (self.layer.clone(), due.into_inner(), self.timeout);
                    sending.spawn(async move {
                        let sent = send(layer, due.read(), timeout);
                        if contained(TASK, sent).await.is_none() {
                            drops::count(DropReason::Stopped, 1);
                        }
                    });
                }
                Some(_sent) = sending.join_next() => {}
                () = &mut shutdown => break Ok(()),
            }
        };
        receiver.close().await;
        let all = async { while sending.join_next().await.is_some() {} };
        // The layer sends or counts the messages of the sends that are dropped then.
        if timeout(self.timeout, all).await.is_err() {
            tracing::warn!(messages = sending.len(), "delayed messages could not be sent in time");
        }
        self.requeue_waiting(waiting).await;
        worked
    }

    async fn requeue_waiting(&self, mut waiting: DelayQueue<CountedIfUnread<Delayed>>) {
        let (now, mut messages) = (Instant::now(), Vec::with_capacity(waiting.len()));
        let Ok(channel) = ChannelName::parse(CHANNEL) else { return };
        while let Some(key) = waiting.peek() {
            let expired = waiting.remove(&key);
            let left = expired.deadline().saturating_duration_since(now);
            let Delayed { channel: target, content } = expired.into_inner().read();
            messages.push(taken(channel.clone(), message(&target, left, content)));
        }
        requeue(&*self.layer, messages).await;
    }
}

/// Returns the message for `asgi.delay`.
pub(crate) fn message(channel: &ChannelName, delay: Duration, content: Message) -> Message {
    let milliseconds = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    message! { "channel": channel.as_str(), "delay": milliseconds, "content": content }
}

/// The longest delay; larger ones are cut. A timer cannot be set further ahead.
const LONGEST: Duration = Duration::from_hours(365 * 24);

fn parse(message: &Message) -> Option<(Duration, Delayed)> {
    let channel = ChannelName::parse_target(message.text("channel")?).ok()?;
    let delay = Duration::from_millis(u64::try_from(message.int("delay")?).ok()?).min(LONGEST);
    let content = message.get("content")?.as_map()?.clone().into();
    Some((delay, Delayed { channel, content }))
}

async fn send(layer: Arc<dyn ChannelLayer>, delayed: Delayed, timeout: Duration) {
    let Delayed { channel, content } = delayed;
    if let Err(error) = send_while_full(&*layer, channel.as_str(), content, timeout).await {
        tracing::warn!(%channel, error = &error as &dyn std::error::Error, "cannot send a delayed message");
        drops::count(DropReason::of_taken(&error), 1);
    }
}

impl std::fmt::Debug for DelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayServer").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_delayed_messages_are_refused() {
        let good = message! { "channel": "jobs", "delay": 5, "content": message! {} };
        assert!(parse(&good).is_some());
        for bad in [
            good.clone().with("channel", "no spaces"),
            good.clone().with("channel", "process!"),
            good.clone().with("delay", -1),
            good.clone().with("delay", "soon"),
            good.clone().with("content", "text"),
            message! {},
        ] {
            assert!(parse(&bad).is_none(), "{bad:?}");
        }
    }
}

//! Messages that are sent later: `asgi.delay`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::time::DelayQueue;

use crate::drops::{self, DropReason};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, RetryingReceiver, send_while_full};
use crate::message;
use crate::message::Message;
use crate::name::ChannelName;
use crate::supervise::{contain, contained};
use crate::worker::requeue::give_back;

/// The channel for messages that are to be sent later.
pub(crate) const CHANNEL: &str = "asgi.delay";

/// The task that keeps and sends delayed messages.
const TASK: &str = "delay server";

/// Carries out delayed messages: each on `asgi.delay` names a `channel`, a `delay` in milliseconds, and the `content`,
/// a message that it sends to that channel when the delay is over (the delay protocol of ASGI 1.x). Any number of
/// processes may run one; each message is taken by one of them.
///
/// # What it promises
///
/// A message is sent once, not before its time, and when its channel is full within 10 s after it, or else counted as
/// dropped under `full`. What waits is in the memory of the process: a shutdown sends it back to `asgi.delay` with the
/// delay that is left, whatever that may hold; **a crash loses it**. What has to happen belongs in a database, with the
/// delay as its alarm. While nobody runs one, delayed messages expire as all others.
#[must_use]
pub struct DelayServer {
    layer: Arc<dyn ChannelLayer>,
    limit: usize,
    patience: Duration,
}

/// A message and where it goes when its time has come.
struct Delayed {
    channel: ChannelName,
    content: Message,
}

impl DelayServer {
    /// One for the messages of `layer`.
    pub fn new(layer: Arc<dyn ChannelLayer>) -> Self {
        Self { layer, limit: 10_000, patience: Duration::from_secs(10) }
    }

    /// How many messages wait here at once, at least 1; further ones stay on `asgi.delay`. Defaults to 10,000.
    pub fn limit(mut self, messages: usize) -> Self {
        self.limit = messages.max(1);
        self
    }

    /// Works until `shutdown` completes, then sends back what waits.
    ///
    /// # Cancel safety
    ///
    /// When dropped, what waits here is lost.
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
                            waiting.insert(delayed, delay);
                            Some(())
                        });
                        if kept.flatten().is_none() {
                            tracing::warn!("a delayed message is none and is dropped");
                            drops::count(DropReason::Malformed, 1);
                        }
                    }
                    Err(closed) => break Err(closed),
                },
                Some(due) = waiting.next() => {
                    // Ends within the patience; a full channel holds up no other.
                    let sent = send(self.layer.clone(), due.into_inner(), self.patience);
                    sending.spawn(async move {
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
        if timeout(self.patience, all).await.is_err() {
            drops::count(DropReason::Stopped, sending.len());
        }
        self.send_back(waiting).await;
        worked
    }

    async fn send_back(&self, mut waiting: DelayQueue<Delayed>) {
        let (now, mut messages) = (Instant::now(), Vec::with_capacity(waiting.len()));
        let Ok(channel) = ChannelName::parse(CHANNEL) else { return };
        while let Some(key) = waiting.peek() {
            let expired = waiting.remove(&key);
            let left = expired.deadline().saturating_duration_since(now);
            let Delayed { channel: target, content } = expired.into_inner();
            messages.push((channel.clone(), message(&target, left, content)));
        }
        give_back(&*self.layer, &messages).await;
    }
}

/// The message for `asgi.delay`.
pub(crate) fn message(channel: &ChannelName, delay: Duration, content: Message) -> Message {
    let milliseconds = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    message! { "channel": channel.as_str(), "delay": milliseconds, "content": content }
}

/// The longest delay that is taken as it is; a timer goes no further.
const LONGEST: Duration = Duration::from_hours(365 * 24);

fn parse(message: &Message) -> Option<(Duration, Delayed)> {
    let channel = ChannelName::parse_target(message.text("channel")?).ok()?;
    let delay = Duration::from_millis(u64::try_from(message.int("delay")?).ok()?).min(LONGEST);
    let content = message.get("content")?.as_map()?.clone().into();
    Some((delay, Delayed { channel, content }))
}

async fn send(layer: Arc<dyn ChannelLayer>, delayed: Delayed, patience: Duration) {
    let Delayed { channel, content } = delayed;
    if let Err(error) = send_while_full(&*layer, channel.as_str(), content, patience).await {
        tracing::warn!(%channel, error = &error as &dyn std::error::Error, "a delayed message could not be sent");
        let full = matches!(error, Error::ChannelFull { .. });
        drops::count(if full { DropReason::Full } else { DropReason::Stopped }, 1);
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
    fn what_is_no_delayed_message_is_refused() {
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

//! Receiving and sending that retry through outages, panics and full channels.

use std::error::Error as StdError;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{ChannelLayer, Delivery, Receiver};
use crate::backoff::{Backoff, LONGEST_OUTAGE_PAUSE};
use crate::drops::CountedIfUnread;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::supervise::contained;

/// A [`Receiver`] that retries during an outage of the layer's servers and after a panic of the layer. It logs the
/// start of an outage once, and the first message after it.
#[derive(Debug)]
pub(crate) struct RetryingReceiver {
    receiver: Receiver,
    /// Description of the messages, for the log.
    description: &'static str,
    backoff: Backoff,
    /// End of the last pause; `None` once a message has arrived.
    resumed: Option<Instant>,
}

impl RetryingReceiver {
    pub(crate) fn new(receiver: Receiver, description: &'static str) -> Self {
        Self { receiver, description, backoff: Backoff::outage(), resumed: None }
    }

    /// Waits for a message.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// Only [`Error::Closed`] and [`Error::RuntimeEnded`].
    pub(crate) async fn recv(&mut self) -> Result<Delivery> {
        loop {
            match contained(self.description, self.receiver.recv()).await.unwrap_or(Err(Error::Panicked)) {
                Ok(delivery) => {
                    self.recovered();
                    return Ok(delivery);
                }
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Waits for a message, then moves up to `limit` waiting messages to the end of `deliveries`.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv_many`].
    ///
    /// # Errors
    ///
    /// Only [`Error::Closed`] and [`Error::RuntimeEnded`].
    pub(crate) async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>, limit: usize) -> Result<()> {
        loop {
            let received = contained(self.description, self.receiver.recv_many(deliveries, limit)).await;
            match received.unwrap_or(Err(Error::Panicked)) {
                Ok(_) => {
                    self.recovered();
                    return Ok(());
                }
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    /// Puts back messages that were taken and not handed over.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::close`].
    pub(crate) async fn close(self) {
        if let Err(error) = self.receiver.close().await {
            tracing::warn!(error = &error as &dyn StdError, "cannot put unread {} back", self.description);
        }
    }

    fn recovered(&mut self) {
        if self.resumed.take().is_some() {
            tracing::info!("{} arrive again", self.description);
        }
    }

    async fn wait_after(&mut self, error: Error) -> Result<()> {
        if error.is_closed() {
            return Err(error);
        }
        let now = Instant::now();
        // A receiver that waited for longer than any pause was working, although no message arrived.
        let is_same_outage =
            self.resumed.is_some_and(|resumed| now.saturating_duration_since(resumed) <= LONGEST_OUTAGE_PAUSE);
        if !is_same_outage {
            tracing::warn!(error = &error as &dyn StdError, "cannot receive {}, retrying", self.description);
            self.backoff = Backoff::outage();
        }
        let resumed = now + self.backoff.pause();
        self.resumed = Some(resumed);
        sleep_until(resumed).await;
        Ok(())
    }
}

/// Sends `message`, and retries while the channel is full until `timeout` has passed.
///
/// # Cancel safety
///
/// When dropped, the message is either sent once or not at all. It counts as dropped if it is not sent.
pub(crate) async fn send_while_full(
    layer: &dyn ChannelLayer,
    channel: &str,
    message: Message,
    timeout: Duration,
) -> Result<()> {
    // `None` if the timeout is beyond the range of the clock.
    let deadline = Instant::now().checked_add(timeout);
    let mut backoff = Backoff::full_channel();
    loop {
        let full = match layer.send(channel, message.clone()).await {
            Err(error @ Error::ChannelFull { .. }) => CountedIfUnread::of_send(Err(error)),
            result => return result,
        };
        let next_attempt = Instant::now() + backoff.pause();
        if deadline.is_some_and(|deadline| next_attempt >= deadline) {
            return full.read();
        }
        sleep_until(next_attempt).await;
        // The next attempt decides.
        let _ = full.read();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use std::time::Duration;

    use async_trait::async_trait;
    use tokio::time::{Sleep, sleep};

    use super::*;
    use crate::layer::{Sink, Source};
    use crate::memory::MemoryLayer;
    use crate::message;
    use crate::name::ChannelName;
    use crate::supervise::trap;

    /// A source that yields a message (`true`) or an outage (`false`) after each delay.
    struct Script {
        steps: VecDeque<(Duration, bool)>,
        waiting: Option<Pin<Box<Sleep>>>,
    }

    #[async_trait]
    impl Source for Script {
        fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, _: usize) -> Poll<Result<usize>> {
            let &(after, arrives) = self.steps.front().expect("there is a step for each poll");
            ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx));
            self.waiting = None;
            self.steps.pop_front();
            if arrives {
                sink(Delivery::new(ChannelName::parse("a").expect("the name is valid"), Message::new()));
                return Poll::Ready(Ok(1));
            }
            Poll::Ready(Err(Error::Redis { shard: 0, cause: "unreachable".into() }))
        }

        fn pause(&mut self) {}

        async fn close(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// Returns how long a message takes to arrive after 20 outages, each noticed `apart` after the last pause.
    async fn time_after_outages(apart: Duration) -> Duration {
        let mut steps: VecDeque<_> = (0..20).map(|_| (apart, false)).collect();
        steps.push_back((Duration::ZERO, true));
        let start = Instant::now();
        RetryingReceiver::new(Receiver::new(Script { steps, waiting: None }), "messages")
            .recv()
            .await
            .expect("a message arrives");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_timeout_waits_until_there_is_room() {
        let layer = MemoryLayer::new();
        for _ in 0..100 {
            layer.send("full", message! {}).await.expect("there is room");
        }
        let (sent, taken) =
            tokio::join!(send_while_full(&layer, "full", message! {}, Duration::MAX), layer.receive(&["full"]));
        assert!(sent.is_ok() && taken.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_send_to_a_full_channel_is_counted() {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let layer = MemoryLayer::new();
        for _ in 0..100 {
            layer.send("full", message! {}).await.expect("there is room");
        }
        let second = Duration::from_secs(1);
        let refused = send_while_full(&layer, "full", message! {}, second).await;
        assert!(matches!(refused, Err(Error::ChannelFull { .. })), "{refused:?}");
        let dropped = tokio::time::timeout(second, send_while_full(&layer, "full", message! {}, Duration::MAX)).await;
        assert!(dropped.is_err(), "{dropped:?}");
        let counted = recorder.snapshotter().snapshot().into_vec();
        let counted: Vec<_> =
            counted.iter().filter(|metric| metric.0.key().name() == "channel_layer_dropped_total").collect();
        assert_eq!(counted.len(), 1, "{counted:?}");
        assert_eq!(counted[0].3, metrics_util::debugging::DebugValue::Counter(1));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_separate_outages_stay_short() {
        let time = time_after_outages(Duration::from_secs(30)).await;
        assert!(time <= Duration::from_secs(20 * 30 + 6), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_of_one_outage_grow() {
        let time = time_after_outages(Duration::ZERO).await;
        assert!(time >= Duration::from_mins(1), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_the_layer_is_retried() {
        let steps = VecDeque::from([(Duration::ZERO, true), (Duration::ZERO, true)]);
        let receiver = Receiver::new(Script { steps, waiting: None });
        let mut receiver = RetryingReceiver::new(receiver, "messages");
        trap::arm("messages");
        receiver.recv().await.expect("a message arrives");
        trap::arm("messages");
        receiver.recv_many(&mut Vec::new(), 1).await.expect("a message arrives");
        assert!(!trap::is_armed());
    }
}

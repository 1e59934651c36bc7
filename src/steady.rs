//! Receiving through outages: those who read for as long as they live have nothing else to do than to try again.

use std::error::Error as StdError;

use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, LONGEST_OUTAGE_PAUSE};
use crate::error::{Error, Result};
use crate::layer::{Delivery, Receiver};
use crate::supervise::contained;

/// A [`Receiver`] that waits while the servers of the layer are away, and after a panic of the layer. An outage is logged once, and so is the first message
/// after it.
#[derive(Debug)]
pub(crate) struct SteadyReceiver {
    receiver: Receiver,
    /// What is read, for the log.
    what: &'static str,
    backoff: Backoff,
    /// The end of the last pause, if nothing has arrived since.
    resumed: Option<Instant>,
}

impl SteadyReceiver {
    pub(crate) fn new(receiver: Receiver, what: &'static str) -> Self {
        Self { receiver, what, backoff: Backoff::outage(), resumed: None }
    }

    /// Waits for a message.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] and [`Error::RuntimeEnded`] alone.
    pub(crate) async fn recv(&mut self) -> Result<Delivery> {
        loop {
            match contained(self.what, self.receiver.recv()).await.unwrap_or(Err(Error::Panicked)) {
                Ok(delivery) => {
                    self.works();
                    return Ok(delivery);
                }
                Err(error) => self.fails(error).await?,
            }
        }
    }

    /// Waits for messages and moves up to `limit` of those that are there to the end of `deliveries`.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv_many`].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] and [`Error::RuntimeEnded`] alone.
    pub(crate) async fn recv_many(&mut self, deliveries: &mut Vec<Delivery>, limit: usize) -> Result<()> {
        loop {
            let received = contained(self.what, self.receiver.recv_many(deliveries, limit)).await;
            match received.unwrap_or(Err(Error::Panicked)) {
                Ok(_) => {
                    self.works();
                    return Ok(());
                }
                Err(error) => self.fails(error).await?,
            }
        }
    }

    /// Puts back what was taken and not handed over.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::close`].
    pub(crate) async fn close(self) {
        if let Err(error) = self.receiver.close().await {
            tracing::warn!(error = &error as &dyn StdError, "unread {} could not be put back", self.what);
        }
    }

    fn works(&mut self) {
        if self.resumed.take().is_some() {
            tracing::info!("{} arrive again", self.what);
        }
    }

    async fn fails(&mut self, error: Error) -> Result<()> {
        if error.is_closed() {
            return Err(error);
        }
        let now = Instant::now();
        // A receiver that has waited for longer than any pause was there for messages, though none came.
        let is_same =
            self.resumed.is_some_and(|resumed| now.saturating_duration_since(resumed) <= LONGEST_OUTAGE_PAUSE);
        if !is_same {
            tracing::warn!(error = &error as &dyn StdError, "{} do not arrive, trying again", self.what);
            self.backoff = Backoff::outage();
        }
        let resumed = now + self.backoff.pause();
        self.resumed = Some(resumed);
        sleep_until(resumed).await;
        Ok(())
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
    use crate::message::Message;
    use crate::name::ChannelName;
    use crate::supervise::trap;

    /// What comes after which time: a message or an outage.
    struct Script {
        steps: VecDeque<(Duration, bool)>,
        waiting: Option<Pin<Box<Sleep>>>,
    }

    #[async_trait]
    impl Source for Script {
        fn poll_recv_many(&mut self, cx: &mut Context<'_>, sink: Sink<'_>, _: usize) -> Poll<Result<usize>> {
            let &(after, arrives) = self.steps.front().expect("nobody asks beyond the last step");
            ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx));
            self.waiting = None;
            self.steps.pop_front();
            if arrives {
                sink(Delivery::new(ChannelName::parse("a").expect("it is a name"), Message::new()));
                return Poll::Ready(Ok(1));
            }
            Poll::Ready(Err(Error::Redis { shard: 0, cause: "away".into() }))
        }

        fn pause(&mut self) {}

        async fn close(&mut self) -> Result<()> {
            Ok(())
        }
    }

    /// How long a message takes to arrive behind 20 outages, each of which is noticed so long after the last pause.
    async fn time_behind_outages(apart: Duration) -> Duration {
        let mut steps: VecDeque<_> = (0..20).map(|_| (apart, false)).collect();
        steps.push_back((Duration::ZERO, true));
        let start = Instant::now();
        SteadyReceiver::new(Receiver::new(Script { steps, waiting: None }), "messages").recv().await.expect("it comes");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_for_outages_far_apart_stay_short() {
        let time = time_behind_outages(Duration::from_secs(30)).await;
        assert!(time <= Duration::from_secs(20 * 30 + 6), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_in_an_outage_that_goes_on_grow() {
        let time = time_behind_outages(Duration::ZERO).await;
        assert!(time >= Duration::from_mins(1), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_the_layer_is_an_outage() {
        let steps = VecDeque::from([(Duration::ZERO, true), (Duration::ZERO, true)]);
        let receiver = Receiver::new(Script { steps, waiting: None });
        let mut receiver = SteadyReceiver::new(receiver, "messages");
        trap::arm("messages");
        receiver.recv().await.expect("it comes");
        trap::arm("messages");
        receiver.recv_many(&mut Vec::new(), 1).await.expect("it comes");
        assert!(!trap::is_armed());
    }
}

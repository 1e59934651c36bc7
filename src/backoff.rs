//! Waiting between attempts: exponential, with jitter, and sends that wait out a full channel with it.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::layer::ChannelLayer;
use crate::message::Message;

/// The longest pause while a server is away.
pub(crate) const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(10);

/// Pauses that double from a first one up to a longest one, each shortened at random by up to half, so that those who
/// failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// For a server that is away: 250 ms to 10 s.
    pub(crate) fn outage() -> Self {
        Self::new(Duration::from_millis(250), LONGEST_OUTAGE_PAUSE)
    }

    /// For a channel that is full: 5 ms to 500 ms.
    fn full_channel() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(500))
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        pause
    }
}

/// Sends `message`, trying again while the channel is full, for `patience` at the longest.
///
/// # Cancel safety
///
/// When dropped, the message is either sent once or not at all.
pub(crate) async fn send_waiting(
    layer: &dyn ChannelLayer,
    channel: &str,
    message: Message,
    patience: Duration,
) -> Result<()> {
    // Patience may be endless.
    let deadline = Instant::now().checked_add(patience);
    let mut backoff = Backoff::full_channel();
    loop {
        let full = match layer.send(channel, message.clone()).await {
            Err(error @ Error::ChannelFull { .. }) => error,
            done => return done,
        };
        let again = Instant::now() + backoff.pause();
        if deadline.is_some_and(|deadline| again >= deadline) {
            return Err(full);
        }
        tokio::time::sleep_until(again).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryLayer;
    use crate::message;

    #[tokio::test(start_paused = true)]
    async fn endless_patience_waits_until_there_is_room() {
        let layer = MemoryLayer::new();
        for _ in 0..100 {
            layer.send("full", message! {}).await.unwrap();
        }
        let (sent, taken) =
            tokio::join!(send_waiting(&layer, "full", message! {}, Duration::MAX), layer.receive(&["full"]));
        assert!(sent.is_ok() && taken.is_ok());
    }

    #[test]
    fn pauses_grow_to_the_longest_and_keep_half_of_it() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for longest in [100, 200, 400, 400] {
            let pause = backoff.pause();
            assert!(
                pause >= Duration::from_millis(longest / 2) && pause <= Duration::from_millis(longest),
                "{pause:?}"
            );
        }
    }
}

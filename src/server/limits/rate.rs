//! How fast one client may send.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::server::options::SocketOptions;

/// The limits of one socket. Without limits it takes no memory to speak of.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    messages: Option<Box<Limit>>,
    bytes: Option<Box<Limit>>,
}

#[derive(Debug)]
struct Limit {
    per_second: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
    /// What may have come while nothing was read: it comes all at once now, and was sent before.
    credit: u64,
}

/// A client sends faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooFast {
    Messages,
    Bytes,
}

impl Pace {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        let limit = |limit: NonZeroU32| Box::new(Limit::new(limit));
        Self { messages: options.messages_per_second.map(limit), bytes: options.bytes_per_second.map(limit) }
    }

    pub(crate) fn message(&mut self) -> Result<(), TooFast> {
        self.messages.as_mut().map_or(Ok(()), |limit| limit.take(NonZeroU32::MIN).ok_or(TooFast::Messages))
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<(), TooFast> {
        match (&mut self.bytes, u32::try_from(count).ok().and_then(NonZeroU32::new)) {
            (Some(limit), Some(count)) => limit.take(count).ok_or(TooFast::Bytes),
            _ => Ok(()),
        }
    }

    /// Nothing was read for a time, by no fault of the client.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.limits().for_each(|limit| limit.waited(time));
    }

    /// All that has come is read.
    pub(crate) fn caught_up(&mut self) {
        self.limits().for_each(|limit| limit.credit = 0);
    }

    fn limits(&mut self) -> impl Iterator<Item = &mut Limit> {
        [&mut self.messages, &mut self.bytes].into_iter().flatten().map(|limit| &mut **limit)
    }
}

impl Limit {
    fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, limiter: RateLimiter::direct(Quota::per_second(per_second)), credit: 0 }
    }

    /// Nothing if there is no room for so many.
    fn take(&mut self, count: NonZeroU32) -> Option<()> {
        if !matches!(self.limiter.check_n(count), Ok(Ok(()))) {
            self.credit = self.credit.checked_sub(count.get().into())?;
        }
        Some(())
    }

    fn waited(&mut self, time: Duration) {
        // The limiter itself knows of what may come in a second.
        let beyond = time.saturating_sub(Duration::from_secs(1));
        let may_have_come = beyond.as_millis() * u128::from(self.per_second.get()) / 1000;
        self.credit = self.credit.saturating_add(u64::try_from(may_have_come).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_a_client_is_too_fast() {
        let mut pace = Pace::new(&SocketOptions::new().max_messages_per_second(3).max_bytes_per_second(100));
        assert_eq!([(); 4].map(|()| pace.message()), [Ok(()), Ok(()), Ok(()), Err(TooFast::Messages)]);
        assert_eq!([60, 60, 0].map(|bytes| pace.bytes(bytes)), [Ok(()), Err(TooFast::Bytes), Ok(())]);
        assert_eq!(Pace::new(&SocketOptions::new().max_bytes_per_second(100)).bytes(101), Err(TooFast::Bytes));
    }

    #[test]
    fn what_was_sent_while_nobody_read_counts_as_of_then() {
        let mut pace = Pace::new(&SocketOptions::new().max_messages_per_second(10));
        let sends = |pace: &mut Pace, count: usize| (0..count).all(|_| pace.message().is_ok());
        pace.waited(Duration::from_secs(3));
        assert!(sends(&mut pace, 30), "ten for each second");
        assert!(!sends(&mut pace, 10), "and no more");
        pace.waited(Duration::from_secs(3));
        pace.caught_up();
        assert!(!sends(&mut pace, 20), "it had sent nothing");
        pace.waited(Duration::from_millis(900));
        assert!(!sends(&mut pace, 9), "a short wait changes nothing");
    }

    #[test]
    fn the_largest_limits_are_limits() {
        let largest = SocketOptions::new().max_messages_per_second(u32::MAX).max_bytes_per_second(u32::MAX);
        let mut pace = Pace::new(&largest);
        assert!((0..1_000).all(|_| pace.message().is_ok() && pace.bytes(1_000).is_ok()));
        pace.waited(Duration::MAX);
        pace.caught_up();
        assert!(pace.message().is_ok());
    }

    #[test]
    fn without_limits_nothing_is_too_fast() {
        let mut pace = Pace::default();
        assert!((0..10_000).all(|_| pace.message().is_ok() && pace.bytes(1_000_000).is_ok()));
    }
}

//! `MessageRate`: limits on the rate of messages and bytes from one client.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::server::options::SocketOptions;

/// The rate limits of one socket. Without limits it takes a few bytes of memory.
#[derive(Debug, Default)]
pub(crate) struct MessageRate {
    messages: Option<Box<Limit>>,
    bytes: Option<Box<Limit>>,
}

#[derive(Debug)]
struct Limit {
    per_second: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
    /// Allowance in addition to the limiter's, for messages that the client may have sent while the server did not
    /// read.
    credit: u64,
}

/// The rate limit that a client has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateExceeded {
    Messages,
    Bytes,
}

impl MessageRate {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        let limit = |limit: NonZeroU32| Box::new(Limit::new(limit));
        Self { messages: options.messages_per_second.map(limit), bytes: options.bytes_per_second.map(limit) }
    }

    pub(crate) fn check_message(&mut self) -> Result<(), RateExceeded> {
        self.messages.as_mut().map_or(Ok(()), |limit| limit.take(NonZeroU32::MIN).ok_or(RateExceeded::Messages))
    }

    pub(crate) fn check_bytes(&mut self, count: usize) -> Result<(), RateExceeded> {
        match (&mut self.bytes, u32::try_from(count).ok().and_then(NonZeroU32::new)) {
            (Some(limit), Some(count)) => limit.take(count).ok_or(RateExceeded::Bytes),
            _ => Ok(()),
        }
    }

    /// Adds the allowance for a time in which the server did not read.
    pub(crate) fn add_pause(&mut self, time: Duration) {
        self.limits().for_each(|limit| limit.add_pause(time));
    }

    /// Drops the allowance once everything that the client has sent is read.
    pub(crate) fn reset_credit(&mut self) {
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

    /// Takes `count` from the limiter, or from the allowance. Returns `None` if both are used up.
    fn take(&mut self, count: NonZeroU32) -> Option<()> {
        if !matches!(self.limiter.check_n(count), Ok(Ok(()))) {
            self.credit = self.credit.checked_sub(count.get().into())?;
        }
        Some(())
    }

    fn add_pause(&mut self, time: Duration) {
        // The limiter itself covers one second.
        let beyond = time.saturating_sub(Duration::from_secs(1));
        let allowance = beyond.as_millis() * u128::from(self.per_second.get()) / 1000;
        self.credit = self.credit.saturating_add(u64::try_from(allowance).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_above_the_limit_exceeds_the_rate() {
        let mut rate = MessageRate::new(&SocketOptions::new().max_messages_per_second(3).max_bytes_per_second(100));
        assert_eq!([(); 4].map(|()| rate.check_message()), [Ok(()), Ok(()), Ok(()), Err(RateExceeded::Messages)]);
        assert_eq!([60, 60, 0].map(|bytes| rate.check_bytes(bytes)), [Ok(()), Err(RateExceeded::Bytes), Ok(())]);
        assert_eq!(
            MessageRate::new(&SocketOptions::new().max_bytes_per_second(100)).check_bytes(101),
            Err(RateExceeded::Bytes)
        );
    }

    #[test]
    fn messages_sent_while_the_server_did_not_read_count_for_that_time() {
        let mut rate = MessageRate::new(&SocketOptions::new().max_messages_per_second(10));
        let sends = |rate: &mut MessageRate, count: usize| (0..count).all(|_| rate.check_message().is_ok());
        rate.add_pause(Duration::from_secs(3));
        assert!(sends(&mut rate, 30), "ten for each second");
        assert!(!sends(&mut rate, 10), "and no more");
        rate.add_pause(Duration::from_secs(3));
        rate.reset_credit();
        assert!(!sends(&mut rate, 20), "the client had sent nothing");
        rate.add_pause(Duration::from_millis(900));
        assert!(!sends(&mut rate, 9), "a short wait changes nothing");
    }

    #[test]
    fn the_largest_limits_are_limits() {
        let largest = SocketOptions::new().max_messages_per_second(u32::MAX).max_bytes_per_second(u32::MAX);
        let mut rate = MessageRate::new(&largest);
        assert!((0..1_000).all(|_| rate.check_message().is_ok() && rate.check_bytes(1_000).is_ok()));
        rate.add_pause(Duration::MAX);
        rate.reset_credit();
        assert!(rate.check_message().is_ok());
    }

    #[test]
    fn without_limits_no_rate_is_exceeded() {
        let mut rate = MessageRate::default();
        assert!((0..10_000).all(|_| rate.check_message().is_ok() && rate.check_bytes(1_000_000).is_ok()));
    }
}

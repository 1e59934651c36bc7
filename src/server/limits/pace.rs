//! How fast one client may send.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::super::options::SocketOptions;

/// The limits of one socket. Without limits it takes no memory to speak of.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    messages: Option<Box<DefaultDirectRateLimiter>>,
    bytes: Option<Box<DefaultDirectRateLimiter>>,
}

/// A client sends faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast;

impl Pace {
    pub(crate) fn new(options: &SocketOptions) -> Self {
        let limiter = |limit: NonZeroU32| Box::new(RateLimiter::direct(Quota::per_second(limit)));
        Self { messages: options.messages_per_second.map(limiter), bytes: options.bytes_per_second.map(limiter) }
    }

    pub(crate) fn message(&self) -> Result<(), TooFast> {
        match &self.messages {
            Some(limiter) => limiter.check().map_err(|_| TooFast),
            None => Ok(()),
        }
    }

    pub(crate) fn bytes(&self, count: usize) -> Result<(), TooFast> {
        match (&self.bytes, u32::try_from(count).ok().and_then(NonZeroU32::new)) {
            (Some(limiter), Some(count)) if !matches!(limiter.check_n(count), Ok(Ok(()))) => Err(TooFast),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_a_client_is_too_fast() {
        let pace = Pace::new(&SocketOptions::new().max_messages_per_second(3).max_bytes_per_second(100));
        assert_eq!([(); 4].map(|()| pace.message()), [Ok(()), Ok(()), Ok(()), Err(TooFast)]);
        assert_eq!([60, 60, 0].map(|bytes| pace.bytes(bytes)), [Ok(()), Err(TooFast), Ok(())]);
        assert_eq!(Pace::new(&SocketOptions::new().max_bytes_per_second(100)).bytes(101), Err(TooFast));
    }

    #[test]
    fn without_limits_nothing_is_too_fast() {
        let pace = Pace::default();
        assert!((0..10_000).all(|_| pace.message().is_ok() && pace.bytes(1_000_000).is_ok()));
    }
}

//! When a socket is pinged, when it counts as dead, and when it has lived long enough: no I/O.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::server::options::SocketOptions;

/// Longer times count as this: a year is for ever, and can be added to an instant.
pub(crate) const LONGEST: Duration = Duration::from_hours(365 * 24);

/// In bytes a second. Who takes a frame more slowly than that, and says nothing, counts as dead.
const LEAST_RATE: u64 = 1024;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    patience: Duration,
    ping: Instant,
    /// By when the client has to be heard, if a ping is under way.
    answer: Option<Instant>,
    expires: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Wait,
    Ping,
    /// The client did not answer a ping.
    Silent,
    /// Memberships in groups may end from now on.
    Expired,
}

impl Heartbeat {
    /// The first ping comes at a random time within the interval, so that sockets that opened together do not have to
    /// be served together for ever.
    pub(crate) fn new(now: Instant, expires: Instant, options: &SocketOptions) -> Self {
        let interval = options.ping_interval.min(LONGEST);
        let first = interval.mul_f64(rand::rng().random_range(0.1..=1.0));
        Self { interval, patience: options.pong_timeout.min(LONGEST), ping: now + first, answer: None, expires }
    }

    /// When to look again.
    pub(crate) fn next(&self) -> Instant {
        self.answer.unwrap_or(self.ping).min(self.expires)
    }

    /// The ping cannot be written before so many bytes, which a client on a slow line takes its time for.
    pub(crate) fn waits_behind(&mut self, bytes: usize) {
        let time = Duration::from_secs(bytes as u64 / LEAST_RATE).min(LONGEST);
        self.answer = self.answer.map(|answer| answer + time);
    }

    /// The ping is written.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.answer = self.answer.map(|answer| answer.min(now + self.patience));
    }

    /// `heard`: whether anything came from the client since the last beat.
    pub(crate) fn beat(&mut self, now: Instant, heard: bool) -> Beat {
        if now >= self.expires {
            return Beat::Expired;
        }
        match self.answer {
            Some(answer) if now >= answer && !heard => Beat::Silent,
            Some(answer) if now >= answer => {
                self.answer = None;
                self.ping = self.ping.max(now);
                Beat::Wait
            }
            None if now >= self.ping => {
                self.answer = Some(now + self.patience);
                self.ping = now + self.interval;
                Beat::Ping
            }
            _ => Beat::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(now: Instant) -> Heartbeat {
        Heartbeat::new(now, now + Duration::from_secs(100), &SocketOptions::default())
    }

    #[test]
    fn a_client_that_answers_is_pinged_every_interval() {
        let mut heart = heartbeat(Instant::now());
        let first = heart.next();
        assert_eq!(heart.beat(first, false), Beat::Ping);
        assert_eq!(heart.next(), first + Duration::from_secs(10));
        assert_eq!(heart.beat(heart.next(), true), Beat::Wait);
        assert_eq!(heart.next(), first + Duration::from_secs(25));
    }

    #[test]
    fn a_client_that_is_never_to_be_pinged_is_not() {
        let now = Instant::now();
        let options = SocketOptions::new().ping(Duration::MAX, Duration::MAX);
        let mut heart = Heartbeat::new(now, now + LONGEST, &options);
        assert!(heart.next() > now + Duration::from_hours(30 * 24));
        assert_eq!(heart.beat(now + Duration::from_hours(24), false), Beat::Wait);
    }

    #[test]
    fn a_ping_that_waits_behind_a_frame_has_time_to_get_out() {
        let now = Instant::now();
        let mut heart = Heartbeat::new(now, now + LONGEST, &SocketOptions::default());
        let first = heart.next();
        assert_eq!(heart.beat(first, false), Beat::Ping);
        heart.waits_behind(100 * 1024);
        assert_eq!(heart.next(), first + Duration::from_secs(110));
        heart.pinged(first + Duration::from_secs(5));
        assert_eq!(heart.next(), first + Duration::from_secs(15));
        heart.pinged(first + Duration::from_secs(6));
        assert_eq!(heart.next(), first + Duration::from_secs(15));
    }

    #[test]
    fn a_client_that_does_not_answer_is_dead() {
        let mut heart = heartbeat(Instant::now());
        assert_eq!(heart.beat(heart.next(), true), Beat::Ping);
        assert_eq!(heart.beat(heart.next(), false), Beat::Silent);
    }

    #[test]
    fn a_connection_expires_with_its_groups() {
        let now = Instant::now();
        let mut heart = heartbeat(now);
        let expires = now + Duration::from_secs(100);
        while heart.next() < expires {
            assert!(matches!(heart.beat(heart.next(), true), Beat::Ping | Beat::Wait));
        }
        assert_eq!(heart.beat(expires, true), Beat::Expired);
    }
}

//! `Heartbeat`: the timers of one socket for pings, the pong timeout, and the end of its lifetime. No I/O.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use crate::server::options::{LONGEST_TIMEOUT, SocketOptions};

/// Minimum rate of a client, in bytes per second. A client that accepts a frame more slowly and sends nothing counts as
/// dead.
const MIN_RATE: u64 = 1024;

/// Timers of one socket.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    pong_timeout: Duration,
    /// Time of the next ping.
    ping: Instant,
    /// Deadline for the client to send anything, if a ping is pending.
    deadline: Option<Instant>,
    expires: Instant,
}

/// The action of the heartbeat that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Wait,
    Ping,
    /// The client sent nothing after a ping.
    PongTimeout,
    /// The lifetime of the socket has ended, and its group memberships may expire.
    Expired,
}

impl Heartbeat {
    /// Creates the timers. The first ping comes at a random time within the interval, so that the pings of sockets that
    /// opened together are spread.
    pub(crate) fn new(now: Instant, expires: Instant, options: &SocketOptions) -> Self {
        let interval = options.ping_interval.min(LONGEST_TIMEOUT);
        let first = interval.mul_f64(rand::rng().random_range(0.1..=1.0));
        Self {
            interval,
            pong_timeout: options.pong_timeout.min(LONGEST_TIMEOUT),
            ping: now + first,
            deadline: None,
            expires,
        }
    }

    /// Returns the time of the next action.
    pub(crate) fn next(&self) -> Instant {
        self.deadline.unwrap_or(self.ping).min(self.expires)
    }

    /// Extends the deadline by the time that a client on a slow line may take for the `bytes` written before the ping.
    pub(crate) fn extend_deadline(&mut self, bytes: usize) {
        let time = Duration::from_secs(bytes as u64 / MIN_RATE).min(LONGEST_TIMEOUT);
        self.deadline = self.deadline.map(|deadline| deadline + time);
    }

    /// Records that the ping was written.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.deadline = self.deadline.map(|deadline| deadline.min(now + self.pong_timeout));
    }

    /// Returns the action that is due. `is_alive` is `true` if the client has sent anything since the last call.
    pub(crate) fn poll(&mut self, now: Instant, is_alive: bool) -> Due {
        if now >= self.expires {
            return Due::Expired;
        }
        match self.deadline {
            Some(deadline) if now >= deadline && !is_alive => Due::PongTimeout,
            Some(deadline) if now >= deadline => {
                self.deadline = None;
                self.ping = self.ping.max(now);
                Due::Wait
            }
            None if now >= self.ping => {
                self.deadline = Some(now + self.pong_timeout);
                self.ping = now + self.interval;
                Due::Ping
            }
            _ => Due::Wait,
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
    fn a_client_that_answers_is_pinged_at_every_interval() {
        let mut heart = heartbeat(Instant::now());
        let first = heart.next();
        assert_eq!(heart.poll(first, false), Due::Ping);
        assert_eq!(heart.next(), first + Duration::from_secs(10));
        assert_eq!(heart.poll(heart.next(), true), Due::Wait);
        assert_eq!(heart.next(), first + Duration::from_secs(25));
    }

    #[test]
    fn the_longest_interval_sends_no_pings() {
        let now = Instant::now();
        let options = SocketOptions::new().ping(Duration::MAX, Duration::MAX);
        let mut heart = Heartbeat::new(now, now + LONGEST_TIMEOUT, &options);
        assert!(heart.next() > now + Duration::from_hours(30 * 24));
        assert_eq!(heart.poll(now + Duration::from_hours(24), false), Due::Wait);
    }

    #[test]
    fn a_ping_behind_a_large_frame_extends_the_deadline() {
        let now = Instant::now();
        let mut heart = Heartbeat::new(now, now + LONGEST_TIMEOUT, &SocketOptions::default());
        let first = heart.next();
        assert_eq!(heart.poll(first, false), Due::Ping);
        heart.extend_deadline(100 * 1024);
        assert_eq!(heart.next(), first + Duration::from_secs(110));
        heart.pinged(first + Duration::from_secs(5));
        assert_eq!(heart.next(), first + Duration::from_secs(15));
        heart.pinged(first + Duration::from_secs(6));
        assert_eq!(heart.next(), first + Duration::from_secs(15));
    }

    #[test]
    fn a_client_that_answers_no_ping_is_dead() {
        let mut heart = heartbeat(Instant::now());
        assert_eq!(heart.poll(heart.next(), true), Due::Ping);
        assert_eq!(heart.poll(heart.next(), false), Due::PongTimeout);
    }

    #[test]
    fn a_connection_expires_with_its_memberships() {
        let now = Instant::now();
        let mut heart = heartbeat(now);
        let expires = now + Duration::from_secs(100);
        while heart.next() < expires {
            assert!(matches!(heart.poll(heart.next(), true), Due::Ping | Due::Wait));
        }
        assert_eq!(heart.poll(expires, true), Due::Expired);
    }
}

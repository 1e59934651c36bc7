//! `Overload`: the connections that have exceeded the limit of waiting frames. Their later frames are dropped too,
//! because they would follow a gap.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

/// How long a connection is remembered after its last refused message. By then the messages that it sent before have
/// expired, by default after one minute. Its disconnect cannot end this earlier, because another worker may get it.
const RETENTION: Duration = Duration::from_mins(2);

#[derive(Debug, Default)]
pub(crate) struct Overload {
    connections: HashMap<ByteString, Overloaded>,
    /// Times at which to check whether a connection can be forgotten, one entry per connection.
    checks: VecDeque<(Instant, ByteString)>,
}

#[derive(Debug)]
struct Overloaded {
    /// End of the time for which the connection is remembered.
    until: Instant,
    /// Whether the client was notified.
    notified: bool,
}

impl Overload {
    /// Returns whether a message of this connection has to be refused. If so, the connection is remembered for longer.
    pub(crate) fn refuses(&mut self, key: &ByteString, now: Instant) -> bool {
        self.remove_expired(now);
        self.connections.get_mut(key).map(|entry| entry.until = now + RETENTION).is_some()
    }

    /// Adds a connection that has exceeded the limit.
    pub(crate) fn insert(&mut self, key: &ByteString, now: Instant) {
        self.connections.insert(key.clone(), Overloaded { until: now + RETENTION, notified: false });
        self.checks.push_back((now + RETENTION, key.clone()));
    }

    /// Marks the client as notified. Returns whether it has to be notified now.
    pub(crate) fn notify(&mut self, key: &ByteString) -> bool {
        self.connections.get_mut(key).is_some_and(|entry| !std::mem::replace(&mut entry.notified, true))
    }

    /// Records that the client could not be notified.
    pub(crate) fn unmark_notified(&mut self, key: &ByteString) {
        if let Some(entry) = self.connections.get_mut(key) {
            entry.notified = false;
        }
    }

    fn remove_expired(&mut self, now: Instant) {
        while self.checks.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, key)) = self.checks.pop_front()
        {
            match self.connections.get(&key) {
                Some(entry) if entry.until > now => self.checks.push_back((entry.until, key)),
                _ => drop(self.connections.remove(&key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overloaded_connection_is_remembered_after_its_last_message() {
        let (mut overload, mut now) = (Overload::default(), Instant::now());
        let (ada, bob) = ("ada".into(), "bob".into());
        overload.insert(&ada, now);
        overload.insert(&bob, now);
        for _ in 0..5 {
            now += RETENTION / 2;
            assert!(overload.refuses(&ada, now));
        }
        assert!(!overload.refuses(&bob, now) && overload.connections.len() == 1);
        assert!(!overload.refuses(&ada, now + RETENTION));
        assert!(overload.connections.is_empty() && overload.checks.is_empty());
    }

    #[test]
    fn a_client_is_notified_once_unless_that_fails() {
        let (mut overload, key) = (Overload::default(), "ada".into());
        overload.insert(&key, Instant::now());
        assert_eq!([overload.notify(&key), overload.notify(&key)], [true, false]);
        overload.unmark_notified(&key);
        assert_eq!([overload.notify(&key), overload.notify(&key)], [true, false]);
    }
}

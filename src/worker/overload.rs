//! `Overload`: connections that sent more than could be handled. Their later frames are dropped too, because they would
//! follow a gap.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

/// How long a connection is remembered after its last refused message. Messages expire after one minute by default, and
/// another worker may get the disconnect of the client.
const MEMORY: Duration = Duration::from_mins(2);

#[derive(Debug, Default)]
pub(crate) struct Overload {
    known: HashMap<ByteString, Overloaded>,
    /// Times at which to check whether a connection can be forgotten, one entry per connection.
    ends: VecDeque<(Instant, ByteString)>,
}

#[derive(Debug)]
struct Overloaded {
    until: Instant,
    /// Whether the client was notified.
    notified: bool,
}

impl Overload {
    /// Returns whether a message that arrives now has to be refused. If so, extends the time for which the connection
    /// is remembered.
    pub(crate) fn refuses(&mut self, key: &ByteString, now: Instant) -> bool {
        self.forget(now);
        self.known.get_mut(key).map(|entry| entry.until = now + MEMORY).is_some()
    }

    pub(crate) fn begin(&mut self, key: &ByteString, now: Instant) {
        self.known.insert(key.clone(), Overloaded { until: now + MEMORY, notified: false });
        self.ends.push_back((now + MEMORY, key.clone()));
    }

    /// Marks the client as notified. Returns whether it has to be notified now.
    pub(crate) fn notify(&mut self, key: &ByteString) -> bool {
        self.known.get_mut(key).is_some_and(|entry| !std::mem::replace(&mut entry.notified, true))
    }

    /// Records that the client could not be notified.
    pub(crate) fn unmark_notified(&mut self, key: &ByteString) {
        if let Some(entry) = self.known.get_mut(key) {
            entry.notified = false;
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, key)) = self.ends.pop_front()
        {
            match self.known.get(&key) {
                Some(entry) if entry.until > now => self.ends.push_back((entry.until, key)),
                _ => drop(self.known.remove(&key)),
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
        overload.begin(&ada, now);
        overload.begin(&bob, now);
        for _ in 0..5 {
            now += MEMORY / 2;
            assert!(overload.refuses(&ada, now));
        }
        assert!(!overload.refuses(&bob, now) && overload.known.len() == 1);
        assert!(!overload.refuses(&ada, now + MEMORY));
        assert!(overload.known.is_empty() && overload.ends.is_empty());
    }

    #[test]
    fn a_client_is_notified_once_unless_that_fails() {
        let (mut overload, key) = (Overload::default(), "ada".into());
        overload.begin(&key, Instant::now());
        assert_eq!([overload.notify(&key), overload.notify(&key)], [true, false]);
        overload.unmark_notified(&key);
        assert_eq!([overload.notify(&key), overload.notify(&key)], [true, false]);
    }
}

//! Connections that sent more than could be handled. Nothing more is taken of one: what it sent in between is missing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

/// How long a connection is remembered after the last message that was refused. Messages expire in a minute by default,
/// and its end may have been told to another worker.
const MEMORY: Duration = Duration::from_mins(2);

#[derive(Debug, Default)]
pub(crate) struct Floods {
    known: HashMap<ByteString, Flood>,
    /// When to look whether one is to be forgotten; one for each.
    ends: VecDeque<(Instant, ByteString)>,
}

#[derive(Debug)]
struct Flood {
    until: Instant,
    /// The client has been told.
    told: bool,
}

impl Floods {
    /// Whether a message of this connection, which comes now, is to be refused.
    pub(crate) fn include(&mut self, line: &ByteString, now: Instant) -> bool {
        self.forget(now);
        self.known.get_mut(line).map(|flood| flood.until = now + MEMORY).is_some()
    }

    pub(crate) fn begin(&mut self, line: &ByteString, now: Instant) {
        self.known.insert(line.clone(), Flood { until: now + MEMORY, told: false });
        self.ends.push_back((now + MEMORY, line.clone()));
    }

    /// Whether the client has yet to be told; it is now.
    pub(crate) fn tell(&mut self, line: &ByteString) -> bool {
        self.known.get_mut(line).is_some_and(|flood| !std::mem::replace(&mut flood.told, true))
    }

    /// The client could not be told.
    pub(crate) fn untell(&mut self, line: &ByteString) {
        if let Some(flood) = self.known.get_mut(line) {
            flood.told = false;
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, line)) = self.ends.pop_front()
        {
            match self.known.get(&line) {
                Some(flood) if flood.until > now => self.ends.push_back((flood.until, line)),
                _ => drop(self.known.remove(&line)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_remembered_for_a_while_after_its_last_message() {
        let (mut floods, mut now) = (Floods::default(), Instant::now());
        let (ada, bob) = ("ada".into(), "bob".into());
        floods.begin(&ada, now);
        floods.begin(&bob, now);
        for _ in 0..5 {
            now += MEMORY / 2;
            assert!(floods.include(&ada, now));
        }
        assert!(!floods.include(&bob, now) && floods.known.len() == 1);
        assert!(!floods.include(&ada, now + MEMORY));
        assert!(floods.known.is_empty() && floods.ends.is_empty());
    }

    #[test]
    fn a_client_is_told_once_unless_that_fails() {
        let (mut floods, line) = (Floods::default(), "ada".into());
        floods.begin(&line, Instant::now());
        assert_eq!([floods.tell(&line), floods.tell(&line)], [true, false]);
        floods.untell(&line);
        assert_eq!([floods.tell(&line), floods.tell(&line)], [true, false]);
    }
}

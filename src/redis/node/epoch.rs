//! The epoch of a server's data: a random value under a key of the server, which reveals that it returned without its
//! data.

use std::collections::HashSet;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use crate::redis::node::cluster::redirect::Target;
use crate::redis::node::cluster::{Redirect, Slot};
use crate::redis::node::fault;

/// What a server answered about its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EpochAnswer {
    /// The epoch. `None` if there is none, or if the server refused to store one.
    Epoch(Option<String>),
    /// The slot of the key is on another node of the cluster, which the answer may name, or about to be.
    Elsewhere(Option<Target>),
    /// It was not asked, or it is a node of a cluster that serves no keys now.
    Unknown,
}

/// The last known epoch of a shard.
#[derive(Debug, Default)]
pub(crate) struct KnownEpoch {
    pub(crate) value: Option<String>,
    /// In a cluster the slot and the key of the epoch.
    place: Option<(Slot, String)>,
    /// The slots that turned out to be on other nodes, as long as the layout has them here.
    refused: HashSet<Slot>,
}

impl EpochAnswer {
    /// The meaning of the answer to a command that reads or creates the epoch. Fails for errors that no cluster
    /// redirects.
    pub(crate) fn of(answer: RedisResult<Value>) -> Result<Self, RedisError> {
        let error = match answer {
            Ok(epoch) => return Ok(Self::Epoch(redis::from_redis_value(epoch)?)),
            Err(error) => error,
        };
        match fault::answer(&error).and_then(|(code, text)| Some((code, Redirect::parse(code, text)?))) {
            Some((_, Redirect::Moved(_, target))) => Ok(Self::Elsewhere(Some(target))),
            Some((_, Redirect::Ask(..) | Redirect::Unnamed)) => Ok(Self::Elsewhere(None)),
            Some(("CLUSTERDOWN" | "TRYAGAIN", _)) => Ok(Self::Unknown),
            _ => Err(error),
        }
    }
}

impl KnownEpoch {
    /// The key of the epoch of a shard of a cluster. `key` is its beginning, and the rest is in a slot that the shard
    /// `serves`. The slot stays the same as long as the shard serves it, and nothing is known of the epoch in another
    /// one. Returns `None` if the shard serves no slot.
    pub(crate) fn key_in_slot(&mut self, key: &str, serves: impl Fn(Slot) -> bool) -> Option<&str> {
        self.refused.retain(|slot| serves(*slot));
        let is_good = |slot: &Slot| serves(*slot) && !self.refused.contains(slot);
        let kept = self.place.as_ref().map(|(slot, _)| *slot).filter(is_good);
        if kept.is_none() {
            self.place = Slot::all().find(is_good).map(|slot| (slot, format!("{key}:{{{}}}", slot.tag())));
            self.value = None;
        }
        self.place.as_ref().map(|(_, key)| &**key)
    }

    /// Records what the server answered. Returns whether it has lost its data.
    pub(crate) fn record(&mut self, answer: EpochAnswer) -> bool {
        match answer {
            EpochAnswer::Epoch(epoch) => {
                let lost = self.value.is_some() && self.value != epoch;
                self.value = epoch;
                lost
            }
            EpochAnswer::Elsewhere(_) => {
                self.refused.extend(self.place.as_ref().map(|(slot, _)| *slot));
                false
            }
            EpochAnswer::Unknown => false,
        }
    }
}

/// Reads the epoch, or creates one if there is none.
pub(crate) async fn read_or_create(
    connection: &mut MultiplexedConnection,
    key: &str,
) -> Result<EpochAnswer, RedisError> {
    match EpochAnswer::of(redis::cmd("GET").arg(key).query_async(connection).await)? {
        EpochAnswer::Epoch(None) => create(connection, key).await,
        answer => Ok(answer),
    }
}

/// Creates the epoch of the data if there is none, and returns the epoch. Returns `None` while the server refuses
/// writes because it lacks memory, disk space or replicas: readers still work with it, and make room.
pub(crate) async fn create(connection: &mut MultiplexedConnection, key: &str) -> Result<EpochAnswer, RedisError> {
    let epoch = format!("{:032x}", rand::random::<u128>());
    match redis::cmd("SET").arg(key).arg(epoch).arg("NX").query_async::<Value>(connection).await {
        Err(error) if !error.code().is_some_and(fault::is_shortage) => EpochAnswer::of(Err(error)),
        // A command of its own, because servers before 7.0 do not support `NX` and `GET` in one `SET`.
        _ => EpochAnswer::of(redis::cmd("GET").arg(key).query_async(connection).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(value: &str) -> EpochAnswer {
        EpochAnswer::Epoch(Some(value.to_owned()))
    }

    #[test]
    fn another_epoch_or_none_means_that_the_data_is_lost() {
        let mut known = KnownEpoch::default();
        assert!(!known.record(epoch("a")) && !known.record(epoch("a")) && !known.record(EpochAnswer::Unknown));
        assert!(known.record(epoch("b")) && known.record(EpochAnswer::Epoch(None)));
        assert!(!known.record(epoch("c")), "nothing was known");
    }

    #[test]
    fn a_key_stays_in_its_slot_while_the_shard_serves_it_and_nothing_is_known_in_another() {
        let mut known = KnownEpoch::default();
        let from = |first| move |slot: Slot| slot.index() >= first;
        let key = known.key_in_slot("k", from(5)).unwrap().to_owned();
        assert_eq!(Slot::of(&key).index(), 5);
        known.record(epoch("a"));
        assert_eq!(known.key_in_slot("k", from(0)), Some(&*key));
        assert!(known.record(epoch("b")));
        assert_eq!(Slot::of(known.key_in_slot("k", from(9)).unwrap()).index(), 9);
        assert!(!known.record(epoch("c")), "it is in another slot");
        assert!(!known.record(EpochAnswer::Elsewhere(None)));
        assert_eq!(Slot::of(known.key_in_slot("k", from(9)).unwrap()).index(), 10);
        assert!(!known.record(epoch("d")));
        known.record(EpochAnswer::Elsewhere(None));
        assert_eq!(Slot::of(known.key_in_slot("k", from(9)).unwrap()).index(), 11, "all that were refused count");
        assert_eq!(known.key_in_slot("k", |_| false), None);
        assert!(!known.record(EpochAnswer::Unknown) && !known.record(epoch("e")), "the shard had no slot meanwhile");
    }
}

//! Records of the quarantine stream, and their ids.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use redis::Value;

use crate::name::ChannelName;
use crate::redis::node::fault::Fault;

/// The id of an entry in quarantine: `<server>:<time>-<number>`, for example `0:1732912345678-0`.
///
/// The first part is the position of the server in the configured hosts. The second one is when the entry was
/// quarantined, in ms since the epoch by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuarantineId {
    shard: usize,
    time_ms: u64,
    number: u64,
}

/// The error for a text that is not a [`QuarantineId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid id {text:?}: expected <server>:<time>-<number>, as 0:1732912345678-0")]
pub struct InvalidQuarantineId {
    text: String,
}

impl QuarantineId {
    /// The position of the server in the configured hosts.
    pub fn shard(self) -> usize {
        self.shard
    }

    /// When the entry was quarantined, in ms since the epoch by the server's clock.
    pub(crate) fn time_ms(self) -> u64 {
        self.time_ms
    }

    /// The id of the record in the stream of its server.
    pub(crate) fn of_stream(self) -> String {
        format!("{}-{}", self.time_ms, self.number)
    }

    fn parse(shard: usize, of_stream: &str) -> Option<Self> {
        let (time, number) = of_stream.split_once('-')?;
        Some(Self { shard, time_ms: time.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for QuarantineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.shard, self.time_ms, self.number)
    }
}

impl FromStr for QuarantineId {
    type Err = InvalidQuarantineId;

    fn from_str(text: &str) -> Result<Self, InvalidQuarantineId> {
        let parts = text.split_once(':').and_then(|(shard, id)| Self::parse(shard.parse().ok()?, id));
        parts.ok_or_else(|| InvalidQuarantineId { text: text.to_owned() })
    }
}

/// A record of the quarantine stream: an entry, and what its reader recorded about it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: QuarantineId,
    /// The channel in whose list the entry was; `None` if its name is invalid.
    pub(crate) channel: Option<ChannelName>,
    pub(crate) reason: String,
    pub(crate) entry: Bytes,
}

impl Record {
    /// Parses the answer to `XRANGE` on `shard`. Records of other programs that have no valid id are left out.
    pub(crate) fn parse_all(shard: usize, answer: Value) -> Result<Vec<Self>, Fault> {
        let records: Vec<(String, HashMap<Vec<u8>, Bytes>)> =
            redis::from_redis_value(answer).map_err(|error| Fault::unexpected(&error.to_string()))?;
        let record = |(id, mut fields): (String, HashMap<Vec<u8>, Bytes>)| {
            let mut field = |name: &str| fields.remove(name.as_bytes()).unwrap_or_default();
            let channel = String::from_utf8(field("channel").into()).ok();
            Some(Self {
                id: QuarantineId::parse(shard, &id)?,
                channel: channel.and_then(|name| ChannelName::parse_source(&name).ok()),
                reason: String::from_utf8_lossy(&field("reason")).into_owned(),
                entry: field("entry"),
            })
        };
        Ok(records.into_iter().filter_map(record).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_displayed_as_it_is_parsed() {
        let id: QuarantineId = "2:1732912345678-7".parse().unwrap();
        assert_eq!((id.shard(), id.time_ms(), &*id.of_stream()), (2, 1_732_912_345_678, "1732912345678-7"));
        assert_eq!(id.to_string(), "2:1732912345678-7");
        for text in ["", "2", "2:", "2:1", "2:1-", "-1:1-1", "1-1", "2:1-1 ", "0:18446744073709551616-0"] {
            let error = text.parse::<QuarantineId>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("invalid id {text:?}")), "{error}");
        }
    }
}

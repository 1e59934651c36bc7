//! The native format, as far as reading it goes: lists of entries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{Cmd, Value};
use tokio_util::sync::CancellationToken;

use super::format::{Format, Popped, Raw, Sorter, Unreadable};
use super::parcel::Parcel;
use super::quarantine::Quarantine;
use super::sorter::EntrySorter;
use crate::message::Message;
use crate::name::ChannelName;
use crate::redis::batch::milliseconds;
use crate::redis::envelope::Envelope;
use crate::redis::fault::Fault;
use crate::redis::frame::{Address, Entry, Text};
use crate::redis::group::Groups;
use crate::redis::renewals::SLACK;
use crate::redis::script;
use crate::redis::shard::Shard;
use crate::redis::topology::Topology;

/// Reads lists of entries.
pub(in crate::redis) struct Native(Arc<Inner>);

/// What a reader of the native format needs.
pub(super) struct Inner {
    pub(super) topology: Arc<Topology>,
    pub(super) envelope: Arc<Envelope>,
    pub(super) groups: Arc<Groups>,
    pub(super) quarantine: Quarantine,
    /// Cancelled when the layer closes.
    pub(super) closing: CancellationToken,
}

impl Native {
    pub(in crate::redis) fn new(
        topology: Arc<Topology>,
        envelope: Arc<Envelope>,
        groups: Arc<Groups>,
        quarantine: Quarantine,
        closing: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { topology, envelope, groups, quarantine, closing }))
    }

    /// The bytes of an entry for those who have not got it.
    fn entry_of_the_rest(&self, parcel: &Parcel) -> Vec<u8> {
        let (Some(entry), Some(rest)) = (parcel.entry(), parcel.rest()) else { return parcel.to_bytes() };
        let locals = rest.iter().filter_map(|channel| channel.local().map(Text::from)).collect();
        self.0.envelope.readdress(entry, parcel.source.as_str(), rest_of(&entry.address, locals)).to_bytes()
    }
}

#[async_trait]
impl Format for Native {
    fn key(&self, non_local: &str) -> String {
        self.0.topology.keys.channel(non_local)
    }

    fn largest(&self) -> usize {
        self.0.envelope.max_message_size()
    }

    fn take(&self, keys: &[&str], count: usize) -> Cmd {
        let mut command = redis::cmd("LMPOP");
        command.arg(keys.len()).arg(keys).arg("LEFT").arg("COUNT").arg(count);
        command
    }

    fn wait(&self, keys: &[&str], count: usize, timeout: Duration) -> Cmd {
        let mut command = redis::cmd("BLMPOP");
        command.arg(timeout.as_secs_f64()).arg(keys.len()).arg(keys).arg("LEFT").arg("COUNT").arg(count);
        command
    }

    fn takes_first(&self, _: usize) -> bool {
        false
    }

    async fn popped(&self, _: &Shard, answer: Value) -> Result<Option<Popped>, Fault> {
        let unexpected = || Fault::unexpected("a pop gave something else than a key and a list");
        let Value::Array(parts) = answer else {
            return if answer == Value::Nil { Ok(None) } else { Err(unexpected()) };
        };
        let Ok([Value::BulkString(key), Value::Array(values)]) = <[Value; 2]>::try_from(parts) else {
            return Err(unexpected());
        };
        let raw = values.into_iter().filter_map(|value| match value {
            Value::BulkString(entry) => Some(Raw { body: entry.into(), label: Bytes::new() }),
            _ => None,
        });
        Ok(Some(Popped { key, raw: raw.collect() }))
    }

    fn sorter(&self) -> Box<dyn Sorter> {
        Box::new(EntrySorter::new(self.0.clone()))
    }

    fn open(&self, entry: &Entry, source: &ChannelName, now_ms: u64) -> Result<Message, Unreadable> {
        let age = Duration::from_millis(now_ms.saturating_sub(entry.sent()));
        metrics::histogram!("channel_layer_queue_age_seconds").record(age);
        self.0.envelope.open(entry, source.as_str(), now_ms)
    }

    fn refuse(&self, shard: &Arc<Shard>, entry: Bytes, reason: String) {
        self.0.quarantine.keep(shard, entry, reason);
    }

    fn put_back(&self, key: &str, parcels: &[Parcel]) -> Cmd {
        let mut command = script::PUT_BACK.call(&[key]);
        command.arg(milliseconds(SLACK));
        for parcel in parcels {
            command.arg(&self.entry_of_the_rest(parcel)[..]);
        }
        command
    }
}

fn rest_of(address: &Address<Text>, locals: Vec<Text>) -> Address<Text> {
    match address {
        Address::Group { group, version } | Address::Rest { group, version, .. } => {
            Address::Rest { group: group.clone(), version: *version, locals }
        }
        other => other.clone(),
    }
}

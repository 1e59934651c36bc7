//! Group messages whose members are not known yet, since the server of their group cannot be reached, and the messages behind
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::drops::{self, DropReason};
use crate::name::ChannelName;
use crate::redis::node::shard::Shard;
use crate::redis::receive::buffer::entry::BufferedEntry;

/// The most messages, and the most bytes of them, that one reader holds.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 16 << 20;
/// How often the members are asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long newer messages of the same channel wait behind a held message. After that the server of the group is unreachable
/// for longer than a restart takes, and channels on other servers must not stop with it.
const KEEP_ORDER: Duration = Duration::from_secs(5);

/// A bounded buffer of group messages that wait for the server of their group, and of newer messages of the same channels that
/// keep their order behind them. The first held message of a channel is always one without known members.
#[derive(Default)]
pub(crate) struct Held {
    parcels: VecDeque<BufferedEntry>,
    bytes: usize,
    /// When the members were last asked for.
    asked: Option<Instant>,
}

impl Held {
    /// Keeps `parcel` behind the others. If there is no room for it, it is dropped and counted.
    pub(crate) fn push(&mut self, parcel: BufferedEntry) {
        if self.parcels.len() >= MOST || self.bytes + parcel.size() > MOST_BYTES {
            drops::count(DropReason::ShardDown, parcel.left());
            return;
        }
        self.bytes += parcel.size();
        self.parcels.push_back(parcel);
    }

    /// Whether `parcel` has to wait behind a held message of its channel. Messages of one group wait for each other however
    /// long it takes.
    pub(crate) fn holds_back(&self, parcel: &BufferedEntry) -> bool {
        let is_of_its_group = |held: &BufferedEntry| {
            let group = parcel.group_name();
            held.source == parcel.source && group.is_some() && held.group_name() == group
        };
        self.blocks(&parcel.source, &parcel.shard) || self.parcels.iter().any(is_of_its_group)
    }

    /// Whether all messages of `source`, which are on `shard`, have to wait behind a held one. While `shard` is down nothing is
    /// gained by letting them pass.
    pub(crate) fn blocks(&self, source: &ChannelName, shard: &Shard) -> bool {
        let oldest = self.parcels.iter().find(|held| held.source == *source);
        oldest.is_some_and(|oldest| !shard.is_up() || oldest.unknown_for().is_some_and(|time| time < KEEP_ORDER))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// When to ask for the members again; `None` if no message is held.
    pub(crate) fn ask_again_at(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.asked.map_or_else(Instant::now, |asked| asked + ASK_AGAIN))
    }

    /// Takes all messages out, in order, to ask for their members.
    pub(crate) fn take(&mut self) -> VecDeque<BufferedEntry> {
        self.bytes = 0;
        self.asked = Some(Instant::now());
        std::mem::take(&mut self.parcels)
    }
}

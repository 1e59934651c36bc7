//! Group messages whose members are not known yet, since the server of their group is away.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::parcel::Parcel;
use crate::drops::{self, DropReason};

/// The most messages, and the most bytes of them, that one reader holds.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 16 << 20;
/// How often it is asked who they are for.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A bounded buffer of group messages that wait for the server of their group. Other messages pass them.
#[derive(Default)]
pub(super) struct Held {
    parcels: VecDeque<Parcel>,
    bytes: usize,
    /// When it was asked last who they are for.
    asked: Option<Instant>,
}

impl Held {
    /// Keeps `parcel` behind the others. Where there is no room for it, it is dropped and counted.
    pub(super) fn push(&mut self, parcel: Parcel) {
        if self.parcels.len() >= MOST || self.bytes + parcel.size() > MOST_BYTES {
            drops::count(DropReason::ShardDown, 1);
            return;
        }
        self.bytes += parcel.size();
        self.parcels.push_back(parcel);
    }

    /// Keeps `parcel`, which was here before, in front of the others.
    pub(super) fn push_front(&mut self, parcel: Parcel) {
        self.bytes += parcel.size();
        self.parcels.push_front(parcel);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// When to ask again who they are for; `None` if there is none.
    pub(super) fn ask_again_at(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.asked.map_or_else(Instant::now, |asked| asked + ASK_AGAIN))
    }

    /// Takes all of them out, in order, to ask who they are for.
    pub(super) fn take(&mut self) -> VecDeque<Parcel> {
        self.bytes = 0;
        self.asked = Some(Instant::now());
        std::mem::take(&mut self.parcels)
    }
}

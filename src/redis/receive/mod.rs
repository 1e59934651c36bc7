//! The way in: blocking reads on connections of their own, shared by those who wait for the same channels.

mod accept;
mod address;
mod blocking;
mod consumer;
mod contest;
mod failures;
mod format;
mod held;
mod holders;
mod lane;
mod native;
mod parcel;
mod put_back;
mod quarantine;
mod reader;
mod readers;
mod reads;
mod reports;
mod sorter;
mod task;
mod timer;

pub(super) use address::addressee;
pub(crate) use format::{Format, Popped, READ_BYTES, Raw, Sorter, Unreadable};
pub(super) use native::Native;
pub(crate) use parcel::Parcel;
pub(super) use quarantine::{LIVES_MS, QuarantineWriter};
pub(crate) use readers::Readers;

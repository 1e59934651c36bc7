//! The way in: blocking reads on connections of their own, shared by those who wait for the same channels.

mod blocking;
mod consumer;
mod contest;
mod format;
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

pub(crate) use format::{Format, Popped, READ_BYTES, Raw, Sorter, Unreadable};
pub(super) use native::Native;
pub(crate) use parcel::Parcel;
pub(super) use quarantine::Quarantine;
pub(crate) use readers::Readers;

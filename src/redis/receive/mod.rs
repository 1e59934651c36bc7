//! The way in: blocking reads on connections of their own, shared by those who wait for the same channels.

pub(crate) mod accept;
pub(crate) mod address;
pub(crate) mod blocking;
pub(crate) mod consumer;
pub(crate) mod contest;
pub(crate) mod failures;
pub(crate) mod format;
pub(crate) mod held;
pub(crate) mod holders;
pub(crate) mod lane;
pub(crate) mod parcel;
pub(crate) mod put_back;
pub(crate) mod quarantine;
pub(crate) mod reader;
pub(crate) mod readers;
pub(crate) mod reads;
pub(crate) mod reports;
pub(crate) mod sorter;
pub(crate) mod task;
pub(crate) mod timer;

pub(crate) use address::addressee;
pub(crate) use format::{Popped, READ_BYTES, Raw, ReadFormat, Sorter, Unreadable};
pub(crate) use parcel::Parcel;
pub(crate) use quarantine::{LIVES_MS, QuarantineWriter};
pub(crate) use readers::Readers;

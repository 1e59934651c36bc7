//! The receive path: blocking reads on dedicated connections, shared by the callers that wait for the same channels.
//!
//! A [`reader`] has a buffer and one [`task`]. The task fills the buffer through a fetch loop for each shard, and
//! consumers take from the buffer. The task is never cancelled during a read, and it puts back the entries that no
//! consumer takes.

pub(crate) mod buffer;
pub(crate) mod consumer;
pub(crate) mod fetch;
pub(crate) mod format;
pub(crate) mod outage;
pub(crate) mod put_back;
pub(crate) mod raw;
pub(crate) mod reader;
pub(crate) mod readers;
pub(crate) mod task;

pub(crate) use buffer::buffered_entry::BufferedEntry;
pub(crate) use format::{Popped, READ_BYTES, ReadFormat, RecipientResolver, Undeliverable};
pub(crate) use raw::{EntryFormat, Raw, Unreadable};
pub(crate) use readers::Readers;

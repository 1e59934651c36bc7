//! The receive path: blocking reads on connections of their own, shared by the callers that wait for the same channels.
//!
//! A [`reader`] has a buffer and one [`task`], which fills the buffer through a fetch loop for each shard. Consumers take from
//! the buffer. The task is never cancelled during a read, and entries that no consumer takes are put back.

pub(crate) mod buffer;
pub(crate) mod consumer;
pub(crate) mod fetch;
pub(crate) mod format;
pub(crate) mod outage;
pub(crate) mod put_back;
pub(crate) mod reader;
pub(crate) mod readers;
pub(crate) mod task;
pub(crate) mod timer;

pub(crate) use buffer::address::addressee;
pub(crate) use buffer::entry::BufferedEntry;
pub(crate) use format::{Popped, READ_BYTES, Raw, ReadFormat, RecipientResolver, Unreadable};
pub(crate) use readers::Readers;

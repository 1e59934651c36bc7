//! The native format: lists of entries, and groups that remember their members.
//!
//! [`format`] implements [`StoredFormat`](crate::redis::stored::format::StoredFormat). [`write`] turns a batch into the call of a
//! script, [`read`] turns what was popped into entries, and [`resolver`] finds their recipients.

pub(crate) mod body;
pub(crate) mod counters;
pub(crate) mod entry;
pub(crate) mod format;
pub(crate) mod keys;
pub(crate) mod message;
pub(crate) mod read;
pub(crate) mod resolver;
pub(crate) mod scripts;
pub(crate) mod statistics;
pub(crate) mod topology;
pub(crate) mod write;

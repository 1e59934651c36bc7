//! The native format: lists of entries, and groups that remember their members.
//!
//! [`format`] implements [`StoredFormat`](super::stored_format::StoredFormat). [`write`] turns a batch into the call of a
//! script, and [`reading`] turns what was popped into entries.

pub(crate) mod format;
pub(crate) mod message;
pub(crate) mod reading;
mod statistics;
pub(crate) mod ttl_refresh;
pub(crate) mod write;

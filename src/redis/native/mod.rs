//! The native format: lists of entries, and groups that remember their members.
//!
//! [`format`] implements [`StoredFormat`](crate::redis::stored::format::StoredFormat). A message waits as an [`outbound`] body, and
//! [`write`] turns a batch of them into the call of a script. [`read`] turns popped messages into entries, and [`resolver`] finds
//! their recipients, from their [`address`] and from [`groups`]. Entries that cannot be read go to the [`quarantine`].

pub(crate) mod address;
pub(crate) mod body;
pub(crate) mod counters;
pub(crate) mod format;
pub(crate) mod groups;
pub(crate) mod keys;
pub(crate) mod outbound;
pub mod quarantine;
pub(crate) mod read;
pub(crate) mod resolver;
pub(crate) mod scripts;
pub(crate) mod statistics;
pub(crate) mod topology;
pub(crate) mod write;

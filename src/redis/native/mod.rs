//! The native format: lists of entries, and groups that remember their members.
//!
//! [`format`] implements [`StoredFormat`](crate::redis::stored::format::StoredFormat). [`write`] turns a batch into the call of a
//! script, [`read`] turns what was popped into entries, and [`resolver`] finds their recipients, from their [`address`] and from
//! the [`directory`] of groups. Entries that cannot be read go to the [`quarantine`].

pub(crate) mod address;
pub(crate) mod body;
pub(crate) mod counters;
pub(crate) mod directory;
pub(crate) mod format;
pub(crate) mod keys;
pub(crate) mod message;
pub mod quarantine;
pub(crate) mod read;
pub(crate) mod resolver;
pub(crate) mod scripts;
pub(crate) mod statistics;
pub(crate) mod topology;
pub(crate) mod write;

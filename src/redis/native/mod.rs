//! The native format: lists of entries, and groups that remember their members.
//!
//! [`format`] implements [`StoredFormat`](crate::redis::stored::format::StoredFormat), with [`send`] and [`receive`]
//! for the two paths and [`statistics`] for the counts of messages. [`groups`] are the members of groups on their
//! server. Entries that cannot be read go to the [`quarantine`].

pub(crate) mod address;
pub(crate) mod body;
pub(crate) mod format;
pub(crate) mod groups;
pub(crate) mod keys;
pub mod quarantine;
pub(crate) mod receive;
pub(crate) mod scripts;
pub(crate) mod send;
pub(crate) mod statistics;
pub(crate) mod topology;

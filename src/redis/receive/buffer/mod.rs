//! The buffer of a reader: fetched entries that no consumer has taken yet.
//!
//! The entries are in a [`fifo`]. [`resolver`] finds the recipients of an [`entry`], from its [`address`]
//! and from its group. An entry whose group cannot be looked up is [`held`].

pub(crate) mod address;
pub(crate) mod entry;
pub(crate) mod fifo;
pub(crate) mod held;
pub(crate) mod resolver;

//! All servers of a layer, and which of them holds what.
//!
//! [`ring`] maps names to shards, [`places`] holds the shards, and [`servers`] connects and ends them together.
//! [`probe`] sends a message through each of them.

pub(crate) mod places;
pub(crate) mod probe;
pub(crate) mod ring;
pub(crate) mod servers;

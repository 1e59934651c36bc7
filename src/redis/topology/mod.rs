//! All servers of a layer, and the placement of names on them.
//!
//! [`ring`] maps names to shards, [`places`] holds the shards, [`lists`] names the lists of a channel, and [`servers`]
//! connects and disconnects them together. In a cluster, [`routing`] follows redirections from one to another.
//! [`probe`] sends a message through each of them for health reports.

pub(crate) mod lists;
pub(crate) mod places;
pub(crate) mod probe;
pub(crate) mod ring;
pub(crate) mod routing;
pub(crate) mod servers;

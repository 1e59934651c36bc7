//! A Redis Cluster: which node serves which slot, and how that is learnt.
//!
//! [`slots`] maps keys to slots. [`layout`] reads what a node reports about the cluster, and [`shards`] finds the known
//! shards in it. [`state`] keeps the present layout and refreshes it. [`redirect`] reads the answers of nodes that do
//! not serve a slot. [`info`] reads whether a node counts the cluster as working. [`any_node`] finds a node for
//! messages that all nodes forward.

pub(crate) mod any_node;
pub(crate) mod info;
pub(crate) mod layout;
pub(crate) mod redirect;
pub(crate) mod shards;
pub(crate) mod slots;
pub(crate) mod state;

pub(crate) use redirect::Redirect;
pub(crate) use slots::Slot;
pub(crate) use state::Cluster;

/// Host and port of a node.
pub(crate) type Address = (String, u16);

//! One Redis server: its connections, commands, errors, clock and state.
//!
//! A [`shard::Shard`] is either up, with a connection for commands and a pool for blocking reads, or down, with the
//! fault that took it down. Every error of a server becomes a [`fault::Fault`], which says whether the command may have
//! run.

pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod epoch;
pub(crate) mod fault;
pub(crate) mod peer_settings;
pub(crate) mod shard;
pub(crate) mod status;

//! Fetching entries: one loop for the normal channels and one for the single-reader channels of each shard.
//!
//! [`fetch_loop`] decides how much to take, over its own [connection](fetch_connection), and removes [`expired`]
//! entries. [`fetched`] is what it took, [`blocking_read`] does one blocking read, and [`pending_reads`] waits for the
//! reads of several loops. [`ownership`] gives each `!` and `?` channel one reader, and [`contention`] makes readers of
//! the same channel take turns.

pub(crate) mod blocking_read;
pub(crate) mod contention;
pub(crate) mod expired;
pub(crate) mod fetch_connection;
pub(crate) mod fetch_loop;
pub(crate) mod fetched;
pub(crate) mod ownership;
pub(crate) mod pending_reads;

//! The other processes of a hub.
//!
//! [`wire`] defines the messages between processes, [`reader`] receives them, and [`discovery`] finds out whether there
//! are other processes. [`state`] decides, without I/O, whether a message has to leave the process.

pub(crate) mod discovery;
pub(crate) mod reader;
pub(crate) mod state;
pub(crate) mod wire;

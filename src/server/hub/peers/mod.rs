//! The other processes of a hub.
//!
//! [`wire`] has the messages between processes, [`reader`] receives them, and [`discovery`] finds out whether there are other
//! processes at all. [`presence`] decides from that, without I/O, whether a message has to leave the process.

pub(crate) mod discovery;
pub(crate) mod presence;
pub(crate) mod reader;
pub(crate) mod wire;

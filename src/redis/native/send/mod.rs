//! How the native format sends: a message waits as an [`outbound`] body, and [`write`] turns a batch of them into the
//! call of a script.

pub(crate) mod outbound;
pub(crate) mod write;

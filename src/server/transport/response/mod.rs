//! The response to one request of a connection.
//!
//! [`respond`] checks and routes the request and counts its response. [`body`] tracks the response
//! until its last byte is written, and then writes the line of the [`access_log`].

mod access_log;
mod body;
mod respond;

pub(crate) use respond::respond;

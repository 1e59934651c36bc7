//! HTTP requests as messages to the application, and the responses of the application.
//!
//! [`exchange`] sends one request to the application and answers the client. [`pending`] reads the process-local
//! response channel and pushes each part of a response to its request. [`memory`] bounds the memory of all responses
//! together.

mod body;
mod exchange;
mod memory;
mod pending;
pub(crate) mod response;
mod settings;
mod upload;

pub(crate) use exchange::{HttpContext, answer};
pub(crate) use pending::{PendingRequests, dispatch};
pub(crate) use settings::HttpSettings;

//! HTTP requests: to the application as messages, and its answer back.

mod body;
pub(crate) mod chunked;
pub(crate) mod content;
mod exchange;
mod exchanges;
pub(crate) mod host;
mod memory;
pub(crate) mod request;
pub(crate) mod response;
mod settings;

pub(crate) use exchange::answer;
pub(crate) use exchanges::{Exchanges, dispatch};
pub(crate) use settings::HttpSettings;

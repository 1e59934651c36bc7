//! HTTP requests: to the application as messages, and its answer back.

mod body;
mod exchange;
mod exchanges;
mod memory;
pub(super) mod response;
mod settings;

pub(crate) use exchange::answer;
pub(crate) use exchanges::{Exchanges, dispatch};
pub(crate) use settings::HttpSettings;

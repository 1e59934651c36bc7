//! The options of a layer: set in code, read from JSON, TOML or the environment, checked once.
//!
//! `table.rs` declares each option once, with its type and range. A new option is a field of [`Config`] with its default, a
//! setter, and a row of that table.

mod check;
mod environment;
mod file;
mod format;
mod host;
mod options;
mod pubsub;
mod python;
mod raw;
mod redis_variables;
mod reference;
mod server;
mod servers;
mod slot;
mod source;
mod table;
mod value;

pub use environment::check_variables;
pub use format::Format;
pub use host::Host;
pub use options::Config;
pub(crate) use options::{ServiceLogin, TlsFiles};
pub(crate) use pubsub::PUBSUB_CAPACITY;
pub use pubsub::{Fallback, Overflow};
pub(crate) use redis_variables::RedisVariables;
pub use reference::{OptionInfo, Setting};

pub use crate::codec::serializer::Serializer;

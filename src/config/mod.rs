//! The options of a layer. They are set in code or read from JSON, TOML or the environment, and validated once.
//!
//! `table.rs` declares each option once, with its type and range. `CONTRIBUTING.md` lists the steps to add an option.

mod check;
mod format;
mod host;
mod options;
mod pubsub;
mod reference;
mod server_options;
mod server_url;
mod slot;
mod sources;
mod table;
mod value;

pub use format::Format;
pub use host::Host;
pub use options::Config;
pub(crate) use options::{ServiceLogin, TlsFiles};
pub(crate) use pubsub::PUBSUB_CAPACITY;
pub use pubsub::{Fallback, Overflow};
pub use reference::{OptionInfo, Setting};
pub use sources::environment::check_variables;
pub(crate) use sources::redis_variables::RedisVariables;

pub use crate::codec::serializer::Serializer;

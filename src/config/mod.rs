//! The options of a layer: set in code, read from JSON, TOML or the environment, checked once.

mod environment;
mod file;
mod format;
mod host;
mod options;
mod pubsub;
mod raw;
mod servers;
mod value;

pub use format::Format;
pub use host::Host;
pub use options::Config;
pub(crate) use options::{ServiceLogin, TlsFiles};
pub use pubsub::{Fallback, Overflow};

pub use crate::codec::serializer::Serializer;

//! The options of a layer: set in code, read from JSON, TOML or the environment, checked once.

mod environment;
mod file;
mod host;
mod options;
mod pubsub;

pub use host::Host;
pub use options::Config;
pub use pubsub::{Fallback, Overflow};

pub use crate::codec::serializer::Serializer;

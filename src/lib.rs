//! An ASGI-style channel layer: processes talk over named channels and groups.

mod backoff;
pub mod capacity;
mod codec;
pub mod config;
mod crypto;
mod drops;
pub mod error;
pub mod hybrid;
pub mod layer;
pub mod memory;
pub mod message;
pub mod name;
pub mod redis;
#[cfg(feature = "server")]
pub mod server;
pub mod worker;

pub use bytes::Bytes;
pub use bytestring::ByteString as Text;

pub use capacity::CapacityRule;
pub use config::{Config, Host};
pub use error::{BoxError, Error, Result};
pub use hybrid::HybridLayer;
pub use layer::{ChannelLayer, Delivery, Event, Receiver, Sink, Source, Statistics};
pub use memory::MemoryLayer;
pub use message::{Map, Message, Value};
pub use name::{ChannelKind, ChannelName, GroupName, InvalidName};
pub use redis::RedisLayer;
#[cfg(feature = "server")]
pub use server::InterfaceServer;
pub use worker::Worker;

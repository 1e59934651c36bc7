//! Support for all tests: real Redis servers, deadlines, and futures that are dropped half-way.

mod cluster;
mod counts;
mod deadline;
mod fake_server;
mod formats;
mod interrupt;
mod log;
mod port;
mod proxy;
mod redis_server;
mod replicated;
mod scale;
mod shared;
mod slot;
mod tests;

pub use cluster::{Cluster, NO_NODE_TIMEOUT};
pub use counts::Counts;
pub use deadline::{DEADLINE, eventually, within};
pub use fake_server::FakeServer;
pub use formats::{FORMATS, TestedFormat, name_of, python_formats, stored_formats};
pub use interrupt::{Moments, interrupted};
pub use log::Log;
pub use port::ReservedPort;
pub use proxy::Proxy;
pub use redis_server::RedisServer;
pub use replicated::Replicated;
pub use scale::{needs_files, scaled};
pub use shared::{random_prefix, shared_cluster, shared_servers, shared_unix_server};
pub use slot::{name_in, slot_of};

//! What tests of every kind need: real Redis servers, deadlines and futures that are dropped half-way.

mod deadline;
mod interrupt;
mod redis_server;
mod shared;
mod tests;

pub use deadline::{DEADLINE, eventually, within};
pub use interrupt::{Moments, interrupted};
pub use redis_server::RedisServer;
pub use shared::{random_prefix, shared_servers, shared_unix_server};

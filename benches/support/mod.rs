//! Support for benches: a real Redis server, figures over rounds, and a table of the results.

mod figures;
#[path = "../../tests/support/port.rs"]
mod port;
#[path = "../../tests/support/redis_server.rs"]
mod redis_server;
mod report;

pub use figures::{Latencies, Spread, per_second};
use port::ReservedPort;
pub use redis_server::RedisServer;
pub use report::{Report, micros, rate};

//! The loads that are measured, each beside the same work done by hand.

pub mod end_to_end;
pub mod groups;
pub mod latency;
pub mod memory;
pub mod sending;

use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{Bytes, Config, Message, RedisLayer, message};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::support::RedisServer;

/// A message that carries so many bytes.
pub const SIZE: usize = 100;
/// More messages than any load sends, so that nothing is refused.
const CAPACITY: usize = 10_000_000;

/// A server, a layer on it, and the connection with which the same work is done by hand.
pub struct Bench {
    pub layer: Arc<RedisLayer>,
    pub connection: MultiplexedConnection,
    server: RedisServer,
}

impl Bench {
    pub async fn start() -> Self {
        let server = RedisServer::start();
        let config = Config::new().host(server.url()).capacity(CAPACITY);
        let layer = RedisLayer::connect(config).await.expect("the server was just started");
        let connection = connect(&server).await;
        Self { layer: Arc::new(layer), connection, server }
    }

    /// A connection for commands that block.
    pub async fn another_connection(&self) -> MultiplexedConnection {
        connect(&self.server).await
    }

    /// The server's version, as it says itself.
    pub async fn version(&mut self) -> String {
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut self.connection).await.expect("it answers");
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").to_owned()
    }

    /// Seconds of processor time that this process and the server have used so far; nothing where the system does not
    /// tell.
    pub async fn cpu(&mut self) -> Option<Cpu> {
        let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut self.connection).await.expect("it answers");
        let field = |name| info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<f64>().ok();
        let server = field("used_cpu_user:")? + field("used_cpu_sys:")?;
        Some(Cpu { here: own_cpu()?, server })
    }

    /// Empties the server, so that every round begins with the same.
    pub async fn clear(&mut self) {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut self.connection).await.expect("the server answers");
    }
}

/// Processor time, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub here: f64,
    pub server: f64,
}

impl Cpu {
    /// The time since `earlier` on top of this.
    #[must_use]
    pub fn plus(self, earlier: Self, later: Self) -> Self {
        Self { here: self.here + later.here - earlier.here, server: self.server + later.server - earlier.server }
    }
}

/// What all threads of this process, those that run, have used: Linux tells it in nanoseconds.
fn own_cpu() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<Option<f64>>().map(|sum| sum / 1e9)
}

/// A connection that waits longer than the client's own limit of 500 ms, which a blocking read may well exceed.
async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("the URL of a server is valid");
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&config).await.expect("the server was just started")
}

/// What all loads send by hand.
pub fn payload() -> Bytes {
    Bytes::from(vec![b'x'; SIZE])
}

/// The same in a message.
pub fn message(payload: &Bytes) -> Message {
    message! { "body": payload.clone() }
}

/// How long `work` takes.
pub async fn timed(work: impl Future) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

//! The measured loads, each with the same work done by hand.

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

/// Number of bytes in each message.
pub const SIZE: usize = 100;
/// More messages than any load sends, so that no send is refused.
const CAPACITY: usize = 10_000_000;

/// A server, a layer on it, and a connection for the same work by hand.
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

    /// Opens a connection for blocking commands.
    pub async fn another_connection(&self) -> MultiplexedConnection {
        connect(&self.server).await
    }

    /// Returns the version of the server.
    pub async fn version(&mut self) -> String {
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut self.connection).await.expect("it answers");
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").to_owned()
    }

    /// Returns the processor time that this process and the server have used so far; `None` if the system does not
    /// report it.
    pub async fn cpu(&mut self) -> Option<Cpu> {
        let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut self.connection).await.expect("it answers");
        let field = |name| info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<f64>().ok();
        let server = field("used_cpu_user:")? + field("used_cpu_sys:")?;
        Some(Cpu { here: own_cpu()?, server })
    }

    /// Empties the server, so that all rounds start in the same state.
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
    /// Adds the time between `earlier` and `later`.
    #[must_use]
    pub fn plus(self, earlier: Self, later: Self) -> Self {
        Self { here: self.here + later.here - earlier.here, server: self.server + later.server - earlier.server }
    }
}

/// Returns the processor time of all running threads of this process. Linux reports it in nanoseconds.
fn own_cpu() -> Option<f64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<Option<f64>>().map(|sum| sum / 1e9)
}

/// Opens a connection whose response timeout is longer than a blocking read. The default is 500 ms.
async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("the URL of a server is valid");
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&config).await.expect("the server was just started")
}

/// Returns the bytes that all loads send.
pub fn payload() -> Bytes {
    Bytes::from(vec![b'x'; SIZE])
}

/// Returns a message with these bytes.
pub fn message(payload: &Bytes) -> Message {
    message! { "body": payload.clone() }
}

/// Returns the duration of `work`.
pub async fn timed(work: impl Future) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

//! Redis servers that many tests share; each test keeps to keys under a prefix of its own.

use std::sync::LazyLock;

use super::RedisServer;

/// Three servers, of which a test may use the first or all; nobody stops or flushes them.
pub fn shared_servers() -> &'static [RedisServer; 3] {
    static SERVERS: LazyLock<[RedisServer; 3]> = LazyLock::new(|| std::array::from_fn(|_| RedisServer::start()));
    &SERVERS
}

/// A server on a Unix socket; nobody stops or flushes it.
pub fn shared_unix_server() -> &'static RedisServer {
    static SERVER: LazyLock<RedisServer> = LazyLock::new(RedisServer::unix);
    &SERVER
}

/// A prefix that no other test uses.
pub fn random_prefix() -> String {
    format!("test-{:016x}", rand::random::<u64>())
}

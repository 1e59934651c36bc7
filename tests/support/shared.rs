//! Redis servers shared by many tests. Each test uses its own prefix.

use std::sync::LazyLock;

use super::RedisServer;

/// Three servers. A test may use the first or all of them, and must not stop or flush them.
pub fn shared_servers() -> &'static [RedisServer; 3] {
    static SERVERS: LazyLock<[RedisServer; 3]> = LazyLock::new(|| std::array::from_fn(|_| RedisServer::start()));
    &SERVERS
}

/// A server on a Unix socket. Tests must not stop or flush it.
pub fn shared_unix_server() -> &'static RedisServer {
    static SERVER: LazyLock<RedisServer> = LazyLock::new(RedisServer::unix);
    &SERVER
}

/// Returns a prefix that no other test uses.
pub fn random_prefix() -> String {
    format!("test-{:016x}", rand::random::<u64>())
}

//! Redis servers shared by many tests. Each test uses its own prefix.

use std::sync::LazyLock;

use super::{Cluster, RedisServer};

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

/// A Redis Cluster of three masters. Tests must not change it.
pub fn shared_cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        // The first test that needs it may run on a runtime, which cannot run another one.
        let starting = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(Cluster::without_replicas())
        });
        starting.join().expect("a cluster starts")
    });
    &CLUSTER
}

/// Returns a prefix that no other test uses.
pub fn random_prefix() -> String {
    format!("test-{:016x}", rand::random::<u64>())
}

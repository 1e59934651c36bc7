//! `Replicated`: a master, its replicas, and the sentinels that monitor them.

use std::collections::HashMap;

use channel_layer::Host;

use super::{RedisServer, eventually};

/// One service: the server that started as its master, two that started as replicas, and three sentinels.
pub struct Replicated {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
}

/// The name of the service.
pub const SERVICE: &str = "messages";

impl Replicated {
    /// Starts them and waits until every sentinel knows all others and all servers.
    pub async fn start() -> Self {
        let master = RedisServer::start();
        let port = master.port().to_string();
        let replica = || RedisServer::with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        let servers = vec![master, replica(), replica()];
        let configuration = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {SERVICE} 1000\n\
             sentinel failover-timeout {SERVICE} 5000\n"
        );
        let sentinels = (0..3).map(|_| RedisServer::sentinel(&configuration)).collect();
        let started = Self { servers, sentinels };
        for sentinel in &started.sentinels {
            eventually("sentinels that know each other", async || {
                let known = master_of(sentinel).await;
                (known["num-slaves"] == "2" && known["num-other-sentinels"] == "2").then_some(())
            })
            .await;
        }
        started
    }

    /// Returns the sentinels in the form of the option of a layer.
    pub fn sentinel_hosts(&self) -> Vec<Host> {
        self.sentinels.iter().map(|sentinel| Host::from(sentinel.url())).collect()
    }
}

/// Returns a sentinel's description of the master.
async fn master_of(sentinel: &RedisServer) -> HashMap<String, String> {
    let mut connection = sentinel.connection().await;
    redis::cmd("SENTINEL").arg("MASTER").arg(SERVICE).query_async(&mut connection).await.unwrap()
}

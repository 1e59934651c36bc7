//! The configuration files of Redis, with real servers.

use std::collections::HashMap;
use std::path::PathBuf;

use channel_layer::{ChannelLayer, Config, Error, RedisLayer, message};
use tempfile::TempDir;

use super::{MOUNTED, read, replace_once};
use crate::support::{RedisServer, eventually};

/// Copies of the files with other paths and addresses.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, from, to) in [
            ("redis.conf", "bind * -::*", "bind 127.0.0.1".to_owned()),
            ("append-only.conf", MOUNTED, dir.path().display().to_string()),
            ("replicated.conf", MOUNTED, dir.path().display().to_string()),
        ] {
            let text = read(&format!("deploy/redis/{name}"));
            std::fs::write(dir.path().join(name), replace_once(&text, from, &to)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn start(&self, name: &str) -> RedisServer {
        RedisServer::with(&["--include", self.path(name).to_str().unwrap()])
    }
}

async fn settings(server: &RedisServer) -> HashMap<String, String> {
    let mut connection = server.connection().await;
    redis::cmd("CONFIG").arg("GET").arg("*").query_async(&mut connection).await.unwrap()
}

async fn layer(server: &RedisServer) -> RedisLayer {
    RedisLayer::connect(Config::new().host(server.url())).await.unwrap()
}

#[tokio::test]
async fn servers_have_the_settings_of_their_files() {
    let files = Files::new();
    for (name, append_only, replicas) in
        [("redis.conf", "no", "0"), ("append-only.conf", "yes", "0"), ("replicated.conf", "yes", "1")]
    {
        let settings = settings(&files.start(name)).await;
        for (setting, value) in [
            ("maxmemory", "536870912"),
            ("maxmemory-policy", "noeviction"),
            ("save", ""),
            ("appendonly", append_only),
            ("appendfsync", "everysec"),
            ("min-replicas-to-write", replicas),
            ("tcp-keepalive", "60"),
            ("timeout", "0"),
            ("latency-monitor-threshold", "100"),
        ] {
            assert_eq!(settings[setting], value, "{setting} of {name}");
        }
        assert!(settings["client-output-buffer-limit"].contains("pubsub 33554432 8388608 60"), "{settings:?}");
    }
}

#[tokio::test]
async fn a_server_with_full_memory_refuses_messages_and_keeps_the_queued_ones() {
    let files = Files::new();
    let server = files.start("redis.conf");
    let layer = layer(&server).await;
    layer.send("tasks", message! { "number": 1 }).await.unwrap();
    let mut connection = server.connection().await;
    let limit = |bytes: &str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    let () = limit("1").query_async(&mut connection).await.unwrap();
    let refused = layer.send("tasks", message! { "number": 2 }).await;
    assert!(matches!(&refused, Err(Error::Redis { cause, .. }) if cause.to_string().contains("OOM")), "{refused:?}");
    assert_eq!(layer.receive(&["tasks"]).await.unwrap().message.int("number"), Some(1));

    let () = limit("512mb").query_async(&mut connection).await.unwrap();
    layer.send("tasks", message! { "number": 3 }).await.unwrap();
    assert_eq!(layer.receive(&["tasks"]).await.unwrap().message.int("number"), Some(3));
}

#[tokio::test]
async fn a_killed_append_only_server_returns_with_its_messages() {
    let files = Files::new();
    let mut server = files.start("append-only.conf");
    let sender = layer(&server).await;
    sender.send("tasks", message! { "number": 1 }).await.unwrap();
    sender.group_add("everyone", "tasks").await.unwrap();
    drop(sender);
    let mut connection = server.connection().await;
    // While the disk is busy, Redis delays its writes for up to 2 s.
    eventually("an empty write buffer", async || {
        let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await.ok()?;
        info.contains("aof_buffer_length:0\r\n").then_some(())
    })
    .await;
    server.restart();
    let layer = layer(&server).await;
    assert_eq!(layer.receive(&["tasks"]).await.unwrap().message.int("number"), Some(1));
    assert_eq!(layer.group_channels("everyone").await.unwrap().len(), 1);
}

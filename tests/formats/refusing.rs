//! Servers that refuse writes for a while: a call reports the reason, writes nothing, and succeeds later.

use std::sync::Arc;

use channel_layer::{ChannelLayer, Config, Error, Event, Format, message};
use redis::AsyncCommands;

use crate::support::{DEADLINE, RedisServer, eventually, python_formats, stored_formats, within};

const LARGE: usize = 1 << 17;

/// The commands that make a server refuse writes and accept them again, and the code of its error meanwhile.
struct Refusal {
    code: &'static str,
    begin: &'static [&'static str],
    end: &'static [&'static str],
}

const NO_REPLICAS: Refusal = Refusal {
    code: "NOREPLICAS",
    begin: &["CONFIG", "SET", "min-replicas-to-write", "1"],
    end: &["CONFIG", "SET", "min-replicas-to-write", "0"],
};
const NO_MEMORY: Refusal =
    Refusal { code: "OOM", begin: &["CONFIG", "SET", "maxmemory", "1"], end: &["CONFIG", "SET", "maxmemory", "0"] };
const REPLICA: Refusal =
    Refusal { code: "READONLY", begin: &["REPLICAOF", "127.0.0.1", "1"], end: &["REPLICAOF", "NO", "ONE"] };

impl Refusal {
    async fn begin(&self, server: &RedisServer) {
        run(server, self.begin).await;
    }

    async fn end(&self, server: &RedisServer) {
        run(server, self.end).await;
    }

    #[track_caller]
    fn assert_is(&self, result: Result<(), Error>, what: &str) {
        let error = result.expect_err(what);
        let said = error.to_string();
        assert!(said.contains(self.code), "{what}: {said} instead of {}", self.code);
        assert!(error.is_transient() && !error.may_have_run(), "{what}: {error:?}");
    }
}

async fn run(server: &RedisServer, command: &[&str]) {
    let () = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut server.connection().await).await.unwrap();
}

async fn connect(server: &RedisServer, format: Format) -> Arc<dyn ChannelLayer> {
    let config = Config::new().host(server.url()).format(format).capacity(3).retry_attempts(0);
    channel_layer::connect(config.connect_timeout(DEADLINE).command_timeout(DEADLINE)).await.unwrap()
}

/// Starts a server that refuses writes because it cannot save its data to disk.
async fn server_with_a_broken_disk() -> RedisServer {
    let server = RedisServer::with(&["--save", "3600 1000000"]);
    let mut connection = server.connection().await;
    std::fs::create_dir(server.dir().join("dump.rdb")).unwrap();
    let () = redis::cmd("BGSAVE").query_async(&mut connection).await.unwrap();
    eventually("a failed save", async || {
        let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut connection).await.unwrap();
        info.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    server
}

#[tokio::test]
async fn a_refused_write_reports_the_reason_in_every_format() {
    for format in stored_formats() {
        for refusal in [NO_REPLICAS, NO_MEMORY, REPLICA] {
            let server = RedisServer::start();
            let layer = connect(&server, format).await;
            layer.group_add("g", "n").await.unwrap();
            refusal.begin(&server).await;
            let what = |call: &str| format!("{format:?} {call}");
            // A layer leaves a replica after the first refusal.
            let calls = if refusal.code == "READONLY" { 1 } else { 4 };
            for call in 0..calls {
                match call {
                    0 => refusal.assert_is(layer.send("n", message! { "a": 1 }).await, &what("send")),
                    1 => refusal.assert_is(
                        layer.send("n", message! { "a": "x".repeat(LARGE) }).await,
                        &what("send a large message"),
                    ),
                    2 => refusal.assert_is(layer.group_send("g", message! { "a": 1 }).await, &what("group_send")),
                    _ => refusal.assert_is(layer.group_add("g", "m").await, &what("group_add")),
                }
            }
            refusal.end(&server).await;
            let sent = async || layer.send("n", message! { "a": 2 }).await.ok();
            within(DEADLINE, &what("send later"), eventually("a send", sent)).await;
            let delivery = within(DEADLINE, "a message", layer.receive(&["n"])).await.unwrap();
            assert_eq!(
                delivery.message,
                message! { "a": 2 },
                "{format:?} {}: another message was written",
                refusal.code
            );
        }
    }
}

#[tokio::test]
async fn a_broken_disk_is_reported_in_every_format() {
    let server = server_with_a_broken_disk().await;
    run(&server, &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    for format in stored_formats() {
        let layer = connect(&server, format).await;
        run(&server, &["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]).await;
        let refusal = Refusal { code: "MISCONF", begin: &[], end: &[] };
        refusal.assert_is(layer.send("n", message! { "a": 1 }).await, &format!("{format:?}"));
        run(&server, &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    }
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_left_after_one_send_in_every_format() {
    for format in stored_formats() {
        let server = RedisServer::start();
        let layer = connect(&server, format).await;
        for _ in 0..3 {
            layer.send("full", message! { "a": 1 }).await.unwrap();
        }
        let mut events = layer.events();
        REPLICA.begin(&server).await;
        // The channel is full, but a replica does not decide that.
        REPLICA.assert_is(layer.send("full", message! { "a": 1 }).await, &format!("{format:?}"));
        let event = within(DEADLINE, "the outage", events.recv()).await.unwrap();
        assert!(matches!(event, Event::ShardDown { shard: 0, .. }), "{format:?}: {event:?}");
    }
}

/// Redis checks its memory until a script writes for the first time, and the removal of an expired message is a write.
#[tokio::test]
async fn a_server_without_memory_accepts_nothing_though_expired_messages_make_room() {
    for format in python_formats() {
        let server = RedisServer::start();
        let layer = connect(&server, format).await;
        let mut connection = server.connection().await;
        for number in 0..3 {
            match format {
                Format::ChannelsRedis => {
                    let () = connection.zadd("asgiwork", format!("expired {number}"), 1).await.unwrap();
                }
                Format::AsgiRedis => {
                    let () = connection.rpush("asgi:work", format!("asgi:expired{number}")).await.unwrap();
                }
                other => panic!("add an expired message of {other:?} here"),
            }
        }
        NO_MEMORY.begin(&server).await;
        let sent = [("work", message! { "a": 1 }), ("other", message! { "a": 2 })];
        for result in layer.send_many(&sent).await {
            NO_MEMORY.assert_is(result, &format!("{format:?}"));
        }
        NO_MEMORY.end(&server).await;
        layer.send("work", message! { "a": 3 }).await.unwrap();
        let delivery = within(DEADLINE, "a message", layer.receive(&["work"])).await.unwrap();
        assert_eq!(delivery.message, message! { "a": 3 }, "{format:?}");
    }
}

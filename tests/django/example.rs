//! The Django site in `examples/django` and a Rust program beside it, with a real interface server, consumer and
//! sockets.

use std::future::pending;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use channel_layer::django::ChannelsRedisLayer;
use channel_layer::{ChannelLayer, Config, message};
use serde_json::{Value as Json, json};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::server::{Client, PythonServer, get};
use crate::support::{DEADLINE, RedisServer, within};

#[path = "../../examples/django/worker.rs"]
mod program;

/// Longer than the default read timeout of redis-py 8, which is 5 s.
const LONGER_THAN_A_READ: Duration = Duration::from_secs(7);

struct Site {
    redis: RedisServer,
    server: PythonServer,
}

impl Site {
    async fn start() -> Self {
        Self::of("examples/django", "chatsite.asgi:application").await
    }

    async fn of(folder: &str, application: &str) -> Self {
        let redis = RedisServer::start();
        let daphne = ["daphne", "--endpoint", "tcp:0:interface=127.0.0.1", application];
        let server = PythonServer::start("channels_redis", folder, &daphne, &[("REDIS_URL", &redis.url())]).await;
        Self { redis, server }
    }

    async fn layer(&self) -> Arc<dyn ChannelLayer> {
        Arc::new(ChannelsRedisLayer::connect(Config::new().host(self.redis.url())).await.unwrap())
    }

    /// Connects a client, which joins the group.
    async fn client(&self) -> Client {
        Client::connect(&self.server.address, "/ws/chat/").await
    }
}

async fn receive_json(client: &mut Client) -> Json {
    serde_json::from_str(client.receive().await.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn a_program_sends_to_the_group_of_the_site() {
    let site = Site::start().await;
    let (mut ada, mut bob) = (site.client().await, site.client().await);
    let layer = site.layer().await;
    layer.group_send("chat", message! { "type": "chat.message", "text": "hello" }).await.unwrap();
    assert_eq!(
        [receive_json(&mut ada).await, receive_json(&mut bob).await],
        [json!({"text": "hello"}), json!({"text": "hello"})]
    );
    assert_eq!(layer.group_channels("chat").await.unwrap().len(), 2);
    ada.close().await;
    bob.send(Frame::text(r#"{"text": "alone"}"#)).await;
    assert_eq!(receive_json(&mut bob).await, json!({"text": "alone"}));
}

#[tokio::test]
async fn a_worker_answers_the_consumer_of_the_site() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let client_side = async {
        for (text, words) in [("one", 1), ("and two more", 3), ("", 0)] {
            client.send(Frame::text(json!({"text": text}).to_string())).await;
            assert_eq!(receive_json(&mut client).await, json!({"text": text}));
            assert_eq!(receive_json(&mut client).await, json!({"words": words}));
        }
    };
    tokio::select! {
        end = program::worker(site.layer().await).run(pending()) => panic!("the worker ended: {end:?}"),
        () = client_side => {}
    }
}

/// By default, redis-py ends a read that waits for 5 s. The settings of the documentation prevent that. The test must
/// wait in real time, because the timeout is in Python.
#[tokio::test]
async fn the_site_of_the_documentation_receives_messages_after_an_idle_time() {
    let site = Site::of("tests/django/peer", "documented:application").await;
    let mut client = site.client().await;
    let layer = site.layer().await;
    let worker = tokio::spawn(program::worker(layer.clone()).run(pending()));
    tokio::time::sleep(LONGER_THAN_A_READ).await;
    layer.group_send("chat", message! { "type": "chat.message", "text": "hello" }).await.unwrap();
    assert_eq!(receive_json(&mut client).await, json!({"text": "hello"}));
    client.send(Frame::text(r#"{"text": "and two more"}"#)).await;
    assert_eq!(receive_json(&mut client).await, json!({"words": 3}));
    worker.abort();
}

#[tokio::test]
async fn the_send_command_sends_to_the_group_of_the_site() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let arguments = ["send", "--format", "channels_redis", "--group", "chat", r#"{"type":"chat.message","text":"hi"}"#];
    let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    command.args(arguments).args(["--redis", &site.redis.url()]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    assert!(within(DEADLINE, "the end of the command", command.status()).await.unwrap().success());
    assert_eq!(receive_json(&mut client).await, json!({"text": "hi"}));
}

#[tokio::test]
async fn the_site_serves_its_page() {
    let page = get(&Site::start().await.server.address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>Chat</title>"), "{page}");
}

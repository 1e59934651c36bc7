//! The Django site in `examples/django`, as it is, with a Rust program beside it: a real interface server, a real
//! consumer, real sockets.

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

/// redis-py 8 waits for an answer for 5 s by itself.
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

    /// A client that is in the group.
    async fn client(&self) -> Client {
        Client::connect(&self.server.address, "/ws/chat/").await
    }
}

async fn hears(client: &mut Client) -> Json {
    serde_json::from_str(client.hears().await.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn a_program_sends_to_its_group() {
    let site = Site::start().await;
    let (mut ada, mut bob) = (site.client().await, site.client().await);
    let layer = site.layer().await;
    layer.group_send("chat", message! { "type": "chat.message", "text": "hello" }).await.unwrap();
    assert_eq!([hears(&mut ada).await, hears(&mut bob).await], [json!({"text": "hello"}), json!({"text": "hello"})]);
    assert_eq!(layer.group_channels("chat").await.unwrap().len(), 2);
    ada.leaves().await;
    bob.sends(Frame::text(r#"{"text": "alone"}"#)).await;
    assert_eq!(hears(&mut bob).await, json!({"text": "alone"}));
}

#[tokio::test]
async fn a_worker_answers_its_consumer() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let uses = async {
        for (text, words) in [("one", 1), ("and two more", 3), ("", 0)] {
            client.sends(Frame::text(json!({"text": text}).to_string())).await;
            assert_eq!(hears(&mut client).await, json!({"text": text}));
            assert_eq!(hears(&mut client).await, json!({"words": words}));
        }
    };
    tokio::select! {
        end = program::worker(site.layer().await).run(pending()) => panic!("the worker ended: {end:?}"),
        () = uses => {}
    }
}

/// redis-py ends a read that waits for 5 s, unless the settings forbid it. The time has to pass: it is Python's.
#[tokio::test]
async fn the_site_of_the_documentation_hears_after_it_was_idle() {
    let site = Site::of("tests/django/peer", "documented:application").await;
    let mut client = site.client().await;
    let layer = site.layer().await;
    let worker = tokio::spawn(program::worker(layer.clone()).run(pending()));
    tokio::time::sleep(LONGER_THAN_A_READ).await;
    layer.group_send("chat", message! { "type": "chat.message", "text": "hello" }).await.unwrap();
    assert_eq!(hears(&mut client).await, json!({"text": "hello"}));
    client.sends(Frame::text(r#"{"text": "and two more"}"#)).await;
    assert_eq!(hears(&mut client).await, json!({"words": 3}));
    worker.abort();
}

#[tokio::test]
async fn the_command_sends_to_its_group() {
    let site = Site::start().await;
    let mut client = site.client().await;
    let arguments = ["send", "--format", "channels_redis", "--group", "chat", r#"{"type":"chat.message","text":"hi"}"#];
    let mut command = Command::new(env!("CARGO_BIN_EXE_channel-layer"));
    command.args(arguments).args(["--redis", &site.redis.url()]).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    assert!(within(DEADLINE, "the end of the command", command.status()).await.unwrap().success());
    assert_eq!(hears(&mut client).await, json!({"text": "hi"}));
}

#[tokio::test]
async fn it_has_a_page() {
    let page = get(&Site::start().await.server.address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>Chat</title>"), "{page}");
}

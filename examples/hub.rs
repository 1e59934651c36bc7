//! A chat in an axum app: a room for each path, across any number of processes.
//!
//! `cargo run --example hub` starts one process. With `REDIS=redis://127.0.0.1` any number of processes share one chat.
//! Connect with `websocat ws://127.0.0.1:<port>/chat/lobby/ada`, and open `http://127.0.0.1:<port>/status`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use channel_layer::hub::{Client, Closed, Handler, Payload, status_page};
use channel_layer::server::{SlowConsumer, SocketOptions, Upgrade};
use channel_layer::{BoxError, CapacityRule, ChannelLayer, Config, Hub, MemoryLayer, RedisLayer};

/// One client in one room.
struct Chat {
    room: String,
    name: String,
}

impl Handler for Chat {
    async fn connect(&mut self, client: &Client) -> Result<(), BoxError> {
        client.set_user(Some(&self.name)).await?;
        client.join(&self.room).await?;
        client.hub().broadcast(&self.room, format!("{} came", self.name)).await?;
        Ok(())
    }

    async fn message(&mut self, client: &Client, message: Payload) -> Result<(), BoxError> {
        let Some(text) = message.as_text() else {
            client.close(1003, "text only");
            return Ok(());
        };
        client.hub().broadcast(&self.room, format!("{}: {text}", self.name)).await?;
        Ok(())
    }

    async fn disconnect(&mut self, client: &Client, _closed: Closed) {
        // If other processes are unreachable, the clients of this process still get the message.
        let _ = client.hub().broadcast(&self.room, format!("{} left", self.name)).await;
    }
}

async fn chat(State(hub): State<Hub>, Path((room, name)): Path<(String, String)>, upgrade: Upgrade) -> Response {
    hub.upgrade(upgrade, Chat { room, name })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let layer: Arc<dyn ChannelLayer> = match std::env::var("REDIS") {
        Ok(url) => {
            // One channel carries the messages of other processes to all clients of this process.
            let config = Config::new().host(url).channel_capacity(CapacityRule::glob("hub.*", 10_000));
            Arc::new(RedisLayer::connect(config).await?)
        }
        Err(_) => Arc::new(MemoryLayer::new()),
    };
    let options = SocketOptions::new()
        .slow_consumer(SlowConsumer::Close)
        .max_connections(50_000)
        .max_connections_per_address(100)
        .max_messages_per_second(20);
    let hub = Hub::builder(layer.clone()).name("chat").sockets(options).start().await?;

    let app = Router::new().route("/chat/{room}/{name}", get(chat)).with_state(hub.clone());
    let app = app.merge(status_page(hub.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("ws://{}/chat/lobby/ada", listener.local_addr()?);
    let closing = async move {
        let _ = tokio::signal::ctrl_c().await;
        hub.close(Duration::from_secs(5)).await;
    };
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(closing)
        .await?;
    layer.close().await?;
    Ok(())
}

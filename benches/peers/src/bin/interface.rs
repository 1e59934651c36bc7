//! The interface server, or a worker that echoes the messages of its sockets.

use std::net::Ipv4Addr;
use std::sync::Arc;

use channel_layer::worker::Context;
use channel_layer::{BoxError, CapacityRule, ChannelLayer, Config, InterfaceServer, RedisLayer, Worker, message};
use peers::conversation::{Failure, Program, hold};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String },
    Serve,
    Work,
}

#[derive(Default)]
struct Participant(Option<Arc<dyn ChannelLayer>>);

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis } => {
                // The capacities of the program `channel-layer`.
                let config = Config::new()
                    .hosts([redis])
                    .channel_capacity(CapacityRule::glob("websocket.send.*", 10_000))
                    .channel_capacity(CapacityRule::glob("websocket.*", 1_000));
                self.0 = Some(Arc::new(RedisLayer::connect(config).await?));
                Ok(json!({}))
            }
            Command::Serve => serve(self.layer()?).await,
            Command::Work => {
                tokio::spawn(work(self.layer()?));
                Ok(json!({}))
            }
        }
    }
}

impl Participant {
    fn layer(&self) -> Result<Arc<dyn ChannelLayer>, Failure> {
        Ok(self.0.clone().ok_or("not connected")?)
    }
}

async fn serve(layer: Arc<dyn ChannelLayer>) -> Result<Value, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let bound = InterfaceServer::new(layer).listen(listener.try_into()?);
    // Ends with the process.
    tokio::spawn(bound.serve(std::future::pending()));
    Ok(json!({ "port": port }))
}

async fn work(layer: Arc<dyn ChannelLayer>) -> channel_layer::Result<()> {
    Worker::new(layer)
        .on("websocket.connect", |context: Context| async move { context.reply(message! { "accept": true }).await })
        .on("websocket.receive", |context: Context| async move {
            let text = context.message().get("text").cloned();
            context.reply(message! { "text": text }).await
        })
        .on("websocket.disconnect", |_: Context| async { Ok::<_, BoxError>(()) })
        .run(std::future::pending())
        .await
}

#[tokio::main]
async fn main() {
    hold(Participant::default()).await;
}

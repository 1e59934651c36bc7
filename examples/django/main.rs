//! A Rust program beside the Django site in this folder: `cargo run --example django`. It needs the Redis server of the
//! site: `CHANNEL_LAYER_HOSTS`, or the local one. It greets all clients, and processes jobs of their consumers until
//! Ctrl-C.

mod worker;

use std::sync::Arc;

use channel_layer::django::ChannelsRedisLayer;
use channel_layer::{ChannelLayer, Config, Result, message};

#[tokio::main]
async fn main() -> Result<()> {
    let layer = Arc::new(ChannelsRedisLayer::connect(Config::from_env()?).await?);
    layer.group_send("chat", message! { "type": "chat.message", "text": "A worker is here." }).await?;
    let stop = async { tokio::signal::ctrl_c().await.expect("the signal can be waited for") };
    worker::worker(layer.clone()).run(stop).await?;
    layer.close().await
}

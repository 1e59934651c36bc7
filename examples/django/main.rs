//! A Rust program beside the Django site in this folder: `cargo run --example django`. It needs the Redis server of the
//! site: `CHANNEL_LAYER_HOSTS`, or the local one. It uses the format of the site: that of `channels_redis`, or with
//! `CHANNEL_LAYER_FORMAT=native` that of the Python package of this project. It greets all clients, and processes jobs
//! of their consumers until Ctrl-C.

mod worker;

use channel_layer::{Config, Format, Result, connect, message};

#[tokio::main]
async fn main() -> Result<()> {
    let config = Config::from_env()?;
    let is_native = std::env::var("CHANNEL_LAYER_FORMAT").is_ok_and(|format| format == "native");
    let format = if is_native { Format::Native } else { Format::ChannelsRedis };
    let layer = connect(config.format(format)).await?;
    layer.group_send("chat", message! { "type": "chat.message", "text": "A worker is here." }).await?;
    let stop = async { tokio::signal::ctrl_c().await.expect("the signal can be waited for") };
    worker::worker(layer.clone()).run(stop).await?;
    layer.close().await
}

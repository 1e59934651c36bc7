//! A worker in Rust beside a Django site: it takes jobs from consumers, answers them and tells a group.
//!
//! `cargo run --example django_worker -- redis://127.0.0.1:6379`, with a site on `channels_redis` on the same server.

use channel_layer::django::ChannelsRedisLayer;
use channel_layer::{ChannelLayer, Config, Delivery, Error, Result, message};

#[tokio::main]
async fn main() -> Result<()> {
    let host = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
    let layer = ChannelsRedisLayer::connect(Config::new().host(host)).await?;
    let mut jobs = layer.receiver(&["thumbnails"])?;
    loop {
        tokio::select! {
            job = jobs.recv() => serve(&layer, job?).await?,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    jobs.close().await?;
    layer.close().await
}

async fn serve(layer: &ChannelsRedisLayer, job: Delivery) -> Result<()> {
    let path = job.message.text("path").unwrap_or("nothing");
    // Consumers of Django find their method by the type: this calls `chat_message`.
    let done = message! { "type": "chat.message", "text": format!("{path} is done") };
    if let Some(consumer) = job.message.text("reply_channel") {
        match layer.send(consumer, done.clone()).await {
            // It does not read as fast as it asks.
            Err(Error::ChannelFull { .. }) => {}
            sent => sent?,
        }
    }
    layer.group_send("chat", done).await
}

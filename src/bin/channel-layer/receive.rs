//! `channel-layer receive`: prints messages of channels, one JSON object per line, with byte strings as lists of
//! numbers.

use std::iter;

use channel_layer::{BoxError, Delivery, Receiver};
use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::layer::LayerOptions;
use crate::{first_error, print_line, stop_signal};

#[derive(Args)]
pub(crate) struct Receive {
    /// Channels to receive from; process-local ones up to the '!'
    #[arg(required = true)]
    channels: Vec<String>,
    /// Stop after this many messages [default: on Ctrl-C]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    layer: LayerOptions,
}

impl Receive {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let stop = stop_signal()?;
        let layer = self.layer.connect_once().await?;
        let channels: Vec<_> = self.channels.iter().map(String::as_str).collect();
        let mut receiver = layer.receiver(&channels)?;
        let printed = print_all(&mut receiver, self.count.unwrap_or(u64::MAX), &stop).await;
        // Closing puts back the messages that were received and not printed, even if standard output is closed. The
        // message whose print failed is lost, because a reader may have a part of it.
        let closed = [receiver.close().await, layer.close().await].map(|closed| closed.map_err(Into::into));
        first_error(iter::once(printed).chain(closed))
    }
}

async fn print_all(receiver: &mut Receiver, count: u64, stop: &CancellationToken) -> Result<(), BoxError> {
    for _ in 0..count {
        let delivery = tokio::select! {
            delivery = receiver.recv() => delivery?,
            () = stop.cancelled() => break,
        };
        print(&delivery)?;
    }
    Ok(())
}

fn print(delivery: &Delivery) -> Result<(), BoxError> {
    let channel = delivery.channel.as_str();
    let message = serde_json::to_value(&delivery.message)?;
    let printed = print_line(&json!({ "channel": channel, "message": message }).to_string());
    printed.map_err(|error| format!("a message of channel {channel} is lost: {error}").into())
}

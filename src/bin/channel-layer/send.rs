//! `channel-layer send`: sends one message to a channel or a group.

use channel_layer::{BoxError, Message};
use clap::Args;

use crate::layer::LayerOptions;

#[derive(Args)]
pub(crate) struct Send {
    /// Channel to send to, or group with --group
    target: String,
    /// Message, a JSON object
    message: String,
    /// Send to every member of a group
    #[arg(long)]
    group: bool,
    #[command(flatten)]
    layer: LayerOptions,
}

impl Send {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&self.message).map_err(|error| format!("invalid JSON {:?}: {error}", self.message))?;
        let message = Message::from_serialize(&json)?;
        let layer = self.layer.connect_once().await?;
        if self.group {
            layer.group_send(&self.target, message).await?;
        } else {
            layer.send(&self.target, message).await?;
        }
        Ok(layer.close().await?)
    }
}

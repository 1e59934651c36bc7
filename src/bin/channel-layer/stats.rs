//! `channel-layer stats`: statistics of a channel, or of all channels together.

use channel_layer::BoxError;
use clap::Args;
use serde_json::json;

use crate::layer::LayerOptions;
use crate::print_line;

#[derive(Args)]
pub(crate) struct Stats {
    /// Channel to show [default: all channels together]
    channel: Option<String>,
    #[command(flatten)]
    layer: LayerOptions,
}

impl Stats {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let layer = self.layer.connect_once().await?;
        let statistics = match &self.channel {
            Some(channel) => layer.channel_statistics(channel).await?,
            None => layer.global_statistics().await?,
        };
        let line = json!({
            "messages_count": statistics.messages_count,
            "channel_full_count": statistics.channel_full_count,
            "messages_pending": statistics.messages_pending,
            "messages_max_age": statistics.messages_max_age.as_secs_f64(),
        });
        print_line(&line.to_string())?;
        Ok(layer.close().await?)
    }
}

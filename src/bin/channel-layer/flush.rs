//! `channel-layer flush`: deletes all messages, groups and statistics of the layer.

use channel_layer::BoxError;
use clap::Args;

use crate::layer::LayerOptions;

#[derive(Args)]
pub(crate) struct Flush {
    #[command(flatten)]
    layer: LayerOptions,
}

impl Flush {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let layer = self.layer.connect_once().await?;
        layer.flush().await?;
        Ok(layer.close().await?)
    }
}

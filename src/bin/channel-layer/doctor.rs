//! `channel-layer doctor`: shows the options that the program has read, and the state of the servers.

use channel_layer::{BoxError, LayerKind};
use clap::Args;

use crate::layer::LayerOptions;
use crate::print_line;

#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    layer: LayerOptions,
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let deployment = self.layer.deployment()?;
        let hint = if deployment.layer == LayerKind::Memory { "; set --redis to use a server" } else { "" };
        let report = deployment.report().await;
        for line in &report.lines {
            print_line(line)?;
        }
        print_line(&format!("{}{hint}", report.verdict?))?;
        Ok(())
    }
}

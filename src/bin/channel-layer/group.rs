//! `channel-layer group`: the members of a group.

use channel_layer::BoxError;
use clap::Subcommand;

use crate::layer::LayerOptions;
use crate::print_line;

#[derive(Subcommand)]
pub(crate) enum Group {
    /// Add a channel to the group, or renew its membership
    Add {
        group: String,
        channel: String,
        #[command(flatten)]
        layer: LayerOptions,
    },
    /// Remove a channel from the group
    Discard {
        group: String,
        channel: String,
        #[command(flatten)]
        layer: LayerOptions,
    },
    /// Print the members of the group
    List {
        group: String,
        #[command(flatten)]
        layer: LayerOptions,
    },
}

impl Group {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let (Self::Add { layer, .. } | Self::Discard { layer, .. } | Self::List { layer, .. }) = &self;
        let layer = layer.connect_once().await?;
        match &self {
            Self::Add { group, channel, .. } => layer.group_add(group, channel).await?,
            Self::Discard { group, channel, .. } => layer.group_discard(group, channel).await?,
            Self::List { group, .. } => {
                let mut members = layer.group_channels(group).await?;
                members.sort();
                members.iter().try_for_each(|member| print_line(member.as_str()))?;
            }
        }
        Ok(layer.close().await?)
    }
}

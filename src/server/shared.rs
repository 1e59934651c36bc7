//! What all connections of one interface server have in common.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::connection::Connections;
use super::page::Page;
use super::settings::Settings;
use crate::layer::ChannelLayer;

pub(crate) struct Shared {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pub(crate) settings: Settings,
    pub(crate) connections: Arc<Connections>,
    /// By path.
    pub(crate) pages: HashMap<String, Page>,
    /// Counts the sockets and the last messages about them, for the drain to wait for.
    pub(crate) tracker: TaskTracker,
    /// A connection may end where no runtime is entered.
    pub(crate) runtime: Handle,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

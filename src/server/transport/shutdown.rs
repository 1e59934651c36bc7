//! The shutdown signals of one interface server.

use tokio_util::sync::CancellationToken;

/// Two signals: one ends readiness, the other starts the drain. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    /// Cancelled at the start of the shutdown. The server may accept connections for a while longer.
    pub(crate) requested: CancellationToken,
    /// Cancelled when the server accepts no more connections.
    pub(crate) draining: CancellationToken,
}

//! `ClientDropReason`: why a message did not reach a client.

/// Why a message did not reach a client. The metric counts these reasons beside the drop reasons of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientDropReason {
    /// The client disconnected.
    ClientGone,
    /// The client does not read as fast as the application sends.
    SlowConsumer,
}

/// The label of the metric.
impl From<ClientDropReason> for &'static str {
    fn from(reason: ClientDropReason) -> Self {
        match reason {
            ClientDropReason::ClientGone => "client_gone",
            ClientDropReason::SlowConsumer => "slow_consumer",
        }
    }
}

/// Counts a client that the server closes because it reads too slowly.
pub(crate) fn count_slow_consumer() {
    metrics::counter!("channel_layer_slow_consumers_closed_total").increment(1);
}

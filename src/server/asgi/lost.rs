//! Why a message for a client does not get there.

/// Counted beside the reasons of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The client has gone.
    ClientGone,
    /// The client does not read as fast as it is sent to.
    SlowConsumer,
}

/// The label of the metric.
impl From<Lost> for &'static str {
    fn from(reason: Lost) -> Self {
        match reason {
            Lost::ClientGone => "client_gone",
            Lost::SlowConsumer => "slow_consumer",
        }
    }
}

/// Counts a client that is closed because it does not keep up.
pub(crate) fn count_slow_consumer() {
    metrics::counter!("channel_layer_slow_consumers_closed_total").increment(1);
}

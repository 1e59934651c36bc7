//! Counting replies that no client gets.

/// Counts `replies` as dropped for `reason`.
pub(crate) fn dropped(reason: &'static str, replies: usize) {
    if replies > 0 {
        metrics::counter!("channel_layer_dropped_total", "reason" => reason).increment(replies as u64);
    }
}

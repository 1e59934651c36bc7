//! What consumers of the site leave to Rust.

use std::sync::Arc;

use channel_layer::worker::Context;
use channel_layer::{ChannelLayer, Result, Worker, message};

/// Counts the words of texts, and tells the consumer that asked.
pub(crate) fn worker(layer: Arc<dyn ChannelLayer>) -> Worker {
    Worker::new(layer).on("words.count", count)
}

async fn count(context: Context) -> Result<()> {
    let words = context.message().text("text").unwrap_or_default().split_whitespace().count();
    // The consumer handles it in `words_counted`.
    let answer = message! { "type": "words.counted", "words": i64::try_from(words).unwrap_or(i64::MAX) };
    context.reply(answer).await
}

//! The worker for jobs of the site's consumers.

use std::sync::Arc;

use channel_layer::worker::Context;
use channel_layer::{ChannelLayer, Result, Worker, message};

/// Returns a worker that counts the words of texts and replies to the consumer.
pub(crate) fn worker(layer: Arc<dyn ChannelLayer>) -> Worker {
    Worker::new(layer).on("words.count", count)
}

async fn count(context: Context) -> Result<()> {
    let words = context.message().text("text").unwrap_or_default().split_whitespace().count();
    // The consumer handles it in `words_counted`.
    let answer = message! { "type": "words.counted", "words": i64::try_from(words).unwrap_or(i64::MAX) };
    context.reply(answer).await
}

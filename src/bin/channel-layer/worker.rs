//! `channel-layer worker`: an application behind interface servers, and the delivery of delayed messages.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::worker::{Context, DelayServer};
use channel_layer::{BoxError, ChannelLayer, Message, Result, Value, Worker, message};
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::layer::LayerOptions;
use crate::{chat, first_error, print_line, seconds, stop_signal};

#[derive(Args)]
pub(crate) struct Work {
    /// Application to run
    #[arg(value_enum)]
    application: Application,
    /// Maximum number of handlers that run at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// Seconds that a shutdown waits for running handlers
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    drain_timeout: Duration,
    #[command(flatten)]
    layer: LayerOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum Application {
    /// Send back every message of a WebSocket, and describe its request to an HTTP client
    Echo,
    /// Run the chat, for `serve --chat`
    Chat,
    /// Deliver delayed messages only
    Delay,
}

impl Work {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let stop = stop_signal()?;
        let layer = self.layer.connect_shared().await?;
        print_line("Working")?;
        let (worked, delayed) = tokio::join!(
            // The end of either future stops the other.
            async {
                let _ended = stop.clone().drop_guard();
                self.work(layer.clone(), stop.clone()).await
            },
            async {
                let _ended = stop.clone().drop_guard();
                DelayServer::new(layer.clone()).run(stop.clone().cancelled_owned()).await
            },
        );
        first_error([worked, delayed, layer.close().await].map(|result| result.map_err(Into::into)))
    }

    async fn work(&self, layer: Arc<dyn ChannelLayer>, stop: CancellationToken) -> Result<()> {
        let configure = |worker: Worker| worker.concurrency(self.concurrency).drain_timeout(self.drain_timeout);
        let stop = stop.cancelled_owned();
        match self.application {
            Application::Echo => configure(echo(layer)).run(stop).await,
            Application::Chat => chat::run(layer, configure, stop).await,
            Application::Delay => {
                stop.await;
                Ok(())
            }
        }
    }
}

fn echo(layer: Arc<dyn ChannelLayer>) -> Worker {
    Worker::new(layer)
        .on("websocket.connect", |context: Context| async move { context.reply(message! { "accept": true }).await })
        .on("websocket.receive", |context: Context| async move { context.reply(echoed(context.message())).await })
        .on("http.request", |context: Context| async move { context.reply(describe(context.message())).await })
        .on("*.disconnect", |_: Context| async { Ok::<_, BoxError>(()) })
        .channels(["websocket.disconnect", "http.disconnect"])
}

fn echoed(frame: &Message) -> Message {
    match (frame.text("text"), frame.bytes("bytes")) {
        (Some(text), _) => message! { "text": text },
        (None, Some(bytes)) => message! { "bytes": bytes.clone() },
        (None, None) => message! {},
    }
}

fn describe(request: &Message) -> Message {
    let text = |key| request.text(key).unwrap_or_default();
    let description = format!("{} {} over HTTP/{}\n", text("method"), text("path"), text("http_version"));
    let plain = Value::list(["content-type", "text/plain; charset=utf-8"].map(str::as_bytes));
    message! { "status": 200, "headers": Value::list([plain]), "content": description.into_bytes() }
}

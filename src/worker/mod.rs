//! Handlers for the messages of channels.
//!
//! A [`Worker`] takes messages from channels and passes each to the handler of its channel, with a [`Context`] for
//! replies. A [`DelayServer`] sends delayed messages when they are due.
//!
//! ```no_run
//! # async fn run(layer: std::sync::Arc<dyn channel_layer::ChannelLayer>) -> channel_layer::Result<()> {
//! use channel_layer::worker::Context;
//! use channel_layer::{Result, Worker, message};
//!
//! async fn echo(context: Context) -> Result<()> {
//!     let text = context.message().text("text").unwrap_or_default().to_owned();
//!     context.reply(message! { "text": text }).await
//! }
//!
//! Worker::new(layer)
//!     .on("websocket.connect", |context: Context| async move { context.reply(message! { "accept": true }).await })
//!     .on("websocket.receive", echo)
//!     .run(async { tokio::signal::ctrl_c().await.expect("the signal handler can be installed") })
//!     .await
//! # }
//! ```

mod context;
mod delay;
mod faults;
mod handlers;
mod job;
mod overload;
mod pool;
mod queues;
mod requeue;
mod run;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use delay::DelayServer;
pub use run::Worker;

//! A worker that gets more messages of one connection than it handles.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{run, within};
use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::error::{BoxError, Result};
use crate::layer::ChannelLayer;
use crate::memory::MemoryLayer;
use crate::message;
use crate::worker::{Context, Worker};

/// A worker with two handlers on a layer with much room. Messages from `out.p!flood` wait until the gate is open.
struct Flooded {
    layer: Arc<dyn ChannelLayer>,
    /// The sender and the order of each handled message.
    notified: mpsc::UnboundedReceiver<(String, i64)>,
    gate: tokio::sync::watch::Sender<bool>,
    channel: &'static str,
    _running: (oneshot::Sender<()>, JoinHandle<Result<()>>),
}

impl Flooded {
    fn start(channel: &'static str) -> Self {
        let config = Config::new().channel_capacity(CapacityRule::glob("*", 10_000));
        let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
        let ((tell, notified), (gate, opened)) = (mpsc::unbounded_channel(), tokio::sync::watch::channel(false));
        let handler = move |context: Context| {
            let (tell, mut opened) = (tell.clone(), opened.clone());
            async move {
                let who = context.reply_channel().unwrap().to_owned();
                if who == "out.p!flood" {
                    opened.wait_for(|open| *open).await?;
                }
                tell.send((who, context.message().int("order").unwrap()))?;
                Ok::<_, BoxError>(())
            }
        };
        let running = run(Worker::new(layer.clone()).on(channel, handler).concurrency(2));
        Self { layer, notified, gate, channel, _running: running }
    }

    async fn send(&self, who: &str, orders: std::ops::Range<i64>) {
        for order in orders {
            self.layer.send(self.channel, message! { "reply_channel": who, "order": order }).await.unwrap();
        }
    }

    async fn next(&mut self) -> (String, i64) {
        within(self.notified.recv()).await.unwrap()
    }

    async fn handles(&mut self, who: &str, orders: std::ops::Range<i64>) {
        for order in orders {
            assert_eq!(self.next().await, (who.to_owned(), order));
        }
    }
}

#[tokio::test]
async fn a_flooding_connection_delays_no_other() {
    let mut flooded = Flooded::start("work");
    flooded.send("out.p!flood", 0..500).await;
    flooded.send("out.p!quiet", 0..100).await;
    flooded.handles("out.p!quiet", 0..100).await;
}

#[tokio::test]
async fn no_frame_of_a_flooding_client_is_handled_behind_a_gap() {
    let mut flooded = Flooded::start("websocket.receive");
    flooded.send("out.p!flood", 0..3_000).await;
    // These follow the others, so all of the others have been taken.
    flooded.send("out.p!quiet", 0..1).await;
    flooded.handles("out.p!quiet", 0..1).await;
    flooded.gate.send(true).unwrap();
    flooded.handles("out.p!flood", 0..101).await;
    flooded.send("out.p!flood", 3_000..3_010).await;
    flooded.send("out.p!quiet", 1..2).await;
    flooded.handles("out.p!quiet", 1..2).await;
}

#[tokio::test]
async fn a_client_that_exceeds_its_backlog_is_closed_and_delays_no_other() {
    let mut flooded = Flooded::start("websocket.receive");
    flooded.send("out.p!flood", 0..3_000).await;
    flooded.send("out.p!quiet", 0..10).await;
    flooded.handles("out.p!quiet", 0..10).await;
    let layer = &flooded.layer;
    let close = within(layer.receive(&["out.p!"])).await.unwrap();
    assert_eq!((close.channel.as_str(), close.message.int("close")), ("out.p!flood", Some(1013)));
    assert!(layer.try_receive(&["out.p!"]).await.unwrap().is_none(), "it is notified once");
}

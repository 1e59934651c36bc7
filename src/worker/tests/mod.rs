//! `Worker` on an in-process layer.

mod delay;
mod overload;
mod panics;
mod shutdown;

use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::handlers::HandlerFuture;
use super::{Context, Worker};
use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::drops;
use crate::error::{BoxError, Result};
use crate::layer::ChannelLayer;
use crate::memory::MemoryLayer;
use crate::message;
use crate::trace::TraceParent;

fn layer() -> Arc<dyn ChannelLayer> {
    let config = Config::new().channel_capacity(CapacityRule::glob("reply.*", 1));
    Arc::new(MemoryLayer::with_config(&config).unwrap())
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("nothing happens within 10 s")
}

/// Waits until all messages of `channel` are taken.
async fn all_taken(layer: &dyn ChannelLayer, channel: &str) {
    within(async {
        while layer.channel_statistics(channel).await.unwrap().messages_pending > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits until all tasks on `layer` have ended. Returns how many messages are counted as dropped under `stopped`.
async fn stopped(layer: Arc<dyn ChannelLayer>, recorder: &DebuggingRecorder) -> u64 {
    within(async {
        while Arc::strong_count(&layer) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let dropped = drops::recorded(recorder).into_iter();
    dropped.filter(|(reason, _)| reason == "stopped").map(|(_, messages)| messages).sum()
}

/// Returns a handler that hangs, and the receiver of the number in each message that it begins with.
fn hanging() -> (impl Fn(Context) -> HandlerFuture + Send + Sync, mpsc::UnboundedReceiver<Option<i64>>) {
    let (started, beginning) = mpsc::unbounded_channel();
    let handler = move |context: Context| -> HandlerFuture {
        let started = started.clone();
        Box::pin(async move {
            started.send(context.message().int("order"))?;
            std::future::pending().await
        })
    };
    (handler, beginning)
}

fn run(worker: Worker) -> (oneshot::Sender<()>, JoinHandle<Result<()>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    (stop, tokio::spawn(worker.run(shutdown)))
}

#[tokio::test]
async fn messages_of_one_connection_are_handled_in_order_and_others_concurrently() {
    let layer = layer();
    let (gate_open, gate) = tokio::sync::watch::channel(false);
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let (mut gate, tell) = (gate.clone(), tell.clone());
        async move {
            let (who, number) = (context.reply_channel().unwrap().to_owned(), context.message().int("number").unwrap());
            if who == "slow" && number == 0 {
                gate.wait_for(|open| *open).await?;
            }
            tell.send((who, number))?;
            Ok::<_, BoxError>(())
        }
    };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler));
    for number in 0..3 {
        for who in ["slow", "quick"] {
            layer.send("work", message! { "reply_channel": who, "number": number }).await.unwrap();
        }
    }
    for number in 0..3 {
        assert_eq!(within(notified.recv()).await.unwrap(), ("quick".to_owned(), number));
    }
    gate_open.send(true).unwrap();
    for number in 0..3 {
        assert_eq!(within(notified.recv()).await.unwrap(), ("slow".to_owned(), number));
    }
}

#[tokio::test]
async fn a_reply_waits_until_its_channel_has_room() {
    let layer = layer();
    let handler = |context: Context| async move { context.reply(message! { "text": "second" }).await };
    layer.send("reply.proc!1", message! { "text": "first" }).await.unwrap();
    let (stop, running) = run(Worker::new(layer.clone()).on("work", handler));
    layer.send("work", message! { "reply_channel": "reply.proc!1" }).await.unwrap();
    for text in ["first", "second"] {
        assert_eq!(within(layer.receive(&["reply.proc!"])).await.unwrap().message.text("text"), Some(text));
    }
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_without_a_usable_channel_does_not_start() {
    for channel in ["no spaces", "process.local!part"] {
        let worker = Worker::new(layer()).on(channel, |_: Context| async { Ok::<_, BoxError>(()) });
        assert!(within(worker.run(std::future::pending())).await.is_err(), "{channel}");
    }
    assert!(within(Worker::new(layer()).run(std::future::pending())).await.is_err());
}

#[tokio::test]
async fn an_idle_permit_goes_to_a_waiting_queue() {
    let layer = layer();
    let (open, gate) = tokio::sync::watch::channel(false);
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let (mut gate, tell) = (gate.clone(), tell.clone());
        async move {
            let what = context.message().text("what").unwrap().to_owned();
            tell.send(what.clone())?;
            match &*what {
                "first" => drop(gate.wait_for(|open| *open).await?),
                "endless" => std::future::pending().await,
                _ => {}
            }
            Ok::<_, BoxError>(())
        }
    };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler).concurrency(2));
    for (who, what) in [("ada", "first"), ("ada", "second"), ("bob", "endless")] {
        layer.send("work", message! { "reply_channel": who, "what": what }).await.unwrap();
    }
    for what in ["first", "endless"] {
        assert_eq!(within(notified.recv()).await.as_deref(), Some(what));
    }
    open.send(true).unwrap();
    assert_eq!(within(notified.recv()).await.as_deref(), Some("second"), "though nothing more comes");
}

#[tokio::test]
async fn waiting_frames_are_handled_in_their_order() {
    let layer = layer();
    let (open, gate) = tokio::sync::watch::channel(false);
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let (mut gate, tell) = (gate.clone(), tell.clone());
        async move {
            let order = context.message().int("order").unwrap();
            tell.send(order)?;
            gate.wait_for(|open| *open).await?;
            Ok::<_, BoxError>(())
        }
    };
    let worker = Worker::new(layer.clone()).on("work", handler).on("end", |_: Context| async { Ok::<_, BoxError>(()) });
    let (_stop, _running) = run(worker);
    for order in [1, 3, 4, 2] {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
    }
    assert_eq!(within(notified.recv()).await, Some(1));
    // All are taken, and three of them wait.
    within(async {
        while layer.channel_statistics("work").await.unwrap().messages_pending > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    open.send(true).unwrap();
    for order in 2..=4 {
        assert_eq!(within(notified.recv()).await, Some(order));
    }
}

#[tokio::test]
async fn a_pattern_handles_only_channels_that_are_read() {
    let layer = layer();
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let tell = tell.clone();
        async move { tell.send(context.channel().to_string()) }
    };
    let worker =
        Worker::new(layer.clone()).on("websocket.*", handler).channels(["websocket.connect", "websocket.receive"]);
    let (_stop, _running) = run(worker);
    for channel in ["websocket.connect", "websocket.receive"] {
        layer.send(channel, message! {}).await.unwrap();
        assert_eq!(within(notified.recv()).await.unwrap(), channel);
    }
}

#[tokio::test]
async fn messages_of_a_handler_get_child_spans() {
    let layer = layer();
    let handler = |context: Context| async move {
        assert_eq!(TraceParent::current(), context.trace());
        context.group_send("all", message! {}).await?;
        context.reply(message! {}).await
    };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler));
    layer.group_add("all", "members").await.unwrap();
    let trace = TraceParent::root();
    layer.send("work", trace.carried_by(message! { "reply_channel": "reply.proc!1" })).await.unwrap();
    for channel in ["members", "reply.proc!"] {
        let sent = within(layer.receive(&[channel])).await.unwrap().message;
        assert_eq!(TraceParent::of(&sent).unwrap().trace_id(), trace.trace_id());
    }
    layer.send("work", message! { "reply_channel": "reply.proc!1" }).await.unwrap();
    assert_eq!(within(layer.receive(&["reply.proc!"])).await.unwrap().message, message! {});
}

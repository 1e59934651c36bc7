//! `Worker` on an in-process layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Context, DelayServer, Worker};
use crate::capacity::CapacityRule;
use crate::config::Config;
use crate::error::{BoxError, Result};
use crate::layer::{ChannelLayer, Delivery};
use crate::memory::MemoryLayer;
use crate::message;
use crate::supervise::trap::{arm, is_armed};
use crate::trace::TraceParent;

fn layer() -> Arc<dyn ChannelLayer> {
    let config = Config::new().channel_capacity(CapacityRule::glob("reply.*", 1));
    Arc::new(MemoryLayer::with_config(&config).unwrap())
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("nothing happens within 10 s")
}

fn run(worker: Worker) -> (oneshot::Sender<()>, JoinHandle<Result<()>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    (stop, tokio::spawn(worker.run(shutdown)))
}

#[tokio::test]
async fn an_error_or_a_panic_of_a_handler_is_contained() {
    let layer = layer();
    let handler = |context: Context| async move {
        match context.message().text("do") {
            Some("fail") => Err(BoxError::from("as asked")),
            Some("panic") => panic!("as asked"),
            _ => Ok(context.reply(message! { "text": "done" }).await?),
        }
    };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler));
    for what in ["fail", "panic", "answer"] {
        layer.send("work", message! { "do": what, "reply_channel": "reply.proc!1" }).await.unwrap();
    }
    assert_eq!(within(layer.receive(&["reply.proc!"])).await.unwrap().message.text("text"), Some("done"));
}

/// An error that panics when it is dropped.
#[derive(Debug, thiserror::Error)]
#[error("as asked")]
struct Trapped;

impl Drop for Trapped {
    fn drop(&mut self) {
        panic!("as the test wants it");
    }
}

#[tokio::test]
async fn a_panic_outside_of_a_handler_costs_one_message() {
    let layer = layer();
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let tell = tell.clone();
        async move {
            match context.message().int("number") {
                Some(0) => Err(BoxError::from(Trapped)),
                number => Ok(tell.send(number)?),
            }
        }
    };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler));
    for number in 0..3 {
        layer.send("work", message! { "reply_channel": "one", "number": number }).await.unwrap();
    }
    for number in 1..3 {
        assert_eq!(within(notified.recv()).await, Some(Some(number)));
    }
}

#[tokio::test]
async fn a_panic_of_the_worker_costs_one_message() {
    let layer = layer();
    let handler = |context: Context| async move { context.reply(message! { "text": "done" }).await };
    let (_stop, _running) = run(Worker::new(layer.clone()).on("work", handler).concurrency(1));
    for _ in 0..3 {
        arm("worker");
        for _ in 0..2 {
            layer.send("work", message! { "reply_channel": "reply.proc!1" }).await.unwrap();
        }
        assert_eq!(within(layer.receive(&["reply.proc!"])).await.unwrap().message.text("text"), Some("done"));
        assert!(!is_armed());
    }
    assert!(layer.try_receive(&["reply.proc!"]).await.unwrap().is_none(), "one of two each time");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_delay_server_costs_one_message() {
    let layer = layer();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(std::future::pending()));
    let delayed = async |number: i64| {
        let message = message! { "channel": "jobs", "delay": 1000, "content": message! { "number": number } };
        layer.send("asgi.delay", message).await.unwrap();
    };
    let taken = async || {
        while layer.channel_statistics("asgi.delay").await.unwrap().messages_pending > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    arm("delay server");
    delayed(0).await;
    within(taken()).await;
    assert!(!is_armed(), "it has panicked when it took it");
    delayed(1).await;
    within(taken()).await;
    // The task panics when it sends that message.
    arm("delay server");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!is_armed());
    delayed(2).await;
    assert_eq!(within(layer.receive(&["jobs"])).await.unwrap().message.int("number"), Some(2));
    assert!(!running.is_finished());
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
async fn a_shutdown_finishes_taken_messages_and_leaves_the_rest() {
    let layer = layer();
    let finished = Arc::new(AtomicUsize::new(0));
    let (started, mut beginning) = mpsc::unbounded_channel();
    let (open, gate) = tokio::sync::watch::channel(false);
    let handler = {
        let finished = finished.clone();
        move |_: Context| {
            let (finished, started, mut gate) = (finished.clone(), started.clone(), gate.clone());
            async move {
                started.send(())?;
                gate.wait_for(|open| *open).await?;
                finished.fetch_add(1, Ordering::Relaxed);
                Ok::<_, BoxError>(())
            }
        }
    };
    let (stop, running) = run(Worker::new(layer.clone()).on("work", handler).concurrency(2));
    for _ in 0..5 {
        layer.send("work", message! {}).await.unwrap();
    }
    for _ in 0..2 {
        within(beginning.recv()).await.unwrap();
    }
    stop.send(()).unwrap();
    open.send(true).unwrap();
    within(running).await.unwrap().unwrap();
    let left = layer.channel_statistics("work").await.unwrap().messages_pending;
    assert_eq!(finished.load(Ordering::Relaxed) as u64 + left, 5);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_handler_that_hangs() {
    let layer = layer();
    let (started, mut beginning) = mpsc::unbounded_channel();
    let handler = move |_: Context| {
        let started = started.clone();
        async move {
            started.send(())?;
            std::future::pending::<Result<(), BoxError>>().await
        }
    };
    let (stop, running) = run(Worker::new(layer.clone()).on("work", handler).drain_timeout(Duration::from_millis(50)));
    layer.send("work", message! {}).await.unwrap();
    within(beginning.recv()).await.unwrap();
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
async fn a_shutdown_requeues_unstarted_messages() {
    let layer = layer();
    let (started, mut beginning) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let started = started.clone();
        async move {
            started.send(context.message().int("order"))?;
            std::future::pending::<Result<(), BoxError>>().await
        }
    };
    let worker = Worker::new(layer.clone()).on("work", handler).drain_timeout(Duration::from_millis(50));
    let (stop, running) = run(worker);
    for order in 1..=4 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
    }
    assert_eq!(within(beginning.recv()).await, Some(Some(1)));
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for order in 2..=4 {
        assert_eq!(within(layer.receive(&["work"])).await.unwrap().message.int("order"), Some(order));
    }
}

#[tokio::test]
async fn requeued_messages_need_no_room() {
    let config = Config::new().channel_capacity(CapacityRule::glob("work", 4));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    let (started, mut beginning) = mpsc::unbounded_channel();
    let handler = move |context: Context| {
        let started = started.clone();
        async move {
            started.send(context.message().int("order"))?;
            std::future::pending::<Result<(), BoxError>>().await
        }
    };
    let worker = Worker::new(layer.clone()).on("work", handler).concurrency(2).drain_timeout(Duration::from_millis(50));
    let (stop, running) = run(worker);
    let empty = async || {
        while layer.channel_statistics("work").await.unwrap().messages_pending > 0 {
            tokio::task::yield_now().await;
        }
    };
    for order in 1..=4 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
        within(empty()).await;
    }
    // The second permit. No more messages are taken then.
    layer.send("work", message! { "reply_channel": "other", "order": 0 }).await.unwrap();
    for order in [1, 0] {
        assert_eq!(within(beginning.recv()).await, Some(Some(order)));
    }
    for order in 5..=8 {
        layer.send("work", message! { "reply_channel": "c", "order": order }).await.unwrap();
    }
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for order in [5, 6, 7, 8, 2, 3, 4] {
        assert_eq!(within(layer.receive(&["work"])).await.unwrap().message.int("order"), Some(order));
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

#[tokio::test(start_paused = true)]
async fn a_delayed_message_arrives_when_it_is_due() {
    let layer = layer();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(async {
        let _ = stopped.await;
    }));
    let delivery = Delivery::new("work".parse().unwrap(), message! {});
    let context = Context::new(layer.clone(), delivery, Duration::from_secs(1));
    let started = tokio::time::Instant::now();
    for (seconds, text) in [(30, "later"), (10, "soon"), (50, "much later")] {
        context.send_later("jobs", Duration::from_secs(seconds), message! { "text": text }).await.unwrap();
    }
    layer.send("asgi.delay", message! { "delay": "nonsense" }).await.unwrap();
    for (seconds, text) in [(10, "soon"), (30, "later")] {
        assert_eq!(layer.receive(&["jobs"]).await.unwrap().message.text("text"), Some(text));
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    let left = layer.receive(&["asgi.delay"]).await.unwrap().message;
    assert_eq!((left.text("channel"), left.int("delay")), (Some("jobs"), Some(20_000)));
    assert_eq!(left.get("content").unwrap().as_map().unwrap().get("text").unwrap().as_text(), Some("much later"));
}

#[tokio::test(start_paused = true)]
async fn due_messages_without_room_count_towards_the_limit() {
    let config = Config::new().channel_capacity(CapacityRule::glob("jobs", 1));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    layer.send("jobs", message! {}).await.unwrap();
    let (_stop, stopped) = oneshot::channel::<()>();
    let _running = tokio::spawn(DelayServer::new(layer.clone()).limit(2).run(async {
        let _ = stopped.await;
    }));
    for _ in 0..5 {
        layer.send("asgi.delay", message! { "channel": "jobs", "delay": 0, "content": message! {} }).await.unwrap();
    }
    // The clock only advances here. Sends of the two due messages are retried for 10 s.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(layer.channel_statistics("asgi.delay").await.unwrap().messages_pending, 3);
}

#[tokio::test(start_paused = true)]
async fn requeued_delayed_messages_need_no_room() {
    let config = Config::new().channel_capacity(CapacityRule::glob("asgi.delay", 10));
    let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(DelayServer::new(layer.clone()).run(async {
        let _ = stopped.await;
    }));
    for number in 0..500 {
        let message =
            message! { "channel": "jobs", "delay": 60_000 + number, "content": message! { "number": number } };
        let sent = crate::layer::send_while_full(&*layer, "asgi.delay", message, Duration::from_secs(10));
        within(sent).await.unwrap();
    }
    within(async {
        while layer.channel_statistics("asgi.delay").await.unwrap().messages_pending > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.send(()).unwrap();
    within(running).await.unwrap().unwrap();
    for number in 0..500 {
        let left = within(layer.receive(&["asgi.delay"])).await.unwrap().message;
        assert_eq!(left.get("content").unwrap().as_map().unwrap().get("number").unwrap().as_int(), Some(number));
    }
}

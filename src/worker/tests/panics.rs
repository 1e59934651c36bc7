//! Errors and panics of handlers, of the worker and of the delay server.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{layer, run, within};
use crate::error::BoxError;
use crate::message;
use crate::supervise::trap::{arm, is_armed};
use crate::worker::{Context, DelayServer, Worker};

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

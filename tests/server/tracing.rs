//! A trace from the request of a client to the write of the response.

use channel_layer::trace::TraceParent;
use channel_layer::worker::Context;
use channel_layer::{Worker, message};

use super::running::{Running, ok};
use crate::support::{Log, eventually};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_trace_covers_the_request_up_to_the_write_of_the_response() {
    let log = Log::default();
    let _guard = log.keep();
    let server = Running::with(|server| server.trace(true)).await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\n\r\n");
    let mut client = server.sent(&request).await;
    let asked = server.next("http.request").await;
    let span = TraceParent::of(&asked).unwrap();
    assert_eq!(span.trace_id(), "0af7651916cd43dd8448eb211c80319c");
    server.reply(&asked, span.carried_by(ok("answer"))).await;
    client.until("answer").await;

    let mut socket = server.sent(&super::security::handshake("")).await;
    let connect = server.next("websocket.connect").await;
    let span = TraceParent::of(&connect).unwrap();
    server.reply(&connect, span.carried_by(message! { "accept": true, "text": "hello" })).await;
    socket.until("hello").await;
    let traced = |log: &str, id: &str, step: &str| {
        log.lines().any(|line| line.contains("channel_layer::trace") && line.contains(id) && line.contains(step))
    };
    eventually("all spans", async || {
        let log = log.text();
        let first = "0af7651916cd43dd8448eb211c80319c";
        let logged = [
            (first, "sent to the application"),
            (first, "passed to the response"),
            (&span.trace_id(), "sent to the application"),
            (&span.trace_id(), "written to the socket"),
        ];
        logged.iter().all(|(id, step)| traced(&log, id, step)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_logs_its_span() {
    let log = Log::default();
    let _guard = log.keep();
    let server = Running::with(|server| server.trace(true)).await;
    let worker = Worker::new(server.layer.clone())
        .on("http.request", |context: Context| async move { context.reply(ok("answer")).await });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(worker.run(async {
        let _ = stopped.await;
    }));
    let mut client = server.sent(&format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\n\r\n")).await;
    client.until("answer").await;
    stop.send(()).unwrap();
    working.await.unwrap().unwrap();
    let log = log.text();
    let logged = log.lines().find(|line| line.contains("taken by a handler")).expect("a worker logs its span");
    assert!(logged.contains("0af7651916cd43dd8448eb211c80319c") && logged.contains("http.request"), "{logged}");
}

#[tokio::test]
async fn without_tracing_messages_have_no_traceparent() {
    let server = Running::start().await;
    let _client = server.sent(&format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {PARENT}\r\n\r\n")).await;
    assert_eq!(server.next("http.request").await.get("traceparent"), None);
}

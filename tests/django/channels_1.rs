//! Django Channels 1 over asgi_redis: interface servers and workers of one language with those of the other.
//!
//! The application is the same here and in `peer/chat_1.py`. A client that connects joins a room, and a message of one
//! client goes to all clients in the room. A connection to `/forbidden` is refused. The response to an HTTP request
//! repeats its method and path.

use std::future::pending;

use channel_layer::worker::Context;
use channel_layer::{Config, InterfaceServer, Result, Value, Worker, message};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use super::python::PythonLayer;
use super::rust::RustLayer;
use super::server::{Client, PythonServer, get};
use super::side::Side;
use super::site::Package;
use crate::support::RedisServer;

/// The channel to which the application reports disconnects.
const DISCONNECTS: &str = "disconnects";

async fn rust(redis: &RedisServer) -> RustLayer {
    RustLayer::open(Package::AsgiRedis, Config::new().host(redis.url())).await
}

async fn python(redis: &RedisServer) -> PythonLayer {
    PythonLayer::open(Package::AsgiRedis, message! { "hosts": Value::list([redis.url()]) }).await
}

async fn python_server(redis: &RedisServer) -> PythonServer {
    PythonServer::start("asgi_redis", ".", &["old_interface_server", &redis.url()], &[]).await
}

async fn connect(context: Context) -> Result<()> {
    if context.message().text("path") == Some("/forbidden") {
        return context.reply(message! { "close": true }).await;
    }
    context.group_add("room").await?;
    context.reply(message! { "accept": true }).await
}

async fn receive(context: Context) -> Result<()> {
    let said = ["text", "bytes"].into_iter().find_map(|key| Some((key, context.message().get(key)?.clone())));
    context.group_send("room", said.into_iter().collect()).await
}

async fn disconnect(context: Context) -> Result<()> {
    context.group_discard("room").await?;
    let (path, order) = (context.message().get("path"), context.message().get("order"));
    let disconnect = [("path", path), ("order", order)].map(|(key, value)| (key, value.cloned().unwrap_or_default()));
    context.layer().send(DISCONNECTS, disconnect.into_iter().collect()).await
}

async fn page(context: Context) -> Result<()> {
    let asked = ["method", "path"].map(|key| context.message().text(key).unwrap_or_default().to_owned()).join(" ");
    let headers = Value::list([Value::list([&b"content-type"[..], b"text/plain"])]);
    context.reply(message! { "status": 200, "headers": headers, "content": asked.into_bytes() }).await
}

/// Checks the application behind `address` with two clients and a request for a page.
async fn is_a_chat(address: &str, side: &dyn Side) {
    let (mut ada, mut bob) = (Client::connect(address, "/caf%C3%A9?x=1").await, Client::connect(address, "/").await);
    for frame in [Frame::text("Grüße"), Frame::binary(&b"\x00\xff"[..]), Frame::text("bye")] {
        ada.send(frame.clone()).await;
        assert_eq!([ada.receive().await, bob.receive().await], [frame.clone(), frame]);
    }
    ada.close().await;
    assert_eq!(side.receive(DISCONNECTS).await.1, message! { "path": "/café", "order": 4 });
    bob.send(Frame::text("alone")).await;
    assert_eq!(bob.receive().await, Frame::text("alone"));

    let refused = Client::try_connect(address, "/forbidden").await.map(|_| ());
    assert!(matches!(&refused, Err(Error::Http(answer)) if answer.status() == 403), "{refused:?}");

    let answer = get(address, "/caf%C3%A9").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.to_lowercase().contains("content-type: text/plain"), "{head}");
    assert!(body.contains("GET /café"), "{body}");
}

#[tokio::test]
async fn python_workers_serve_clients_of_a_python_server() {
    let redis = RedisServer::start();
    let (server, python) = (python_server(&redis).await, python(&redis).await);
    tokio::select! {
        end = python.call_without_deadline("work", json!([])) => panic!("the worker ended: {end:?}"),
        () = is_a_chat(&server.address, &python) => {}
    }
}

#[tokio::test]
async fn rust_workers_serve_clients_of_a_python_server() {
    let redis = RedisServer::start();
    let (server, rust) = (python_server(&redis).await, rust(&redis).await);
    let worker = Worker::new(rust.layer.clone())
        .on("websocket.connect", connect)
        .on("websocket.receive", receive)
        .on("websocket.disconnect", disconnect)
        .on("http.request", page);
    tokio::select! {
        end = worker.run(pending()) => panic!("the worker ended: {end:?}"),
        () = is_a_chat(&server.address, &rust) => {}
    }
}

#[tokio::test]
async fn python_workers_serve_clients_of_a_rust_server() {
    let redis = RedisServer::start();
    let (rust, python) = (rust(&redis).await, python(&redis).await);
    let server = InterfaceServer::new(rust.layer.clone()).http(true).bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    tokio::select! {
        end = server.serve(pending()) => panic!("the server ended: {end:?}"),
        end = python.call_without_deadline("work", json!([])) => panic!("the worker ended: {end:?}"),
        () = is_a_chat(&address, &rust) => {}
    }
}

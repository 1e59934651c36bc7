//! Layers whose runtime ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use channel_layer::{ChannelLayer, Error, PubSubLayer, Result};
use futures_util::FutureExt;
use metrics_util::debugging::DebuggingRecorder;
use tokio::runtime::{Builder, Runtime};

use super::tools::{Site, number, numbered};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, python_formats, stored_formats, within};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[track_caller]
fn assert_ended<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    let error = result.expect_err(what);
    assert!(matches!(error, Error::RuntimeEnded), "{what} returned {error:?}");
    assert_eq!(error.to_string(), "the runtime that connected the channel layer has ended");
}

/// Checks the results of all calls that wait when the runtime of `layer` ends, and of later calls.
fn ends_with(ended: Runtime, layer: &Arc<impl ChannelLayer + ?Sized>) {
    let other = runtime();
    let waiting: Vec<_> = ["n", "l!", "s?a"]
        .into_iter()
        .flat_map(|source| {
            let (reading, mut receiver) = (Arc::clone(layer), layer.receiver(&[source]).unwrap());
            [
                other.spawn(async move { reading.receive(&[source]).await }),
                other.spawn(async move { receiver.recv().await }),
            ]
        })
        .collect();
    // Most calls wait now. The others get the same result.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut idle = layer.receiver(&["idle"]).unwrap();
    drop(ended);
    other.block_on(within(DEADLINE, "the end of all calls", async {
        for waiting in waiting {
            assert_ended("a waiting call", waiting.await.unwrap());
        }
        assert_ended("recv", idle.recv().await);
        idle.close().await.unwrap();
        for source in ["n", "l!", "s?a", "another"] {
            assert_ended("receive", layer.receive(&[source]).await);
            assert_ended("try_receive", layer.try_receive(&[source]).await);
        }
        assert_ended("send", layer.send("n", numbered(1)).await);
        assert_ended("group_add", layer.group_add("g", "n").await);
    }));
}

#[test]
fn a_layer_closes_with_its_runtime_and_counts_held_messages() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let ended = runtime();
    let layer = ended.block_on(site.layer());
    let mut holding = layer.receiver(&["held?a"]).unwrap();
    ended.block_on(async {
        for n in 0..3 {
            layer.send("held?a", numbered(n)).await.unwrap();
        }
        assert_eq!(number(&within(DEADLINE, "the first", holding.recv()).await.unwrap()), 0);
    });
    ends_with(ended, &layer);
    runtime().block_on(within(DEADLINE, "the end of closing", async {
        let closed = holding.close().await;
        assert!(matches!(closed, Err(Error::Redis { shard: 0, .. })), "two messages are lost: {closed:?}");
        let closed = layer.close().await;
        assert!(matches!(closed, Err(Error::Redis { shard: 0, .. })), "two messages are lost: {closed:?}");
        layer.close().await.unwrap();
    }));
}

#[test]
fn a_pubsub_layer_closes_with_its_runtime() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let ended = runtime();
    let connected = ended.block_on(within(DEADLINE, "a connection", PubSubLayer::connect(site.config())));
    let layer = Arc::new(connected.unwrap());
    ends_with(ended, &layer);
    runtime().block_on(within(DEADLINE, "the end of closing", layer.close())).unwrap();
}

#[test]
fn a_message_that_waits_to_be_published_when_the_runtime_ends_counts_as_closed() {
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let _local = metrics::set_default_local_recorder(&recorder);
    let server = RedisServer::start();
    let config = Site::on(std::slice::from_ref(&server)).config();
    // Its tasks end in this thread, which has the recorder.
    let ended = Builder::new_current_thread().enable_all().build().unwrap();
    let layer = ended.block_on(within(DEADLINE, "a connection", PubSubLayer::connect(config))).unwrap();
    let send = |number| layer.send("n", numbered(number)).now_or_never();
    ended.block_on(async {
        let mut connection = server.connection().await;
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(60_000).arg("WRITE");
        let () = pause.query_async(&mut connection).await.unwrap();
        assert!(send(0).is_none(), "the answer cannot be there yet");
        eventually("the command", async || {
            let info: String = redis::cmd("INFO").arg("clients").query_async(&mut connection.clone()).await.unwrap();
            info.contains("blocked_clients:1").then_some(())
        })
        .await;
        for number in 1..=3 {
            assert!(send(number).is_none(), "the first batch is under way");
        }
    });
    drop(ended);
    let expected = [("closed".to_owned(), 3), ("unconfirmed".to_owned(), 1)];
    assert_eq!(counts.all_dropped(), BTreeMap::from(expected));
}

#[test]
fn a_layer_in_a_format_of_python_ends_with_its_runtime() {
    let server = RedisServer::start();
    for format in python_formats() {
        let config = Site::on(std::slice::from_ref(&server)).config().format(format);
        let ended = runtime();
        let layer = ended.block_on(within(DEADLINE, "a connection", channel_layer::connect(config))).unwrap();
        ends_with(ended, &layer);
        runtime().block_on(within(DEADLINE, "the end of closing", layer.close())).unwrap();
        // The layer is closed now, so that calls fail with `Closed`.
        let receiver = layer.receiver(&["n"]);
        assert!(matches!(receiver, Err(Error::Closed)), "{receiver:?}");
    }
}

#[test]
fn a_send_in_flight_when_the_runtime_ends_may_have_run() {
    for format in stored_formats() {
        let server = RedisServer::start();
        let (ended, other) = (runtime(), runtime());
        let config = Site::on(std::slice::from_ref(&server)).config().format(format);
        let layer = ended.block_on(channel_layer::connect(config)).unwrap();
        let mut connection = other.block_on(server.connection());
        let mut pause = redis::cmd("CLIENT");
        pause.arg("PAUSE").arg(60_000).arg("WRITE");
        let () = other.block_on(pause.query_async(&mut connection)).unwrap();
        let sending = layer.clone();
        let sent = other.spawn(async move { sending.send("s?a", numbered(1)).await });
        let arrives = eventually("the command", async || {
            let info: String = redis::cmd("INFO").arg("clients").query_async(&mut connection.clone()).await.unwrap();
            info.contains("blocked_clients:1").then_some(())
        });
        other.block_on(arrives);
        drop(ended);
        let error = other.block_on(within(DEADLINE, "the end of the call", sent)).unwrap().expect_err("no answer came");
        assert!(error.may_have_run(), "{format:?}: {error:?}");
    }
}

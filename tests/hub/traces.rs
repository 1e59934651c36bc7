//! Traces through hubs: from the sender to the sockets of all processes.

use channel_layer::Hub;
use channel_layer::hub::Client;
use channel_layer::trace::TraceParent;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::processes::redis;
use super::{App, Socket, hears, says};
use crate::support::{Log, eventually, random_prefix, shared_servers};

const PLACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn two(traced: bool) -> [App; 2] {
    let (server, prefix) = (&shared_servers()[0], random_prefix());
    let app = async || App::with(Hub::builder(redis(server, &prefix).await).trace(traced)).await;
    [app().await, app().await]
}

/// Returns the trace ids of the reported spans `step`, in order.
fn traces(log: &Log, step: &str) -> Vec<String> {
    let reported = |line: &&str| line.contains("channel_layer::trace") && line.contains(step);
    let trace = |line: &str| line.split_once("trace_id=\"").unwrap().1[..32].to_owned();
    log.text().lines().filter(reported).map(trace).collect()
}

/// Waits until `times` sockets are written to in a trace.
async fn written(log: &Log, trace: &str, times: usize) {
    let here = || traces(log, "written to the socket").iter().filter(|other| *other == trace).count();
    eventually("the writes of a trace", async || (here() == times).then_some(())).await;
}

/// Sends in the scope of a span, and waits until as many sockets are written to in its trace.
async fn traced<T>(log: &Log, sockets: usize, sending: impl Future<Output = T>) {
    let place = TraceParent::root();
    place.scope(sending).await;
    written(log, &place.trace_id(), sockets).await;
}

#[tokio::test]
async fn a_trace_goes_from_a_handler_to_the_sockets_of_all_processes() {
    let log = Log::default();
    let _guard = log.keep();
    let [one, other] = two(true).await;
    let ((mut ada, _), (mut bob, _)) = (one.enter("lobby").await, other.enter("lobby").await);
    says(&mut ada, "hello").await;
    for socket in [&mut ada, &mut bob] {
        assert_eq!(hears(socket).await, "hello");
    }
    // Two connects, and the message.
    let taken = traces(&log, "taken by a handler");
    assert_eq!(taken.len(), 3);
    written(&log, &taken[2], 2).await;
}

#[tokio::test]
async fn connect_runs_in_the_trace_of_the_request() {
    let log = Log::default();
    let _guard = log.keep();
    let [app, _] = two(true).await;
    let mut request = app.url("lobby").into_client_request().unwrap();
    request.headers_mut().insert("traceparent", PLACE.parse().unwrap());
    let mut socket = app.try_with(request).await.unwrap();
    app.enters().await;
    says(&mut socket, "hello").await;
    assert_eq!(hears(&mut socket).await, "hello");
    let taken = traces(&log, "taken by a handler");
    assert_eq!(taken[0], TraceParent::parse(PLACE).unwrap().trace_id());
    assert_ne!(taken[1], taken[0], "a message begins a trace");
}

#[tokio::test]
async fn messages_sent_in_a_scope_get_child_spans() {
    let log = Log::default();
    let _guard = log.keep();
    let [one, other] = two(false).await;
    let here = one.enter("lobby").await;
    let (mut ada, bob): (Socket, Client) = other.enter("lobby").await;
    bob.set_user(Some("bob")).await.unwrap();
    traced(&log, 2, one.hub.broadcast("lobby", "room")).await;
    traced(&log, 2, one.hub.broadcast_many([("lobby", "rooms")])).await;
    traced(&log, 2, one.hub.broadcast_all("all")).await;
    traced(&log, 1, one.hub.send_to_user("bob", "user")).await;
    traced(&log, 1, one.hub.send_to(bob.id(), "from there")).await;
    traced(&log, 1, other.hub.send_to(bob.id(), "from here")).await;
    traced(&log, 1, async { bob.send("by itself") }).await;
    for text in ["room", "rooms", "all", "user", "from there", "from here", "by itself"] {
        assert_eq!(hears(&mut ada).await, text);
    }
    let before = traces(&log, "").len();
    one.hub.broadcast("lobby", "in no trace").await.unwrap();
    assert_eq!(hears(&mut ada).await, "in no trace");
    assert_eq!(traces(&log, "").len(), before);
    drop(here);
}

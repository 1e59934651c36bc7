//! Rooms, users and single clients, in one process.

use std::time::Duration;

use channel_layer::hub::HubError;
use channel_layer::server::SocketOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{App, TAKE_YOUR_TIME, TIME_TAKEN, hears, hears_until, is_closed, says};
use crate::support::{DEADLINE, within};

#[tokio::test]
async fn a_message_reaches_exactly_the_members_of_a_room() {
    let app = App::start().await;
    let ((mut ada, _), (mut bob, _), (mut eve, outside)) =
        (app.enter("lobby").await, app.enter("lobby").await, app.enter("cellar").await);
    says(&mut ada, "hello").await;
    for socket in [&mut ada, &mut bob] {
        assert_eq!(hears(socket).await, "hello");
    }
    outside.send("first").unwrap();
    assert_eq!(hears(&mut eve).await, "first");
    assert_eq!((app.hub.count("lobby"), app.hub.members("cellar")), (2, vec![outside.id().clone()]));
}

#[tokio::test]
async fn a_client_that_leaves_gets_no_more_messages_of_the_room() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    assert_eq!(app.hub.broadcast("lobby", "before").await.unwrap(), 1);
    client.leave("lobby");
    assert_eq!(app.hub.broadcast("lobby", "after").await.unwrap(), 0);
    client.join("lobby").await.unwrap();
    client.join("lobby").await.unwrap();
    assert_eq!(app.hub.broadcast("lobby", "again").await.unwrap(), 1, "a client that joins twice gets a message once");
    client.send("end").unwrap();
    assert_eq!(hears_until(&mut socket, "end").await, ["before", "again"]);
}

#[tokio::test]
async fn the_status_page_shows_the_largest_rooms_as_text() {
    let app = App::start().await;
    let (_ada, _bob, _eve) = (app.enter("lobby").await, app.enter("lobby").await, app.enter("%3Cb%3E").await);
    let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    within(DEADLINE, "the page", stream.read_to_string(&mut page)).await.unwrap();
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    let rooms = page.find("<tr><th>lobby<td>2</tr>").zip(page.find("<tr><th>&lt;b&gt;<td>1</tr>"));
    assert!(rooms.is_some_and(|(larger, smaller)| larger < smaller), "{page}");
}

#[tokio::test]
async fn a_client_may_change_its_user() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    client.set_user(Some("ada")).await.unwrap();
    assert_eq!(app.hub.send_to_user("ada", "to ada").await.unwrap(), 1);
    client.set_user(Some("bob")).await.unwrap();
    assert_eq!(app.hub.send_to_user("ada", "lost").await.unwrap(), 0);
    assert_eq!(app.hub.send_to_user("bob", "to bob").await.unwrap(), 1);
    assert_eq!(client.user().as_deref(), Some("bob"));
    client.set_user(None).await.unwrap();
    assert_eq!(app.hub.send_to_user("bob", "lost").await.unwrap(), 0);
    client.send("end").unwrap();
    assert_eq!(hears_until(&mut socket, "end").await, ["to ada", "to bob"]);
}

#[tokio::test]
async fn all_one_and_many_rooms_can_be_reached() {
    let app = App::start().await;
    let ((mut ada, one), (mut bob, _)) = (app.enter("red").await, app.enter("blue").await);
    assert_eq!(app.hub.broadcast_all("all").await.unwrap(), 2);
    app.hub.send_to(one.id(), "one").await.unwrap();
    let sent = app.hub.broadcast_many([("red", "to red"), ("nowhere", "lost"), ("blue", "to blue")]).await;
    assert_eq!(sent.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 0, 1]);
    app.hub.broadcast_all("end").await.unwrap();
    assert_eq!(hears_until(&mut ada, "end").await, ["all", "one", "to red"]);
    assert_eq!(hears_until(&mut bob, "end").await, ["all", "to blue"]);
}

#[tokio::test]
async fn a_disconnected_client_is_in_no_room_and_can_join_none() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    client.set_user(Some("ada")).await.unwrap();
    let frame = CloseFrame { code: 4321.into(), reason: "enough".into() };
    socket.close(Some(frame)).await.unwrap();
    let closed = app.closed(&client).await;
    assert_eq!((closed.code, &*closed.reason), (4321, "enough"));
    assert_eq!((&*closed.rooms[0], closed.user.as_deref()), ("lobby", Some("ada")));
    for refused in [client.join("lobby").await, client.set_user(Some("ada")).await, client.send("hello")] {
        assert!(matches!(refused, Err(HubError::Gone)), "{refused:?}");
    }
    assert!(matches!(app.hub.send_to(client.id(), "hello").await, Err(HubError::Gone)));
    app.is_empty().await;
    assert_eq!(app.closes(), 1);
}

#[tokio::test]
async fn a_handler_that_fails_closes_its_client_with_1011() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    says(&mut socket, "fail").await;
    assert_eq!(is_closed(&mut socket).await.0, 1011);
    assert_eq!(app.closed(&client).await.code, 1011);
}

#[tokio::test]
async fn the_server_closes_with_the_given_code_after_queued_messages() {
    let app = App::start().await;
    let (mut socket, client) = app.enter("lobby").await;
    client.send("last").unwrap();
    client.close(4000, "banned");
    client.close(4001, "never");
    assert!(matches!(client.send("too late"), Err(HubError::Gone)));
    assert_eq!(hears(&mut socket).await, "last");
    assert_eq!(is_closed(&mut socket).await, (4000, "banned".to_owned()));
    assert_eq!(app.closed(&client).await.code, 4000);
}

#[tokio::test]
async fn a_close_sends_queued_messages_and_1001_spread_over_time() {
    let app = App::start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(app.enter("lobby").await.0);
    }
    app.hub.broadcast("lobby", "last").await.unwrap();
    let began = tokio::time::Instant::now();
    let closing = tokio::spawn({
        let hub = app.hub.clone();
        async move { hub.close(Duration::from_millis(500)).await }
    });
    for socket in &mut clients {
        assert_eq!(hears(socket).await, "last");
    }
    let ends = clients.iter_mut().map(async |socket| (is_closed(socket).await.0, began.elapsed()));
    let ends = futures_util::future::join_all(ends).await;
    assert!(ends.iter().all(|(code, _)| *code == 1001), "{ends:?}");
    let last = ends.iter().map(|(_, at)| *at).max().unwrap();
    assert!(last >= Duration::from_millis(400), "all at once: {ends:?}");
    closing.await.unwrap();
    app.is_empty().await;
    assert_eq!(app.closes(), 10);
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_disconnected() {
    let times = Duration::from_millis(50);
    let app = App::with_options(SocketOptions::new().ping(times, times)).await;
    // The client reads nothing, so it sends no pong.
    let (_socket, client) = app.enter("lobby").await;
    assert_eq!(app.closed(&client).await.code, 1006);
    app.is_empty().await;
}

#[tokio::test]
async fn a_client_is_not_silent_while_its_handler_works() {
    let options = SocketOptions::new().ping(TIME_TAKEN / 5, TIME_TAKEN / 3);
    let app = App::with_options(options).await;
    let (mut socket, client) = app.enter("lobby").await;
    says(&mut socket, TAKE_YOUR_TIME).await;
    assert_eq!(hears(&mut socket).await, TAKE_YOUR_TIME);
    client.send("still here").unwrap();
    assert_eq!(hears(&mut socket).await, "still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_get_the_messages_of_a_room_in_the_same_order() {
    let app = App::start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(app.enter("lobby").await.0);
    }
    let senders = (0..8).map(|sender| {
        let hub = app.hub.clone();
        tokio::spawn(async move {
            for number in 0..100 {
                hub.broadcast("lobby", format!("{sender} {number}")).await.unwrap();
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    app.hub.broadcast("lobby", "end").await.unwrap();
    let first = hears_until(&mut sockets[0], "end").await;
    for sender in 0..8 {
        let numbers = first.iter().filter_map(|text| text.strip_prefix(&format!("{sender} ")));
        assert!(numbers.eq((0..100).map(|number| number.to_string())), "{first:?}");
    }
    for socket in &mut sockets[1..] {
        assert_eq!(hears_until(socket, "end").await, first);
    }
}

//! The limits of a hub, and how they are released.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::hub::HubError;
use channel_layer::server::SocketOptions;
use channel_layer::{Hub, MemoryLayer};
use tokio_tungstenite::tungstenite::Error as ClientError;

use super::{App, Socket, TAKE_YOUR_TIME, hears_until, is_closed, says};
use crate::support::{DEADLINE, within};

fn status(refused: Result<Socket, ClientError>) -> u16 {
    match refused {
        Err(ClientError::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_503_until_another_ends() {
    for options in [SocketOptions::new().max_connections(2), SocketOptions::new().max_connections_per_address(2)] {
        let app = App::with_options(options).await;
        let (first, _second) = (app.enter("lobby").await, app.enter("lobby").await);
        assert_eq!(status(app.try_enter("lobby").await), 503);
        drop(first.0);
        app.closed(&first.1).await;
        app.enter("lobby").await;
    }
}

#[tokio::test]
async fn too_many_handshakes_in_a_second_get_503() {
    let app = App::with_options(SocketOptions::new().max_handshakes_per_second(1)).await;
    let (_socket, client) = app.enter("lobby").await;
    let refused = loop {
        // On a slow machine a second may pass between two handshakes.
        let entered = app.try_enter("lobby").await;
        if entered.is_err() {
            break entered;
        }
    };
    assert_eq!(status(refused), 503);
    client.send("still here").unwrap();
}

#[tokio::test]
async fn a_connection_over_the_limit_of_a_user_is_closed_with_1008() {
    let app = App::with_options(SocketOptions::new().max_connections_per_user(1)).await;
    let ((_first, ada), (mut second, other)) = (app.enter("lobby").await, app.enter("lobby").await);
    ada.set_user(Some("ada")).await.unwrap();
    assert!(matches!(other.set_user(Some("ada")).await, Err(HubError::TooManyConnections)));
    assert_eq!(is_closed(&mut second).await, (1008, "too many connections of this user".to_owned()));
    ada.set_user(Some("bob")).await.unwrap();
    let (_third, next) = app.enter("lobby").await;
    next.set_user(Some("ada")).await.unwrap();
}

#[tokio::test]
async fn too_many_messages_or_bytes_in_a_second_close_with_1008() {
    let text = "x".repeat(500);
    for (options, reason) in [
        (SocketOptions::new().max_messages_per_second(5), "too many messages"),
        (SocketOptions::new().max_bytes_per_second(3_000), "too many bytes"),
    ] {
        let app = App::with_options(options).await;
        let (mut socket, client) = app.enter("lobby").await;
        for _ in 0..7 {
            says(&mut socket, &text).await;
        }
        assert_eq!(is_closed(&mut socket).await, (1008, reason.to_owned()));
        assert_eq!(app.closed(&client).await.code, 1008);
    }
}

#[tokio::test]
async fn messages_that_waited_for_a_handler_do_not_exceed_the_rate() {
    let app = App::with_options(SocketOptions::new().max_messages_per_second(2)).await;
    let (mut socket, _) = app.enter("lobby").await;
    for text in [TAKE_YOUR_TIME, "1", "2", "3", "4"] {
        says(&mut socket, text).await;
    }
    assert_eq!(hears_until(&mut socket, "4").await, [TAKE_YOUR_TIME, "1", "2", "3"]);
}

#[tokio::test]
async fn too_large_a_frame_or_message_closes_with_1009() {
    for options in [SocketOptions::new().max_message_size(1_000), SocketOptions::new().max_frame_size(1_000)] {
        let app = App::with_options(options).await;
        let (mut socket, client) = app.enter("lobby").await;
        says(&mut socket, &"x".repeat(1_001)).await;
        assert_eq!(is_closed(&mut socket).await, (1009, "too large".to_owned()));
        assert_eq!(app.closed(&client).await.code, 1009);
    }
}

#[tokio::test]
async fn a_client_cannot_exceed_its_limit_of_rooms() {
    let app = App::with(Hub::builder(Arc::new(MemoryLayer::new())).max_rooms_per_client(2)).await;
    let (_socket, client) = app.enter("one").await;
    client.join("two").await.unwrap();
    assert!(matches!(client.join("three").await, Err(HubError::TooManyRooms)));
    client.join("two").await.unwrap();
    client.leave("one");
    client.join("three").await.unwrap();
    assert_eq!(client.rooms().len(), 2);
}

#[tokio::test]
async fn a_hub_that_restarts_closes_with_1012_and_then_refuses_with_503() {
    let app = App::with(Hub::builder(Arc::new(MemoryLayer::new())).restarts(true)).await;
    let (mut socket, _client) = app.enter("lobby").await;
    let hub = app.hub.clone();
    let closing = tokio::spawn(async move { hub.close(Duration::ZERO).await });
    assert_eq!(is_closed(&mut socket).await.0, 1012);
    within(DEADLINE, "the close", closing).await.unwrap();
    assert_eq!(status(app.try_enter("lobby").await), 503);
}

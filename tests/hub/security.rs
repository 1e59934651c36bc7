//! Origins, subprotocols and a closed hub: which clients are accepted.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use channel_layer::hub::{Client, Handler, Payload};
use channel_layer::server::Upgrade;
use channel_layer::{BoxError, Hub, MemoryLayer};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error as ClientError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response as Answer;

use super::App;
use crate::support::{DEADLINE, within};

struct Silent;

impl Handler for Silent {
    async fn message(&mut self, _client: &Client, _message: Payload) -> Result<(), BoxError> {
        Ok(())
    }
}

async fn speak(State(hub): State<Hub>, upgrade: Upgrade) -> Response {
    hub.upgrade(upgrade.protocols(["chat.v2", "chat.v1"]), Silent)
}

/// An app that allows pages of one site and supports two protocols.
async fn app() -> String {
    let hub = Hub::builder(Arc::new(MemoryLayer::new())).allowed_origins(["https://example.org"]).unwrap();
    let app = Router::new().route("/", get(speak)).with_state(hub.start().await.unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn open(url: &str, header: &'static str, value: &str) -> Result<Answer, u16> {
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(header, value.parse().unwrap());
    match within(DEADLINE, "a handshake", connect_async(request)).await {
        Ok((_, answer)) => Ok(answer),
        Err(ClientError::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn pages_of_other_sites_cannot_open_sockets() {
    let url = app().await;
    assert!(open(&url, "origin", "https://example.org").await.is_ok());
    assert_eq!(open(&url, "origin", "https://evil.net").await.unwrap_err(), 403);
}

#[tokio::test]
async fn the_first_protocol_of_the_app_that_the_client_offers_is_chosen() {
    let url = app().await;
    let answer = open(&url, "sec-websocket-protocol", "soap, chat.v1, chat.v2").await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    let answer = open(&url, "x-other", "none").await.unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-protocol"));
}

#[tokio::test]
async fn a_closed_hub_refuses_requests_with_503() {
    let app = App::start().await;
    let (_socket, client) = app.enter("lobby").await;
    within(DEADLINE, "the close", app.hub.close(Duration::ZERO)).await;
    assert!(within(DEADLINE, "an answer", client.join("cellar")).await.is_err());
    let refused = app.try_enter("lobby").await;
    assert!(matches!(&refused, Err(ClientError::Http(answer)) if answer.status() == 503), "{refused:?}");
}

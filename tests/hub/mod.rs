//! The Hub with real sockets: axum apps with a room per path, and clients controlled by the tests.

mod limits;
mod load;
mod many;
mod misbehaving;
mod processes;
mod rooms;
mod security;
mod slow;
mod traces;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use channel_layer::hub::{Client, ClientId, Closed, Handler, HubBuilder, Payload, status_page};
use channel_layer::server::{SocketOptions, Upgrade};
use channel_layer::{BoxError, ChannelLayer, Hub, MemoryLayer};
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as ClientError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{DEADLINE, eventually, within};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An app with a hub. It stands for one process of several.
pub struct App {
    pub hub: Hub,
    pub address: SocketAddr,
    seen: Arc<Seen>,
    serving: AbortHandle,
}

/// Calls of the handlers of an app.
struct Seen {
    arrived: mpsc::UnboundedSender<Client>,
    arrivals: Mutex<mpsc::UnboundedReceiver<Client>>,
    closed: Mutex<Vec<(ClientId, Closed)>>,
}

impl App {
    pub async fn start() -> Self {
        Self::on(Arc::new(MemoryLayer::new())).await
    }

    pub async fn on(layer: Arc<dyn ChannelLayer>) -> Self {
        Self::with(Hub::builder(layer)).await
    }

    pub async fn with_options(options: SocketOptions) -> Self {
        Self::with(Hub::builder(Arc::new(MemoryLayer::new())).sockets(options)).await
    }

    pub async fn with(hub: HubBuilder) -> Self {
        Self::listening(hub, TcpListener::bind("127.0.0.1:0").await.unwrap()).await
    }

    pub async fn listening(hub: HubBuilder, listener: TcpListener) -> Self {
        let hub = within(DEADLINE, "the start of a hub", hub.start()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let seen = Arc::new(Seen { arrived, arrivals: Mutex::new(arrivals), closed: Mutex::default() });
        let app = Router::new().route("/{room}", get(enter)).with_state((hub.clone(), seen.clone()));
        let app = app.merge(status_page(hub.clone()));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Self { hub, address, seen, serving }
    }

    /// Connects a client that joins `room`. Returns both sides.
    pub async fn enter(&self, room: &str) -> (Socket, Client) {
        let socket = self.try_enter(room).await.unwrap();
        (socket, self.enters().await)
    }

    /// Waits for the next client that has joined its room.
    pub async fn enters(&self) -> Client {
        let arrives = std::future::poll_fn(|cx| self.seen.arrivals.lock().poll_recv(cx));
        within(DEADLINE, "a client to arrive", arrives).await.unwrap()
    }

    pub async fn try_enter(&self, room: &str) -> Result<Socket, ClientError> {
        self.try_with(self.url(room)).await
    }

    /// Sends a WebSocket request and returns the result.
    pub async fn try_with(&self, request: impl IntoClientRequest + Unpin) -> Result<Socket, ClientError> {
        within(DEADLINE, "a handshake", connect_async(request)).await.map(|(socket, _)| socket)
    }

    pub fn url(&self, room: &str) -> String {
        format!("ws://{}/{room}", self.address)
    }

    /// Waits until a client has disconnected. Returns the code and the reason.
    pub async fn closed(&self, client: &Client) -> Closed {
        let find =
            || self.seen.closed.lock().iter().find(|(id, _)| id == client.id()).map(|(_, closed)| closed.clone());
        eventually("the disconnect of a client", async || find()).await
    }

    pub fn closes(&self) -> usize {
        self.seen.closed.lock().len()
    }

    /// Waits until the hub holds no state of clients.
    pub async fn is_empty(&self) {
        eventually("a hub without clients", async || {
            let status = self.hub.status();
            (status.connections == 0 && status.rooms == 0 && status.users == 0 && status.queues.messages == 0)
                .then_some(())
        })
        .await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn enter(State((hub, seen)): State<(Hub, Arc<Seen>)>, Path(room): Path<String>, upgrade: Upgrade) -> Response {
    hub.upgrade(upgrade, Visitor { room, seen })
}

/// Message for which the handler works for [`TIME_TAKEN`].
pub const TAKE_YOUR_TIME: &str = "take your time";
pub const TIME_TAKEN: Duration = Duration::from_millis(2_500);

/// Joins the room of its path and repeats each message there.
struct Visitor {
    room: String,
    seen: Arc<Seen>,
}

impl Handler for Visitor {
    async fn connect(&mut self, client: &Client) -> Result<(), BoxError> {
        if self.room != "nowhere" {
            client.join(&self.room).await?;
        }
        let _ = self.seen.arrived.send(client.clone());
        Ok(())
    }

    async fn message(&mut self, client: &Client, message: Payload) -> Result<(), BoxError> {
        if message.as_text() == Some("fail") {
            return Err("the message asks for a failure".into());
        }
        if message.as_text() == Some(TAKE_YOUR_TIME) {
            tokio::time::sleep(TIME_TAKEN).await;
        }
        client.hub().broadcast(&self.room, message).await?;
        Ok(())
    }

    async fn disconnect(&mut self, client: &Client, closed: Closed) {
        self.seen.closed.lock().push((client.id().clone(), closed));
    }
}

/// Returns the next message to a client.
pub async fn hears(socket: &mut Socket) -> String {
    loop {
        match within(DEADLINE, "a message", socket.next()).await {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("no text, but {other:?}"),
        }
    }
}

/// Returns the code and the reason with which a client is closed. Skips messages before that.
pub async fn is_closed(socket: &mut Socket) -> (u16, String) {
    let closed = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(Some(frame)) = message {
                return (frame.code.into(), frame.reason.to_string());
            }
        }
        (1006, String::new())
    };
    within(DEADLINE, "a close frame", closed).await
}

/// Returns the messages to a client from now on, up to the text `last`.
pub async fn hears_until(socket: &mut Socket, last: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let text = hears(socket).await;
        if text == last {
            return heard;
        }
        heard.push(text);
    }
}

pub async fn says(socket: &mut Socket, text: &str) {
    within(DEADLINE, "a message to be sent", socket.send(Message::text(text))).await.unwrap();
}

/// Long enough for an unexpected message to arrive.
pub const A_WHILE: Duration = Duration::from_millis(200);

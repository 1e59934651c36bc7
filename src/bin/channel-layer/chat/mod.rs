//! The chat: rooms, names, messages and presence, as a worker behind any channel layer.
//!
//! A page opens `/chat/<room>/<name>` as a WebSocket. Every message about the socket contains the path, so any worker
//! can answer any client, and no worker has to remember one. A room is a group. Clients and the chat exchange JSON
//! text: [`ClientMessage`] and [`Event`].
//!
//! No process knows all members of a room: clients are spread over servers, and a server can die without notice. So
//! each client keeps the list of members itself. It receives an event when a client joins or leaves. Each client
//! announces itself every [`ANNOUNCE_EVERY`], and immediately when another client joins. A client without an
//! announcement for [`FORGET_AFTER`] is removed from the list. A worker collects announcements for a short time and
//! sends them on together: a room of a thousand clients costs a few messages per second instead of a million.

mod event;
mod presence;
mod room;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use channel_layer::server::mode_route;
use channel_layer::worker::Context;
use channel_layer::{ChannelLayer, InterfaceServer, Result, Worker, message};

use self::event::{ClientMessage, Event};
use self::presence::Presence;
use self::room::Participant;

/// Interval of a client's announcements.
pub(crate) const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
/// Time after which a client without announcements is removed: two announcements may be lost.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(13);
/// Maximum length of a message, in characters.
const MESSAGE_LIMIT: usize = 2_000;
/// Close code for an invalid room or name. A client need not try again.
const REFUSED: u16 = 4400;

/// Adds the page, the files that it loads, and the route that reports whether `layer` reaches other processes.
pub(crate) fn pages(server: InterfaceServer, layer: Arc<dyn ChannelLayer>) -> InterfaceServer {
    server
        .routes(mode_route(layer))
        .page("/", "text/html; charset=utf-8", include_str!("page.html"))
        .page("/chat.css", "text/css; charset=utf-8", include_str!("chat.css"))
        .page("/chat.js", "text/javascript; charset=utf-8", include_str!("chat.js"))
        .page("/icon.svg", "image/svg+xml", include_str!("icon.svg"))
}

/// Runs a worker that answers all clients of `layer`, until `shutdown`. `configure` sets the options of the worker.
pub(crate) async fn run(
    layer: Arc<dyn ChannelLayer>,
    configure: impl FnOnce(Worker) -> Worker,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let presence = Arc::new(Presence::default());
    let worker = configure(Worker::new(layer.clone()))
        .on("websocket.connect", connect)
        .on("websocket.disconnect", disconnect)
        .on("websocket.receive", {
            let presence = presence.clone();
            move |context| receive(context, presence.clone())
        })
        .run(shutdown);
    tokio::select! {
        done = worker => done,
        never = presence.publish(&*layer) => match never {},
    }
}

async fn connect(context: Context) -> Result<()> {
    let participant = match Participant::of(&context) {
        Ok(Some(participant)) => participant,
        Ok(None) => return context.reply(message! { "close": true }).await,
        Err(reason) => {
            let text = Event::Error { text: reason }.to_json();
            return context.reply(message! { "text": text, "close": REFUSED }).await;
        }
    };
    context.group_add(&participant.group).await?;
    let welcome = Event::Welcome {
        id: &participant.id,
        room: &participant.room,
        name: &participant.name,
        limit: MESSAGE_LIMIT,
        announce: ANNOUNCE_EVERY.as_secs(),
        forget: FORGET_AFTER.as_secs(),
    };
    context.reply(message! { "accept": true, "text": welcome.to_json() }).await?;
    let before = participant.before(&context);
    let joined = Event::Joined { id: &participant.id, name: &participant.name, before: before.as_deref(), at: now() };
    context.group_send(&participant.group, message! { "text": joined.to_json() }).await
}

async fn receive(context: Context, presence: Arc<Presence>) -> Result<()> {
    let Ok(Some(participant)) = Participant::of(&context) else { return Ok(()) };
    let message = match ClientMessage::parse(context.message().text("text").unwrap_or_default()) {
        Ok(message) => message,
        Err(reason) => return error(&context, reason).await,
    };
    match message {
        ClientMessage::Here => presence.record(participant),
        ClientMessage::Message { text, key } => {
            let text = text.trim();
            if text.is_empty() {
                return Ok(());
            }
            if text.chars().count() > MESSAGE_LIMIT {
                return error(&context, format!("A message has at most {MESSAGE_LIMIT} characters.")).await;
            }
            let order = context.message().int("order").unwrap_or_default();
            let event = Event::Message { id: &participant.id, name: &participant.name, text, key, order, at: now() };
            context.group_send(&participant.group, message! { "text": event.to_json() }).await?;
        }
    }
    Ok(())
}

async fn disconnect(context: Context) -> Result<()> {
    let Ok(Some(participant)) = Participant::of(&context) else { return Ok(()) };
    context.group_discard(&participant.group).await?;
    let left = Event::Left { id: &participant.id, name: &participant.name, at: now() };
    context.group_send(&participant.group, message! { "text": left.to_json() }).await
}

async fn error(context: &Context, text: String) -> Result<()> {
    context.reply(message! { "text": Event::Error { text }.to_json() }).await
}

/// Milliseconds since the epoch.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

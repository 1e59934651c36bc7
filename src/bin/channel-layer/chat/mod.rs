//! The chat: rooms, names, messages and who is here, as a worker behind any channel layer.
//!
//! A page opens `/chat/<room>/<name>` as a WebSocket. The path comes with every message about the socket, so that any
//! worker can answer for any client and none has to remember one. A room is a group. What a client and the chat say to
//! each other is JSON text, in [`Said`] and [`Event`].
//!
//! Who is in a room is known to nobody alone, for clients are spread over servers and a server can die without a word.
//! So the clients keep the list: they hear who joined and left, each of them announces itself every
//! [`ANNOUNCE_EVERY`], and at once when somebody joins, and whoever was not heard for [`FORGET_AFTER`] is gone. A worker
//! collects announcements for a moment and passes them on together: a room of a thousand costs a few messages a
//! second and not a million.

mod event;
mod presence;
mod room;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use channel_layer::server::mode_route;
use channel_layer::worker::Context;
use channel_layer::{ChannelLayer, InterfaceServer, Result, Worker, message};

use self::event::{Event, Said};
use self::presence::Presence;
use self::room::Seat;

/// How often a client says that it is still there.
pub(crate) const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
/// How long a client counts as present without saying so: two announcements may be lost.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(13);
/// How long a message may be, in characters.
const MESSAGE_LIMIT: usize = 2_000;
/// The close code for a room or name that cannot be; a client need not try again.
const REFUSED: u16 = 4400;

/// The page with what it loads, and the route by which it learns whether `layer` reaches others.
pub(crate) fn pages(server: InterfaceServer, layer: Arc<dyn ChannelLayer>) -> InterfaceServer {
    server
        .routes(mode_route(layer))
        .page("/", "text/html; charset=utf-8", include_str!("page.html"))
        .page("/chat.css", "text/css; charset=utf-8", include_str!("chat.css"))
        .page("/chat.js", "text/javascript; charset=utf-8", include_str!("chat.js"))
        .page("/icon.svg", "image/svg+xml", include_str!("icon.svg"))
}

/// Answers for all clients of `layer` until `shutdown`, by a worker with these settings.
pub(crate) async fn run(
    layer: Arc<dyn ChannelLayer>,
    set: impl FnOnce(Worker) -> Worker,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let presence = Arc::new(Presence::default());
    let worker = set(Worker::new(layer.clone()))
        .on("websocket.connect", connect)
        .on("websocket.disconnect", disconnect)
        .on("websocket.receive", {
            let presence = presence.clone();
            move |context| receive(context, presence.clone())
        })
        .run(shutdown);
    tokio::select! {
        done = worker => done,
        never = presence.pass_on(&*layer) => match never {},
    }
}

async fn connect(context: Context) -> Result<()> {
    let seat = match Seat::of(&context) {
        Ok(Some(seat)) => seat,
        Ok(None) => return context.reply(message! { "close": true }).await,
        Err(reason) => {
            let text = Event::Error { text: reason }.to_json();
            return context.reply(message! { "text": text, "close": REFUSED }).await;
        }
    };
    context.group_add(&seat.group).await?;
    let welcome = Event::Welcome {
        id: &seat.id,
        room: &seat.room,
        name: &seat.name,
        limit: MESSAGE_LIMIT,
        announce: ANNOUNCE_EVERY.as_secs(),
        forget: FORGET_AFTER.as_secs(),
    };
    context.reply(message! { "accept": true, "text": welcome.to_json() }).await?;
    let before = seat.before(&context);
    let joined = Event::Joined { id: &seat.id, name: &seat.name, before: before.as_deref(), at: now() };
    context.group_send(&seat.group, message! { "text": joined.to_json() }).await
}

async fn receive(context: Context, presence: Arc<Presence>) -> Result<()> {
    let Ok(Some(seat)) = Seat::of(&context) else { return Ok(()) };
    let said = match Said::parse(context.message().text("text").unwrap_or_default()) {
        Ok(said) => said,
        Err(reason) => return error(&context, reason).await,
    };
    match said {
        Said::Here => presence.note(seat),
        Said::Message { text, key } => {
            let text = text.trim();
            if text.is_empty() {
                return Ok(());
            }
            if text.chars().count() > MESSAGE_LIMIT {
                return error(&context, format!("A message has at most {MESSAGE_LIMIT} characters.")).await;
            }
            let order = context.message().int("order").unwrap_or_default();
            let event = Event::Message { id: &seat.id, name: &seat.name, text, key, order, at: now() };
            context.group_send(&seat.group, message! { "text": event.to_json() }).await?;
        }
    }
    Ok(())
}

async fn disconnect(context: Context) -> Result<()> {
    let Ok(Some(seat)) = Seat::of(&context) else { return Ok(()) };
    context.group_discard(&seat.group).await?;
    let left = Event::Left { id: &seat.id, name: &seat.name, at: now() };
    context.group_send(&seat.group, message! { "text": left.to_json() }).await
}

async fn error(context: &Context, text: String) -> Result<()> {
    context.reply(message! { "text": Event::Error { text }.to_json() }).await
}

/// Milliseconds since the epoch.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

//! A process of a site: a hub on a layer of its own, behind an HTTP server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use channel_layer::hub::{Client, ClientId, Handler, HubError, Payload};
use channel_layer::server::{SocketOptions, Upgrade};
use channel_layer::{BoxError, Hub};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::super::history::{Event, MessageId, Outcome, Target};
use super::super::plan::stream;
use super::super::process::Context;
use super::{ALL, ROOMS, USERS, rules, text, user_group};
use crate::support::Moments;

/// Much more than a client is sent while a busy machine keeps it from reading.
const QUEUED_MESSAGES: usize = 100_000;
const QUEUED_BYTES: usize = 64 << 20;

/// Clients that stay for the whole round, by the names that the history has for them.
pub type Known = Arc<Mutex<Vec<(ClientId, String)>>>;

/// The hub of a process and the address of its server.
#[derive(Clone)]
pub struct Site {
    pub hub: Hub,
    pub address: SocketAddr,
}

impl Site {
    /// Starts a hub on the layer of `context`; the server ends with the runtime of the process.
    pub async fn start(context: &Context, known: Known) -> Result<Self, HubError> {
        let options = SocketOptions::new().queue(QUEUED_MESSAGES, QUEUED_BYTES).ping(PING, PING);
        let hub = Hub::builder(Arc::clone(&context.layer)).sockets(options).start().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let app = Router::new().route("/{name}", get(enter)).with_state((hub.clone(), known));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let stopping = context.reading.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, app).with_graceful_shutdown(stopping).await });
        Ok(Self { hub, address })
    }
}

/// How long a client may be silent: longer than any round.
const PING: Duration = Duration::from_mins(5);

async fn enter(State((hub, known)): State<(Hub, Known)>, Path(name): Path<String>, upgrade: Upgrade) -> Response {
    hub.upgrade(upgrade, Member { name, known })
}

/// Does what its client tells it, and answers each command.
struct Member {
    name: String,
    known: Known,
}

impl Handler for Member {
    async fn message(&mut self, client: &Client, message: Payload) -> Result<(), BoxError> {
        let command = message.as_text().unwrap_or_default();
        let done = match command.split_once(' ') {
            Some(("join", room)) => client.join(room).await.is_ok(),
            Some(("user", user)) => client.set_user(Some(user)).await.is_ok(),
            Some(("leave", room)) => {
                client.leave(room);
                true
            }
            _ if command == "stay" => {
                self.known.lock().push((client.id().clone(), self.name.clone()));
                true
            }
            _ => return Err(format!("unknown command {command}").into()),
        };
        client.send(if done { "done" } else { "failed" })?;
        Ok(())
    }
}

/// Sends to rooms, users, clients and all until it is told to stop.
pub async fn broadcast(context: Context, site: Site, known: Known, writer: u32) {
    let mut rng = stream(context.plan.seed, &format!("broadcaster {writer}"));
    let mut moments = Moments::new(rng.random());
    let settings = &context.plan.settings[context.slot];
    let rules = rules(&context.plan);
    let mut number = 0;
    while !context.writing.is_cancelled() {
        let count = if rng.random_bool(0.1) { rng.random_range(2..10) } else { 1 };
        let way = Way::draw(&mut rng, &known, count);
        let first = number + 1;
        number += u32::try_from(way.targets().len()).expect("there are few");
        let ids: Vec<_> = (first..=number).map(|number| MessageId { writer, number }).collect();
        for (id, to) in ids.iter().zip(way.targets()) {
            context.record(Event::Sending { id: *id, to, expiry: settings.expiry });
        }
        let texts = ids.iter().map(|id| text(*id, rng.random_range(0..200))).collect();
        let call = way.call(&site.hub, texts);
        let is_cancelled = rng.random_range(0..100) < settings.cancelled;
        let sending = async {
            if is_cancelled { moments.cut(call).await } else { context.soon(|| "a broadcast".to_owned(), call).await }
        };
        let results = context.count_drops(ids.iter().copied(), sending).await;
        for (at, id) in ids.iter().enumerate() {
            let outcome = match results.as_ref().map_or(Outcome::Unknown, |results| results[at]) {
                // Clients of this process get what is sent, whatever becomes of it elsewhere.
                Outcome::Unknown if !rules.reaches_others => Outcome::Done,
                outcome => outcome,
            };
            context.record(Event::Sent { id: *id, outcome });
        }
        sleep(settings.pause.mul_f64(rng.random()).max(Duration::from_millis(1))).await;
    }
}

/// One way to send.
enum Way {
    Rooms(Vec<&'static str>),
    User(&'static str),
    All,
    Client(ClientId, String),
}

impl Way {
    fn draw(rng: &mut StdRng, known: &Known, count: usize) -> Self {
        let client = known.lock().choose(rng).cloned();
        match (rng.random_range(0..10), client) {
            (0, _) => Self::All,
            (1, _) => Self::User(USERS.choose(rng).expect("there are users")),
            (2 | 3, Some((id, name))) => Self::Client(id, name),
            _ => Self::Rooms((0..count).map(|_| *ROOMS.choose(rng).expect("there are rooms")).collect()),
        }
    }

    fn targets(&self) -> Vec<Target> {
        match self {
            Self::Rooms(rooms) => rooms.iter().map(|room| Target::Group((*room).to_owned())).collect(),
            Self::User(user) => vec![Target::Group(user_group(user))],
            Self::All => vec![Target::Group(ALL.to_owned())],
            Self::Client(_, name) => vec![Target::Channel(name.clone())],
        }
    }

    async fn call(&self, hub: &Hub, mut texts: Vec<String>) -> Vec<Outcome> {
        if let Self::Rooms(rooms) = self
            && rooms.len() > 1
        {
            let messages = rooms.iter().copied().zip(texts);
            return hub.broadcast_many(messages).await.iter().map(outcome).collect();
        }
        let text = texts.remove(0);
        vec![match self {
            Self::Rooms(rooms) => outcome(&hub.broadcast(rooms[0], text).await),
            Self::User(user) => outcome(&hub.send_to_user(user, text).await),
            Self::All => outcome(&hub.broadcast_all(text).await),
            Self::Client(id, _) => outcome(&hub.send_to(id, text).await),
        }]
    }
}

fn outcome<T>(result: &Result<T, HubError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(HubError::Layer(_)) => Outcome::Unknown,
        Err(_) => Outcome::NotRun,
    }
}

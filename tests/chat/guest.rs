//! A client of the chat that behaves like its page.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use tokio_tungstenite::tungstenite::{Error as ClientError, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::instance::Instance;
use crate::support::{DEADLINE, within};

/// A person in a room. The connection ends when this is dropped.
pub struct Guest {
    view: watch::Receiver<View>,
    says: mpsc::UnboundedSender<String>,
}

#[derive(Default)]
struct View {
    lines: Vec<String>,
    people: Vec<String>,
}

impl Guest {
    pub async fn enter(instance: &Instance, room: &str, name: &str) -> Self {
        Self::try_enter(instance, room, name).await.unwrap()
    }

    pub async fn try_enter(instance: &Instance, room: &str, name: &str) -> Result<Self, ClientError> {
        Self::enter_at(&instance.address, room, name).await
    }

    /// Enters through the server or proxy at `address`.
    pub async fn enter_at(address: &str, room: &str, name: &str) -> Result<Self, ClientError> {
        let url = format!("ws://{address}/chat/{}/{name}", room.replace(' ', "%20"));
        let (socket, _) = within(DEADLINE, "the handshake", connect_async(url)).await?;
        let (shows, view) = watch::channel(View::default());
        let (says, said) = mpsc::unbounded_channel();
        tokio::spawn(Protocol { socket, shows, known: HashMap::new(), forget: DEADLINE }.run(said));
        Ok(Self { view, says })
    }

    pub fn says(&self, text: &str) {
        self.says.send(json!({ "type": "message", "text": text }).to_string()).unwrap();
    }

    pub fn leaves(self) {
        drop(self);
    }

    pub fn lines(&self) -> Vec<String> {
        self.view.borrow().lines.clone()
    }

    pub async fn sees_line(&self, line: &str) {
        self.sees(line, |lines| lines.iter().any(|other| other == line)).await;
    }

    /// Waits until exactly the people with these sorted names are in the room.
    pub async fn sees_people(&self, names: &[&str]) {
        self.sees_view(&format!("{names:?} in the room"), |view| view.people == names).await;
    }

    pub async fn sees(&self, what: &str, shown: impl Fn(&[String]) -> bool) {
        self.sees_view(what, |view| shown(&view.lines)).await;
    }

    async fn sees_view(&self, what: &str, shown: impl Fn(&View) -> bool) {
        let mut view = self.view.clone();
        // A person without a connection disappears after 13 s, and the detection of an outage of Redis takes time as
        // well.
        let seen = within(DEADLINE * 2, what, view.wait_for(|view| shown(view))).await.is_ok();
        assert!(seen, "the connection ended before {what} was seen: {:?}", self.lines());
    }
}

struct Protocol {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    shows: watch::Sender<View>,
    /// By id: the name, and the time of the last message.
    known: HashMap<String, (String, Instant)>,
    forget: Duration,
}

impl Protocol {
    /// Runs until the connection ends or the guest is dropped.
    async fn run(mut self, mut said: mpsc::UnboundedReceiver<String>) {
        let mut announce = interval(Duration::from_secs(5));
        let mut check = interval(Duration::from_millis(200));
        loop {
            let out = tokio::select! {
                frame = self.socket.next() => match frame {
                    Some(Ok(Frame::Text(text))) => self.hear(&serde_json::from_str(&text).unwrap()),
                    Some(Ok(Frame::Close(frame))) => {
                        let code = frame.map_or(1005, |frame| frame.code.into());
                        return self.line(format!("closed with {code}"));
                    }
                    Some(Ok(_)) => None,
                    Some(Err(_)) | None => return self.line("closed with 1006".to_owned()),
                },
                text = said.recv() => {
                    let Some(text) = text else {
                        let _ = self.socket.close(None).await;
                        return;
                    };
                    Some(text)
                }
                _ = announce.tick() => Some(here()),
                _ = check.tick() => {
                    self.known.retain(|_, (_, heard)| heard.elapsed() < self.forget);
                    None
                }
            };
            self.show_people();
            if let Some(text) = out
                && self.socket.send(Frame::text(text)).await.is_err()
            {
                return self.line("closed with 1006".to_owned());
            }
        }
    }

    /// Handles an event. Returns the answer to it.
    fn hear(&mut self, event: &Value) -> Option<String> {
        let field = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap() {
            "welcome" => {
                self.forget = Duration::from_secs(event["forget"].as_u64().unwrap());
                self.known.insert(field("id"), (field("name"), Instant::now()));
            }
            "joined" => {
                self.known.insert(field("id"), (field("name"), Instant::now()));
                self.line(format!("{} joined", field("name")));
                return Some(here());
            }
            "left" => {
                self.known.remove(&field("id"));
                self.line(format!("{} left", field("name")));
            }
            "here" => {
                for person in event["people"].as_array().unwrap() {
                    let text = |key: &str| person[key].as_str().unwrap().to_owned();
                    self.known.insert(text("id"), (text("name"), Instant::now()));
                }
            }
            "message" => self.line(format!("{}: {}", field("name"), field("text"))),
            "error" => self.line(format!("error: {}", field("text"))),
            other => panic!("an event that the page does not know: {other}"),
        }
        None
    }

    fn line(&self, line: String) {
        self.shows.send_modify(|view| view.lines.push(line));
    }

    fn show_people(&self) {
        let mut people: Vec<_> = self.known.values().map(|(name, _)| name.clone()).collect();
        people.sort();
        self.shows.send_if_modified(|view| {
            let changed = view.people != people;
            view.people = people;
            changed
        });
    }
}

fn here() -> String {
    json!({ "type": "here" }).to_string()
}

//! Announcements of clients, collected for a moment and passed on together.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use channel_layer::{ChannelLayer, message};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Event, Person};
use super::room::Seat;

/// How long announcements are collected.
const MOMENT: Duration = Duration::from_millis(200);
/// How many people one event names, so that it stays far below any limit on the size of a message.
const AT_ONCE: usize = 500;

#[derive(Default)]
pub(super) struct Presence {
    /// By group; held for an insertion or a swap, never across an await.
    heard: Mutex<HashMap<String, Vec<Person>>>,
    news: Notify,
}

impl Presence {
    pub(super) fn note(&self, seat: Seat) {
        let person = Person { id: seat.id, name: seat.name };
        let mut heard = self.heard.lock();
        let people = heard.entry(seat.group).or_default();
        if !people.contains(&person) {
            people.push(person);
        }
        drop(heard);
        self.news.notify_one();
    }

    /// Tells each room who was heard in it.
    pub(super) async fn pass_on(&self, layer: &dyn ChannelLayer) -> Infallible {
        loop {
            self.news.notified().await;
            tokio::time::sleep(MOMENT).await;
            let heard = std::mem::take(&mut *self.heard.lock());
            for (group, people) in heard {
                for people in people.chunks(AT_ONCE) {
                    let here = Event::Here { people: people.to_vec() };
                    if let Err(error) = layer.group_send(&group, message! { "text": here.to_json() }).await {
                        // Everybody announces itself again soon.
                        tracing::debug!(%error, "announcements are lost");
                    }
                }
            }
        }
    }
}

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
    /// By group and id, the names; held for an insertion or a swap, never across an await.
    heard: Mutex<HashMap<String, HashMap<String, String>>>,
    news: Notify,
}

impl Presence {
    pub(super) fn note(&self, seat: Seat) {
        self.heard.lock().entry(seat.group).or_default().insert(seat.id, seat.name);
        self.news.notify_one();
    }

    /// Tells each room who was heard in it.
    pub(super) async fn pass_on(&self, layer: &dyn ChannelLayer) -> Infallible {
        loop {
            self.news.notified().await;
            tokio::time::sleep(MOMENT).await;
            let heard = std::mem::take(&mut *self.heard.lock());
            let rooms = heard.into_iter().map(|(group, people)| (group, events(people))).collect::<Vec<_>>();
            let messages: Vec<_> = rooms
                .iter()
                .flat_map(|(group, events)| {
                    events.iter().map(|text| (group.as_str(), message! { "text": text.clone() }))
                })
                .collect();
            // All together: one after the other the rooms would wait for each other's round trip, and behind a server
            // that is away for each other's timeout.
            for error in layer.group_send_many(&messages).await.into_iter().filter_map(Result::err) {
                // Everybody announces itself again soon.
                tracing::debug!(%error, "announcements are lost");
            }
        }
    }
}

/// Events that name `people`, as JSON.
fn events(people: HashMap<String, String>) -> Vec<String> {
    let people: Vec<_> = people.into_iter().map(|(id, name)| Person { id, name }).collect();
    people.chunks(AT_ONCE).map(|people| Event::Here { people: people.to_vec() }.to_json()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use channel_layer::MemoryLayer;

    use super::*;

    fn seat(group: &str, id: &str) -> Seat {
        Seat { id: id.to_owned(), room: String::new(), name: id.to_owned(), group: group.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_hears_once_of_everybody_who_spoke_up_in_it() {
        let (layer, presence) = (Arc::new(MemoryLayer::new()), Arc::new(Presence::default()));
        for group in ["one", "two"] {
            layer.group_add(group, group).await.unwrap();
        }
        for _ in 0..3 {
            presence.note(seat("one", "ada"));
            presence.note(seat("two", "bob"));
        }
        let passing = tokio::spawn({
            let layer = layer.clone();
            async move { presence.pass_on(&*layer).await }
        });
        for (group, id) in [("one", "ada"), ("two", "bob")] {
            let heard = layer.receive(&[group]).await.unwrap().message;
            let text = format!(r#"{{"type":"here","people":[{{"id":"{id}","name":"{id}"}}]}}"#);
            assert_eq!(heard.text("text"), Some(&*text));
            assert!(layer.try_receive(&[group]).await.unwrap().is_none());
        }
        passing.abort();
    }
}

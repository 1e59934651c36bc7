//! Announcements of clients, collected for a short time and sent on together.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use channel_layer::{ChannelLayer, message};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Event, Person};
use super::room::Participant;

/// How long announcements are collected.
const COLLECT_FOR: Duration = Duration::from_millis(200);
/// Maximum number of people in one event, so that it stays far below any limit on the size of a message.
const PEOPLE_PER_EVENT: usize = 500;

/// The announcements that have not been sent on yet.
#[derive(Default)]
pub(super) struct Presence {
    /// Names by group and id. Held for an insertion or a swap, never across an await.
    announced: Mutex<HashMap<String, HashMap<String, String>>>,
    changed: Notify,
}

impl Presence {
    pub(super) fn record(&self, participant: Participant) {
        self.announced.lock().entry(participant.group).or_default().insert(participant.id, participant.name);
        self.changed.notify_one();
    }

    /// Sends each room the clients that announced themselves in it. Never returns.
    pub(super) async fn publish(&self, layer: &dyn ChannelLayer) -> Infallible {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(COLLECT_FOR).await;
            let announced = std::mem::take(&mut *self.announced.lock());
            let rooms = announced.into_iter().map(|(group, people)| (group, events(people))).collect::<Vec<_>>();
            let messages: Vec<_> = rooms
                .iter()
                .flat_map(|(group, events)| {
                    events.iter().map(|text| (group.as_str(), message! { "text": text.clone() }))
                })
                .collect();
            // All rooms go into one call. Otherwise each would wait for the round trips of the others, and for their
            // timeouts while a server is unreachable.
            for error in layer.group_send_many(&messages).await.into_iter().filter_map(Result::err) {
                // The clients announce themselves again soon.
                tracing::debug!(%error, "announcements lost");
            }
        }
    }
}

/// Returns events with all of `people`, as JSON.
fn events(people: HashMap<String, String>) -> Vec<String> {
    let people: Vec<_> = people.into_iter().map(|(id, name)| Person { id, name }).collect();
    people.chunks(PEOPLE_PER_EVENT).map(|people| Event::Here { people: people.to_vec() }.to_json()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use channel_layer::MemoryLayer;

    use super::*;

    fn participant(group: &str, id: &str) -> Participant {
        Participant { id: id.to_owned(), room: String::new(), name: id.to_owned(), group: group.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_gets_one_event_with_all_clients_that_announced_themselves() {
        let (layer, presence) = (Arc::new(MemoryLayer::new()), Arc::new(Presence::default()));
        for group in ["one", "two"] {
            layer.group_add(group, group).await.unwrap();
        }
        for _ in 0..3 {
            presence.record(participant("one", "ada"));
            presence.record(participant("two", "bob"));
        }
        let publishing = tokio::spawn({
            let layer = layer.clone();
            async move { presence.publish(&*layer).await }
        });
        for (group, id) in [("one", "ada"), ("two", "bob")] {
            let announced = layer.receive(&[group]).await.unwrap().message;
            let text = format!(r#"{{"type":"here","people":[{{"id":"{id}","name":"{id}"}}]}}"#);
            assert_eq!(announced.text("text"), Some(&*text));
            assert!(layer.try_receive(&[group]).await.unwrap().is_none());
        }
        publishing.abort();
    }
}

//! A hub on a layer that fails for some groups, or does not answer.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics_util::debugging::DebugValue;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};

use super::{Client, ClientId, Hub, HubError, Mode};
use crate::error::{Error, Result};
use crate::layer::{ChannelLayer, Delivery, Event, Receiver, Statistics};
use crate::message::Message;
use crate::name::ChannelName;
use crate::server::asgi::connections::Connection;
use crate::server::hub::membership::index::Member;
use crate::server::hub::peers::wire;
use crate::supervise::trap::{arm, is_armed};
use crate::{Config, MemoryLayer, message};

/// Longer than any step of these tests; time is paused.
const DEADLINE: Duration = Duration::from_mins(2);

const LOBBY: &str = "hub.main.room.is.lobby";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("the future completes in time")
}

#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Fails,
    /// Answers after a second.
    FailsLate,
    Hangs,
    Panics,
    /// Sends the message, and fails.
    FailsAfterSend,
}

pub(crate) struct Faulty {
    memory: MemoryLayer,
    /// By group or channel.
    faults: Mutex<HashMap<String, Fault>>,
    /// The method and the group or channel of each call.
    calls: Mutex<Vec<(&'static str, String)>>,
    events: broadcast::Sender<Event>,
}

impl Faulty {
    pub(crate) fn emit(&self, event: Event) {
        self.events.send(event).unwrap();
    }

    pub(crate) fn set(&self, name: &str, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.faults.lock().insert(name.to_owned(), fault),
            None => self.faults.lock().remove(name),
        };
    }

    fn calls(&self, of: &'static str, name: &str) -> usize {
        self.calls.lock().iter().filter(|call| call.0 == of && call.1 == name).count()
    }

    async fn called(&self, of: &'static str, name: &str, times: usize) {
        within(async {
            while self.calls(of, name) < times {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    async fn meets(&self, of: &'static str, name: &str) -> Result<()> {
        self.calls.lock().push((of, name.to_owned()));
        let fault = self.faults.lock().get(name).copied();
        match fault {
            None | Some(Fault::FailsAfterSend) => Ok(()),
            Some(Fault::Fails) => Err(Error::Redis { shard: 0, cause: "unreachable".into() }),
            Some(Fault::FailsLate) => {
                sleep(Duration::from_secs(1)).await;
                Err(Error::Redis { shard: 0, cause: "unreachable".into() })
            }
            Some(Fault::Hangs) => pending().await,
            Some(Fault::Panics) => panic!("injected by the test"),
        }
    }
}

#[async_trait]
impl ChannelLayer for Faulty {
    async fn send(&self, channel: &str, message: Message) -> Result<()> {
        self.meets("send", channel).await?;
        self.memory.send(channel, message).await?;
        let fault = self.faults.lock().get(channel).copied();
        if matches!(fault, Some(Fault::FailsAfterSend)) { Err(Error::Panicked) } else { Ok(()) }
    }

    async fn receive(&self, channels: &[&str]) -> Result<Delivery> {
        self.memory.receive(channels).await
    }

    async fn try_receive(&self, channels: &[&str]) -> Result<Option<Delivery>> {
        self.memory.try_receive(channels).await
    }

    fn receiver(&self, channels: &[&str]) -> Result<Receiver> {
        self.memory.receiver(channels)
    }

    async fn new_channel(&self, pattern: &str) -> Result<ChannelName> {
        self.memory.new_channel(pattern).await
    }

    async fn group_add(&self, group: &str, channel: &str) -> Result<()> {
        self.meets("group_add", group).await?;
        self.memory.group_add(group, channel).await
    }

    async fn group_discard(&self, group: &str, channel: &str) -> Result<()> {
        self.meets("group_discard", group).await?;
        self.memory.group_discard(group, channel).await
    }

    async fn group_channels(&self, group: &str) -> Result<Vec<ChannelName>> {
        self.memory.group_channels(group).await
    }

    async fn group_send(&self, group: &str, message: Message) -> Result<()> {
        self.meets("group_send", group).await?;
        self.memory.group_send(group, message).await
    }

    async fn flush(&self) -> Result<()> {
        self.memory.flush().await
    }

    async fn global_statistics(&self) -> Result<Statistics> {
        self.memory.global_statistics().await
    }

    async fn channel_statistics(&self, channel: &str) -> Result<Statistics> {
        self.memory.channel_statistics(channel).await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }

    fn group_expiry(&self) -> Duration {
        self.memory.group_expiry()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

/// Returns a layer without faults.
pub(crate) fn faulty() -> Arc<Faulty> {
    let memory = MemoryLayer::with_config(&Config::new().group_expiry(Duration::from_secs(30))).unwrap();
    let events = broadcast::channel(8).0;
    Arc::new(Faulty { memory, faults: Mutex::default(), calls: Mutex::default(), events })
}

async fn start() -> (Arc<Faulty>, Hub) {
    let layer = faulty();
    let hub = Hub::start(layer.clone()).await.unwrap();
    (layer, hub)
}

/// Returns a client without a socket.
fn client(hub: &Hub) -> (Connection, Client) {
    let connection = hub.inner().connections.open(None).unwrap();
    let member = Arc::new(Member::new(connection.id(), connection.queue().clone()));
    let id = ClientId::new(connection.name().unwrap());
    (connection, Client::new(hub.clone(), id, member))
}

/// Joins and leaves rooms more often than any retry.
async fn keep_busy(client: &Client, time: Duration) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < time {
        client.join("busy").await.unwrap();
        client.leave("busy");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_group_is_retried_on_a_busy_hub() {
    let (layer, hub) = start().await;
    let (_connection, client) = client(&hub);
    client.join("lobby").await.unwrap();
    layer.set(LOBBY, Some(Fault::Fails));
    client.leave("lobby");
    layer.called("group_discard", LOBBY, 1).await;
    layer.set(LOBBY, None);
    keep_busy(&client, Duration::from_secs(3)).await;
    assert!(layer.group_channels(LOBBY).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn groups_are_renewed_on_schedule_while_another_one_fails() {
    let (layer, hub) = start().await;
    let ((connection, client), (_other, busy)) = (client(&hub), client(&hub));
    client.join("lobby").await.unwrap();
    let broken = "hub.main.room.is.broken";
    layer.set(broken, Some(Fault::Fails));
    // A client that stays in the room, so that its group is retried.
    let stays = Member::new(99, connection.queue().clone());
    let _entry = hub.inner().rooms.index.join(&stays, "broken", 1).unwrap();
    client.join("broken").await.unwrap_err();
    keep_busy(&busy, Duration::from_secs(65)).await;
    // Once at the start and then every 10 s, a third of the expiry.
    assert_eq!(layer.calls("group_add", LOBBY), 7);
    let tried = layer.calls("group_add", broken);
    assert!((4..15).contains(&tried), "pauses grow: {tried}");
}

#[tokio::test(start_paused = true)]
async fn a_join_waits_for_its_own_group_only() {
    let (layer, hub) = start().await;
    let ((_one, stuck), (_other, client)) = (client(&hub), client(&hub));
    layer.set(LOBBY, Some(Fault::Hangs));
    let joining = tokio::spawn(async move { stuck.join("lobby").await });
    layer.called("group_add", LOBBY, 1).await;
    within(client.join("elsewhere")).await.unwrap();
    joining.abort();
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_leaves_a_client_where_it_was() {
    let (layer, hub) = start().await;
    let (_connection, client) = client(&hub);
    client.join("lobby").await.unwrap();
    client.set_user(Some("ada")).await.unwrap();
    for group in [LOBBY, "hub.main.user.is.ada"] {
        layer.set(group, Some(Fault::Fails));
    }
    layer.memory.flush().await.unwrap();
    layer.events.send(Event::DataLost { shard: 0 }).unwrap();
    layer.called("group_add", LOBBY, 2).await;
    layer.called("group_add", "hub.main.user.is.ada", 2).await;
    client.join("lobby").await.unwrap_err();
    client.set_user(Some("ada")).await.unwrap_err();
    assert_eq!((client.rooms().len(), client.user().as_deref()), (1, Some("ada")));
    assert_eq!((hub.count("lobby"), client.join("elsewhere").await.is_ok()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_failed_join_does_not_undo_another_one() {
    let (layer, hub) = start().await;
    let (_connection, client) = client(&hub);
    layer.set(LOBBY, Some(Fault::FailsLate));
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.join("lobby").await }
    });
    layer.called("group_add", LOBBY, 1).await;
    layer.set(LOBBY, None);
    within(client.join("lobby")).await.unwrap();
    within(first).await.unwrap().unwrap_err();
    assert_eq!((client.rooms().len(), hub.count("lobby")), (1, 1));
    assert_eq!(layer.group_channels(LOBBY).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_join_after_the_close_fails() {
    let (_layer, hub) = start().await;
    let (connection, client) = client(&hub);
    within(hub.close(Duration::ZERO)).await;
    for refused in [within(client.join("lobby")).await, within(client.set_user(Some("ada"))).await] {
        assert!(matches!(refused, Err(HubError::Layer(_))), "{refused:?}");
    }
    assert!(client.rooms().is_empty() && client.user().is_none());
    drop(connection);
}

#[tokio::test(start_paused = true)]
async fn a_close_ends_although_the_layer_does_not_answer() {
    let (layer, hub) = start().await;
    let (connection, client) = client(&hub);
    client.join("lobby").await.unwrap();
    for group in [LOBBY, "hub.main.all"] {
        layer.set(group, Some(Fault::Hangs));
    }
    drop(connection);
    within(hub.close(Duration::ZERO)).await;
}

#[tokio::test(start_paused = true)]
async fn messages_to_clients_do_not_wait_for_the_answer_to_an_announcement() {
    let (layer, hub) = start().await;
    let (connection, client) = client(&hub);
    let other = "hub.main.other!process";
    layer.set(other, Some(Fault::Hangs));
    layer.send(hub.inner().names.member(), wire::hello(other)).await.unwrap();
    layer.called("send", other, 1).await;
    layer.send(&client.id().to_string(), message! { "text": "hello" }).await.unwrap();
    let reply = within(connection.queue().take_one()).await.unwrap();
    assert!(reply.data.is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_of_data_a_process_announces_itself_and_does_not_consider_itself_alone() {
    let (layer, hub) = start().await;
    within(async {
        while hub.status().mode != Mode::Alone {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = layer.calls("group_send", "hub.main.all");
    layer.memory.flush().await.unwrap();
    layer.events.send(Event::DataLost { shard: 0 }).unwrap();
    layer.called("group_send", "hub.main.all", before + 1).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(hub.status().mode, Mode::Together, "others may come back yet");
}

#[tokio::test(start_paused = true)]
async fn every_call_that_broadcasts_is_timed() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (layer, hub) = start().await;
    let broadcast = async || {
        hub.broadcast("lobby", "hi").await.unwrap();
        assert!(hub.broadcast_many([("lobby", "hi"), ("elsewhere", "hi")]).await.iter().all(Result::is_ok));
    };
    let becomes = async |mode| {
        within(async {
            while hub.status().mode != mode {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    becomes(Mode::Alone).await;
    broadcast().await;
    layer.send(hub.inner().names.member(), wire::hello("hub.main.other!process")).await.unwrap();
    becomes(Mode::Together).await;
    broadcast().await;
    let timed = recorder.snapshotter().snapshot().into_vec().into_iter().map(|(key, _, _, value)| match value {
        DebugValue::Histogram(times) if key.key().name() == "channel_layer_broadcast_seconds" => times.len(),
        _ => 0,
    });
    assert_eq!(timed.sum::<usize>(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_layer_costs_one_change_of_a_group() {
    let (layer, hub) = start().await;
    let (_connection, client) = client(&hub);
    layer.set(LOBBY, Some(Fault::Panics));
    for _ in 0..2 {
        let panicked = within(client.join("lobby")).await;
        assert!(matches!(&panicked, Err(HubError::Layer(error)) if error.may_have_run()), "{panicked:?}");
        within(client.join("elsewhere")).await.unwrap();
        client.leave("elsewhere");
    }
    layer.set(LOBBY, None);
    within(client.join("lobby")).await.unwrap();
    assert_eq!(layer.group_channels(LOBBY).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_of_the_hub_costs_one_item() {
    let (layer, hub) = start().await;
    let (connection, client) = client(&hub);
    let alone = || hub.status().mode == Mode::Alone;
    for task in ["groups of the hub", "gauges of the hub", "processes of the hub"] {
        for _ in 0..2 {
            arm(task);
            let joining = within(client.join("lobby")).await;
            assert!(joining.is_ok() || task == "groups of the hub", "{task}: {joining:?}");
            client.leave("lobby");
            within(async {
                while is_armed() || !alone() {
                    sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
        }
        within(client.join("lobby")).await.unwrap();
        client.leave("lobby");
    }
    arm("reader of the hub");
    for text in ["lost", "comes"] {
        layer.send(&client.id().to_string(), message! { "text": text }).await.unwrap();
    }
    let reply = within(connection.queue().take_one()).await.unwrap();
    assert_eq!(reply.data.unwrap().payload(), "comes");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_layer_does_not_end_peer_discovery() {
    let (layer, hub) = start().await;
    let everyone = "hub.main.all";
    layer.set(everyone, Some(Fault::Panics));
    layer.memory.flush().await.unwrap();
    layer.emit(Event::DataLost { shard: 0 });
    within(async {
        while hub.status().mode != Mode::CutOff {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    layer.set(everyone, None);
    within(async {
        while hub.status().mode != Mode::Alone {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

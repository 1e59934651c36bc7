//! Many workers in both languages read one channel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use channel_layer::{Message, message};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::side::Side;
use super::site::Site;
use crate::support::{DEADLINE, Moments, eventually, within};

const MESSAGES: i64 = 300;

/// Counts the deliveries of each message.
#[derive(Default)]
struct Received {
    by_number: Mutex<BTreeMap<i64, usize>>,
}

impl Received {
    fn add(&self, message: &Message) {
        let number = message.int("number").expect("the message is numbered");
        *self.by_number.lock().entry(number).or_default() += 1;
    }

    /// The number of messages that have arrived.
    fn count(&self) -> usize {
        self.by_number.lock().len()
    }

    /// The numbers of the messages that have arrived.
    fn numbers(&self) -> BTreeSet<i64> {
        self.by_number.lock().keys().copied().collect()
    }

    /// Waits until all messages have arrived. Panics if one of `workers` ends.
    async fn complete(&self, workers: &mut JoinSet<()>) {
        let all = eventually("all messages", async || (self.count() == numbers().count()).then_some(()));
        tokio::select! {
            Some(ended) = workers.join_next() => panic!("a worker ended: {ended:?}"),
            () = all => {}
        }
    }

    fn assert_none_twice(&self) {
        assert!(self.by_number.lock().values().all(|&times| times == 1), "{:?}", self.by_number);
    }
}

fn numbers() -> impl Iterator<Item = i64> {
    0..MESSAGES
}

/// Starts a worker, which runs until `workers` is dropped.
fn start_worker(workers: &mut JoinSet<()>, side: Arc<dyn Side>, received: &Arc<Received>) {
    let received = received.clone();
    workers.spawn(async move {
        loop {
            received.add(&side.receive("tasks").await.1);
        }
    });
}

/// Sends `numbers` by each of `senders` in turn.
async fn send(senders: &[&dyn Side], numbers: impl Iterator<Item = i64>) {
    for (number, sender) in numbers.zip(senders.iter().cycle()) {
        sender.send("tasks", &message! { "number": number }).await;
    }
}

async fn rust_workers_get_each_message_once(site: Site) {
    let (python, received, mut workers) = (site.python().await, Arc::new(Received::default()), JoinSet::new());
    for _ in 0..4 {
        start_worker(&mut workers, Arc::new(site.rust().await), &received);
    }
    let rust = site.rust().await;
    send(&[&python, &rust], numbers()).await;
    received.complete(&mut workers).await;
    assert_eq!(rust.layer.channel_statistics("tasks").await.unwrap().messages_pending, 0);
    received.assert_none_twice();
}

#[tokio::test]
async fn rust_workers_get_each_message_of_asgi_redis_once() {
    rust_workers_get_each_message_once(Site::asgi_redis().on_two_hosts()).await;
}

#[tokio::test]
async fn rust_workers_get_each_message_of_channels_redis_once() {
    rust_workers_get_each_message_once(Site::channels_redis().on_two_hosts()).await;
}

/// Starts workers in both languages, each with its own layer. Returns the deliveries of each language. Each language
/// gets at least one message.
async fn both_read(site: Site) -> (Arc<Received>, Arc<Received>) {
    let (of_python, of_rust, mut workers) =
        (Arc::new(Received::default()), Arc::new(Received::default()), JoinSet::new());
    let (python, rust) = (site.python().await, site.rust().await);
    for _ in 0..3 {
        start_worker(&mut workers, Arc::new(site.python().await), &of_python);
    }
    send(&[&rust], numbers().take(30)).await;
    eventually("messages for Python", async || (of_python.count() == 30).then_some(())).await;
    for _ in 0..3 {
        start_worker(&mut workers, Arc::new(site.rust().await), &of_rust);
    }
    send(&[&python, &rust], numbers().skip(30)).await;
    let all = || of_python.numbers().union(&of_rust.numbers()).count();
    tokio::select! {
        Some(ended) = workers.join_next() => panic!("a worker ended: {ended:?}"),
        () = eventually("all messages", async || (all() == numbers().count()).then_some(())) => {}
    }
    drop(workers);
    assert!(of_rust.count() > 0, "Python received all messages");
    (of_python, of_rust)
}

#[tokio::test]
async fn workers_of_both_languages_share_the_messages_of_asgi_redis() {
    let (of_python, of_rust) = both_read(Site::asgi_redis()).await;
    let twice: Vec<_> = of_python.numbers().intersection(&of_rust.numbers()).copied().collect();
    assert!(twice.is_empty(), "{twice:?} arrived in both languages");
    of_python.assert_none_twice();
    of_rust.assert_none_twice();
}

/// Duplicates are allowed here: a Python worker may put back a message that another Python worker is delivering.
#[tokio::test]
async fn workers_of_both_languages_lose_no_message_of_channels_redis() {
    both_read(Site::channels_redis()).await;
}

async fn dropped_calls_lose_no_message(site: Site) {
    let (python, rust, received) = (site.python().await, site.rust().await, Received::default());
    let mut moments = Moments::new(0x0dd5_eed5);
    let receive = async {
        while received.count() < numbers().count() {
            if let Some(delivery) = moments.cut(rust.layer.receive(&["tasks"])).await {
                received.add(&delivery.unwrap().message);
            }
        }
    };
    let senders: [&dyn Side; 1] = [&python];
    within(DEADLINE, "all messages", async { tokio::join!(receive, send(&senders, numbers())) }).await;
    received.assert_none_twice();
}

#[tokio::test]
async fn dropped_calls_lose_no_message_of_asgi_redis() {
    dropped_calls_lose_no_message(Site::asgi_redis()).await;
}

#[tokio::test]
async fn dropped_calls_lose_no_message_of_channels_redis() {
    dropped_calls_lose_no_message(Site::channels_redis()).await;
}

//! Many workers on one channel, in both languages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use channel_layer::{Message, message};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::side::Side;
use super::site::Site;
use crate::support::{DEADLINE, Moments, eventually, within};

const MESSAGES: i64 = 300;

/// How often each message has come.
#[derive(Default)]
struct Received {
    by_number: Mutex<BTreeMap<i64, usize>>,
}

impl Received {
    fn add(&self, message: &Message) {
        let number = message.int("number").expect("the message is numbered");
        *self.by_number.lock().entry(number).or_default() += 1;
    }

    /// How many have come.
    fn count(&self) -> usize {
        self.by_number.lock().len()
    }

    /// Which have come.
    fn numbers(&self) -> BTreeSet<i64> {
        self.by_number.lock().keys().copied().collect()
    }

    /// Waits until all have come, while all of `workers` work.
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

/// A worker, until the set is dropped.
fn work(workers: &mut JoinSet<()>, side: Arc<dyn Side>, received: &Arc<Received>) {
    let received = received.clone();
    workers.spawn(async move {
        loop {
            received.add(&side.receive("tasks").await.1);
        }
    });
}

/// Sends `numbers`, in turns by each of `senders`.
async fn send(senders: &[&dyn Side], numbers: impl Iterator<Item = i64>) {
    for (number, sender) in numbers.zip(senders.iter().cycle()) {
        sender.send("tasks", &message! { "number": number }).await;
    }
}

async fn each_message_comes_once(site: Site) {
    let (python, received, mut workers) = (site.python().await, Arc::new(Received::default()), JoinSet::new());
    for _ in 0..4 {
        work(&mut workers, Arc::new(site.rust().await), &received);
    }
    let rust = site.rust().await;
    send(&[&python, &rust], numbers()).await;
    received.complete(&mut workers).await;
    assert_eq!(rust.layer.channel_statistics("tasks").await.unwrap().messages_pending, 0);
    received.assert_none_twice();
}

#[tokio::test]
async fn each_message_of_asgi_redis_comes_once_where_only_rust_reads() {
    each_message_comes_once(Site::asgi_redis().on_two_hosts()).await;
}

#[tokio::test]
async fn each_message_of_channels_redis_comes_once_where_only_rust_reads() {
    each_message_comes_once(Site::channels_redis().on_two_hosts()).await;
}

/// Workers in both languages, each with a layer of its own; what each language has got, which is at least something.
async fn both_read(site: Site) -> (Arc<Received>, Arc<Received>) {
    let (of_python, of_rust, mut workers) =
        (Arc::new(Received::default()), Arc::new(Received::default()), JoinSet::new());
    let (python, rust) = (site.python().await, site.rust().await);
    for _ in 0..3 {
        work(&mut workers, Arc::new(site.python().await), &of_python);
    }
    send(&[&rust], numbers().take(30)).await;
    eventually("messages for Python", async || (of_python.count() == 30).then_some(())).await;
    for _ in 0..3 {
        work(&mut workers, Arc::new(site.rust().await), &of_rust);
    }
    send(&[&python, &rust], numbers().skip(30)).await;
    let all = || of_python.numbers().union(&of_rust.numbers()).count();
    tokio::select! {
        Some(ended) = workers.join_next() => panic!("a worker ended: {ended:?}"),
        () = eventually("all messages", async || (all() == numbers().count()).then_some(())) => {}
    }
    drop(workers);
    assert!(of_rust.count() > 0, "Python has got everything");
    (of_python, of_rust)
}

#[tokio::test]
async fn workers_of_both_languages_share_the_messages_of_asgi_redis() {
    let (of_python, of_rust) = both_read(Site::asgi_redis()).await;
    let twice: Vec<_> = of_python.numbers().intersection(&of_rust.numbers()).copied().collect();
    assert!(twice.is_empty(), "{twice:?} came to both");
    of_python.assert_none_twice();
    of_rust.assert_none_twice();
}

/// Python's own workers give each other messages twice: one puts back what another has in hand.
#[tokio::test]
async fn workers_of_both_languages_lose_no_message_of_channels_redis() {
    both_read(Site::channels_redis()).await;
}

async fn callers_that_come_and_go_lose_nothing(site: Site) {
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
async fn callers_that_come_and_go_lose_nothing_of_asgi_redis() {
    callers_that_come_and_go_lose_nothing(Site::asgi_redis()).await;
}

#[tokio::test]
async fn callers_that_come_and_go_lose_nothing_of_channels_redis() {
    callers_that_come_and_go_lose_nothing(Site::channels_redis()).await;
}

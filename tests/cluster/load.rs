//! `Load`: writers and readers of many channels, and what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use channel_layer::{ChannelLayer, Error, RedisLayer, message};
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::{DEADLINE, eventually};

/// How many messages the reader takes at once. On a slow machine, single messages of normal channels would wait until
/// they expire.
const AT_ONCE: usize = 100;
/// How many sends a writer has under way.
const AT_A_TIME: i64 = 3;
/// The pause of a writer after an error.
const PAUSE: Duration = Duration::from_millis(20);

/// A task for each channel that sends numbers to it, one after the other, and one receiver for all channels.
pub struct Load {
    writing: CancellationToken,
    writers: JoinSet<(String, Vec<Sent>)>,
    reader: tokio::task::JoinHandle<Reading>,
    /// How many messages have arrived.
    arrived: Arc<AtomicUsize>,
    /// The number of the last message of each channel, once the writers have ended.
    last: watch::Sender<Option<BTreeMap<String, i64>>>,
}

/// The messages that arrived, and the errors of the reader.
type Reading = (Vec<(String, Arrival)>, Vec<Error>);

/// A message that arrived.
pub struct Arrival {
    number: i64,
    at: Instant,
}

/// A send and its result.
pub struct Sent {
    number: i64,
    at: Instant,
    result: Result<(), Error>,
}

/// What writers sent and readers got.
pub struct Outcome {
    sent: BTreeMap<String, Vec<Sent>>,
    received: BTreeMap<String, Vec<Arrival>>,
    errors_of_reader: Vec<Error>,
}

impl Load {
    /// Begins to send to `channels` of `layer`, and to read them in `reader`.
    pub fn start(layer: &Arc<RedisLayer>, reader: &Arc<RedisLayer>, channels: &[String]) -> Self {
        let (writing, last) = (CancellationToken::new(), watch::Sender::new(None));
        let arrived = Arc::<AtomicUsize>::default();
        let mut writers = JoinSet::new();
        for channel in channels {
            writers.spawn(write(layer.clone(), channel.clone(), writing.clone()));
        }
        let reader = tokio::spawn(read(reader.clone(), channels.to_vec(), arrived.clone(), last.subscribe()));
        Self { writing, writers, reader, arrived, last }
    }

    /// Waits until many messages have arrived.
    pub async fn has_begun(&self) {
        eventually("messages", async || (self.arrived.load(Ordering::Relaxed) > 500).then_some(())).await;
    }

    /// Ends the writers, each with a message that was sent with success, and the reader when it has the last message of
    /// each channel.
    pub async fn finish(self) -> Outcome {
        self.writing.cancel();
        let sent: BTreeMap<_, _> = self.writers.join_all().await.into_iter().collect();
        let last =
            sent.iter().map(|(channel, sent): (&String, &Vec<Sent>)| (channel.clone(), sent[sent.len() - 1].number));
        self.last.send_replace(Some(last.collect()));
        let mut received: BTreeMap<String, Vec<_>> = BTreeMap::new();
        let (messages, errors_of_reader) = self.reader.await.unwrap();
        for (channel, arrival) in messages {
            received.entry(channel).or_default().push(arrival);
        }
        Outcome { sent, received, errors_of_reader }
    }
}

async fn write(layer: Arc<RedisLayer>, channel: String, stop: CancellationToken) -> (String, Vec<Sent>) {
    let mut sent: Vec<Sent> = Vec::new();
    loop {
        // Several sends are under way, so that a later one could overtake an earlier one. Each is queued by its first
        // poll, and `join_all` polls them in order.
        let first = i64::try_from(sent.len()).unwrap();
        let numbered = async |number| {
            let result = layer.send(&channel, message! { "type": "load", "number": number }).await;
            Sent { number, at: Instant::now(), result }
        };
        let results = join_all((first..first + AT_A_TIME).map(numbered)).await;
        sent.extend(results);
        let failed = sent[sent.len() - 1].result.is_err();
        if stop.is_cancelled() && !failed {
            return (channel, sent);
        }
        sleep(if failed { PAUSE } else { Duration::from_millis(3) }).await;
    }
}

async fn read(
    layer: Arc<RedisLayer>,
    channels: Vec<String>,
    arrived: Arc<AtomicUsize>,
    mut last: watch::Receiver<Option<BTreeMap<String, i64>>>,
) -> Reading {
    // Process-local channels are read together by the part of their names up to the `!`.
    let names: Vec<_> =
        channels.iter().map(|channel| channel.find('!').map_or(&**channel, |at| &channel[..=at])).collect();
    let mut receiver = layer.receiver(&names).unwrap();
    let (mut messages, mut errors) = (Vec::new(), Vec::new());
    let (mut newest, mut taken) = (BTreeMap::new(), Vec::new());
    while last.borrow_and_update().as_ref() != Some(&newest) {
        tokio::select! {
            result = timeout(DEADLINE, receiver.recv_many(&mut taken, AT_ONCE)) => match result {
                Ok(Ok(_)) => for delivery in taken.drain(..) {
                    let number = delivery.message.int("number").unwrap();
                    arrived.fetch_add(1, Ordering::Relaxed);
                    newest.insert(delivery.channel.to_string(), number);
                    messages.push((delivery.channel.to_string(), Arrival { number, at: Instant::now() }));
                }
                Ok(Err(error)) => errors.push(error),
                Err(_) => break,
            },
            _ = last.changed() => {}
        }
    }
    (messages, errors)
}

impl Outcome {
    /// The errors of sends and of the reader.
    pub fn errors(&self) -> Vec<&Error> {
        let of_sends = self.sent.values().flatten().filter_map(|sent| sent.result.as_ref().err());
        of_sends.chain(&self.errors_of_reader).collect()
    }

    /// The longest time between two messages of a channel.
    pub fn longest_silence(&self) -> Duration {
        let silences =
            self.received.values().flat_map(|arrivals| arrivals.windows(2).map(|pair| pair[1].at - pair[0].at));
        silences.max().unwrap_or_default()
    }

    /// Checks that every channel got many messages, each once and in order, and everything that was sent with success.
    /// A replica lacks the calls that its master answered in the `lags`: messages whose send succeeded then may be
    /// missing, and messages that arrived since then may arrive again.
    #[track_caller]
    pub fn assert_whole(&self, lags: &[(Instant, Instant)]) {
        for (channel, sent) in &self.sent {
            let mut arrived = BTreeMap::new();
            let is_first = |arrival: &&Arrival| {
                let before: Option<Instant> = arrived.insert(arrival.number, arrival.at);
                before.is_none_or(|before| lags.iter().all(|(from, _)| before < *from))
            };
            let got = self.received.get(channel).into_iter().flatten().filter(is_first);
            let got: Vec<_> = got.map(|arrival| arrival.number).collect();
            assert!(got.len() > 20, "channel {channel} got {} messages", got.len());
            let disorder = got.windows(2).position(|pair| pair[0] >= pair[1]);
            let around = disorder.map(|at| &got[at.saturating_sub(10)..got.len().min(at + 10)]);
            assert_eq!(around, None, "{channel}: a message twice, or behind a later one");
            let got: BTreeSet<_> = got.into_iter().collect();
            let is_excused = |at: Instant| lags.iter().any(|(from, to)| (*from..=*to).contains(&at));
            let acknowledged = sent.iter().filter(|sent| sent.result.is_ok() && !is_excused(sent.at));
            let missing: Vec<_> = acknowledged.map(|sent| sent.number).filter(|number| !got.contains(number)).collect();
            assert_eq!(missing, [] as [i64; 0], "{channel}: lost messages");
        }
    }
}

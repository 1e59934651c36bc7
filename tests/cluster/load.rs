//! `Load`: writers and readers of many channels, and what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Error, RedisLayer, message};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::DEADLINE;

/// The pause of a writer after an error.
const PAUSE: Duration = Duration::from_millis(20);

/// A task for each channel that sends numbers to it, one after the other, and one receiver for all channels.
pub struct Load {
    writing: CancellationToken,
    writers: JoinSet<(String, Vec<Sent>)>,
    reader: tokio::task::JoinHandle<Vec<(String, i64, Instant)>>,
    reading: CancellationToken,
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
    received: BTreeMap<String, Vec<(i64, Instant)>>,
}

impl Load {
    /// Begins to send to `channels` of `layer`, and to read them in `reader`.
    pub fn start(layer: &Arc<RedisLayer>, reader: &Arc<RedisLayer>, channels: &[String]) -> Self {
        let (writing, reading) = (CancellationToken::new(), CancellationToken::new());
        let mut writers = JoinSet::new();
        for channel in channels {
            writers.spawn(write(layer.clone(), channel.clone(), writing.clone()));
        }
        let reader = tokio::spawn(read(reader.clone(), channels.to_vec(), reading.clone()));
        Self { writing, writers, reader, reading }
    }

    /// Ends the writers, waits until everything that was sent has arrived or nothing arrives any more, and ends the reader.
    pub async fn finish(self) -> Outcome {
        self.writing.cancel();
        let sent: BTreeMap<_, _> = self.writers.join_all().await.into_iter().collect();
        // The reader ends when nothing has come for a while.
        self.reading.cancel();
        let mut received: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (channel, number, at) in self.reader.await.unwrap() {
            received.entry(channel).or_default().push((number, at));
        }
        Outcome { sent, received }
    }
}

async fn write(layer: Arc<RedisLayer>, channel: String, stop: CancellationToken) -> (String, Vec<Sent>) {
    let mut sent = Vec::new();
    while !stop.is_cancelled() {
        let number = i64::try_from(sent.len()).unwrap();
        let result = layer.send(&channel, message! { "type": "load", "number": number }).await;
        let failed = result.is_err();
        sent.push(Sent { number, at: Instant::now(), result });
        sleep(if failed { PAUSE } else { Duration::from_millis(1) }).await;
    }
    (channel, sent)
}

async fn read(layer: Arc<RedisLayer>, channels: Vec<String>, stop: CancellationToken) -> Vec<(String, i64, Instant)> {
    // Process-local channels are read together by the part of their names up to the `!`.
    let names: Vec<_> =
        channels.iter().map(|channel| channel.find('!').map_or(&**channel, |at| &channel[..=at])).collect();
    let mut receiver = layer.receiver(&names).unwrap();
    let mut messages = Vec::new();
    loop {
        let limit = if stop.is_cancelled() { Duration::from_secs(12) } else { DEADLINE };
        match timeout(limit, receiver.recv()).await {
            Ok(Ok(delivery)) => {
                let number = delivery.message.int("number").unwrap();
                messages.push((delivery.channel.to_string(), number, Instant::now()));
            }
            Ok(Err(error)) => assert!(error.is_transient(), "{error:?}"),
            Err(_) => return messages,
        }
    }
}

impl Outcome {
    /// The errors of sends.
    pub fn errors(&self) -> Vec<&Error> {
        self.sent.values().flatten().filter_map(|sent| sent.result.as_ref().err()).collect()
    }

    /// Checks that every channel got many messages, each once and in order, and everything that was sent with success.
    /// Messages whose send succeeded in the `excused` times may be missing.
    #[track_caller]
    pub fn assert_whole(&self, excused: &[(Instant, Instant)]) {
        for (channel, sent) in &self.sent {
            let got: Vec<_> = self.received.get(channel).into_iter().flatten().map(|(number, _)| *number).collect();
            assert!(got.len() > 20, "channel {channel} got {} messages", got.len());
            let disorder = got.windows(2).find(|pair| pair[0] >= pair[1]);
            assert_eq!(disorder, None, "{channel}: a message twice, or behind a later one");
            let got: BTreeSet<_> = got.into_iter().collect();
            let is_excused = |at: Instant| excused.iter().any(|(from, to)| (*from..=*to).contains(&at));
            let acknowledged = sent.iter().filter(|sent| sent.result.is_ok() && !is_excused(sent.at));
            let missing: Vec<_> = acknowledged.map(|sent| sent.number).filter(|number| !got.contains(number)).collect();
            assert_eq!(missing, [] as [i64; 0], "{channel}: lost messages");
        }
    }

    /// The longest time in which a channel got nothing.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.received.values().flat_map(|got| got.windows(2).map(|pair| pair[1].1 - pair[0].1));
        gaps.max().expect("messages arrived")
    }
}

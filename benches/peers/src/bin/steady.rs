//! A steady load on many channels, and what went wrong meanwhile: errors, losses, duplicates, disorder and silence.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Config, Delivery, RedisLayer, message};
use peers::conversation::{Failure, Program, hold};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Number of messages of one read, at most.
const READ: usize = 1000;
/// After so long without an arrival, the messages that have not arrived are lost.
const QUIET: Duration = Duration::from_secs(5);
/// More messages than wait on a channel.
const CAPACITY: usize = 100_000;
/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String, #[serde(default)] cluster: bool },
    /// Sends numbers to each of the channels, and reads them.
    Begin { channels: usize, gap_us: u64 },
    /// The errors so far.
    Errors,
    /// Ends the senders, waits for all messages and returns what happened.
    End,
}

#[derive(Default)]
struct Participant {
    /// The layer of the senders, and that of the reader.
    layers: Option<(Arc<RedisLayer>, Arc<RedisLayer>)>,
    /// Each returns the numbers of its channel that were acknowledged.
    senders: JoinSet<(String, Vec<u64>)>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    errors: AtomicU64,
    arrivals: Mutex<HashMap<String, Vec<(u64, Instant)>>>,
}

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis, cluster } => {
                // A reader may be behind by a second while a slot is half moved.
                let config = Config::new().host(redis).cluster(cluster).capacity(CAPACITY);
                let connect = || async { RedisLayer::connect(config.clone()).await.map(Arc::new) };
                self.layers = Some((connect().await?, connect().await?));
                Ok(json!({}))
            }
            Command::Begin { channels, gap_us } => self.begin(channels, Duration::from_micros(gap_us)).await,
            Command::Errors => Ok(json!({ "errors": self.state.errors.load(Ordering::Relaxed) })),
            Command::End => self.end().await,
        }
    }
}

impl Participant {
    async fn begin(&mut self, channels: usize, gap: Duration) -> Result<Value, Failure> {
        let (sender, reader) = self.layers.clone().ok_or("not connected")?;
        let channels: Vec<_> = (0..channels).map(|number| format!("bench.steady{number}!a")).collect();
        tokio::spawn(read(reader, channels.clone(), self.state.clone()));
        for channel in channels {
            self.senders.spawn(send(sender.clone(), channel, gap, self.state.clone()));
        }
        while self.state.arrivals.lock().unwrap().len() < self.senders.len() {
            sleep(PAUSE).await;
        }
        Ok(json!({}))
    }

    async fn end(&mut self) -> Result<Value, Failure> {
        self.state.ended.store(true, Ordering::Relaxed);
        let mut sent = HashMap::new();
        while let Some(done) = self.senders.join_next().await {
            let (channel, numbers) = done?;
            sent.insert(channel, numbers);
        }
        while !self.state.has_all(&sent) && self.state.last_arrival().elapsed() < QUIET {
            sleep(PAUSE).await;
        }
        Ok(self.state.summary(&sent))
    }
}

/// Sends numbers to one channel, the next one after the result of the last.
async fn send(layer: Arc<RedisLayer>, channel: String, gap: Duration, state: Arc<State>) -> (String, Vec<u64>) {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if state.ended.load(Ordering::Relaxed) {
            break;
        }
        let number: u64 = number;
        match layer.send(&channel, message! { "number": i64::try_from(number).unwrap_or(i64::MAX) }).await {
            Ok(()) => acknowledged.push(number),
            Err(error) => {
                eprintln!("{channel} {number}: {error}");
                state.errors.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        }
        sleep(gap).await;
    }
    (channel, acknowledged)
}

async fn read(layer: Arc<RedisLayer>, channels: Vec<String>, state: Arc<State>) -> channel_layer::Result<()> {
    let names: Vec<_> = channels.iter().map(|channel| channel.trim_end_matches('a')).collect();
    let mut receiver = layer.receiver(&names)?;
    let mut deliveries = Vec::new();
    loop {
        match receiver.recv_many(&mut deliveries, READ).await {
            Ok(_) => state.note(&mut deliveries),
            Err(error) => {
                eprintln!("reader: {error}");
                state.errors.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        }
    }
}

impl State {
    fn note(&self, deliveries: &mut Vec<Delivery>) {
        let now = Instant::now();
        let mut arrivals = self.arrivals.lock().unwrap();
        for delivery in deliveries.drain(..) {
            let number = delivery.message.int("number").and_then(|number| u64::try_from(number).ok());
            let number = number.expect("every message has its number");
            arrivals.entry(delivery.channel.to_string()).or_default().push((number, now));
        }
    }

    fn last_arrival(&self) -> Instant {
        let arrivals = self.arrivals.lock().unwrap();
        let last = arrivals.values().filter_map(|of| of.last()).map(|(_, at)| *at).max();
        last.expect("a message has arrived on every channel")
    }

    fn has_all(&self, sent: &HashMap<String, Vec<u64>>) -> bool {
        let arrivals = self.arrivals.lock().unwrap();
        sent.iter().all(|(channel, numbers)| arrivals.get(channel).and_then(|of| of.last()).map(|(n, _)| n) >= numbers.last())
    }

    fn summary(&self, sent: &HashMap<String, Vec<u64>>) -> Value {
        let arrivals = self.arrivals.lock().unwrap();
        let (mut lost, mut duplicated, mut disordered, mut silence) = (0, 0, 0, Duration::ZERO);
        for (channel, numbers) in sent {
            let empty = Vec::new();
            let arrived = arrivals.get(channel).unwrap_or(&empty);
            let mut times = HashMap::new();
            for (number, _) in arrived {
                *times.entry(*number).or_insert(0) += 1;
            }
            lost += numbers.iter().filter(|number| !times.contains_key(number)).count();
            duplicated += times.values().map(|times| times - 1).sum::<usize>();
            for pair in arrived.windows(2) {
                disordered += usize::from(pair[1].0 < pair[0].0);
                silence = silence.max(pair[1].1 - pair[0].1);
            }
        }
        json!({
            "sent": sent.values().map(Vec::len).sum::<usize>(),
            "errors": self.errors.load(Ordering::Relaxed),
            "lost": lost,
            "duplicated": duplicated,
            "disordered": disordered,
            "silence_ms": silence.as_millis(),
        })
    }
}

#[tokio::main]
async fn main() {
    hold(Participant::default()).await;
}

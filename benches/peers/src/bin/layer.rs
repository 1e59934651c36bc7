//! Our layers, under every load of the comparison.

use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{Bytes, ChannelLayer, Config, Format, MemoryLayer, Message, message};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use peers::clock;
use peers::conversation::{Failure, Program, hold};
use peers::message::{Mark, body, mark_of};
use peers::arrivals::Arrivals;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// More messages than any load leaves unread.
const CAPACITY: usize = 100_000_000;
/// Number of messages of one read, at most.
const READ: usize = 1000;
/// Members that join at the same time.
const JOINING: usize = 256;
/// Number of temporary members while members change.
const STAYING: u64 = 50;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String, key: Option<String>, format: Option<String>, #[serde(default)] cluster: bool },
    Receive { channel: String, mark: Mark },
    Serve { process: String, clients: usize, mark: Mark },
    Progress,
    Collect,
    Send { channels: Vec<String>, count: usize, senders: usize, size: usize, mark: Mark },
    SendPaced { channel: String, count: usize, gap_us: u64, size: usize },
    Join { group: String, process: String, members: usize },
    GroupSend { group: String, calls: usize, gap_us: u64, size: usize },
    Churn { group: String, process: String, per_second: u32, seconds: f64 },
    Memory { count: usize, size: usize },
    Mpsc { count: usize, size: usize },
}

#[derive(Default)]
struct Participant {
    layer: Option<Arc<dyn ChannelLayer>>,
    arrivals: Arc<Arrivals>,
}

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Connect { redis, key, format, cluster } => {
                let config = Config::new().host(redis).cluster(cluster).symmetric_encryption_keys(key);
                self.connect(config, format).await
            }
            Command::Receive { channel, mark } => self.receive(&channel, mark),
            Command::Serve { process, clients, mark } => self.serve(&process, clients, mark),
            Command::Progress => Ok(self.arrivals.progress()),
            Command::Collect => Ok(self.arrivals.take()),
            Command::Send { channels, count, senders, size, mark } => {
                send(self.layer()?, channels, Messages { count, size, mark }, senders).await
            }
            Command::SendPaced { channel, count, gap_us, size } => {
                send_paced(&*self.layer()?, &channel, count, gap_us, size).await
            }
            Command::Join { group, process, members } => join(&*self.layer()?, &group, &process, members).await,
            Command::GroupSend { group, calls, gap_us, size } => {
                group_send(&*self.layer()?, &group, calls, gap_us, size).await
            }
            Command::Churn { group, process, per_second, seconds } => {
                churn(&*self.layer()?, &group, &process, per_second, seconds).await
            }
            Command::Memory { count, size } => memory(count, size).await,
            Command::Mpsc { count, size } => mpsc(count, size).await,
        }
    }
}

impl Participant {
    fn layer(&self) -> Result<Arc<dyn ChannelLayer>, Failure> {
        Ok(self.layer.clone().ok_or("not connected")?)
    }

    async fn connect(&mut self, config: Config, format: Option<String>) -> Result<Value, Failure> {
        let format = format.map_or(Ok(Format::default()), |format| format.parse())?;
        self.layer = Some(channel_layer::connect(config.capacity(CAPACITY).format(format)).await?);
        Ok(json!({}))
    }

    /// Reads one message at a time, like a worker.
    fn receive(&self, channel: &str, mark: Mark) -> Result<Value, Failure> {
        let (mut receiver, arrivals) = (self.layer()?.receiver(&[channel])?, self.arrivals.clone());
        tokio::spawn(async move {
            loop {
                match receiver.recv().await {
                    Ok(delivery) => note(&arrivals, mark, &delivery.message),
                    Err(error) => return arrivals.fail(error),
                }
            }
        });
        Ok(json!({}))
    }

    /// Reads all messages to the clients of a process, like an interface server.
    fn serve(&self, process: &str, clients: usize, mark: Mark) -> Result<Value, Failure> {
        let (mut receiver, arrivals) = (self.layer()?.receiver(&[process])?, self.arrivals.clone());
        tokio::spawn(async move {
            let mut deliveries = Vec::new();
            loop {
                match receiver.recv_many(&mut deliveries, READ).await {
                    Ok(count) if mark == Mark::None => arrivals.add(count),
                    Ok(_) => deliveries.iter().for_each(|delivery| note(&arrivals, mark, &delivery.message)),
                    Err(error) => return arrivals.fail(error),
                }
                deliveries.clear();
            }
        });
        let targets: Vec<_> = (0..clients).map(|client| format!("{process}c{client}")).collect();
        Ok(json!({ "targets": targets }))
    }
}

fn note(arrivals: &Arrivals, kind: Mark, message: &Message) {
    match message.bytes("body").and_then(|body| mark_of(body)) {
        Some(mark) => arrivals.add_marked(kind, mark),
        None => arrivals.fail("a message without its body"),
    }
}

#[derive(Clone, Copy)]
struct Messages {
    count: usize,
    size: usize,
    mark: Mark,
}

/// Sends from many tasks. Each waits until its message is accepted before it sends the next one.
async fn send(
    layer: Arc<dyn ChannelLayer>,
    channels: Vec<String>,
    all: Messages,
    senders: usize,
) -> Result<Value, Failure> {
    let start = clock::now();
    let mut tasks = JoinSet::new();
    for sender in 0..senders {
        let (layer, channel) = (layer.clone(), channels[sender % channels.len()].clone());
        tasks.spawn(async move {
            let same = Bytes::from(body(all.size, Mark::None, 0));
            for id in (sender..all.count).step_by(senders) {
                let body = match all.mark {
                    Mark::None => same.clone(),
                    mark => body(all.size, mark, id as u64).into(),
                };
                layer.send(&channel, message! { "body": body }).await?;
            }
            Ok::<_, channel_layer::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(json!({ "start": start, "end": clock::now() }))
}

/// Sends one message at a time with a pause before each, so that the reader waits again.
async fn send_paced(
    layer: &dyn ChannelLayer,
    channel: &str,
    count: usize,
    gap_us: u64,
    size: usize,
) -> Result<Value, Failure> {
    for _ in 0..count {
        tokio::time::sleep(Duration::from_micros(gap_us)).await;
        layer.send(channel, message! { "body": body(size, Mark::Time, 0) }).await?;
    }
    Ok(json!({}))
}

async fn join(layer: &dyn ChannelLayer, group: &str, process: &str, members: usize) -> Result<Value, Failure> {
    let add = |member| async move { layer.group_add(group, &format!("{process}c{member}")).await };
    stream::iter((0..members).map(add)).buffer_unordered(JOINING).try_collect::<()>().await?;
    Ok(json!({}))
}

async fn group_send(
    layer: &dyn ChannelLayer,
    group: &str,
    calls: usize,
    gap_us: u64,
    size: usize,
) -> Result<Value, Failure> {
    let body = Bytes::from(body(size, Mark::None, 0));
    let mut ticks = interval(Duration::from_micros(gap_us.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (start, mut nanos) = (clock::now(), Vec::with_capacity(calls));
    for _ in 0..calls {
        if gap_us > 0 {
            ticks.tick().await;
        }
        let before = clock::now();
        layer.group_send(group, message! { "body": body.clone() }).await?;
        nanos.push(clock::now() - before);
    }
    Ok(json!({ "start": start, "end": clock::now(), "nanos": nanos }))
}

/// Adds `per_second` members a second, and removes as many earlier ones.
async fn churn(
    layer: &dyn ChannelLayer,
    group: &str,
    process: &str,
    per_second: u32,
    seconds: f64,
) -> Result<Value, Failure> {
    let member = |number: u64| format!("{process}new{number}");
    let (mut joined, mut left) = (0, 0);
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        ticks.tick().await;
        layer.group_add(group, &member(joined)).await?;
        joined += 1;
        if joined - left > STAYING {
            layer.group_discard(group, &member(left)).await?;
            left += 1;
        }
    }
    for number in left..joined {
        layer.group_discard(group, &member(number)).await?;
    }
    Ok(json!({ "joined": joined }))
}

/// One task sends and another one receives, through a layer inside this process.
async fn memory(count: usize, size: usize) -> Result<Value, Failure> {
    let layer = MemoryLayer::with_config(&Config::new().capacity(CAPACITY))?;
    let mut receiver = layer.receiver(&["bench.memory"])?;
    let start = clock::now();
    let sending = tokio::spawn(async move {
        let body = Bytes::from(body(size, Mark::None, 0));
        for _ in 0..count {
            layer.send("bench.memory", message! { "body": body.clone() }).await?;
        }
        // The layer must stay open until its messages are received.
        Ok::<_, channel_layer::Error>(layer)
    });
    let receiving = tokio::spawn(async move {
        for _ in 0..count {
            receiver.recv().await?;
        }
        Ok::<_, channel_layer::Error>(clock::now())
    });
    let end = receiving.await??;
    drop(sending.await??);
    Ok(json!({ "start": start, "end": end }))
}

/// The same messages through a tokio channel with room for all.
async fn mpsc(count: usize, size: usize) -> Result<Value, Failure> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Message>(count);
    let start = clock::now();
    tokio::spawn(async move {
        let body = Bytes::from(body(size, Mark::None, 0));
        for _ in 0..count {
            if sender.send(message! { "body": body.clone() }).await.is_err() {
                return;
            }
        }
    });
    let receiving = tokio::spawn(async move {
        let mut received = 0;
        while receiver.recv().await.is_some() {
            received += 1;
        }
        (received, clock::now())
    });
    let (received, end) = receiving.await?;
    if received != count {
        return Err(format!("{received} of {count} messages arrived").into());
    }
    Ok(json!({ "start": start, "end": end }))
}

#[tokio::main]
async fn main() {
    hold(Participant::default()).await;
}

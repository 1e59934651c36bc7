//! Bytes on the heap for receivers that wait, and for members of a group that are cached.

use std::alloc::System;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Receiver, RedisLayer, message};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use peers::conversation::{Failure, Program, hold};
use serde::Deserialize;
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Command {
    Connect { redis: String },
    Receivers { count: usize },
    Members { count: usize },
}

#[derive(Default)]
struct Participant(Option<RedisLayer>);

impl Program for Participant {
    type Command = Command;

    async fn answer(&mut self, command: Command) -> Result<Value, Failure> {
        if let Command::Connect { redis } = command {
            self.0 = Some(RedisLayer::connect(Config::new().host(redis)).await?);
            return Ok(json!({}));
        }
        let layer = self.0.as_ref().ok_or("not connected")?;
        match command {
            Command::Connect { .. } => Ok(json!({})),
            Command::Receivers { count } => Ok(json!({ "bytes": receivers(layer, count).await? })),
            Command::Members { count } => Ok(json!({ "bytes": members(layer, count).await? })),
        }
    }
}

/// Returns the bytes in use on the heap, after a pause for background work.
async fn in_use() -> f64 {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stats = HEAP.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

/// Returns the bytes of each of `count` receivers. Each waits on its own channel.
async fn receivers(layer: &RedisLayer, count: usize) -> Result<f64, Failure> {
    // The first receiver creates state that all receivers share.
    let mut first = layer.receiver(&["footprint.first"])?;
    wait_a_moment(&mut first).await?;
    let mut receivers = Vec::with_capacity(count);
    let before = in_use().await;
    for at in 0..count {
        let mut receiver = layer.receiver(&[&format!("footprint.{at}")])?;
        wait_a_moment(&mut receiver).await?;
        receivers.push(receiver);
    }
    Ok((in_use().await - before) / count as f64)
}

/// Polls the receiver once, so that it reads in the background.
async fn wait_a_moment(receiver: &mut Receiver) -> Result<(), Failure> {
    poll_fn(|cx| match receiver.poll_recv_many(cx, &mut |_| {}, 1) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Ok(())),
    })
    .await?;
    Ok(())
}

/// Returns the bytes that remain on the heap after the first message to a group of `count` members of this process.
async fn members(layer: &RedisLayer, count: usize) -> Result<f64, Failure> {
    const PROCESS: &str = "footprint.process!";
    let mut receiver = layer.receiver(&[PROCESS])?;
    deliver(layer, &mut receiver, "footprint.small", 1).await?;
    let before = in_use().await;
    deliver(layer, &mut receiver, "footprint.large", count).await?;
    Ok(in_use().await - before)
}

async fn deliver(layer: &RedisLayer, receiver: &mut Receiver, group: &str, members: usize) -> Result<(), Failure> {
    let add = |member| async move { layer.group_add(group, &format!("footprint.process!c{member}")).await };
    stream::iter((0..members).map(add)).buffer_unordered(64).try_collect::<()>().await?;
    layer.group_send(group, message! { "text": "hi" }).await?;
    let mut deliveries = Vec::with_capacity(members);
    while deliveries.len() < members {
        receiver.recv_many(&mut deliveries, members).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    hold(Participant::default()).await;
}

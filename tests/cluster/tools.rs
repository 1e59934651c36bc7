//! Layers on a cluster.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{Config, Event, RedisLayer};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use crate::support::{Cluster, random_prefix};

/// Longer than any test waits for something.
pub const LONG: Duration = Duration::from_mins(2);

/// The options of a layer with all nodes of `cluster` as seeds.
pub fn config(cluster: &Cluster) -> Config {
    Config::new()
        .cluster(true)
        .hosts(cluster.urls(0..cluster.nodes.len()))
        .prefix(random_prefix())
        .capacity(100_000)
        .pool_size(64)
        .command_timeout(Duration::from_secs(5))
}

pub async fn connect(config: Config) -> Arc<RedisLayer> {
    Arc::new(RedisLayer::connect(config).await.unwrap())
}

/// The slot of a channel or a group.
pub fn slot_of(name: &str) -> u16 {
    let mut crc = 0_u16;
    for byte in name.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16384
}

/// A name for a channel without a local part that begins with `beginning` and is in a slot of the range.
pub fn name_in(beginning: &str, slots: std::ops::Range<u16>, end: char) -> String {
    (0..u32::MAX)
        .map(|n| format!("{beginning}{n}{end}"))
        .find(|name| slots.contains(&slot_of(name)))
        .expect("some name fits")
}

/// Checks that none of the events so far is a loss of data.
#[track_caller]
pub fn assert_no_data_lost(events: &mut broadcast::Receiver<Event>) {
    let lost = |event: &Event| matches!(event, Event::DataLost { .. });
    assert_eq!(all(events).into_iter().find(lost), None);
}

/// The events so far.
pub fn all(events: &mut broadcast::Receiver<Event>) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        match events.try_recv() {
            Ok(event) => all.push(event),
            Err(TryRecvError::Empty) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

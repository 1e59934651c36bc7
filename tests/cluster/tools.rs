//! Layers on a cluster.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{Config, Event, RedisLayer};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use crate::support::{Cluster, random_prefix};
pub use crate::support::{name_in, slot_of};

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

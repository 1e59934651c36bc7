//! The recorder of metrics is foreign code, which may call the layer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{CHANNEL, message};
use crate::capacity::CapacityRule;
use crate::config::{Config, Overflow};
use crate::layer::ChannelLayer;
use crate::memory::{Bounds, MemoryLayer};
use crate::supervise::trap::CallingRecorder;

#[tokio::test(start_paused = true)]
async fn dropped_messages_are_counted_outside_of_locks() {
    let expiry = Duration::from_secs(2);
    let config = Config::new().expiry(expiry).channel_capacity(CapacityRule::glob(CHANNEL, 1));
    let bounds = Bounds { overflow: Overflow::DropOldest, bytes: usize::MAX };
    let layer = Arc::new(MemoryLayer::dropping(&config, bounds).unwrap());
    let called = layer.clone();
    let recorder = CallingRecorder::new(move || drop(called.global_statistics().now_or_never()));
    let _recording = metrics::set_default_local_recorder(&recorder);
    for _ in 0..2 {
        layer.send(CHANNEL, message! {}).await.unwrap();
    }
    assert_eq!(recorder.returned(), [true], "a send drops the oldest message");
    tokio::time::advance(expiry).await;
    assert!(layer.try_receive(&[CHANNEL]).await.unwrap().is_none());
    assert_eq!(recorder.returned(), [true], "a read drops the expired message");
    layer.send(CHANNEL, message! {}).await.unwrap();
    sleep(10 * expiry).await;
    assert_eq!(recorder.returned(), [true], "the sweep drops the expired message");
}

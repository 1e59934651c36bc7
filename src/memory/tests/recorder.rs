//! The recorder of metrics is foreign code, which may call the layer.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{CHANNEL, message};
use crate::capacity::CapacityRule;
use crate::config::{Config, Overflow};
use crate::layer::ChannelLayer;
use crate::memory::{Bounds, MemoryLayer};

/// Asks the layer for its statistics whenever a message is counted.
struct Asking {
    layer: Arc<MemoryLayer>,
    /// Whether the layer has answered.
    answered: Arc<Mutex<Vec<bool>>>,
}

impl Recorder for Asking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        let (layer, (tell, answer)) = (self.layer.clone(), mpsc::channel());
        // Another thread, so that a deadlock ends with the test.
        thread::spawn(move || tell.send(layer.global_statistics().now_or_never().is_some()));
        self.answered.lock().push(answer.recv_timeout(Duration::from_secs(5)) == Ok(true));
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_messages_are_counted_outside_of_locks() {
    let expiry = Duration::from_secs(2);
    let config = Config::new().expiry(expiry).channel_capacity(CapacityRule::glob(CHANNEL, 1));
    let bounds = Bounds { overflow: Overflow::DropOldest, bytes: usize::MAX };
    let layer = Arc::new(MemoryLayer::dropping(&config, bounds).unwrap());
    let answered = Arc::<Mutex<Vec<bool>>>::default();
    let recorder = Asking { layer: layer.clone(), answered: answered.clone() };
    let _recording = metrics::set_default_local_recorder(&recorder);
    for _ in 0..2 {
        layer.send(CHANNEL, message! {}).await.unwrap();
    }
    assert_eq!(*answered.lock(), [true], "a send drops the oldest message");
    tokio::time::advance(expiry).await;
    assert!(layer.try_receive(&[CHANNEL]).await.unwrap().is_none());
    assert_eq!(*answered.lock(), [true; 2], "a read drops the expired message");
    layer.send(CHANNEL, message! {}).await.unwrap();
    sleep(10 * expiry).await;
    assert_eq!(*answered.lock(), [true; 3], "the sweep drops the expired message");
}

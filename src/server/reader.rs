//! The receive loop of the tasks that read the messages for the clients of a process.

use tokio_util::sync::CancellationToken;

use crate::layer::{Delivery, RetryingReceiver};
use crate::supervise::contain;

/// Maximum number of messages that are taken at once.
pub(crate) const BATCH: usize = 256;

/// Passes each delivery to `handle` until `stop` is cancelled or the layer ends. If `handle` panics, the delivery is
/// passed to `on_panic`, and the loop continues. `task` is the name of the task in the metric of panics.
pub(crate) async fn read_each(
    mut receiver: RetryingReceiver,
    task: &'static str,
    stop: CancellationToken,
    mut handle: impl FnMut(&Delivery),
    mut on_panic: impl FnMut(&Delivery),
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            taken = receiver.recv_many(&mut batch, BATCH) => if taken.is_err() { break },
            () = stop.cancelled() => break,
        }
        for delivery in batch.drain(..) {
            if contain(task, || handle(&delivery)).is_none() {
                contain(task, || on_panic(&delivery));
            }
        }
    }
    receiver.close().await;
}

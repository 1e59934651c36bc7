//! The tasks that read for an inbox.

use std::sync::{Arc, Weak};
use std::time::Duration;

use channel_layer::Receiver;

use super::serve;
use crate::core::Core;

/// How many messages a pump takes at once.
const BATCH: usize = 256;

/// The pause after an error that is not an outage.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the process-local channels below `source` into the inbox, until the layer closes or the task is aborted.
pub(crate) async fn run(core: Weak<Core>, source: Box<str>) {
    let Some(mut receiver) = receiver(&core, &source).await else { return };
    let mut deliveries = Vec::new();
    loop {
        let result = receiver.recv_many(&mut deliveries, BATCH).await;
        let Some(core) = core.upgrade() else { return };
        match result {
            Ok(_) => core.inbox.deliver(&core, deliveries.drain(..)),
            // The receiver has reported the outage, and the next call waits for its end.
            Err(error) if error.is_transient() => {}
            Err(error) => {
                let is_closed = error.is_closed();
                core.inbox.fail(&source, error);
                drop(core);
                if is_closed {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn receiver(core: &Weak<Core>, source: &str) -> Option<Receiver> {
    let core = core.upgrade()?;
    let receiver = match core.connected().await {
        Ok(connected) => connected.layer.receiver(&[source]),
        Err(error) => Err(error),
    };
    receiver.map_err(|error| core.inbox.fail(source, error)).ok()
}

/// Connects the layer, and gives the channel its receiver.
pub(crate) async fn open(core: Arc<Core>, channel: Arc<str>) {
    let opened = match core.connected().await {
        Ok(connected) => core.inbox.state().open(&channel, connected),
        Err(error) => Err(error),
    };
    match opened {
        Ok(None) => {}
        Ok(Some(calls)) => serve::on_loop(&calls, Arc::downgrade(&core), vec![channel]),
        Err(error) => core.inbox.fail(&channel, error),
    }
}

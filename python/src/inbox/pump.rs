//! The tasks that read for an inbox.

use std::sync::{Arc, Weak};
use std::time::Duration;

use channel_layer::Receiver;

use super::channel::Channel;
use super::{channels, serve};
use crate::core::Core;

/// How many messages a pump takes at once.
const BATCH: usize = 256;

/// The pause after an error that is not an outage.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the process-local channels below `source` into the inbox, until the layer closes or the task is aborted.
pub(super) async fn run(core: Weak<Core>, source: Box<str>, number: u64) {
    let _ending = Ending { core: core.clone(), source: source.clone(), number };
    let Some(mut receiver) = receiver(&core, &source).await else {
        return;
    };
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

/// Reports the end of a pump, also if it panics.
struct Ending {
    core: Weak<Core>,
    source: Box<str>,
    number: u64,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.inbox.pump_ended(&self.source, self.number);
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
pub(super) async fn open(core: Arc<Core>, channel: Arc<Channel>) {
    let mut opened = core.connected().await.map(drop);
    let next = {
        let mut state = channel.state();
        if opened.is_ok() {
            opened = channels::open(&core, &channel, &mut state);
        }
        state.next_loop()
    };
    match (opened, next) {
        (Err(error), _) => core.inbox.fail(&channel.name, error),
        (Ok(()), Some(next)) => serve::on_loop(&next, &core, vec![channel]),
        (Ok(()), None) => {}
    }
}

//! What responses hold in memory until their clients have taken them, all together, and who has to go when it is too much.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::server::transport::streams::Progress;

/// What all responses of a process may hold.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    /// Held to count, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By those who are not cut off.
    held: usize,
    next: u64,
    shares: HashMap<u64, Share>,
}

/// What one response holds.
#[derive(Debug)]
struct Share {
    bytes: usize,
    progress: Option<Progress>,
    cut_off: bool,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// For a response that gets to its client by `progress`; counted for as long as this or anything that it holds is kept.
    pub(crate) fn share(self: &Arc<Self>, progress: Option<Progress>) -> Arc<Holder> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.shares.insert(id, Share { bytes: 0, progress, cut_off: false });
        Arc::new(Holder { memory: self.clone(), id })
    }
}

#[derive(Debug)]
pub(crate) struct Holder {
    memory: Arc<Memory>,
    id: u64,
}

impl Holder {
    /// Counts bytes, and what is in memory beside them, until the last of them is dropped. If it is too much, the client for
    /// which most waits is cut off.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes, overhead: usize) -> Bytes {
        let size = bytes.len() + overhead;
        let mut state = self.memory.state.lock();
        state.add(self.id, size);
        while state.held > self.memory.limit
            && let Some(progress) = state.cut_off_largest()
        {
            tracing::info!("responses wait for too many clients, and the one for which most waits is cut off");
            progress.cut_off();
        }
        drop(state);
        Bytes::from_owner(Held { bytes, size, holder: self.clone() })
    }

    /// Cuts the client off, if it is not yet.
    pub(crate) fn cut_off(&self) {
        let progress = self.memory.state.lock().cut_off(self.id);
        if let Some(progress) = progress {
            progress.cut_off();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.memory.state.lock().shares.remove(&self.id);
    }
}

/// Bytes that are counted.
struct Held {
    bytes: Bytes,
    size: usize,
    holder: Arc<Holder>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holder.memory.state.lock().subtract(self.holder.id, self.size);
    }
}

impl State {
    fn add(&mut self, id: u64, bytes: usize) {
        if let Some(share) = self.shares.get_mut(&id).filter(|share| !share.cut_off) {
            share.bytes += bytes;
            self.held += bytes;
        }
    }

    fn subtract(&mut self, id: u64, bytes: usize) {
        if let Some(share) = self.shares.get_mut(&id).filter(|share| !share.cut_off) {
            share.bytes -= bytes;
            self.held -= bytes;
        }
    }

    fn cut_off_largest(&mut self) -> Option<Progress> {
        let candidates = self.shares.iter().filter(|(_, share)| !share.cut_off && share.progress.is_some());
        let (&id, _) = candidates.max_by_key(|(_, share)| share.bytes)?;
        self.cut_off(id)
    }

    /// What the response holds is about to be freed, and counts no more.
    fn cut_off(&mut self, id: u64) -> Option<Progress> {
        let share = self.shares.get_mut(&id).filter(|share| !share.cut_off)?;
        share.cut_off = true;
        self.held -= std::mem::take(&mut share.bytes);
        share.progress.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn bytes(size: usize) -> Bytes {
        vec![0; size].into()
    }

    fn left(memory: &Memory) -> (usize, usize) {
        let state = memory.state.lock();
        (state.held, state.shares.len())
    }

    #[test]
    fn bytes_count_until_the_last_of_them_is_dropped() {
        let memory = Memory::new(100);
        let holder = memory.share(None);
        let mut first = holder.hold(bytes(50), 10);
        let rest = first.split_off(1);
        drop((holder, first));
        assert_eq!(memory.state.lock().held, 60);
        drop(rest);
        assert_eq!(left(&memory), (0, 0));
        let empty = memory.share(None).hold(Bytes::new(), 10);
        assert_eq!(memory.state.lock().held, 10, "what has no bytes counts as well");
        drop(empty);
        assert_eq!(left(&memory), (0, 0));
    }

    #[tokio::test]
    async fn the_client_for_which_most_waits_is_cut_off() {
        let memory = Memory::new(100);
        let progress: Vec<_> = (0..3).map(|_| Progress::default()).collect();
        let holders: Vec<_> = progress.iter().map(|progress| memory.share(Some(progress.clone()))).collect();
        let sizes = [30, 60, 10];
        let held: Vec<_> = holders.iter().zip(sizes).map(|(holder, size)| holder.hold(bytes(size), 0)).collect();
        let cut_off = || progress.iter().map(|progress| progress.is_cut_off().now_or_never().is_some());
        assert!(!cut_off().any(|cut_off| cut_off), "it is just enough");
        let more = holders[0].hold(bytes(5), 0);
        assert_eq!(cut_off().collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(memory.state.lock().held, 45, "what is about to be freed counts no more");
        drop((holders, held, more));
        assert_eq!(left(&memory), (0, 0));
    }
}

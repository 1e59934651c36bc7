//! `ResponseMemory`: the memory that responses take until their clients have accepted them, and its limit.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::server::transport::streams::Progress;

/// The memory of all responses of a process.
#[derive(Debug)]
pub(crate) struct ResponseMemory {
    limit: usize,
    /// Held to count, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of the responses that are not cut off.
    used: usize,
    next: u64,
    responses: HashMap<u64, Usage>,
}

/// Memory of one response.
#[derive(Debug)]
struct Usage {
    bytes: usize,
    /// `None` if the response cannot be cut off.
    progress: Option<Progress>,
    /// Whether the response was cut off. It no longer counts.
    cut_off: bool,
}

impl ResponseMemory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// Registers a response. It stays registered until its share and all bytes that the share holds are dropped.
    pub(crate) fn share(self: &Arc<Self>, progress: Option<Progress>) -> Arc<MemoryShare> {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.responses.insert(id, Usage { bytes: 0, progress, cut_off: false });
        Arc::new(MemoryShare { memory: self.clone(), id })
    }
}

/// The share of one response in the memory of all responses.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    memory: Arc<ResponseMemory>,
    id: u64,
}

impl MemoryShare {
    /// Counts `bytes` and `overhead` until the last reference to the bytes is dropped. Above the limit, the client with
    /// the most waiting bytes is cut off.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes, overhead: usize) -> Bytes {
        let size = bytes.len() + overhead;
        let mut state = self.memory.state.lock();
        state.add(self.id, size);
        let mut cut_off = Vec::new();
        while state.used > self.memory.limit
            && let Some(progress) = state.cut_off_largest()
        {
            cut_off.push(progress);
        }
        drop(state);
        for progress in cut_off {
            tracing::info!("memory limit of responses reached; cutting off the response with the most waiting bytes");
            progress.cut_off();
        }
        Bytes::from_owner(CountedBytes { bytes, size, share: self.clone() })
    }

    /// Cuts the client off unless that was done before.
    pub(crate) fn cut_off(&self) {
        let progress = self.memory.state.lock().cut_off(self.id);
        if let Some(progress) = progress {
            progress.cut_off();
        }
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.state.lock().responses.remove(&self.id);
    }
}

/// Bytes that count against the memory of their response until they are dropped.
struct CountedBytes {
    bytes: Bytes,
    size: usize,
    share: Arc<MemoryShare>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.share.memory.state.lock().subtract(self.share.id, self.size);
    }
}

impl State {
    fn add(&mut self, id: u64, bytes: usize) {
        if let Some(share) = self.responses.get_mut(&id).filter(|share| !share.cut_off) {
            share.bytes += bytes;
            self.used += bytes;
        }
    }

    fn subtract(&mut self, id: u64, bytes: usize) {
        if let Some(share) = self.responses.get_mut(&id).filter(|share| !share.cut_off) {
            share.bytes -= bytes;
            self.used -= bytes;
        }
    }

    fn cut_off_largest(&mut self) -> Option<Progress> {
        let candidates = self.responses.iter().filter(|(_, share)| !share.cut_off && share.progress.is_some());
        let (&id, _) = candidates.max_by_key(|(_, share)| share.bytes)?;
        self.cut_off(id)
    }

    /// Marks a response as cut off. Its memory is about to be freed and no longer counts.
    fn cut_off(&mut self, id: u64) -> Option<Progress> {
        let share = self.responses.get_mut(&id).filter(|share| !share.cut_off)?;
        share.cut_off = true;
        self.used -= std::mem::take(&mut share.bytes);
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

    fn left(memory: &ResponseMemory) -> (usize, usize) {
        let state = memory.state.lock();
        (state.used, state.responses.len())
    }

    #[test]
    fn bytes_count_until_the_last_of_them_is_dropped() {
        let memory = ResponseMemory::new(100);
        let share = memory.share(None);
        let mut first = share.hold(bytes(50), 10);
        let rest = first.split_off(1);
        drop((share, first));
        assert_eq!(memory.state.lock().used, 60);
        drop(rest);
        assert_eq!(left(&memory), (0, 0));
        let empty = memory.share(None).hold(Bytes::new(), 10);
        assert_eq!(memory.state.lock().used, 10, "the overhead of an empty part counts as well");
        drop(empty);
        assert_eq!(left(&memory), (0, 0));
    }

    #[tokio::test]
    async fn the_client_with_the_most_waiting_bytes_is_cut_off() {
        let memory = ResponseMemory::new(100);
        let progress: Vec<_> = (0..3).map(|_| Progress::default()).collect();
        let shares: Vec<_> = progress.iter().map(|progress| memory.share(Some(progress.clone()))).collect();
        let sizes = [30, 60, 10];
        let used: Vec<_> = shares.iter().zip(sizes).map(|(share, size)| share.hold(bytes(size), 0)).collect();
        let cut_off = || progress.iter().map(|progress| progress.is_cut_off().now_or_never().is_some());
        assert!(!cut_off().any(|cut_off| cut_off), "the limit is not exceeded");
        let more = shares[0].hold(bytes(5), 0);
        assert_eq!(cut_off().collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(memory.state.lock().used, 45, "memory that is about to be freed counts no longer");
        drop((shares, used, more));
        assert_eq!(left(&memory), (0, 0));
    }
}

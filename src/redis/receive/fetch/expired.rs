//! Expired entries at the head of a channel. A reader that takes one entry at a time, because its consumer waits for
//! one, would need a round trip for each of them.

use redis::Value;

use super::fetch_loop::FetchLoop;
use super::fetched::Read;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::fault::Fault;

impl FetchLoop {
    /// Remembers the channel at `index` if all that `read` took from it has expired.
    pub(super) fn find_expired(&mut self, index: usize, read: &Read) {
        let have_expired = !self.prefetches && self.format().have_expired(&self.shard, &read.raw);
        self.expired = have_expired.then_some(index);
    }

    /// Removes more expired entries from the channel in which the last read found only such entries. Takes no entry
    /// that has not expired, because a consumer may not wait for it. Returns `None` if there are none.
    pub(super) async fn drop_expired(&mut self) -> Result<Option<Read>, Fault> {
        let Some(index) = self.expired.filter(|index| !self.left_out[*index]) else { return Ok(None) };
        let Some(command) = self.format().drop_expired(&self.keys[index]) else { return Ok(None) };
        let node = Node { shard: &self.shard, asking: self.asking };
        let Value::Int(count) = node.run_once(&command).await? else {
            return Err(Fault::unexpected("drop_expired.lua returned something else than a number"));
        };
        let expired = usize::try_from(count).unwrap_or(0);
        self.expired = (expired > 0).then_some(index);
        let (channel, list) = (self.channels[index].clone(), self.list.clone());
        Ok(self.expired.map(|_| Read { channel, list, raw: Vec::new(), expired }))
    }
}

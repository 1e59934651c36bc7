//! Synchronization of the memberships of this process with the remote layer: their replay after a loss of data, and
//! discards by other processes.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::journal::{Change, Key};
use crate::error::{Error, Result};
use crate::fallback::failover::{FailoverState, TASK};
use crate::layer::ChannelLayer;
use crate::name::ChannelName;
use crate::supervise::{contain, contained};

/// Interval of comparing the memberships of this process with the remote layer. Data loss of the remote layer is
/// noticed in less time, and then no membership counts as discarded.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Pauses of the comparison for each member that was read, and for each group. They limit its load on the servers.
const PAUSE_PER_MEMBER: Duration = Duration::from_micros(100);
const PAUSE_PER_GROUP: Duration = Duration::from_millis(5);

impl FailoverState {
    /// Schedules the replay of all memberships of this process, because the remote layer may have lost them.
    pub(crate) fn replay_all(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
        let mut journal = self.journal.lock();
        for group in self.local.groups() {
            let members = self.local.members(&group).into_iter();
            journal.record_lost(members.map(|(channel, ends)| ((group.clone(), channel), ends)));
        }
        drop(journal);
        self.wake.notify_one();
    }

    /// Returns the present state of a membership of this process, as a change to replay, and until when to replay it.
    pub(crate) fn current(&self, key: &Key) -> (Change, Instant) {
        match self.local.membership_end(&key.0, &key.1) {
            Some(ends) => (Change::Added, ends),
            None => (Change::Discarded, Instant::now() + self.local.group_expiry()),
        }
    }

    /// Ends memberships here that other processes discarded. Otherwise their channels would be members here in the next
    /// outage, and in all processes after a replay.
    pub(crate) async fn sync_discards(&self, remote: &(impl ChannelLayer + ?Sized)) {
        loop {
            let generation = self.generation();
            let discarded = contained(TASK, self.find_discarded(remote)).await.unwrap_or(Err(Error::Panicked));
            sleep(COMPARE_EVERY).await;
            if self.generation() == generation {
                contain(TASK, || self.discard_local(discarded.unwrap_or_default()));
            }
        }
    }

    /// Returns the memberships of this process that the remote layer lacks, each with its end here. Returns none in an
    /// outage, and if the remote layer does not list all members.
    async fn find_discarded(&self, remote: &(impl ChannelLayer + ?Sized)) -> Result<Vec<(Key, Instant)>> {
        let mut discarded = Vec::new();
        if self.is_local() || !remote.lists_all_members() {
            return Ok(discarded);
        }
        for group in self.local.groups() {
            let read_at = Instant::now();
            let remote_members: HashSet<ChannelName> =
                remote.group_channels(group.as_str()).await?.into_iter().collect();
            // A membership added here after the read may have been added remotely after it, too.
            let added_before = |ends: Instant| ends <= read_at + self.local.group_expiry();
            let local_members = self.local.members(&group).into_iter();
            let missing =
                local_members.filter(|(channel, ends)| added_before(*ends) && !remote_members.contains(channel));
            discarded.extend(missing.map(|(channel, ends)| ((group.clone(), channel), ends)));
            let read = u32::try_from(remote_members.len()).unwrap_or(u32::MAX);
            sleep(PAUSE_PER_GROUP + PAUSE_PER_MEMBER * read).await;
        }
        Ok(discarded)
    }

    fn discard_local(&self, discarded: Vec<(Key, Instant)>) {
        let journal = self.journal.lock();
        for (key, ends) in discarded {
            // A membership that was renewed, or that the remote layer has yet to receive, stays.
            if !journal.is_pending(&key) && self.local.membership_end(&key.0, &key.1) == Some(ends) {
                // Fails only on a closed layer, whose memberships do not matter.
                let _ = self.local.remove_member(&key.0, &key.1);
            }
        }
    }

    /// Returns a generation that changes with each outage and each loss of data. An answer of the remote layer is valid
    /// if the generation is the same before and after.
    fn generation(&self) -> (u64, u64) {
        (self.epoch(), self.losses.load(Ordering::SeqCst))
    }
}

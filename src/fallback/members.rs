//! The memberships that this process has made, beside those of the remote layer: what is told again when they are lost
//! there, and what ends here when others have ended it there.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::journal::{Change, Key};
use crate::error::Result;
use crate::fallback::failover::Guard;
use crate::layer::ChannelLayer;
use crate::name::ChannelName;

/// How often the memberships of this process are compared with those of the remote layer. That the remote layer has lost
/// its data is known in less time, and then no membership counts as ended.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long the comparison pauses for each member that it was told of, and for each group: it is to cost the servers little.
const PAUSE_PER_MEMBER: Duration = Duration::from_micros(100);
const PAUSE_PER_GROUP: Duration = Duration::from_millis(5);

impl Guard {
    /// Has the remote layer told of all memberships that this process has made, since it may have lost them.
    pub(crate) fn tell_all_again(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
        let mut journal = self.journal.lock();
        for group in self.local.groups() {
            let members = self.local.members(&group).into_iter();
            journal.note_lost(members.map(|(channel, ends)| ((group.clone(), channel), ends)));
        }
        drop(journal);
        self.left.notify_one();
    }

    /// What is true of a membership of this process now, and until when that matters.
    pub(crate) fn present(&self, key: &Key) -> (Change, Instant) {
        match self.local.membership_end(&key.0, &key.1) {
            Some(ends) => (Change::Added, ends),
            None => (Change::Discarded, Instant::now() + self.local.group_expiry()),
        }
    }

    /// Ends memberships here that others have ended remotely. Otherwise they would be members here in the next outage, and
    /// everywhere when the remote layer has lost its data and is told of them again.
    pub(crate) async fn follow_discards(&self, remote: &impl ChannelLayer) {
        loop {
            let losses = self.losses();
            let ended =
                if remote.lists_all_members() && !self.is_local() { self.ended(remote).await } else { Ok(Vec::new()) };
            sleep(COMPARE_EVERY).await;
            if self.losses() == losses {
                self.end_here(ended.unwrap_or_default());
            }
        }
    }

    /// The memberships of this process that the remote layer does not have, each with its end here.
    async fn ended(&self, remote: &impl ChannelLayer) -> Result<Vec<(Key, Instant)>> {
        let mut ended = Vec::new();
        for group in self.local.groups() {
            let asked = Instant::now();
            let there: HashSet<ChannelName> = remote.group_channels(group.as_str()).await?.into_iter().collect();
            // One that was added here later may have been added there later, too.
            let added_before = |ends: Instant| ends <= asked + self.local.group_expiry();
            let here = self.local.members(&group).into_iter();
            let gone = here.filter(|(channel, ends)| added_before(*ends) && !there.contains(channel));
            ended.extend(gone.map(|(channel, ends)| ((group.clone(), channel), ends)));
            let told = u32::try_from(there.len()).unwrap_or(u32::MAX);
            sleep(PAUSE_PER_GROUP + PAUSE_PER_MEMBER * told).await;
        }
        Ok(ended)
    }

    fn end_here(&self, ended: Vec<(Key, Instant)>) {
        let journal = self.journal.lock();
        for (key, ends) in ended {
            // Not one that has been renewed, or of which the remote layer has not been told.
            if !journal.is_untold(&key) && self.local.membership_end(&key.0, &key.1) == Some(ends) {
                // A closed layer has no members that matter.
                let _ = self.local.part(&key.0, &key.1);
            }
        }
    }

    /// Counts outages and losses of data, between which an answer of the remote layer can be trusted.
    fn losses(&self) -> (u64, u64) {
        (self.epoch(), self.losses.load(Ordering::SeqCst))
    }
}

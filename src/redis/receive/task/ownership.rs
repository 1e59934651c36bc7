//! Taking channels over from other readers, and handing entries off to them.

use super::run::Task;
use crate::redis::receive::fetch::ownership::Contested;
use crate::redis::receive::reader::NextOwner;

impl Task<'_> {
    /// Acquires the single-reader channels and takes over the entries that their previous owners hold, so that the
    /// order within a channel survives a change of its reader. Returns whether the reader may read.
    ///
    /// Unless `at_once` is set, a previous owner with a waiting consumer gets a turn first, and the result is `false`.
    pub(super) async fn acquire(&mut self, at_once: bool) -> bool {
        let insists = at_once || self.contention.has_yielded();
        let acquisition = match self.owners.acquire(self.reader, insists) {
            Err(Contested) => {
                self.contention.yield_turn();
                return false;
            }
            Ok(acquisition) => acquisition,
        };
        self.contention.acquired(!insists);
        let Some(acquisition) = acquisition else { return true };
        for previous in acquisition.previous_owners {
            let mut handed_off = std::pin::pin!(previous.hand_off_to(self.reader.clone(), acquisition.ticket));
            loop {
                tokio::select! {
                    () = &mut handed_off => break,
                    // An earlier acquirer may wait for entries that this reader still has. A later one gets them with
                    // the rest.
                    () = self.reader.work.signalled() => self.hand_off(acquisition.ticket),
                }
            }
        }
        true
    }

    /// Hands entries off to the readers that acquired these channels before `ticket`, unless a consumer of this reader
    /// waits.
    pub(super) fn hand_off(&mut self, ticket: u64) {
        let mut state = self.reader.state();
        let (now, later): (Vec<_>, _) =
            std::mem::take(&mut state.next_owners).into_iter().partition(|next| next.ticket < ticket);
        state.next_owners = later;
        let wanted = state.waiters.deliveries_wanted > 0 && !state.is_closed();
        drop(state);
        for NextOwner { reader, done, .. } in now {
            if !wanted {
                self.reader.hand_off(&reader);
            }
            // The next owner may have been dropped in the meantime.
            let _ = done.send(());
        }
    }
}

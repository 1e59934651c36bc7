//! `Reasons`: the causes of an outage that were already reported.

use std::collections::HashSet;

/// Maximum number of stored reasons per outage. An error text may contain a part that is different each time.
const MAX_REASONS: usize = 16;

/// The reasons of one outage that have been reported.
///
/// A server that is retried fails for the same few reasons, sometimes alternating. The first reason is often only a
/// broken connection; a later one names the fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reasons(HashSet<String>);

impl Reasons {
    /// Whether no reason has been reported.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records `reason`. Returns whether it was not reported in this outage before.
    pub(crate) fn is_new(&mut self, reason: &str) -> bool {
        self.0.len() < MAX_REASONS && self.0.insert(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_new_once_and_their_number_is_bounded() {
        let mut reasons = Reasons::default();
        let new = ["gone", "gone", "refused", "gone", "refused"].map(|reason| reasons.is_new(reason));
        assert_eq!(new, [true, false, true, false, false]);
        let more = (0..1000).filter(|number: &i32| reasons.is_new(&number.to_string()));
        assert_eq!(more.count(), MAX_REASONS - 2);
    }
}

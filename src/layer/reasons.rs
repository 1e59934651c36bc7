//! Why a server is away, said once for each reason.

use std::collections::HashSet;

/// The most reasons that are kept of one outage. Their texts may hold something that never repeats.
const MOST: usize = 16;

/// The reasons of one outage that have been reported.
///
/// A server that is tried again and again fails for the same few reasons, perhaps in turns. The first one is often only that
/// a connection broke; a later one says what is wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reasons(HashSet<String>);

impl Reasons {
    /// Whether `reason` has not been reported in this outage; from now on it has.
    pub(crate) fn is_new(&mut self, reason: &str) -> bool {
        self.0.len() < MOST && self.0.insert(reason.to_owned())
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
        assert_eq!(more.count(), MOST - 2);
    }
}

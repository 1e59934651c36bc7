//! `Counts`: the metrics that one test records.

use std::collections::{BTreeMap, HashMap};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Reads the counters of a recorder.
///
/// Pass the recorder to `metrics::set_default_local_recorder` on a runtime of one thread. It then sees all that this
/// test does, and nothing of concurrent tests.
pub struct Counts {
    snapshots: Snapshotter,
    /// A snapshot empties the recorder, so earlier values are kept here.
    seen: HashMap<String, u64>,
}

impl Counts {
    pub fn of(recorder: &DebuggingRecorder) -> Self {
        Self { snapshots: recorder.snapshotter(), seen: HashMap::new() }
    }

    /// Returns how many messages were dropped for `reason`.
    pub fn dropped(&mut self, reason: &str) -> u64 {
        self.all_dropped().get(reason).copied().unwrap_or(0)
    }

    /// Returns how many messages were dropped, by reason.
    pub fn all_dropped(&mut self) -> BTreeMap<String, u64> {
        self.look();
        let reason = |name: &str| Some(name.strip_prefix("channel_layer_dropped_total reason=")?.to_owned());
        self.seen.iter().filter_map(|(name, &counted)| Some((reason(name)?, counted))).collect()
    }

    /// Returns a counter by its name, followed by a space and each label.
    pub fn counter(&mut self, name: &str) -> u64 {
        self.look();
        self.seen.get(name).copied().unwrap_or(0)
    }

    fn look(&mut self) {
        for (key, _, _, value) in self.snapshots.snapshot().into_vec() {
            let DebugValue::Counter(counted) = value else { continue };
            let labels = key.key().labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let full = [key.key().name().to_owned()].into_iter().chain(labels).collect();
            *self.seen.entry(full).or_default() += counted;
        }
    }
}

//! `Registry`: a concurrent map of named values that are created on first use and removed when unused.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// A concurrent map from names to shared values.
///
/// A value is removed only while the registry holds the only handle. A caller with a handle therefore never works on a
/// value that others can no longer find.
#[derive(Debug)]
pub(super) struct Registry<N: Eq + Hash, T>(DashMap<N, Arc<T>>);

impl<N: Eq + Hash + Clone + Borrow<str>, T> Registry<N, T> {
    pub(super) fn new() -> Self {
        Self(DashMap::new())
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<T>> {
        self.0.get(name).map(|value| Arc::clone(&value))
    }

    pub(super) fn get_or_insert(&self, name: &N, make: impl FnOnce() -> T) -> Arc<T> {
        // Most names exist, and `get` locks the shard for reading only.
        self.get(name.borrow())
            .unwrap_or_else(|| Arc::clone(&self.0.entry(name.clone()).or_insert_with(|| Arc::new(make()))))
    }

    /// Removes `name` if no other handle of its value exists and `unused` returns `true`.
    pub(super) fn remove_if(&self, name: &str, unused: impl FnOnce(&T) -> bool) {
        self.0.remove_if(name, |_, value| Arc::strong_count(value) == 1 && unused(value));
    }

    /// Calls `unused` with each value, and removes those for which it returns `true` and no other handle exists.
    pub(super) fn remove_unused(&self, mut unused: impl FnMut(&T) -> bool) {
        self.0.retain(|_, value| !(unused(value) && Arc::strong_count(value) == 1));
    }

    /// Removes all values, even those with other handles. A change through such a handle has no effect.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// Returns all names.
    pub(super) fn names(&self) -> Vec<N> {
        self.0.iter().map(|entry| entry.key().clone()).collect()
    }

    /// Returns all values, to be used without a lock of the registry.
    pub(super) fn values(&self) -> Vec<Arc<T>> {
        self.0.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

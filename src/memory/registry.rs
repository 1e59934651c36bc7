//! Named things that are made when they are first needed and go when nobody holds them.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// A concurrent map from names to shared values.
///
/// A value is taken out only while the registry alone holds it. Whoever has one in hand can therefore use it at leisure
/// and never works on one that others no longer find.
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
        // Most names are there, and a look takes the shard's lock for reading only.
        self.get(name.borrow())
            .unwrap_or_else(|| Arc::clone(&self.0.entry(name.clone()).or_insert_with(|| Arc::new(make()))))
    }

    /// Takes `name` out if nobody else holds its value and `spent` says that nothing is in it.
    pub(super) fn remove_if(&self, name: &str, spent: impl FnOnce(&T) -> bool) {
        self.0.remove_if(name, |_, value| Arc::strong_count(value) == 1 && spent(value));
    }

    /// Shows each value to `spent` and takes out those of which it says so and that nobody else holds.
    pub(super) fn remove_spent(&self, mut spent: impl FnMut(&T) -> bool) {
        self.0.retain(|_, value| !(spent(value) && Arc::strong_count(value) == 1));
    }

    /// Takes everything out, held or not: what others do to their values meanwhile has happened before.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<N> {
        self.0.iter().map(|entry| entry.key().clone()).collect()
    }

    /// All values, to work on without a lock of the registry.
    pub(super) fn values(&self) -> Vec<Arc<T>> {
        self.0.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

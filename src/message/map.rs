//! `Map`: the keys and values of a message, or of a map inside one.

use bytestring::ByteString;

use super::Value;

/// A map from text to [`Value`], ordered by key.
///
/// Messages have few keys. For those a sorted vector is smaller and faster than a tree.
#[derive(Clone, Default, PartialEq)]
pub struct Map(Vec<(ByteString, Value)>);

/// Iterator over the keys and values of a [`Map`], ordered by key.
#[derive(Clone, Debug)]
pub struct Iter<'m>(std::slice::Iter<'m, (ByteString, Value)>);

impl Map {
    /// Creates a map without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// Sets `key` to `value`. Returns the previous value.
    pub fn insert(&mut self, key: impl Into<ByteString>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the map has no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys and values, ordered by key.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// Returns the bytes of memory that the keys and values take.
    pub(super) fn footprint(&self) -> usize {
        let pairs = self.0.iter().map(|(key, value)| key.len() + value.footprint());
        size_of_val(self.0.as_slice()) + pairs.sum::<usize>()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }
}

impl<K: Into<ByteString>, V: Into<Value>> FromIterator<(K, V)> for Map {
    /// If a key occurs twice, the later value stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut entries: Vec<_> = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        // Sorting is stable, so the last of each run of equal keys is the latest one.
        entries.sort_by(|(a, _): &(ByteString, Value), (b, _)| a.cmp(b));
        entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Self(entries)
    }
}

impl IntoIterator for Map {
    type Item = (ByteString, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'m> IntoIterator for &'m Map {
    type Item = (&'m str, &'m Value);
    type IntoIter = Iter<'m>;

    fn into_iter(self) -> Iter<'m> {
        self.iter()
    }
}

impl<'m> Iterator for Iter<'m> {
    type Item = (&'m str, &'m Value);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (&**key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<K: Into<ByteString>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.insert(key, value);
        }
    }
}

impl<K: Into<ByteString>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Map {
    /// If a key occurs twice, the later value stays.
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

//! `Partial`: the results of some servers, and the errors of the others.

use crate::error::{Error, Result};

/// The results of the servers that did what was asked, and the errors of the others.
///
/// A call on the quarantine works on every server that it can reach. It returns an error only if it reaches none
/// because the layer is closed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Partial<T> {
    /// The results of the servers without an error.
    pub results: T,
    /// An error for each of the other servers, in the order of the servers.
    pub errors: Vec<Error>,
}

impl<T> Partial<T> {
    /// Returns the results of all servers.
    ///
    /// # Errors
    ///
    /// The first error, if a server failed.
    pub fn complete(self) -> Result<T> {
        self.errors.into_iter().next().map_or(Ok(self.results), Err)
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Partial<U> {
        Partial { results: change(self.results), errors: self.errors }
    }
}

impl<T> FromIterator<Result<T>> for Partial<Vec<T>> {
    fn from_iter<I: IntoIterator<Item = Result<T>>>(parts: I) -> Self {
        let mut partial = Self { results: Vec::new(), errors: Vec::new() };
        for part in parts {
            match part {
                Ok(result) => partial.results.push(result),
                Err(error) => partial.errors.push(error),
            }
        }
        partial
    }
}

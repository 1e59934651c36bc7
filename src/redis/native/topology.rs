//! `Topology`: the places of a layer in the native format, and the keys of names there.

use std::ops::Deref;
use std::sync::Arc;

use super::keys::Keys;
use crate::redis::topology::places::Places;

/// The places of a layer in the native format, and the keys of names there.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) places: Arc<Places>,
    pub(crate) keys: Keys,
}

impl Deref for Topology {
    type Target = Places;

    fn deref(&self) -> &Places {
        &self.places
    }
}

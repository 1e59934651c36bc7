//! Keys: sealing message bodies so that only holders of a key can read and make them.

mod fernet;
mod key_ring;

pub(crate) use fernet::FernetKeys;
pub(crate) use key_ring::{KeyRing, digest, id_of_key, key_id};

use crate::error::{Error, Result};

/// Why something that is sealed does not open, without a word of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be opened: {0}")]
pub(crate) struct Unopened(pub(crate) &'static str);

/// Refuses empty keys; `option` names where they come from.
fn check(option: &str, keys: &[String]) -> Result<()> {
    match keys.iter().position(String::is_empty) {
        Some(at) => Err(Error::config(format!("{option}[{at}]"), "\"\"", "a key cannot be empty")),
        None => Ok(()),
    }
}

/// Refuses keys that are empty, and a list without one to seal with.
fn check_all(keys: &[String], accept_only: &[String]) -> Result<()> {
    check("symmetric_encryption_keys", keys)?;
    check("accept_only_keys", accept_only)?;
    if keys.is_empty() {
        let reason = "at least one key is needed, with which to seal";
        return Err(Error::config("symmetric_encryption_keys", "[]", reason));
    }
    Ok(())
}

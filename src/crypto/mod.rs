//! Encryption of message bodies. Only a process with a key can seal (encrypt and authenticate) or open (decrypt) a body.

mod fernet;
mod key_ring;

pub(crate) use fernet::FernetKeys;
pub(crate) use key_ring::{KeyRing, digest, id_of_key, key_id};

use crate::error::{Error, Result};

/// The reason why a sealed body does not open. It contains nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decrypt message: {0}")]
pub(crate) struct OpenError(pub(crate) &'static str);

/// Refuses empty keys. `option` is the option that holds the keys.
fn check(option: &str, keys: &[String]) -> Result<()> {
    match keys.iter().position(String::is_empty) {
        Some(at) => Err(Error::config(format!("{option}[{at}]"), "\"\"", "a key must not be empty")),
        None => Ok(()),
    }
}

/// Refuses empty keys, and a configuration without a key that seals.
fn check_all(keys: &[String], accept_only: &[String]) -> Result<()> {
    check("symmetric_encryption_keys", keys)?;
    check("accept_only_keys", accept_only)?;
    if keys.is_empty() {
        let reason = "need at least one key to encrypt with";
        return Err(Error::config("symmetric_encryption_keys", "[]", reason));
    }
    Ok(())
}
